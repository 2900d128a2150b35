"""Read the lake without Spark: Delta tables as Arrow."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import partial

import click
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder

from evershelf import storage
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import StorageError, in_one_line
from evershelf.progress import Say
from evershelf.settings import load_settings

# Else a table's log, which is never cut, keeps the first and the last shopper of every file. What is looked for is found by partition.
NO_BOUNDS = {"delta.dataSkippingNumIndexedCols": "0"}

LABELS_HOLD = timedelta(days=7)  # a day on which nothing was filled in leaves nothing that could take the place of older ones

_tell = partial(click.echo, err=True)


def table_url(name: str) -> str:
    """Return the address of a lake table.

    Raises:
        StorageError: there is no such table in the contracts.
    """
    if name not in LAKE_TABLES:
        raise StorageError(f"{name} is no table of the lake. Nothing was read. The tables are {', '.join(LAKE_TABLES)}.")
    return load_settings().table_url(name)


def exists(name: str) -> bool:
    """Return whether anything was published to a table.

    Raises:
        StorageError: its storage does not answer.
    """
    url = table_url(name)
    try:
        return bool(DeltaTable.is_deltatable(url))
    except OSError as error:
        raise StorageError(
            f"{url} cannot be looked at ({in_one_line(error)}). Nothing was read, and what is live stays live. Look at its storage, then do it again."
        ) from None


def open_table(name: str, version: int | None = None) -> DeltaTable:
    """Open a lake table, at a version when one is given.

    Raises:
        StorageError: nothing was published to it yet, or its storage does not answer.
    """
    if not exists(name):
        raise StorageError(f"The lake has no table {name} yet. Nothing was read; publish a day first with `evershelf run lake_daily`.")
    return DeltaTable(table_url(name), version=version)


def read(name: str, columns: list[str] | None = None, filters: Iterable[tuple[str, str, object]] = (), version: int | None = None) -> pa.Table:
    """Read rows of a lake table.

    Args:
        filters: (column, operator, value) triples that all must hold, such as ("dt", ">=", date(2026, 1, 1)).
    """
    return open_table(name, version).to_pyarrow_table(columns=columns, filters=list(filters) or None)


def versions(names: Iterable[str]) -> dict[str, int]:
    """Return the current Delta version of each table: the lineage of what is built from them."""
    return {name: open_table(name).version() for name in names}


def files(table: DeltaTable) -> set[str]:
    """Return the files that make up a version of a table, as paths within its folder."""
    return set(pa.table(table.get_add_actions())["path"].to_pylist())


def days(name: str, version: int | None = None) -> list[date]:
    """Return the days of which a table has rows, in order."""
    return days_of(open_table(name, version))


def days_of(table: DeltaTable) -> list[date]:
    """Return the days of an open table that is partitioned by day, in order."""
    return sorted(date.fromisoformat(str(day)) for one in table.partitions() for day in one.values())


def current_labels(version: int, as_of: date) -> date | None:
    """Return the day whose labels hold on another day: the newest up to it that is not long ago. Labels of earlier days may have been withdrawn since."""
    return max((day for day in days("labels", version) if as_of - LABELS_HOLD < day <= as_of), default=None)


def newest_products(columns: Sequence[str], version: int, until: date | None = None) -> pa.Table:
    """Return the newest description of each item by `valid_from`, sorted by `item_id`. Memory holds one description of each item, however many days there are.

    Args:
        until: the last `dt` to look at; default: the table's.
    """
    table = open_table("products", version)
    newest = (f"first_value({name} ORDER BY valid_from DESC, dt DESC, landing_dt DESC) AS {name}" for name in columns if name != "item_id")
    where = f"WHERE dt <= DATE '{until}'" if until else ""
    statement = f"SELECT {', '.join(['item_id', *newest])} FROM products {where} GROUP BY item_id ORDER BY item_id"
    found = QueryBuilder().register("products", table).execute(statement)
    schema = pa.schema(table.schema().to_arrow())
    return pa.table(found.read_all()).select(columns).cast(pa.schema([schema.field(name) for name in columns])).combine_chunks()


def said(about: Mapping[str, object], retries: int | None = None) -> CommitProperties:
    """Return what a writer says of its commit, as `evershelf lineage` shows it.

    Args:
        retries: how often it tries again when another commit was faster; Delta's default if None.
    """
    return CommitProperties(custom_metadata={"userMetadata": json.dumps(about, sort_keys=True)}, max_commit_retries=retries)


@contextmanager
def turn(say: Say = _tell) -> Iterator[None]:
    """Hold the lake for one writer at a time; `say` is told once if another process holds it. Who holds it may ask again."""
    with storage.turn(storage.at(load_settings().url("lake")) / ".lake_daily.lock", lambda: say("Another run works on this lake; waiting for it to end.")):
        _free_logs()
        yield


def _free_logs() -> None:
    """Remove what killed writers left half-written in the tables' logs. HDFS holds such a file open for its writer, and Delta would write the next commit into
    a file of that very name, which is refused until HDFS has closed it.
    """
    for name in LAKE_TABLES:
        log = storage.at(table_url(name)) / "_delta_log"
        if isinstance(log, storage.HdfsPath):
            for left in storage.glob(log, ".*.json.tmp.*"):
                storage.remove(left)
