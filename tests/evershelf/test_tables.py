"""`evershelf tables` says of each table where it lives, how fresh and how whole it is, and what goes dark without it."""

import json
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import write_deltalake

from evershelf.contracts import LAKE_TABLES
from evershelf.settings import load_settings
from evershelf.tables import table_states, tables

TODAY = datetime.now(load_settings().zone).date()


def publish(home: Path, name: str, days: list[date], **columns: list[str]) -> Path:
    folder = home / "lake" / name
    partition = LAKE_TABLES[name].partition
    write_deltalake(folder.as_uri(), pa.table({partition: pa.array(days, pa.date32()), **columns}), partition_by=[partition], mode="append")
    return folder


@pytest.fixture
def lake(home: Path) -> Path:
    """Events of yesterday, products of last week, no orders, a quiet quarantine, and today held back."""
    yesterday, last_week = TODAY - timedelta(days=1), TODAY - timedelta(days=7)
    publish(home, "events", [last_week, yesterday], event_id=["a", "b"])
    publish(home, "products", [last_week], item_id=["a"])
    publish(home, "orders", [], order_id=[])
    publish(home, "quarantine", [last_week], reason=["bad time"])
    publish(home, "reconciliation", [last_week, yesterday, TODAY], outcome=["published", "published", "held"])
    return home / "lake"


def test_each_table_has_its_health_and_its_last_good_day(lake: Path) -> None:
    found = table_states()
    assert {name: state.health for name, state in found.items()} == {
        "events": "healthy", "products": "stale", "orders": "empty", "interests": "absent", "labels": "absent",
        "quarantine": "healthy", "reconciliation": "healthy",
    }  # fmt: skip
    events = found["events"]
    assert (events.where, events.rows, events.files, events.replicas, events.version) == ((lake / "events").as_uri(), 2, 2, 1, 0)
    assert events.bytes == sum(path.stat().st_size for path in lake.glob("events/*/*.parquet"))
    assert (events.last_good_day, events.age_days) == (TODAY - timedelta(days=1), 1)
    assert "7 days old" in str(found["products"].why)
    assert found["quarantine"].last_good_day == TODAY - timedelta(days=1)  # no bad row since is no bad sign


def test_a_lake_that_was_never_written_is_absent_not_lost(home: Path) -> None:
    assert {state.health for state in table_states().values()} == {"absent"}
    assert CliRunner().invoke(tables, []).exit_code == 0


@pytest.mark.parametrize("blow", ["file gone", "file cut", "log gone", "log broken"])
def test_a_table_that_lost_a_byte_of_what_its_log_names_is_lost(lake: Path, blow: str) -> None:
    file = next(lake.glob("events/*/*.parquet"))
    log = lake / "events" / "_delta_log" / f"{0:020}.json"
    if blow == "file gone":
        file.unlink()
    elif blow == "file cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif blow == "log gone":
        log.write_text("")
    else:
        log.write_text(log.read_text()[: log.stat().st_size // 2])
    result = CliRunner().invoke(tables, ["--json"])
    assert result.exit_code == 1
    states = {state["table"]: state for state in json.loads(result.stdout.splitlines()[-1])["tables"]}
    assert {name for name, state in states.items() if state["health"] == "lost"} == {"events"}
    assert states["events"]["why"] and states["events"]["without"]


def test_a_lost_reconciliation_is_told_of_the_tables_that_need_it(lake: Path) -> None:
    shutil.rmtree(lake / "reconciliation")
    found = table_states()
    assert (found["reconciliation"].health, found["quarantine"].health, found["events"].health) == ("absent", "lost", "healthy")


def test_a_person_reads_what_goes_dark(lake: Path) -> None:
    next(lake.glob("events/*/*.parquet")).unlink()
    printed = CliRunner().invoke(tables, []).output
    assert "events: 1 of its 2 files are gone" in printed
    assert "Without it: recommendations and query lists stay as they are" in printed
