"""The reconciliation: what became of every landing day so far, and what may be expected of the next one by it.

It is written last of all tables and says that a day is done.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake

from evershelf import lake
from evershelf.settings import Settings, load_settings
from evershelf.shops import landing
from evershelf.shops.adapter import Adapter, Source
from evershelf.version import code_version
from spark_jobs.judged_landings import JudgedLandings
from spark_jobs.outcomes import Counts

HISTORY = timedelta(days=28)  # a source's usual volume is the median over so many days
SHORTEST_HISTORY = 3  # published days, before which any volume passes
SAME_WEEKDAYS = 4  # weeks before and after a day in which the same weekday is looked at


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The reconciliation of the days around a landing day: (landing day, source) -> row."""

    rows: Mapping[tuple[date, str], Mapping[str, Any]]

    @classmethod
    def around(cls, day: date, settings: Settings) -> "Reconciled":
        if not lake.exists("reconciliation"):
            return cls({})
        last = day + timedelta(days=settings.lake.restated_days)
        rows = lake.read("reconciliation", filters=[("landing_dt", ">=", day - HISTORY), ("landing_dt", "<=", last)]).to_pylist()
        return cls({(row["landing_dt"], row["source"]): row for row in rows})

    def accepted(self, day: date, reach: int) -> list[tuple[date, str]]:
        """Return the (landing day, source) around a day that were published."""
        return [key for key, row in self.rows.items() if row["outcome"] == "published" and 0 < abs((key[0] - day).days) <= reach]

    def held(self) -> set[date]:
        return {landed for (landed, _), row in self.rows.items() if row["outcome"] == "held"}

    def has_published(self, day: date) -> bool:
        return any(landed == day and row["outcome"] == "published" and row["rows_in"] for (landed, _), row in self.rows.items())

    def usual_rows(self, source: str, day: date) -> float | None:
        """Return the median of the days before: of the same weekday where there are enough, since a shop's Sunday is no Monday."""
        rows = {landed: row["rows_in"] for (landed, name), row in self.rows.items() if name == source and row["outcome"] == "published" and row["rows_in"]}
        before = {landed: count for landed, count in rows.items() if landed < day}
        same = [count for landed, count in before.items() if landed.weekday() == day.weekday()]
        usual = same if len(same) >= SHORTEST_HISTORY else list(before.values())
        return statistics.median(usual) if len(usual) >= SHORTEST_HISTORY else None


def closed_day(day: date, landed: Sequence[date]) -> str | None:
    """Say why nothing was to be expected of a day, by the days on which anything landed; None when something was.

    A weekday on which nothing ever comes is a day on which the shop never opens; a date on which nothing came a year ago, though its
    week and its weekday delivered, a holiday. Both follow from the landings alone, so the order of runs makes no difference.
    """
    if not landed:
        return None
    known, first, last = set(landed), min(landed), max(landed)
    weeks = [day + timedelta(weeks=weeks) for weeks in range(-SAME_WEEKDAYS, SAME_WEEKDAYS + 1) if weeks]
    same = [other for other in weeks if first <= other <= last]
    if len(same) >= SHORTEST_HISTORY and not known & set(same):
        return f"the shop never opens on a {day:%A}: nothing landed on the {len(same)} around it"
    if (day.month, day.day) != (2, 29):
        year_ago = day.replace(year=day.year - 1)
        week = {year_ago + timedelta(days=days) for days in range(-3, 4) if days}
        weekday = {year_ago + timedelta(weeks=weeks) for weeks in (-2, -1, 1, 2)}
        if first <= year_ago and year_ago not in known and len(week & known) >= len(week) - 2 and len(weekday & known) >= len(weekday) - 1:
            return f"the shop is closed on this date: nothing landed on {year_ago} either"
    return None


def reconcile(day: date, counts: Counts, outcome: str, why: str | None) -> None:
    """Record the outcome of a landing day, and what it changed for the ones after it, in one commit."""
    rows = [
        {
            "landing_dt": landed,
            "source": source,
            "outcome": outcome,
            "why": why,
            "rows_in": one.rows_in,
            "rows_clean": one.rows_clean if outcome == "published" else 0,
            "rows_quarantined": one.rows_quarantined,
            "rows_deduplicated": one.rows_deduplicated,
            "reasons": list(one.reasons.items()),
            "code_version": code_version(),
        }
        for (landed, source), one in sorted(counts.items())
    ]
    table = lake.open_table("reconciliation")
    days = ", ".join(f"'{landed.isoformat()}'" for landed in sorted({day} | {landed for landed, _ in counts}))
    content = pa.Table.from_pylist(rows, schema=pa.schema(table.schema().to_arrow()))
    write_deltalake(
        table,
        content,
        mode="overwrite",
        predicate=f"landing_dt IN ({days})",
        commit_properties=CommitProperties(custom_metadata={"code_version": code_version()}),
    )


def due_days(landings: JudgedLandings, days: Iterable[date]) -> Iterator[date]:
    """Yield landing days in the order in which they are to be worked at: before each those around it whose files have changed."""
    for day in days:
        landings.turn_to(day)
        yield from changed_days(landings.adapter, day, landings.count)
        yield day


def changed_days(adapter: Adapter, day: date, count: Callable[[Source, date], int] = landing.count_rows) -> list[date]:
    """Return published landing days around a day whose files have grown or been replaced since, such as by a gateway that shipped late.

    They must run again before the day does: its rows are held against theirs, as the reconciliation knows them.
    """
    reach = timedelta(days=load_settings().lake.restated_days)
    if not lake.exists("reconciliation"):
        return []
    rows = lake.read(
        "reconciliation", filters=[("landing_dt", ">=", day - reach), ("landing_dt", "<=", day + reach), ("outcome", "=", "published")]
    ).to_pylist()
    recorded = {(row["landing_dt"], row["source"]): row["rows_in"] for row in rows}
    published = sorted({landed for landed, _ in recorded} - {day})
    return [landed for landed in published if any(count(source, landed) != recorded.get((landed, source.name), 0) for source in adapter.sources)]
