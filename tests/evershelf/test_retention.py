"""What is too old is gone from every version, and nothing else is."""

import json
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import InvalidSettings
from evershelf.retention import delete_old
from evershelf.settings import load_settings
from evershelf.shops import landing

TODAY = date(2026, 3, 31)
OLD, FIRST = TODAY - timedelta(days=30), TODAY - timedelta(days=29)


@pytest.fixture
def kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two days of events and of quarantine, each written twice; landing of both days and of one long ago."""
    limits = dict.fromkeys(LAKE_TABLES, 30) | {"landing": 44}
    monkeypatch.setenv("EVERSHELF_PRIVACY__RETENTION_DAYS", json.dumps(limits))
    load_settings.cache_clear()
    for day in (OLD, FIRST):
        for version in range(2):
            for name in ("events", "quarantine"):
                partition = LAKE_TABLES[name].partition
                rows = pa.table({partition: [day], "said": [f"{day} {version}"]})
                where = f"{partition} = '{day}'" if lake.exists(name) else None
                write_deltalake(lake.table_url(name), rows, mode="overwrite", predicate=where, partition_by=[partition])
    for day in (OLD, FIRST, TODAY - timedelta(days=44)):
        landing.land("events", day, "door.jsonl.gz", b"x")
    return home


def test_days_that_are_too_old_go_with_the_files_of_older_versions(kept: Path) -> None:
    assert delete_old(TODAY) == {"events": [OLD], "quarantine": [OLD], "landing": [TODAY - timedelta(days=44)]}
    assert lake.read("events")["said"].to_pylist() == [f"{FIRST} 1"]
    left = [path.parent.name for path in (kept / "lake" / "events").rglob("*.parquet")]
    assert left == [f"dt={FIRST}"] * 2  # the older version of a day that stays is no business of this
    assert landing.landing_days(("events",)) == [OLD, FIRST]
    assert delete_old(TODAY) == {}


@pytest.mark.parametrize(
    ("limits", "problem"),
    [({"event": 40}, "no such table"), ({"events": 5}, "greater than or equal to 30"), ({"landing": 90, "events": 40}, "landing must be kept 14 days longer")],
)
def test_a_setting_that_would_lose_more_than_it_says_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], problem: str) -> None:
    monkeypatch.setenv("EVERSHELF_PRIVACY__RETENTION_DAYS", json.dumps(limits))
    load_settings.cache_clear()
    with pytest.raises(InvalidSettings, match=problem):
        load_settings()


def test_without_a_setting_everything_is_kept(home: Path) -> None:
    assert delete_old(TODAY) == {}
