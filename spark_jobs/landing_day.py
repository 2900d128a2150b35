"""One landing day from landing to what is ready to be published: read, cleaned, and audited on both sides.

A partition `dt` is made of the landings from `dt` on, and its files hold the rows of one landing day each (until `evershelf run maintain_lake` puts small ones
together). The run for a landing day makes anew the files of that day, and of the days after it in the `dt` that it touches, since their rows may repeat its
own; the files of the days before it stay, since a row keeps its place whatever comes after it.

Whole partitions are made anew from all their landings where that does not do: of a table that groups rows (`Feed.per`), in a dry run, where a file holds rows
that stay and rows that go, and where the new rows do not fit the ones that stay.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.errors import CommandFailed, DayHeldBack
from evershelf.progress import step
from evershelf.quality import store as quality
from evershelf.quality.store import DayQuality
from evershelf.settings import Settings, load_settings
from evershelf.shops import landing
from evershelf.shops.adapter import Source
from evershelf.version import code_version
from spark_jobs.delta import LANDED, Staged, TableFile, staged, table_files
from spark_jobs.gates import Profile, judge_landing, judge_rows
from spark_jobs.judged_landings import JudgedLandings
from spark_jobs.landed_rows import fed_rows, mark_repetitions, quarantined_rows, several
from spark_jobs.measures import Measures
from spark_jobs.outcomes import Counts, SourceCounts, count_outcomes
from spark_jobs.reconciliation import HISTORY, SHORTEST_HISTORY, Reconciled, closed_day

EXPECTED_VALUES = 20  # of a column, before it counts as gone when none of them came, or as retyped when most are of another type
FEW = 1000  # keys that Spark is told one by one
ROWS_PER_FILE = 250_000  # about so many, as long as there are cores to write them


class Held(DayHeldBack):
    """With what was counted so far: source -> counts."""

    def __init__(self, day: date, reason: str, counts: Mapping[str, SourceCounts]) -> None:
        super().__init__(day.isoformat(), reason)
        self.counts = counts


class Closed(Exception):
    """The shop was not open on the day: nothing landed, and nothing was to be expected. The message says how that is known."""


class DoesNotFit(Exception):
    """The day cannot be published beside files that stay; make whole partitions instead."""


@dataclass(slots=True)
class Found:
    """What the gates have found so far: Great Expectations' results, and of each calendar day and table what its rows look like."""

    validations: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[date, dict[str, Measures]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Where a dry run writes, and from which landings the rows of a table's day would come by what it did before: (table, dt) -> landing days."""

    folder: Path
    landings: Mapping[tuple[str, date], set[date]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A day that passed both gates. `later`: the counts to reconcile, of this landing day and of those after it, whose rows may repeat this one's."""

    mine: dict[str, SourceCounts]
    later: Counts
    written: list[Staged]
    about: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Family:
    """The rows of sources that are deduplicated together. Most keys come once, and only the rows of the others are put in order.

    rows: of this landing day and of those after it. before: of those before it, all or no more than their keys. several: the numbers of the keys that come more
    than once, if they are few, or a frame of them. doubtful: the good rows of these keys, with `repeated`.
    """

    rows: list[DataFrame]
    before: list[DataFrame]
    several: DataFrame | list[int]
    doubtful: DataFrame | None

    @classmethod
    def of(cls, rows: list[DataFrame], before: list[DataFrame]) -> "_Family":
        all_rows = _union([*rows, *before])
        numbers = several(all_rows).cache()
        few = [row.same for row in numbers.take(FEW + 1)]
        if not few:
            numbers.unpersist()
            return cls(rows, before, few, None)
        known = numbers if len(few) > FEW else few
        return cls(rows, before, known, mark_repetitions(_among(all_rows, known)).cache())

    def close(self) -> None:
        for frame in (self.several, self.doubtful):
            if isinstance(frame, DataFrame):
                frame.unpersist()

    def good(self, days: Sequence[date], since: date | None) -> DataFrame | None:
        """Return the good rows of some `dt`, with `repeated`, of all landings or of those since a day; None when nothing landed."""
        if since and not self.rows:
            return None
        some = _union(self.rows if since else [*self.rows, *self.before]).where(F.col("dt").isin(list(days)))
        once = _among(some, self.several, others=True).withColumn("repeated", F.lit(False))
        if self.doubtful is None:
            return once
        doubtful = self.doubtful.where(F.col("dt").isin(list(days)))
        return once.unionByName(doubtful.where(F.col("landing_dt") >= since) if since else doubtful)


def _among(rows: DataFrame, numbers: DataFrame | list[int], *, others: bool = False) -> DataFrame:
    """Return the good rows whose key is among those with these numbers, or the other good rows."""
    good = rows.where(F.col("reason").isNull())
    if isinstance(numbers, DataFrame):
        return good.join(numbers, "same", "left_anti" if others else "left_semi")
    if not numbers:
        return good
    return good.where(~F.col("same").isin(numbers) if others else F.col("same").isin(numbers))


def _union(frames: Sequence[DataFrame]) -> DataFrame:
    return reduce(lambda one, other: one.unionByName(other, allowMissingColumns=one.columns != other.columns), frames)


@contextmanager
def prepared(
    landings: JudgedLandings, day: date, history: Reconciled, found: Found, *, partial: bool, whole: bool, outside: Outside | None = None
) -> Iterator[Ready]:
    """Read, clean and audit a landing day; its rows lie aside within the block, and are for the caller to publish.

    Args:
        whole: make whole partitions.
        outside: of a dry run, which makes whole partitions.

    Raises:
        Held: the day must not be published.
        Closed: there is nothing to publish.
        DoesNotFit: not if `whole`.
    """
    adapter, settings = landings.adapter, load_settings()
    reach = settings.lake.restated_days
    delivered = _delivered(adapter.sources, day, history, partial=partial)
    accepted = history.accepted(day, reach)
    wanted = [(day, source.name) for source in delivered] + accepted
    tables = {feed.table: LAKE_TABLES[feed.table] for feed in adapter.feeds}
    in_whole = {feed.table for feed in adapter.feeds if feed.per or whole}
    there = {name: table_files(table, day - timedelta(days=reach), day) for name, table in tables.items()}
    families = _read(landings, wanted, day, {feed.family for feed in adapter.feeds if feed.table in in_whole})
    try:
        step(f"clean {day}")
        counts = _counted(families.values(), day)
        mine = {source.name: counts.get((day, source.name), SourceCounts()) for source in delivered}
        _gate_landing(day, delivered, mine, history, found, settings)
        for (landed, name), one in counts.items():
            _check_sum(landings, adapter.source(name), landed, one)

        published = _published_days(there, outside)
        rebuilt = sorted({dt for one in mine.values() for dt in one.days} | {dt for dt, landed in published.items() if day in landed})
        if stranded := {landed for dt in rebuilt for landed in published.get(dt, ())} & history.held() - {day}:
            raise Held(day, f"it restates days with rows of {min(stranded)}, which was published before and is held back now; run that day first", mine)
        before = {landed for landed, _ in accepted if landed < day}
        frames, kept = {}, {}
        for table in tables.values():
            feeds = [feed for feed in adapter.feeds if feed.table == table.name and feed.family in families]
            if feeds and rebuilt:
                since = None if table.name in in_whole else day
                kept[table.name] = _staying(there[table.name], rebuilt, before) if since else []
                fed = [fed_rows(rows, feed, table, settings) for feed in feeds if (rows := families[feed.family].good(rebuilt, since)) is not None]
                frames[table.name] = _in_files(
                    fed, table, landings.spark, sum(one.rows_clean for one in counts.values()), grouped=any(feed.per for feed in feeds)
                )
        quarantined = [quarantined_rows(frame.where(F.col("landing_dt") == day)) for family in families.values() for frame in family.rows]
        frames["quarantine"] = reduce(DataFrame.unionByName, quarantined).coalesce(1)
        about: dict[str, object] = {"code_version": code_version(), "landing_dt": day.isoformat(), "inputs": landings.inputs(wanted)}
        with staged(frames, {**dict.fromkeys(frames, rebuilt), "quarantine": [day]}, kept, outside.folder if outside else None) as written:
            _gate_rows(day, written, mine, found, settings)
            # A later landing that has changed since must run again itself: what is known of it stays, or nobody would see that it has changed.
            later = {key: one for key, one in counts.items() if key[0] == day or one.rows_in == history.rows[key]["rows_in"]}
            yield Ready(mine=mine, later=later, written=written, about=about)
    finally:
        for family in families.values():
            family.close()


def _delivered(sources: Iterable[Source], day: date, history: Reconciled, *, partial: bool) -> list[Source]:
    """Return the sources that delivered something on a day.

    Raises:
        Closed: nothing did, and the shop's history says that nothing was to be expected.
        Held: one was refused at the door, or a required one is missing.
    """
    for source in sources:
        if refused := landing.rejection(source.name, day):
            raise Held(day, f"{source.name}: the door refused {refused.file}: {refused.reason}", {})
    delivered = [source for source in sources if landing.landed_files(source.name, day)]
    required = [source for source in sources if source.required]
    missing = [source.name for source in required if source not in delivered]
    closed = closed_day(day, landing.landing_days(tuple(source.name for source in required))) if len(missing) == len(required) else None
    if closed and not delivered and not history.has_published(day):
        raise Closed(closed)
    if not delivered or (missing and not partial and not closed):  # shoppers look around in a closed shop, too: then the gateways deliver
        raise Held(day, f"no file of {', '.join(missing)} landed" if delivered else "no file landed", {})
    return delivered


def _read(landings: JudgedLandings, wanted: Iterable[tuple[date, str]], day: date, whole: Set[str]) -> dict[str, _Family]:
    """Read the families that landed. Of the landings before the day, a row can be held against keys alone, unless whole partitions are made of them."""
    known_sources = {source.name: source for source in landings.adapter.sources}
    there = [(landed, known_sources[name]) for landed, name in sorted(wanted) if name in known_sources and landing.landed_files(name, landed)]
    found = {}
    for family in dict.fromkeys(source.family for _, source in there):
        rows = [landings.rows(landed, source) for landed, source in there if source.family == family and landed >= day]
        known = landings.rows if family in whole else landings.keys
        before = [known(landed, source) for landed, source in there if source.family == family and landed < day]
        found[family] = _Family.of(rows, before)
    return found


def _counted(families: Iterable[_Family], day: date) -> Counts:
    """Count what became of the rows of this landing day and of those after it: a landing that came before keeps its rows whatever comes after it."""
    some = [family for family in families if family.rows]
    repeated = [family.doubtful.where(F.col("repeated") & (F.col("landing_dt") >= day)) for family in some if family.doubtful]
    return count_outcomes([frame for family in some for frame in family.rows], repeated)


def _staying(files: Iterable[TableFile], days: Sequence[date], landed: Set[date]) -> list[TableFile]:
    """Return the files of some days that stay: those with rows of these landing days.

    Raises:
        DoesNotFit: one has other rows besides.
    """
    some = [file for file in files if file.day in days and file.landings & landed]
    if any(file.landings - landed for file in some):
        raise DoesNotFit
    return some


def _in_files(fed: Sequence[DataFrame], table: Table, spark: SparkSession, rows: int, *, grouped: bool) -> DataFrame:
    """Put a table's rows together for about ROWS_PER_FILE to a file; the rows of a landing day lie in files of their own, unless they are grouped."""
    if not fed:
        return spark.createDataFrame([], table.spark_schema())
    together = reduce(DataFrame.unionByName, fed).coalesce(max(1, min(rows // ROWS_PER_FILE, spark.sparkContext.defaultParallelism)))
    return together if grouped else together.withColumn(LANDED, F.col("landing_dt"))


def _check_sum(landings: JudgedLandings, source: Source, day: date, counts: SourceCounts) -> None:
    """Compare the outcomes with the landed files, counted by another reader than Spark's.

    Raises:
        CommandFailed: rows got lost, or came from nowhere.
    """
    landed = landings.count(source, day)
    outcomes = counts.rows_clean + counts.rows_quarantined + counts.rows_deduplicated
    if landed != outcomes:
        raise CommandFailed(
            f"{day} {source.name}: {landed} rows landed, but {counts.rows_clean} clean + {counts.rows_quarantined} quarantined + {counts.rows_deduplicated}"
            f" deduplicated are {outcomes}. Nothing was published; run the day again, and report it if it stays."
        )


def _gate_landing(day: date, sources: Sequence[Source], counts: Mapping[str, SourceCounts], history: Reconciled, found: Found, settings: Settings) -> None:
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
        raise Held(day, "; ".join(wrong), counts)


def _vanished(source: Source, counts: SourceCounts, past: Iterable[DayQuality]) -> list[str]:
    """Name the columns without a single value although, by the share of every published day before, EXPECTED_VALUES or more were to be expected."""
    days = [one.result["sources"][source.name] for one in past if one.result and one.result["outcome"] == "published" and source.name in one.result["sources"]]
    days = [one for one in days if one["rows_in"]]
    if len(days) < SHORTEST_HISTORY:
        return []
    smallest = {name: min(one["values"].get(name, 0) / one["rows_in"] for one in days) for name in source.columns}
    return [name for place, name in enumerate(source.columns) if place not in counts.seen and smallest[name] * counts.rows_in >= EXPECTED_VALUES]


def _gate_rows(day: date, written: Iterable[Staged], counts: Mapping[str, SourceCounts], found: Found, settings: Settings) -> None:
    """Hold the day back when rows that are about to be published break an expectation of their table.

    Raises:
        DoesNotFit: they do, and it may be that they do not fit the rows that stay.
        Held
    """
    wrong = []
    for one in written:
        verdict, days = judge_rows(one, settings)
        wrong += verdict.wrong
        found.validations.append(verdict.result)
        if one.table.partition == "dt":
            for dt, measures in days.items():
                found.measures.setdefault(dt, {})[one.table.name] = measures
    if wrong and any(one.kept for one in written):
        raise DoesNotFit
    if wrong:
        found.measures.clear()  # these rows are not published
        raise Held(day, "; ".join(wrong), counts)


def _published_days(there: Mapping[str, Iterable[TableFile]], outside: Outside | None) -> dict[date, set[date]]:
    """Return which landings the published rows of the days within reach come from."""
    found: dict[date, set[date]] = {}
    for name, files in there.items():
        for file in files:
            if not outside or (name, file.day) not in outside.landings:
                found.setdefault(file.day, set()).update(file.landings)
    for (name, dt), landed in (outside.landings if outside else {}).items():
        if name in there:
            found.setdefault(dt, set()).update(landed)
    return found
