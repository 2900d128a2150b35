"""`evershelf tables`: for each table of the lake where it lives, how whole and how fresh it is, and what goes dark without it. No Spark."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, Literal

import click
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileType
from rich.console import Console
from rich.table import Table as Grid

from evershelf import lake, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.settings import load_settings

Health = Literal["healthy", "stale", "empty", "absent", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """How one table is now.

    health: healthy; stale, its last good day is older than `lake.max_age_days`; empty, it has no row and none was ever published to it; absent, nothing was
        published to the lake at this address yet; lost, its log cannot be read or a file that the log names is gone or has another size.
    bytes, files: of the current version. replicas: copies that the storage keeps of each file, fewest first; 1 on a local disk.
    last_good_day: the newest day that was published to it; of tables by landing day the newest that was not held back.
    """

    table: str
    where: str
    health: Health
    why: str | None = None
    version: int | None = None
    rows: int | None = None
    files: int | None = None
    bytes: int | None = None
    replicas: int | None = None
    last_good_day: date | None = None
    age_days: int | None = None
    without: str

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "last_good_day": self.last_good_day.isoformat() if self.last_good_day else None}


def table_states() -> dict[str, TableState]:
    """Look at every table of the lake. Whatever is wrong with one is in its state, never an error."""
    return {name: table_state(table) for name, table in LAKE_TABLES.items()}


def table_state(table: Table) -> TableState:
    settings = load_settings()
    about: dict[str, Any] = {"table": table.name, "where": lake.table_url(table.name), "without": table.without}
    try:
        if not lake.exists(table.name):
            return TableState(**about, health="absent", why="nothing was published to it yet")
        opened = lake.open_table(table.name)
        added = pa.table(opened.get_add_actions(flatten=True))
        about |= {
            "version": opened.version(),
            "rows": sum(added["num_records"].to_pylist()) if "num_records" in added.column_names and not added["num_records"].null_count else None,
            "files": added.num_rows,
            "bytes": sum(added["size_bytes"].to_pylist()),
        }
        if damage := _damage(opened, dict(zip(added["path"].to_pylist(), added["size_bytes"].to_pylist(), strict=True))):
            return TableState(**about, health="lost", why=damage)
        about["replicas"] = replicas(opened)
        last = _last_good_day(table, added)
    except Exception as error:  # of many kinds, from Rust: each means that the table cannot be read
        return TableState(**about, health="lost", why=f"it cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    if last is None:
        return TableState(**about, health="empty", why="it has no rows")
    age = (datetime.now(settings.zone).date() - last).days
    stale = age > settings.lake.max_age_days
    why = f"its last good day is {age} days old, more than {settings.lake.max_age_days} (lake.max_age_days)" if stale else None
    return TableState(**about, health="stale" if stale else "healthy", why=why, last_good_day=last, age_days=age)


def replicas(table: DeltaTable) -> int | None:
    """Return how many copies the storage keeps of each of the table's files, the fewest of any; None when there is no file."""
    root = storage.at(table.table_uri, patient=False)
    if not isinstance(root, storage.HdfsPath):
        return 1
    named = lake.files(table)
    return min((path.stat().replicas for path in root.walk_files() if path.path.removeprefix(f"{root.path}/") in named), default=None)


def _damage(table: DeltaTable, sizes: Mapping[str, int]) -> str | None:
    """Say which of the files that the log names are not there as it names them; a look at names and sizes, no reading."""
    found = DeltaStorageHandler.from_table(table._table).get_file_info(list(sizes))
    gone = [info.path for info in found if info.type != FileType.File]
    if gone:
        return f"{len(gone)} of its {len(sizes)} files are gone, such as {gone[0]}"
    wrong = [info.path for info in found if info.size != sizes[info.path]]
    return f"{len(wrong)} of its {len(sizes)} files have another size than was written, such as {wrong[0]}" if wrong else None


def _last_good_day(table: Table, added: pa.Table) -> date | None:
    if table.partition != "landing_dt":
        return max(added[f"partition.{table.partition}"].to_pylist(), default=None)
    published = lake.read("reconciliation", ["landing_dt"], filters=[("outcome", "=", "published")])
    return max(published["landing_dt"].to_pylist(), default=None)


@click.command()
@click.option("--json", "as_json", is_flag=True, help='One object: {"tables": [...]}.')
def tables(as_json: bool) -> None:
    """Show for each table where it lives, its size, its last good day and its health, and what goes dark without it. Exits with 1 when one is lost."""
    states = list(table_states().values())
    if as_json:
        click.echo(json.dumps({"tables": [state.as_json() for state in states]}))
    else:
        _show(states)
    sys.exit(any(state.health == "lost" for state in states))


def _show(states: list[TableState]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    grid = Grid("table", "health", "last good day", "age", "rows", "files", "size", "replicas", "version", box=None, pad_edge=False)
    colours = {"healthy": "green", "stale": "yellow", "lost": "red"}
    for state in states:
        colour = colours.get(state.health, "default")
        numbers = (state.rows, state.files, None if state.bytes is None else f"{state.bytes / 2**20:.1f} MiB", state.replicas, state.version)
        age = None if state.age_days is None else f"{state.age_days} d"
        cells = ["-" if cell is None else f"{cell}" for cell in (state.last_good_day, age, *numbers)]
        grid.add_row(state.table, f"[{colour}]{state.health}[/]", *cells)
    console.print(grid)
    for state in states:
        if state.why:
            console.print(f"{state.table}: {state.why}. Without it: {state.without}.", markup=False)
    console.print("where: " + ", ".join(dict.fromkeys(state.where.rpartition("/")[0] for state in states)), markup=False)
