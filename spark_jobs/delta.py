"""Publish days to a Delta table: Spark writes the files, one commit makes them the table's.

Spark's own Delta writer runs about ten small jobs for one small commit, which costs a day of a small shop more than everything else together. Here Spark
writes plain Parquet aside, in one job, and the files enter the table by one log entry, put in place only if nobody took its number. Files of the same days
that are to stay are named, and are left alone.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction
from pyspark.sql import DataFrame, SparkSession

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.errors import CommandFailed
from evershelf.progress import step
from evershelf.settings import load_settings
from evershelf.storage import ASIDE, HdfsPath, Place, at, files_below, flush, flush_tree, glob, remove, rename

LANDED = "landed"  # a column by whose values rows are written into files apart; it is in no file


def create_tables(spark: SparkSession) -> None:
    """Create the lake's tables that are not there yet, empty."""
    for table in LAKE_TABLES.values():
        if not lake.exists(table.name):
            schema = spark.createDataFrame([], table.spark_schema()).schema.json()
            DeltaTable.create(
                lake.table_url(table.name),
                Schema.from_json(schema),
                mode="ignore",
                partition_by=[table.partition],
                name=table.name,
                configuration=lake.NO_BOUNDS,
            )


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of a table, of one of its days. `landings`: the landing days whose rows it holds."""

    path: Place
    day: date
    landings: frozenset[date]


def table_files(table: Table, first: date, last: date) -> list[TableFile]:
    """Return the files of a table's days from first to last."""
    if not lake.exists(table.name):
        return []
    added = pa.table(lake.open_table(table.name).get_add_actions(flatten=True))
    root, days = at(lake.table_url(table.name)), added[f"partition.{table.partition}"].to_pylist()
    paths = sorted((day, path) for day, path in zip(days, added["path"].to_pylist(), strict=True) if first <= day <= last)
    return [TableFile(place := root / path, day, landings_of(place)) for day, path in paths]


@lru_cache(maxsize=4096)  # a file of a table never changes
def landings_of(place: Place) -> frozenset[date]:
    """Return the landing days whose rows a table's file holds."""
    with place.open("rb") as opened:
        file = pq.ParquetFile(opened)
        place_of = {file.metadata.schema.column(number).path: number for number in range(file.metadata.num_columns)}
        bounds = [file.metadata.row_group(group).column(place_of["landing_dt"]).statistics for group in range(file.num_row_groups)]
        if all(one is not None and one.has_min_max and one.min == one.max for one in bounds):
            return frozenset(one.min for one in bounds)
        return frozenset(pc.unique(file.read(columns=["landing_dt"])["landing_dt"]).to_pylist())


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows of some days, written aside: the table's files to be, which nobody reads yet. `kept`: files of these days that stay beside them."""

    table: Table
    days: tuple[date, ...]
    folder: Place
    kept: tuple[TableFile, ...] = ()

    def files(self) -> list[tuple[date, Place]]:
        """Return what was written: day, file."""
        start = f"{self.table.partition}="
        found = [(within.partition("/")[0], path) for within, path in files_below(self.folder) if within.startswith(start) and within.endswith(".parquet")]
        return [(date.fromisoformat(day.removeprefix(start)), path) for day, path in found]

    def publish(self, about: Mapping[str, object]) -> None:
        """Replace the table's files of these days but those kept, in one commit; killed at any moment, the table is as before or as after.

        Args:
            about: kept with the commit as `userMetadata`, with the days; `evershelf lineage` shows it.

        Raises:
            CommandFailed: somebody else changed the table at the same moment.
        """
        step(f"commit {self.table.name}")
        url, partition = lake.table_url(self.table.name), self.table.partition
        root = at(url)
        flush_tree(self.folder)
        opened = DeltaTable(url)
        days = [day.isoformat() for day in self.days]
        there = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
        there = [one for one in there if one[f"partition.{partition}"] in self.days]
        staying = {f"{one.path.parent.name}/{one.path.name}" for one in self.kept}
        if gone := staying - {one["path"] for one in there}:
            raise CommandFailed(f"{self.table.name} was not changed: another writer replaced {min(gone)}. The day is not published; run it again.")
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(one["path"], True, int(time.time() * 1000), one["size_bytes"], {partition: one[f"partition.{partition}"].isoformat()})
            for one in there
            if one["path"] not in staying
        ]
        copies = load_settings().replication(self.table.name)
        actions += [_put_in_place(path, root / f"{partition}={day.isoformat()}", copies) for day, path in self.files()]
        try:
            opened.create_write_transaction(
                actions,
                mode="append",  # of these files, instead of those: what else lies in the partitions stays
                schema=opened.schema(),
                partition_by=[partition],
                commit_properties=lake.said({**about, "days": days}, retries=0),  # whoever was faster may have put in the same rows
            )
        except CommitFailedError as error:
            raise CommandFailed(f"{self.table.name} was not changed, another writer was faster ({error}). The day is not published; run it again.") from error


def nulls(file: pq.ParquetFile) -> dict[str, int]:
    """Count the empty values of each flat column: from the footer, or by reading a column whose values are too long for statistics."""
    found: dict[str, int] = {}
    flat = [place for place in range(file.metadata.num_columns) if "." not in file.metadata.schema.column(place).path]  # else part of a list or a map
    for place in flat:
        name = file.metadata.schema.column(place).path
        statistics = [file.metadata.row_group(group).column(place).statistics for group in range(file.num_row_groups)]
        known = all(one is not None and one.has_null_count for one in statistics)
        found[name] = sum(one.null_count for one in statistics) if known else file.read(columns=[name])[name].null_count
    return found


@contextmanager
def staged(
    rows: Mapping[str, DataFrame],
    days: Mapping[str, Sequence[date]],
    kept: Mapping[str, Sequence[TableFile]] | None = None,
    outside: Path | None = None,
) -> Iterator[list[Staged]]:
    """Write rows aside, table -> the contract's columns, and LANDED if need be; what is not published by the end of the block is gone.

    Args:
        kept: files of these days that stay.
        outside: write into this folder, and not beside the tables' files; it cannot be published from there.
    """
    staging = [
        Staged(LAKE_TABLES[name], tuple(days[name]), (outside or at(lake.table_url(name))) / f"{ASIDE}{uuid.uuid4().hex}", tuple((kept or {}).get(name, ())))
        for name in rows
    ]
    for one in staging if outside is None else []:
        for left in glob(one.folder.parent, f"{ASIDE}*"):  # of a run that was killed: the lake's lock says that no other is at work
            remove(left)
    try:
        for one in staging:
            if outside is None:
                step(f"write {one.table.name}")
            frame = rows[one.table.name]
            apart = [one.table.partition, *([LANDED] if LANDED in frame.columns else [])]
            frame.write.partitionBy(*apart).parquet(str(one.folder))
        yield staging
    finally:
        for one in staging:
            remove(one.folder)


def _put_in_place(path: Place, folder: Place, copies: int) -> AddAction:
    """Move a finished file into its partition's folder; no reader sees it before the commit names it. HDFS is to keep so many copies of it."""
    folder.mkdir(exist_ok=True)
    place = folder / f"{uuid.uuid4().hex}.parquet"  # Spark gives files of several landing days the same name
    rename(path, place)
    if isinstance(place, HdfsPath) and copies != load_settings().hdfs.replication:  # Spark gives every file the copies of its session
        place.replicate(copies)
    flush(folder)
    partition, _, day = folder.name.partition("=")
    return AddAction(
        path=f"{folder.name}/{place.name}",
        size=place.stat().st_size,
        partition_values={partition: day},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": _rows(place)}),
    )


def _rows(place: Place) -> int:
    with place.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)
