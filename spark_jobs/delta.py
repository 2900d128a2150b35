"""Publish days to a Delta table: Spark writes the files, one commit makes them the table's.

Spark's own Delta writer runs about ten small jobs for one small commit, which costs a day of a small shop more than everything else together. Here Spark
writes plain Parquet aside, in one job, and the files enter the table by one log entry, put in place only if nobody took its number.
"""

import json
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction
from pyspark.sql import DataFrame, SparkSession

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.errors import CommandFailed
from evershelf.storage import ASIDE, flush, flush_tree, local_path


def create_tables(spark: SparkSession) -> None:
    """Create the lake's tables that are not there yet, empty."""
    for table in LAKE_TABLES.values():
        if not lake.exists(table.name):
            schema = spark.createDataFrame([], table.spark_schema()).schema.json()
            DeltaTable.create(lake.table_url(table.name), Schema.from_json(schema), mode="ignore", partition_by=[table.partition], name=table.name)


def replace_days(rows: DataFrame, table: Table, days: Sequence[date], about: Mapping[str, object]) -> None:
    """Replace a table's partitions of some days by these rows, in one commit; killed at any moment, the table is as before or as after.

    Args:
        rows: the table's columns; no row is of another day.
        about: kept with the commit as `userMetadata`.

    Raises:
        CommandFailed: somebody else changed the same days at the same moment.
    """
    url = lake.table_url(table.name)
    root = local_path(url)
    aside = root / f"{ASIDE}{uuid.uuid4().hex}"
    try:
        rows.write.partitionBy(table.partition).option("compression", "snappy").parquet(str(aside))
        flush_tree(aside)
        added: list[AddAction | RemoveAction] = [_put_in_place(path, root, table.partition) for path in sorted(aside.glob(f"{table.partition}=*/*.parquet"))]
        opened = DeltaTable(url)
        opened.create_write_transaction(
            added,
            mode="overwrite",
            schema=opened.schema(),
            partition_by=[table.partition],
            partition_filters=[(table.partition, "in", [day.isoformat() for day in days])],
            commit_properties=CommitProperties(custom_metadata={"userMetadata": json.dumps(about, sort_keys=True)}),
        )
    except DeltaError as error:
        raise CommandFailed(f"{table.name} was not changed, another writer was faster ({error}). The day is not published; run it again.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(path: Path, root: Path, partition: str) -> AddAction:
    """Move a finished file into its partition's folder; no reader sees it before the commit names it."""
    folder = root / path.parent.name
    folder.mkdir(exist_ok=True)
    place = folder / path.name
    path.rename(place)
    flush(folder)
    return AddAction(
        path=place.relative_to(root).as_posix(),
        size=place.stat().st_size,
        partition_values={partition: path.parent.name.removeprefix(f"{partition}=")},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": pq.read_metadata(place).num_rows}),
    )
