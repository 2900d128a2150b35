"""What became of the rows of a landing day."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

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


def count_outcomes(judged: Iterable[DataFrame], repetitions: Iterable[DataFrame]) -> Counts:
    """Count what became of every row.

    Args:
        judged: rows with `landing_dt`, `source`, `reason`, `seen`, `mistyped` and `dt`.
        repetitions: those of them that are dropped as repeated, with `landing_dt` and `source`.
    """
    slim = [frame.select("landing_dt", "source", "reason", "seen", "mistyped", "dt") for frame in judged]
    rows = (
        reduce(DataFrame.unionByName, slim)
        .groupBy("landing_dt", "source", F.coalesce("reason", F.lit(NO_REASON)).alias("reason"), "seen", "mistyped")  # few masks occur
        .agg(F.count("*").alias("rows"), F.collect_set(F.when(F.col("reason").isNull(), F.col("dt"))).alias("days"))  # of a bad row it may be the year 123456
        .collect()
    )
    few = [frame.select("landing_dt", "source") for frame in repetitions]
    dropped = reduce(DataFrame.unionByName, few).groupBy("landing_dt", "source").count().collect() if few else []
    repeated = {(row[0], row[1]): row[2] for row in dropped}
    counts: Counts = {}
    for row in rows:
        key = (row.landing_dt, row.source)
        before = counts.get(key, SourceCounts(rows_clean=-repeated.get(key, 0), rows_deduplicated=repeated.get(key, 0)))
        clean = row.reason == NO_REASON
        counts[key] = SourceCounts(
            rows_in=before.rows_in + row.rows,
            rows_clean=before.rows_clean + (row.rows if clean else 0),
            rows_deduplicated=before.rows_deduplicated,
            reasons=before.reasons if clean else {**before.reasons, row.reason: before.reasons.get(row.reason, 0) + row.rows},
            seen=_added(before.seen, row.seen, row.rows),
            mistyped=_added(before.mistyped, row.mistyped, row.rows),
            days=before.days | frozenset(row.days) if clean else before.days,
        )
    return counts


def _added(counts: Mapping[int, int], mask: int, rows: int) -> dict[int, int]:
    places = [place for place in range(mask.bit_length()) if mask >> place & 1]
    return {**counts, **{place: counts.get(place, 0) + rows for place in places}}
