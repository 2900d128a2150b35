"""Publish days to a Delta table: Spark writes the files, one commit makes them the table's.

Spark's own Delta writer runs about ten small jobs for one small commit, which costs a day of a small shop more than everything else together. Here Spark
writes plain Parquet aside, in one job, and the files enter the table by one log entry, put in place only if nobody took its number.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction
from pyspark.sql import DataFrame, SparkSession

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.errors import CommandFailed
from evershelf.storage import ASIDE, Place, at, flush, flush_tree, glob, remove, rename


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
class Staged:
    """Rows of some days, written aside: the table's files to be, which nobody reads yet."""

    table: Table
    days: tuple[date, ...]
    folder: Place

    def files(self, columns: Sequence[str]) -> Iterator[tuple[date, dict[str, int], Iterator[pa.RecordBatch]]]:
        """Read columns back, for the audit: yield per file its day, the empty values of each flat column, and its rows in batches."""
        for path in glob(self.folder, f"{self.table.partition}=*/*.parquet"):
            with path.open("rb") as opened:
                file = pq.ParquetFile(opened)
                yield date.fromisoformat(path.parent.name.partition("=")[2]), _nulls(file), file.iter_batches(columns=list(columns))

    def publish(self, about: Mapping[str, object]) -> None:
        """Replace the table's partitions of these days, in one commit; killed at any moment, the table is as before or as after.

        Args:
            about: kept with the commit as `userMetadata`, with the days; `evershelf lineage` shows it.

        Raises:
            CommandFailed: somebody else changed the same days at the same moment.
        """
        url, partition = lake.table_url(self.table.name), self.table.partition
        root = at(url)
        flush_tree(self.folder)
        added: list[AddAction | RemoveAction] = [_put_in_place(path, root, partition) for path in glob(self.folder, f"{partition}=*/*.parquet")]
        opened = DeltaTable(url)
        days = [day.isoformat() for day in self.days]
        try:
            opened.create_write_transaction(
                added,
                mode="overwrite",
                schema=opened.schema(),
                partition_by=[partition],
                partition_filters=[(partition, "in", days)],
                commit_properties=lake.said({**about, "days": days}),
            )
        except DeltaError as error:
            raise CommandFailed(f"{self.table.name} was not changed, another writer was faster ({error}). The day is not published; run it again.") from error


def _nulls(file: pq.ParquetFile) -> dict[str, int]:
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
def staged(rows: Mapping[str, DataFrame], days: Mapping[str, Sequence[date]], outside: Path | None = None) -> Iterator[list[Staged]]:
    """Write rows aside, table -> the contract's columns; what is not published by the end of the block is gone.

    Args:
        outside: write into this folder, and not beside the tables' files; it cannot be published from there.
    """
    staging = [Staged(LAKE_TABLES[name], tuple(days[name]), (outside or at(lake.table_url(name))) / f"{ASIDE}{uuid.uuid4().hex}") for name in rows]
    for one in staging if outside is None else []:
        for left in glob(one.folder.parent, f"{ASIDE}*"):  # of a run that was killed: the lake's lock says that no other is at work
            remove(left)
    try:
        for one in staging:
            rows[one.table.name].write.partitionBy(one.table.partition).parquet(str(one.folder))
        yield staging
    finally:
        for one in staging:
            remove(one.folder)


def _put_in_place(path: Place, root: Place, partition: str) -> AddAction:
    """Move a finished file into its partition's folder; no reader sees it before the commit names it."""
    folder = root / path.parent.name
    folder.mkdir(exist_ok=True)
    place = folder / path.name
    rename(path, place)
    flush(folder)
    return AddAction(
        path=f"{folder.name}/{place.name}",
        size=place.stat().st_size,
        partition_values={partition: path.parent.name.removeprefix(f"{partition}=")},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": _rows(place)}),
    )


def _rows(place: Place) -> int:
    with place.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)
