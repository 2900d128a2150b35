"""Read the lake without Spark: Delta tables as Arrow."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake import DeltaTable
from filelock import FileLock, Timeout

from evershelf.contracts import LAKE_TABLES
from evershelf.errors import StorageError
from evershelf.settings import load_settings
from evershelf.storage import local_path

# Else a table's log, which is never cut, keeps the first and the last shopper of every file. What is looked for is found by partition.
NO_BOUNDS = {"delta.dataSkippingNumIndexedCols": "0"}


def table_url(name: str) -> str:
    """Return the address of a lake table.

    Raises:
        StorageError: there is no such table in the contracts.
    """
    if name not in LAKE_TABLES:
        raise StorageError(f"{name} is no table of the lake. Nothing was read. The tables are {', '.join(LAKE_TABLES)}.")
    return f"{load_settings().url('lake')}/{name}"


def exists(name: str) -> bool:
    return DeltaTable.is_deltatable(table_url(name))


def open_table(name: str, version: int | None = None) -> DeltaTable:
    """Open a lake table, at a version when one is given.

    Raises:
        StorageError: nothing was published to it yet.
    """
    url = table_url(name)
    if not DeltaTable.is_deltatable(url):
        raise StorageError(f"The lake has no table {name} yet. Nothing was read; publish a day first with `evershelf run lake_daily`.")
    return DeltaTable(url, version=version)


def read(name: str, columns: list[str] | None = None, filters: Iterable[tuple[str, str, object]] = (), version: int | None = None) -> pa.Table:
    """Read rows of a lake table.

    Args:
        filters: (column, operator, value) triples that all must hold, such as ("dt", ">=", date(2026, 1, 1)).
    """
    return open_table(name, version).to_pyarrow_table(columns=columns, filters=list(filters) or None)


def versions(names: Iterable[str]) -> dict[str, int]:
    """Return the current Delta version of each table: the lineage of what is built from them."""
    return {name: open_table(name).version() for name in names}


@contextmanager
def turn(waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lake for one writer at a time; `waiting` is called once if another process holds it. Who holds it may ask again."""
    root = local_path(load_settings().url("lake"))
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lake_daily.lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
