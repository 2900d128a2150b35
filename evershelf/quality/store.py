"""Day by day, what the checks found: one small Delta table beside the lake's own, one atomic commit per run.

It holds counts and shares alone, nothing of any shopper.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import msgspec
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from evershelf import lake
from evershelf.quality.drift import WINDOW, Drift, drift
from evershelf.settings import load_settings

SCHEMA = pa.schema([("day", pa.date32()), ("result", pa.string()), ("measures", pa.string()), ("warnings", pa.string())])
Measures = Mapping[date, Mapping[str, Mapping[str, Any]]]


class DayQuality(msgspec.Struct, kw_only=True):
    """What is known of a day.

    result: of the last run for this landing day: `outcome`, `why`, `sources` (counts) and `validations` (Great Expectations' results); None before one.
    measures: table -> what its rows of this calendar day look like (spark_jobs/measures.py).
    warnings: where that differs from the weeks before.
    """

    day: date
    result: dict[str, Any] | None = None
    measures: dict[str, dict[str, Any]] = {}
    warnings: list[Drift] = []


def table_url() -> str:
    return f"{load_settings().url('lake')}/_quality"


def read_days(first: date, last: date) -> dict[date, DayQuality]:
    """Return what is known of the days from first to last."""
    if not DeltaTable.is_deltatable(table_url()):
        return {}
    rows = DeltaTable(table_url()).to_pyarrow_table(filters=[("day", ">=", first), ("day", "<=", last)]).to_pylist()
    return {
        row["day"]: DayQuality(
            day=row["day"],
            result=msgspec.json.decode(row["result"]),
            measures=msgspec.json.decode(row["measures"]),
            warnings=msgspec.json.decode(row["warnings"], type=list[Drift]),
        )
        for row in sorted(rows, key=lambda row: row["day"])
    }


def newest_days(count: int) -> dict[date, DayQuality]:
    """Return what is known of the newest days that anything is known of, oldest first."""
    if not DeltaTable.is_deltatable(table_url()):
        return {}
    days = lake.days_of(DeltaTable(table_url()))[-count:]
    return {day: found for day, found in read_days(days[0], days[-1]).items() if day in days} if days else {}


def record(day: date, result: Mapping[str, Any], measures: Measures) -> DayQuality:
    """Keep what a run found, and judge again every day that is compared with one of those it measured. The caller holds the lake's lock.

    Args:
        day: the landing day.
        measures: of the calendar days that the run published.
    """
    changed = [day, *measures]
    days = read_days(min(changed) - WINDOW, max(changed) + WINDOW)
    before = {one: msgspec.json.encode(known) for one, known in days.items()}
    for one in changed:
        days.setdefault(one, DayQuality(day=one))
    days[day].result = dict(result)
    for one, tables in measures.items():
        days[one].measures = {name: dict(found) for name, found in tables.items()}
    known = {one: content.measures for one, content in days.items()}
    limits = load_settings().lake
    for one in sorted(days):
        if one >= min(measures, default=day):
            days[one].warnings = drift(one, known, limits)
    _write(content for one, content in sorted(days.items()) if before.get(one) != msgspec.json.encode(content))
    return days[day]


def _write(days: Iterable[DayQuality]) -> None:
    rows = [{"day": one.day, **{name: msgspec.json.encode(getattr(one, name)).decode() for name in ("result", "measures", "warnings")}} for one in days]
    if not rows:
        return
    content = pa.Table.from_pylist(rows, schema=SCHEMA)
    if DeltaTable.is_deltatable(table_url()):
        named = ", ".join(f"'{row['day']}'" for row in rows)
        write_deltalake(table_url(), content, mode="overwrite", predicate=f"day IN ({named})")
    else:
        write_deltalake(table_url(), content, mode="append", partition_by=["day"], name="quality")
