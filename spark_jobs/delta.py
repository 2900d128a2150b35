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

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction
from pyarrow.dataset import dataset, partitioning
from pyspark.sql import DataFrame, SparkSession

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.errors import CommandFailed
from evershelf.storage import ASIDE, Place, at, at_hand, flush, flush_tree, glob, remove, rename


def create_tables(spark: SparkSession) -> None:
    """Create the lake's tables that are not there yet, empty."""
    for table in LAKE_TABLES.values():
        if not lake.exists(table.name):
            schema = spark.createDataFrame([], table.spark_schema()).schema.json()
            DeltaTable.create(lake.table_url(table.name), Schema.from_json(schema), mode="ignore", partition_by=[table.partition], name=table.name)


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows of some days, written aside: the table's files to be, which nobody reads yet."""

    table: Table
    days: tuple[date, ...]
    folder: Place

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """Read columns back, for the audit."""
        with at_hand(self.folder) as folder:
            return dataset(folder, format="parquet", schema=self._schema(), partitioning=partitioning(flavor="hive")).to_table(columns=list(columns))

    def _schema(self) -> pa.Schema:
        return pa.schema(lake.open_table(self.table.name).schema().to_arrow())

    def publish(self, about: Mapping[str, object]) -> None:
        """Replace the table's partitions of these days, in one commit; killed at any moment, the table is as before or as after.

        Args:
            about: kept with the commit as `userMetadata`.

        Raises:
            CommandFailed: somebody else changed the same days at the same moment.
        """
        url, partition = lake.table_url(self.table.name), self.table.partition
        root = at(url)
        flush_tree(self.folder)
        added: list[AddAction | RemoveAction] = [_put_in_place(path, root, partition) for path in glob(self.folder, f"{partition}=*/*.parquet")]
        opened = DeltaTable(url)
        try:
            opened.create_write_transaction(
                added,
                mode="overwrite",
                schema=opened.schema(),
                partition_by=[partition],
                partition_filters=[(partition, "in", [day.isoformat() for day in self.days])],
                commit_properties=CommitProperties(custom_metadata={"userMetadata": json.dumps(about, sort_keys=True)}),
            )
        except DeltaError as error:
            raise CommandFailed(f"{self.table.name} was not changed, another writer was faster ({error}). The day is not published; run it again.") from error


@contextmanager
def staged(rows: Mapping[str, DataFrame], days: Mapping[str, Sequence[date]]) -> Iterator[list[Staged]]:
    """Write rows aside, table -> the contract's columns; what is not published by the end of the block is gone."""
    staging = [Staged(LAKE_TABLES[name], tuple(days[name]), at(lake.table_url(name)) / f"{ASIDE}{uuid.uuid4().hex}") for name in rows]
    for one in staging:
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
