"""landing -> audit -> clean -> audit -> publish, for one landing day or a range of days one after the other.

A row belongs to its own `dt`, the shop's calendar day, and may land up to `lake.restated_days` late. The run for landing day D therefore restates every
`dt` that D has rows for (spark_jobs/landing_day.py): of the rows with the same key, among all accepted landings, the first landing's stays. What comes out
depends on the landings alone, not on the order of the runs, their number, or where one was killed. Each table takes its days in one Delta commit; the
reconciliation is written last and says that the day is done.

Runs on one lake take turns (a lock beside the tables): neighbouring days restate the same `dt`, and on a local file system two drivers could overwrite each
other's commits.

Exit codes: 0 published, or the shop was closed; 3 a day was held back (the tables keep what they had).
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from pathlib import Path

import click
from pyspark.sql import SparkSession

from evershelf import lake
from evershelf.errors import DayHeldBack
from evershelf.progress import step
from evershelf.quality import store as quality
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, landing
from evershelf.shops.adapter import Adapter
from evershelf.telemetry import LAKE_DAY_AT, LAKE_DAY_SECONDS, LAKE_ROWS, metrics
from evershelf.version import code_version
from spark_jobs.delta import create_tables
from spark_jobs.dry_run import Rehearsal, difference, rehearse_days
from spark_jobs.judged_landings import JudgedLandings
from spark_jobs.landing_day import Closed, DoesNotFit, Found, Held, Ready, prepared
from spark_jobs.measures import Measures
from spark_jobs.outcomes import DayReport, SourceCounts
from spark_jobs.reconciliation import Reconciled, due_days, reconcile
from spark_jobs.session import spark_session


def run_day(spark: SparkSession, adapter: Adapter, day: date, *, partial: bool = False) -> DayReport:
    """Publish one landing day, or hold it back and say why, when it is this run's turn on the lake. Either is recorded in the reconciliation."""
    with lake.turn(), JudgedLandings(spark, adapter) as landings:
        return publish_day(landings, day, partial=partial)


def publish_days(landings: JudgedLandings, days: Iterable[date], *, partial: bool = False) -> Iterator[DayReport]:
    """Publish landing days one after the other, for a caller that holds the lake; before each those around it whose files have changed."""
    for due in due_days(landings, days):
        yield publish_day(landings, due, partial=partial)


def publish_day(landings: JudgedLandings, day: date, *, partial: bool = False) -> DayReport:
    """Do what `run_day` does for a caller that holds the lake, and whose landings have turned to the day."""
    settings, started = load_settings(), time.monotonic()
    step(f"read {day}")
    create_tables(landings.spark)
    history, found = Reconciled.around(day, settings), Found()
    adapter = landings.adapter
    nothing = {source.name: SourceCounts() for source in adapter.sources if source.required}
    try:
        try:
            ready = _publish(landings, day, history, found, partial=partial, whole=False)
        except DoesNotFit:
            found = Found()
            ready = _publish(landings, day, history, found, partial=partial, whole=True)
        counts = ready.mine
        step("commit reconciliation")
        _record(adapter, day, found, counts, "published", None)
        reconcile(day, ready.later, "published", None)
        report = DayReport(day=day, outcome="published", why=None, seconds=time.monotonic() - started, counts=counts)
    except Held as held:
        _record(adapter, day, found, held.counts, "held", held.reason)
        reconcile(day, {(day, source): one for source, one in {**nothing, **held.counts}.items()}, "held", held.reason)
        report = DayReport(day=day, outcome="held", why=held.reason, seconds=time.monotonic() - started, counts=held.counts)
    except Closed as closed:
        _record(adapter, day, found, {}, "closed", str(closed))
        reconcile(day, {(day, source): one for source, one in nothing.items()}, "closed", str(closed))
        report = DayReport(day=day, outcome="closed", why=str(closed), seconds=time.monotonic() - started, counts={})
    _measure(report)
    return report


def _publish(landings: JudgedLandings, day: date, history: Reconciled, found: Found, *, partial: bool, whole: bool) -> Ready:
    with prepared(landings, day, history, found, partial=partial, whole=whole) as ready:
        for table_files in ready.written:
            table_files.publish({**ready.about, "changed": _changed(found, table_files.table.name)})
    return ready


def _changed(found: Found, table: str) -> dict[str, list[int]]:
    """Return the days of a table that are not what the last run measured of them: day -> rows then and now. What was built from the old ones is stale."""
    days = sorted(found.measures)
    known = quality.read_days(days[0], days[-1]) if days else {}
    changed = {}
    for day in days:
        now = found.measures[day].get(table, {"rows": 0})
        before = known[day].measures.get(table) if day in known else None
        if now["rows"] if before is None else not _alike(before, now):
            changed[day.isoformat()] = [before["rows"] if before else 0, now["rows"]]
    return changed


def _alike(before: Measures, now: Measures) -> bool:
    counts = all(before[name] == now[name] for name in ("rows", "nulls", "spread"))
    return counts and all(math.isclose(total, now["sums"][name]) for name, total in before["sums"].items())


def _record(adapter: Adapter, day: date, found: Found, counts: Mapping[str, SourceCounts], outcome: str, why: str | None) -> None:
    """Keep what the gates found, beside the lake."""
    sources = {}
    for name, one in counts.items():
        columns = list(adapter.source(name).columns)
        sources[name] = {
            **{key: getattr(one, key) for key in ("rows_in", "rows_clean", "rows_quarantined", "rows_deduplicated")},
            "reasons": dict(one.reasons),
            "values": {columns[place]: rows for place, rows in sorted(one.seen.items())},
        }
    result = {"outcome": outcome, "why": why, "code_version": code_version(), "sources": sources, "validations": found.validations}
    quality.record(day, result, found.measures)


def _measure(report: DayReport) -> None:
    metrics().timing(LAKE_DAY_SECONDS, int(report.seconds * 1000))
    metrics().gauge(LAKE_DAY_AT.format(outcome=report.outcome), int(time.time()))
    for outcome in ("clean", "quarantined", "deduplicated"):
        metrics().incr(LAKE_ROWS.format(outcome=outcome), sum(getattr(one, f"rows_{outcome}") for one in report.counts.values()))


DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--date", "single", type=DAY, help="The landing day.")
@click.option("--from", "first", type=DAY, help="First landing day of a range.")
@click.option("--to", "last", type=DAY, help="Last landing day of a range.")
@click.option("--landed", is_flag=True, help="Of the range, only days on which anything landed or was refused (shops close, too).")
@click.option("--partial", is_flag=True, help="Publish what there is of a day although a required source delivered nothing.")
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would change, as rows and sums per table and day.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def main(single: datetime | None, first: datetime | None, last: datetime | None, landed: bool, partial: bool, dry_run: bool, as_json: bool) -> None:
    """Publish landing days to the lake's tables."""
    start, end = (first or single), (last or single)
    if start is None or end is None or bool(single) == bool(first or last):
        raise click.UsageError("Give --date, or --from and --to.")
    adapter = ADAPTERS[load_settings().shop.adapter]
    days = [start.date() + timedelta(days=offset) for offset in range((end - start).days + 1)]
    if landed:
        some = set(landing.landing_days(tuple(source.name for source in adapter.sources)))
        days = [day for day in days if day in some]
    if not days:
        raise click.UsageError("There is no such day.")
    with (
        nullcontext() if dry_run else lake.turn(),
        tempfile.TemporaryDirectory() as aside,
    ):  # before Spark: whoever waits starts no driver
        spark = spark_session("lake_daily")
        spark.sparkContext.setLogLevel("ERROR")
        reports, rehearsal = [], Rehearsal(Path(aside))
        with JudgedLandings(spark, adapter) as landings:
            work = rehearse_days(landings, days, rehearsal, partial=partial) if dry_run else publish_days(landings, days, partial=partial)
            for report in work:
                reports.append(report)
                click.echo(_line(report, dry_run), err=as_json)
        changes = rehearsal.changes()
        spark.stop()
    held = [report for report in reports if report.outcome == "held"]
    if dry_run and not as_json:
        for change in changes:
            click.echo(difference(change))
        click.echo(f"{len(changes)} days of tables would change; nothing was written.")
    if as_json:
        outcome = {"days": [report.as_json() for report in reports], "held": [report.day.isoformat() for report in held]}
        click.echo(json.dumps({**outcome, "changes": changes} if dry_run else outcome))
    if held:
        click.echo(f"{len(held)} of {len(reports)} days are held back; the tables keep what they had. Deliver them again and re-run.", err=True)
        sys.exit(DayHeldBack.exit_code)


def _line(report: DayReport, dry_run: bool) -> str:
    about, would = report.as_json(), "would be " if dry_run else ""
    if report.outcome == "held":
        return f"{report.day} {would}held back after {report.seconds:.1f} s: {report.why}"
    if report.outcome == "closed":
        return f"{report.day} {would}left out: {report.why}"
    reasons = ", ".join(f"{reason} {rows}" for reason, rows in sorted(about["reasons"].items(), key=lambda item: -item[1]))
    return (
        f"{report.day} {would}published in {report.seconds:.1f} s: {about['rows_in']} rows in = {about['rows_clean']} clean"
        f" + {about['rows_quarantined']} quarantined + {about['rows_deduplicated']} deduplicated" + (f" ({reasons})" if reasons else "")
    )


if __name__ == "__main__":
    main()
