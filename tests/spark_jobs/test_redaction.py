"""A redacted lake is the one that the landing gives which is left."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evershelf import forgotten, lake
from evershelf.pseudonyms import tombstone
from evershelf.settings import load_settings
from serving.redaction import tables
from serving.redaction.found import Redaction
from spark_jobs.outcomes import DayReport
from tests.spark_jobs.landings import MONDAY, TUESDAY, WEDNESDAY, content, event, land, land_day, order, reconciled

pytestmark = pytest.mark.slow

DAYS = (MONDAY, TUESDAY, WEDNESDAY)


def test_tables_and_reconciliation_are_as_if_they_had_never_been_there(run: Callable[..., DayReport], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in DAYS:
        theirs = event(4, day, event_id=f"theirs-{day}")
        also = event(4, MONDAY, event_id=f"theirs-{MONDAY}", user_id="u2")  # the same key as a row of theirs: clean as soon as that is gone
        land_day(day, [event(3, day, event_id=f"others-{day}"), theirs, theirs, event(7, day, event_id="bad", type="dance"), also])
        land("orders", day, [order(day.day, day), order(100 + day.day, day, user_id="u2")])
        assert run(day).outcome == "published"
    forgotten.add(tombstone("u1"))
    redaction = Redaction(load_settings(), forgotten.read(), print)
    tables.redact_lake(redaction)
    assert list(tables.published_again(redaction)) == [(MONDAY, WEDNESDAY)]
    assert "u1" not in lake.read("events")["user_id"].to_pylist()  # at once, whatever becomes of the days
    for day in redaction.days:
        assert run(day, partial=True).outcome == "published"
    tables.delete_old_files(redaction)
    redacted = content()
    assert reconciled()[MONDAY, "events"] == (2, 2, 0, 0)
    files = [path for path in (home / "lake").rglob("*") if path.is_file()]
    assert not any(b'u1"' in path.read_bytes() or (path.suffix == ".parquet" and "'u1'" in str(pq.ParquetFile(path).read().to_pylist())) for path in files)
    assert all(lake.NO_BOUNDS.items() <= lake.open_table(name).metadata().configuration.items() for name in ("events", "orders", "quarantine"))
    (home / "lake").rename(home / "before")
    for day in DAYS:
        run(day)
    assert content() == redacted
    again = Redaction(load_settings(), forgotten.read(), print)
    tables.redact_lake(again)
    assert (again.days, again.as_json()["removed"]) == ([], {})
