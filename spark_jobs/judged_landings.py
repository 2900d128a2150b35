"""The landed rows of the days that a driver is at work on, each read and judged once.

A row may repeat one that landed days before, so every landing day is looked at again for those around it. What was read stays with Spark, in memory and on its
local disks, until its day is out of reach. It is known by the checksums of its files: before each day (`turn_to`), and before more is made of them, they are
looked at, and a source that was changed is read again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from types import TracebackType
from typing import Any, Self

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from evershelf.settings import load_settings
from evershelf.shops import landing
from evershelf.shops.adapter import Adapter, Source
from spark_jobs.landed_rows import KEYS, judged_rows, read_rows


@dataclass(slots=True)
class _Kept:
    """What is kept of a source of a landing day: its files with their checksums, and what was made of them."""

    files: Mapping[str, str]
    made: dict[str, Any] = field(default_factory=dict)


class JudgedLandings:
    """Of one driver, as a context: what is kept goes at its end."""

    def __init__(self, spark: SparkSession, adapter: Adapter) -> None:
        self.spark, self.adapter = spark, adapter
        self._kept: dict[tuple[date, str], _Kept] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for key in list(self._kept):
            self._let_go(key)

    def rows(self, day: date, source: Source) -> DataFrame:
        """Return a landing day's judged rows of a source that delivered (spark_jobs/landed_rows.py)."""
        return self._made("rows", day, source, lambda: self._judged(day, source).persist(StorageLevel.MEMORY_AND_DISK))  # type: ignore[no-any-return]

    def keys(self, day: date, source: Source) -> DataFrame:
        """Return KEYS of a landing day's good rows, for others to be held against: less to keep than all of them, where nothing else is asked of the day."""
        if "rows" in self._kept_of(day, source.name).made:
            return _keys(self.rows(day, source))
        return self._made("keys", day, source, lambda: _keys(self._judged(day, source)).persist(StorageLevel.MEMORY_AND_DISK))  # type: ignore[no-any-return]

    def count(self, source: Source, day: date) -> int:
        """Count what landed, by another reader than Spark's."""
        return int(self._made("count", day, source, lambda: landing.count_rows(source, day)))

    def inputs(self, landings: Iterable[tuple[date, str]]) -> dict[str, str]:
        """Return the files of some (landing day, source), with their checksums: the inputs' versions, for the lineage."""
        return {name: checksum for day, source in sorted(landings) for name, checksum in self._kept_of(day, source).files.items()}

    def turn_to(self, day: date) -> None:
        """Keep only what is within reach of a day, and as it landed; to be called before each day that is worked at."""
        reach = load_settings().lake.restated_days
        for key, kept in list(self._kept.items()):
            if abs((key[0] - day).days) > reach or kept.files != landing.fingerprints([key]):
                self._let_go(key)  # all of it: Spark takes two frames over the same paths for the same

    def _judged(self, day: date, source: Source) -> DataFrame:
        files = {day: landing.landed_files(source.name, day)}
        rows = read_rows(self.spark, source, files, {day: landing.corrections(source.name, day)})
        return judged_rows(rows, source, load_settings())

    def _kept_of(self, day: date, source: str) -> _Kept:
        if (day, source) not in self._kept:
            self._kept[day, source] = _Kept(landing.fingerprints([(day, source)]))
        return self._kept[day, source]

    def _made(self, what: str, day: date, source: Source, make: Callable[[], Any]) -> Any:
        kept = self._kept_of(day, source.name)
        if what not in kept.made:
            if kept.made and kept.files != landing.fingerprints([(day, source.name)]):  # it must be made of the same rows as the rest
                self._let_go((day, source.name))
                kept = self._kept_of(day, source.name)
            kept.made[what] = make()
        return kept.made[what]

    def _let_go(self, key: tuple[date, str]) -> None:
        for made in self._kept.pop(key).made.values():
            if isinstance(made, DataFrame):
                made.unpersist()


def _keys(rows: DataFrame) -> DataFrame:
    return rows.where(F.col("reason").isNull()).select(*KEYS)
