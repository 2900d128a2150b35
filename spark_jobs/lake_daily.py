"""landing -> audit -> clean -> audit -> publish, for one landing day or a range of days one after the other.

A row belongs to its own `dt`, the shop's calendar day, and may land up to `lake.restated_days` late. The run for landing day D therefore rebuilds every `dt`
that D has rows for, each from all accepted landings around it: of the rows with the same key the first landing's stays. What comes out depends on the
landings alone, not on the order of the runs, their number, or where one was killed. Each table takes its days in one Delta commit; the reconciliation
is written last and says that the day is done.

Runs on one lake take turns (a lock beside the tables): neighbouring days rebuild the same `dt`, and on a local file system two drivers could overwrite each
other's commits.

Exit codes: 0 published, or the shop was closed; 3 a day was held back (the tables keep what they had).
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, write_deltalake
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import CommandFailed, DayHeldBack
from evershelf.quality import store as quality
from evershelf.quality.store import DayQuality
from evershelf.settings import Settings, load_settings
from evershelf.shops import ADAPTERS, landing
from evershelf.shops.adapter import Adapter, Source
from evershelf.telemetry import LAKE_DAY_AT, LAKE_DAY_SECONDS, LAKE_ROWS, metrics
from evershelf.version import code_version
from spark_jobs.delta import Staged, create_tables, staged
from spark_jobs.gates import Profile, judge_landing, judge_rows
from spark_jobs.landed_rows import families, fed_rows, judged_rows, mark_repetitions, quarantined_rows, read_rows
from spark_jobs.measures import Measures, number_columns
from spark_jobs.session import spark_session

HISTORY = timedelta(days=28)  # a source's usual volume is the median over so many days
SHORTEST_HISTORY = 3  # published days, before which any volume passes
SAME_WEEKDAYS = 4  # weeks before and after a day in which the same weekday is looked at
EXPECTED_VALUES = 20  # of a column, before it counts as gone when none of them came, or as retyped when most are of another type
NO_REASON = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """What became of the rows of one source of one landing day; `rows_in` is the sum of the other three.

    `seen` and `mistyped`: place of a raw column -> rows with a value, and with one that is not of the column's type. `days`: the `dt` of its clean rows.
    """

    rows_in: int = 0
    rows_clean: int = 0
    rows_deduplicated: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    seen: Mapping[int, int] = field(default_factory=dict)
    mistyped: Mapping[int, int] = field(default_factory=dict)
    days: frozenset[date] = frozenset()

    @property
    def rows_quarantined(self) -> int:
        return sum(self.reasons.values())


Counts = dict[tuple[date, str], SourceCounts]


@dataclass(slots=True)
class _Found:
    """What the gates have found so far: Great Expectations' results, and of each calendar day and table what its rows look like."""

    validations: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[date, dict[str, Measures]] = field(default_factory=dict)


class _Held(DayHeldBack):
    """With what was counted so far: source -> counts."""

    def __init__(self, day: date, reason: str, counts: Mapping[str, SourceCounts]) -> None:
        super().__init__(day.isoformat(), reason)
        self.counts = counts


class _Closed(Exception):
    """The shop was not open on the day: nothing landed, and nothing was to be expected. The message says how that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """The outcome of one landing day: published, held or closed, and why; the counts per source."""

    day: date
    outcome: str
    why: str | None
    seconds: float
    counts: Mapping[str, SourceCounts]

    def as_json(self) -> dict[str, Any]:
        sources = {
            name: {key: value for key, value in asdict(counts).items() if key not in ("seen", "mistyped", "days")} for name, counts in self.counts.items()
        }
        reasons: Counter[str] = Counter()
        for counts in self.counts.values():
            reasons.update(counts.reasons)
        total = {
            name: sum(getattr(counts, name) for counts in self.counts.values()) for name in ("rows_in", "rows_clean", "rows_quarantined", "rows_deduplicated")
        }
        return {
            "day": self.day.isoformat(),
            "outcome": self.outcome,
            "why": self.why,
            **total,
            "reasons": dict(reasons),
            "sources": sources,
            "seconds": round(self.seconds, 2),
        }


def run_day(spark: SparkSession, adapter: Adapter, day: date, *, partial: bool = False) -> DayReport:
    """Publish one landing day, or hold it back and say why, when it is this run's turn on the lake. Either is recorded in the reconciliation."""
    with lake.turn():
        return publish_day(spark, adapter, day, partial=partial)


def publish_day(spark: SparkSession, adapter: Adapter, day: date, *, partial: bool = False) -> DayReport:
    """Do what `run_day` does for a caller that holds the lake."""
    settings, started = load_settings(), time.monotonic()
    create_tables(spark)
    history, found = _Reconciled.around(day, settings), _Found()
    nothing = {source.name: SourceCounts() for source in adapter.sources if source.required}
    try:
        with _prepared(spark, adapter, day, history, found, settings, partial=partial) as ready:
            for table_files in ready.written:
                table_files.publish({**ready.about, "changed": _changed(found, table_files.table.name)})
        counts = ready.mine
        _record(adapter, day, found, counts, "published", None)
        _reconcile(day, ready.later, "published", None)
        report = DayReport(day=day, outcome="published", why=None, seconds=time.monotonic() - started, counts=counts)
    except _Held as held:
        _record(adapter, day, found, held.counts, "held", held.reason)
        _reconcile(day, {(day, source): one for source, one in {**nothing, **held.counts}.items()}, "held", held.reason)
        report = DayReport(day=day, outcome="held", why=held.reason, seconds=time.monotonic() - started, counts=held.counts)
    except _Closed as closed:
        _record(adapter, day, found, {}, "closed", str(closed))
        _reconcile(day, {(day, source): one for source, one in nothing.items()}, "closed", str(closed))
        report = DayReport(day=day, outcome="closed", why=str(closed), seconds=time.monotonic() - started, counts={})
    finally:
        spark.catalog.clearCache()
    _measure(report)
    return report


@dataclass(frozen=True, slots=True)
class _Reconciled:
    """The reconciliation of the days around a landing day: (landing day, source) -> row."""

    rows: Mapping[tuple[date, str], Mapping[str, Any]]

    @classmethod
    def around(cls, day: date, settings: Settings) -> "_Reconciled":
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A day that passed both gates. `later`: the counts to reconcile, of this landing day and of those after it, whose rows may repeat this one's."""

    mine: dict[str, SourceCounts]
    later: Counts
    written: list[Staged]
    about: dict[str, object]


@contextmanager
def _prepared(
    spark: SparkSession,
    adapter: Adapter,
    day: date,
    history: _Reconciled,
    found: _Found,
    settings: Settings,
    *,
    partial: bool,
    rehearsal: "Rehearsal | None" = None,
) -> Iterator[_Ready]:
    """Read, clean and audit a landing day; its rows lie aside within the block, and are for the caller to publish.

    Raises:
        _Held: the day must not be published.
        _Closed: there is nothing to publish.
    """
    delivered = _delivered(adapter, day, history, partial=partial)
    reach = settings.lake.restated_days
    wanted = [(day, source.name) for source in delivered] + history.accepted(day, reach)
    read = {name: _family_rows(spark, sources, wanted, settings) for name, sources in families(adapter).items()}
    rows = {name: frame for name, frame in read.items() if frame is not None}
    counts = count_outcomes(rows.values())
    mine = {source.name: counts.get((day, source.name), SourceCounts()) for source in delivered}
    _gate_landing(day, delivered, mine, history, found, settings)
    for (landed, name), one in counts.items():
        if landed >= day:
            _check_sum(adapter.source(name), landed, one)

    published = _published_days({feed.table for feed in adapter.feeds}, day, reach, rehearsal)
    rebuilt = sorted({dt for one in mine.values() for dt in one.days} | {dt for dt, landings in published.items() if day in landings})
    if stranded := {landed for dt in rebuilt for landed in published.get(dt, ())} & history.held() - {day}:
        raise _Held(day, f"it restates days with rows of {min(stranded)}, which was published before and is held back now; run that day first", mine)
    frames = {}
    for table in {feed.table: LAKE_TABLES[feed.table] for feed in adapter.feeds}.values():
        feeds = [feed for feed in adapter.feeds if feed.table == table.name and feed.family in rows]
        if feeds and rebuilt:
            fed = (fed_rows(rows[feed.family].where(F.col("dt").isin(rebuilt)), feed, table, settings) for feed in feeds)
            frames[table.name] = reduce(DataFrame.unionByName, fed).coalesce(1)
    quarantined = (quarantined_rows(frame.where(F.col("landing_dt") == day)) for frame in rows.values())
    frames["quarantine"] = reduce(DataFrame.unionByName, quarantined).coalesce(1)
    about: dict[str, object] = {"code_version": code_version(), "landing_dt": day.isoformat(), "inputs": landing.fingerprints(wanted)}
    later = {key: value for key, value in counts.items() if key[0] >= day}  # a landing that came before keeps its rows whatever comes after it
    outside = rehearsal.aside if rehearsal else None
    with staged(frames, {**dict.fromkeys(frames, rebuilt), "quarantine": [day]}, outside) as written:
        _gate_rows(day, written, mine, found, settings)
        yield _Ready(mine=mine, later=later, written=written, about=about)


def _changed(found: _Found, table: str) -> dict[str, list[int]]:
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


def _delivered(adapter: Adapter, day: date, history: _Reconciled, *, partial: bool) -> list[Source]:
    """Return the sources that delivered something on a day.

    Raises:
        _Closed: nothing did, and the shop's history says that nothing was to be expected.
        _Held: one was refused at the door, or a required one is missing.
    """
    for source in adapter.sources:
        if refused := landing.rejection(source.name, day):
            raise _Held(day, f"{source.name}: the door refused {refused.file}: {refused.reason}", {})
    delivered = [source for source in adapter.sources if landing.landed_files(source.name, day)]
    required = [source for source in adapter.sources if source.required]
    missing = [source.name for source in required if source not in delivered]
    closed = closed_day(day, landing.landing_days(tuple(source.name for source in required))) if len(missing) == len(required) else None
    if closed and not delivered and not history.has_published(day):
        raise _Closed(closed)
    if not delivered or (missing and not partial and not closed):  # shoppers look around in a closed shop, too: then the gateways deliver
        raise _Held(day, f"no file of {', '.join(missing)} landed" if delivered else "no file landed", {})
    return delivered


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


def _family_rows(spark: SparkSession, sources: Sequence[Source], wanted: Sequence[tuple[date, str]], settings: Settings) -> DataFrame | None:
    frames = []
    for source in sources:
        files = {landed: landing.landed_files(source.name, landed) for landed, name in wanted if name == source.name}
        if any(files.values()):
            corrections = {landed: landing.corrections(source.name, landed) for landed in files}
            frames.append(judged_rows(read_rows(spark, source, files, corrections), source, settings))
    return mark_repetitions(reduce(DataFrame.unionByName, frames)).cache() if frames else None


def count_outcomes(frames: Iterable[DataFrame]) -> Counts:
    """Count in one pass what became of every row."""
    slim = [frame.select("landing_dt", "source", "reason", "repeated", "seen", "mistyped", "dt") for frame in frames]
    rows = (
        reduce(DataFrame.unionByName, slim)
        .groupBy("landing_dt", "source", F.coalesce("reason", F.lit(NO_REASON)).alias("reason"), "repeated", "seen", "mistyped")  # few masks occur
        .agg(F.count("*").alias("rows"), F.collect_set(F.when(F.col("reason").isNull(), F.col("dt"))).alias("days"))  # of a bad row it may be the year 123456
        .collect()
    )
    counts: Counts = {}
    for row in rows:
        key = (row.landing_dt, row.source)
        before = counts.get(key, SourceCounts())
        clean = row.reason == NO_REASON
        counts[key] = SourceCounts(
            rows_in=before.rows_in + row.rows,
            rows_clean=before.rows_clean + (row.rows if clean and not row.repeated else 0),
            rows_deduplicated=before.rows_deduplicated + (row.rows if clean and row.repeated else 0),
            reasons=before.reasons if clean else {**before.reasons, row.reason: before.reasons.get(row.reason, 0) + row.rows},
            seen=_added(before.seen, row.seen, row.rows),
            mistyped=_added(before.mistyped, row.mistyped, row.rows),
            days=before.days | frozenset(row.days) if clean else before.days,
        )
    return counts


def _added(counts: Mapping[int, int], mask: int, rows: int) -> dict[int, int]:
    places = [place for place in range(mask.bit_length()) if mask >> place & 1]
    return {**counts, **{place: counts.get(place, 0) + rows for place in places}}


def _check_sum(source: Source, day: date, counts: SourceCounts) -> None:
    """Compare the outcomes with the landed files, counted by another reader than Spark's.

    Raises:
        CommandFailed: rows got lost, or came from nowhere.
    """
    landed = landing.count_rows(source, day)
    outcomes = counts.rows_clean + counts.rows_quarantined + counts.rows_deduplicated
    if landed != outcomes:
        raise CommandFailed(
            f"{day} {source.name}: {landed} rows landed, but {counts.rows_clean} clean + {counts.rows_quarantined} quarantined + {counts.rows_deduplicated}"
            f" deduplicated are {outcomes}. Nothing was published; run the day again, and report it if it stays."
        )


def _gate_landing(day: date, sources: Sequence[Source], counts: Mapping[str, SourceCounts], history: _Reconciled, found: _Found, settings: Settings) -> None:
    """Hold the day back when a required source makes no sense. Of what gateways shipped, bad rows go to quarantine and never stop the shop's day."""
    wrong = []
    past = quality.read_days(day - HISTORY, day - timedelta(days=1))
    for source in (source for source in sources if source.required):
        one = counts[source.name]
        usual = history.usual_rows(source.name, day)
        unreadable = one.reasons.get("unreadable line", 0) + one.reasons.get("missing key", 0)
        missing = tuple(name for place, name in enumerate(source.columns) if name in source.must_have and place not in one.seen)
        verdict = judge_landing(
            Profile(
                source=source.name,
                missing=missing,
                vanished=tuple(name for name in _vanished(source, one, past.values()) if name not in missing),
                retyped=tuple(
                    name
                    for place, name in enumerate(source.columns)
                    if one.seen.get(place, 0) >= EXPECTED_VALUES and one.mistyped.get(place, 0) > settings.lake.max_quarantined_share * one.seen[place]
                ),
                rows=one.rows_in,
                volume=one.rows_in / usual if usual else None,
                readable_keys=1 - unreadable / max(one.rows_in, 1),
                quarantined=one.rows_quarantined / max(one.rows_in, 1),
                reasons=", ".join(f"{reason} {rows}" for reason, rows in sorted(one.reasons.items(), key=lambda item: -item[1])),
            ),
            settings,
        )
        wrong += verdict.wrong
        found.validations.append(verdict.result)
    if wrong:
        raise _Held(day, "; ".join(wrong), counts)


def _vanished(source: Source, counts: SourceCounts, past: Iterable[DayQuality]) -> list[str]:
    """Name the columns without a single value although, by the share of every published day before, EXPECTED_VALUES or more were to be expected."""
    days = [one.result["sources"][source.name] for one in past if one.result and one.result["outcome"] == "published" and source.name in one.result["sources"]]
    days = [one for one in days if one["rows_in"]]
    if len(days) < SHORTEST_HISTORY:
        return []
    smallest = {name: min(one["values"].get(name, 0) / one["rows_in"] for one in days) for name in source.columns}
    return [name for place, name in enumerate(source.columns) if place not in counts.seen and smallest[name] * counts.rows_in >= EXPECTED_VALUES]


def _gate_rows(day: date, written: Iterable[Staged], counts: Mapping[str, SourceCounts], found: _Found, settings: Settings) -> None:
    """Hold the day back when rows that are about to be published break an expectation of their table."""
    wrong = []
    for one in written:
        verdict, days = judge_rows(one, settings)
        wrong += verdict.wrong
        found.validations.append(verdict.result)
        if one.table.partition == "dt":
            for dt, measures in days.items():
                found.measures.setdefault(dt, {})[one.table.name] = measures
    if wrong:
        found.measures.clear()  # these rows are not published
        raise _Held(day, "; ".join(wrong), counts)


def _record(adapter: Adapter, day: date, found: _Found, counts: Mapping[str, SourceCounts], outcome: str, why: str | None) -> None:
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


def _published_days(tables: Iterable[str], day: date, reach: int, rehearsal: "Rehearsal | None") -> dict[date, set[date]]:
    """Return which landings the published rows of the days within reach come from."""
    found: dict[date, set[date]] = {}
    first = day - timedelta(days=reach)
    for table in tables:
        instead = {dt: landings for (name, dt), landings in (rehearsal.landings if rehearsal else {}).items() if name == table and first <= dt <= day}
        for dt, landings in instead.items():
            found.setdefault(dt, set()).update(landings)
        if lake.exists(table):
            rows = lake.read(table, columns=["dt", "landing_dt"], filters=[("dt", ">=", first), ("dt", "<=", day)])
            for pair in rows.group_by(["dt", "landing_dt"]).aggregate([]).to_pylist():
                if pair["dt"] not in instead:
                    found.setdefault(pair["dt"], set()).add(pair["landing_dt"])
    return found


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


def rehearse_day(spark: SparkSession, adapter: Adapter, day: date, rehearsal: Rehearsal, *, partial: bool = False) -> DayReport:
    """Do everything that `run_day` does but publish: nothing of the installation is written."""
    settings, started, found = load_settings(), time.monotonic(), _Found()
    history = _Reconciled({**_Reconciled.around(day, settings).rows, **rehearsal.reconciled})
    counts: Mapping[str, SourceCounts] = {}
    outcome, why = "published", None
    try:
        with _prepared(spark, adapter, day, history, found, settings, partial=partial, rehearsal=rehearsal) as ready:
            counts = ready.mine
            for one in (one for one in ready.written if one.table.partition == "dt"):
                rehearsal.landings |= {(one.table.name, dt): set() for dt in one.days}
                for dt, _, batches in one.files(["landing_dt"]):
                    rehearsal.landings[one.table.name, dt] |= {landed for batch in batches for landed in pc.unique(batch["landing_dt"]).to_pylist()}
            rehearsal.after |= {(name, dt): measures for dt, tables in found.measures.items() for name, measures in tables.items()}
            rehearsal.after["quarantine", day] = {"rows": sum(one.rows_quarantined for one in counts.values()), "sums": {}}
        rehearsal.reconciled |= {key: {"outcome": "published", "rows_in": one.rows_in} for key, one in ready.later.items()}
    except _Held as held:
        counts, outcome, why = held.counts, "held", held.reason
    except _Closed as closed:
        outcome, why = "closed", str(closed)
    finally:
        spark.catalog.clearCache()
    if why:
        rehearsal.reconciled |= {(day, source.name): {"outcome": outcome, "rows_in": 0} for source in adapter.sources if source.required}
    return DayReport(day=day, outcome=outcome, why=why, seconds=time.monotonic() - started, counts=counts)


def _reconcile(day: date, counts: Counts, outcome: str, why: str | None) -> None:
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


def changed_days(adapter: Adapter, day: date) -> list[date]:
    """Return published landing days around a day whose files have grown or been replaced since, such as by a gateway that shipped late.

    They must run again before the day does, or their new rows would come in with it, unreconciled.
    """
    reach = timedelta(days=load_settings().lake.restated_days)
    if not lake.exists("reconciliation"):
        return []
    rows = lake.read(
        "reconciliation", filters=[("landing_dt", ">=", day - reach), ("landing_dt", "<=", day + reach), ("outcome", "=", "published")]
    ).to_pylist()
    recorded = {(row["landing_dt"], row["source"]): row["rows_in"] for row in rows}
    published = sorted({landed for landed, _ in recorded} - {day})
    return [landed for landed in published if any(landing.count_rows(source, landed) != recorded.get((landed, source.name), 0) for source in adapter.sources)]


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
        for day in days:
            for due in (*changed_days(adapter, day), day):
                if dry_run:
                    reports.append(rehearse_day(spark, adapter, due, rehearsal, partial=partial))
                else:
                    reports.append(publish_day(spark, adapter, due, partial=partial))
                click.echo(_line(reports[-1], dry_run), err=as_json)
        changes = rehearsal.changes()
        spark.stop()
    held = [report for report in reports if report.outcome == "held"]
    if dry_run and not as_json:
        for change in changes:
            click.echo(_difference(change))
        click.echo(f"{len(changes)} days of tables would change; nothing was written.")
    if as_json:
        outcome = {"days": [report.as_json() for report in reports], "held": [report.day.isoformat() for report in held]}
        click.echo(json.dumps({**outcome, "changes": changes} if dry_run else outcome))
    if held:
        click.echo(f"{len(held)} of {len(reports)} days are held back; the tables keep what they had. Deliver them again and re-run.", err=True)
        sys.exit(DayHeldBack.exit_code)


def _difference(change: Mapping[str, Any]) -> str:
    before, after = change["before"], change["after"]
    sums = "".join(
        f", {name} {value:.10g} -> {after['sums'][name]:.10g} ({after['sums'][name] - value:+.10g})"
        for name, value in before["sums"].items()
        if not math.isclose(value, after["sums"][name])
    )
    return f"{change['table']} {change['day']}: {before['rows']} -> {after['rows']} rows ({after['rows'] - before['rows']:+}){sums}"


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
