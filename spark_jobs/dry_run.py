"""A dry run of lake_daily: what would change, as rows and sums per table and day."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.settings import load_settings
from spark_jobs.delta import landings_of
from spark_jobs.judged_landings import JudgedLandings
from spark_jobs.landing_day import Closed, Found, Held, Outside, prepared
from spark_jobs.measures import Measures, number_columns
from spark_jobs.outcomes import DayReport, SourceCounts
from spark_jobs.reconciliation import Reconciled, due_days


@dataclass(slots=True)
class Rehearsal:
    """What a dry run of some days has found so far, each as if those before it had been published.

    aside: a folder outside the lake; after: (table, day) -> rows and sums that it would have; landings: (table, dt) -> the landings that they come from.
    """

    aside: Path
    reconciled: dict[tuple[date, str], dict[str, Any]] = field(default_factory=dict)
    after: dict[tuple[str, date], Measures] = field(default_factory=dict)
    landings: dict[tuple[str, date], set[date]] = field(default_factory=dict)

    def changes(self) -> list[dict[str, Any]]:
        """Return the days of tables that would change: `table`, `day`, and `rows` and `sums` before and after. Sums that agree to nine digits are the same."""
        found = []
        for name in dict.fromkeys(name for name, _ in self.after):
            days = sorted(day for table, day in self.after if table == name)
            for day, before in _totals(name, days).items():
                after = {key: self.after[name, day][key] for key in ("rows", "sums")}
                if before["rows"] != after["rows"] or any(not math.isclose(value, after["sums"][key]) for key, value in before["sums"].items()):
                    found.append({"table": name, "day": day.isoformat(), "before": before, "after": after})
        return found


def _totals(name: str, days: Sequence[date]) -> dict[date, dict[str, Any]]:
    """Return the rows, and the sum of each number column, of days of a table as it is."""
    table = LAKE_TABLES[name]
    numbers = number_columns(table)
    totals: dict[date, dict[str, Any]] = {day: {"rows": 0, "sums": dict.fromkeys(numbers, 0)} for day in days}
    if lake.exists(name) and days:
        rows = lake.read(name, columns=[table.partition, *numbers], filters=[(table.partition, "in", list(days))])
        for one in rows.group_by(table.partition).aggregate([([], "count_all"), *((column, "sum") for column in numbers)]).to_pylist():
            totals[one[table.partition]] = {"rows": one["count_all"], "sums": {column: one[f"{column}_sum"] or 0 for column in numbers}}
    return totals


def rehearse_days(landings: JudgedLandings, days: Iterable[date], rehearsal: Rehearsal, *, partial: bool = False) -> Iterator[DayReport]:
    """Do everything that `publish_days` does but publish: nothing of the installation is written."""
    for due in due_days(landings, days):
        yield rehearse_day(landings, due, rehearsal, partial=partial)


def rehearse_day(landings: JudgedLandings, day: date, rehearsal: Rehearsal, *, partial: bool = False) -> DayReport:
    """Do everything that `publish_day` does but publish."""
    settings, started, found = load_settings(), time.monotonic(), Found()
    history = Reconciled({**Reconciled.around(day, settings).rows, **rehearsal.reconciled})
    first, last = day - timedelta(days=settings.lake.restated_days), day
    outside = Outside(folder=rehearsal.aside, landings={key: landed for key, landed in rehearsal.landings.items() if first <= key[1] <= last})
    counts: Mapping[str, SourceCounts] = {}
    outcome, why = "published", None
    try:
        with prepared(landings, day, history, found, partial=partial, whole=True, outside=outside) as ready:
            counts = ready.mine
            for one in (one for one in ready.written if one.table.partition == "dt"):
                rehearsal.landings |= {(one.table.name, dt): set() for dt in one.days}
                for dt, path in one.files():
                    rehearsal.landings[one.table.name, dt] |= landings_of(path)
            rehearsal.after |= {(name, dt): measures for dt, tables in found.measures.items() for name, measures in tables.items()}
            rehearsal.after["quarantine", day] = {"rows": sum(one.rows_quarantined for one in counts.values()), "sums": {}}
        rehearsal.reconciled |= {key: {"outcome": "published", "rows_in": one.rows_in} for key, one in ready.later.items()}
    except Held as held:
        counts, outcome, why = held.counts, "held", held.reason
    except Closed as closed:
        outcome, why = "closed", str(closed)
    if why:
        rehearsal.reconciled |= {(day, source.name): {"outcome": outcome, "rows_in": 0} for source in landings.adapter.sources if source.required}
    return DayReport(day=day, outcome=outcome, why=why, seconds=time.monotonic() - started, counts=counts)


def difference(change: Mapping[str, Any]) -> str:
    """Say what would change of a day of a table."""
    before, after = change["before"], change["after"]
    sums = "".join(
        f", {name} {value:.10g} -> {after['sums'][name]:.10g} ({after['sums'][name] - value:+.10g})"
        for name, value in before["sums"].items()
        if not math.isclose(value, after["sums"][name])
    )
    return f"{change['table']} {change['day']}: {before['rows']} -> {after['rows']} rows ({after['rows'] - before['rows']:+}){sums}"
