"""`evershelf sql`: ask the lake's tables, without Spark (DataFusion inside deltalake). It reads and never writes."""

import json
from collections.abc import Sequence
from typing import Any

import click
import pyarrow as pa
from deltalake import QueryBuilder
from deltalake.exceptions import DeltaError
from rich.console import Console
from rich.table import Table

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import CommandFailed

READING = ("select", "with", "show", "describe", "explain", "values")


def query(statement: str) -> list[dict[str, Any]]:
    """Return the rows of one reading statement over the lake's tables.

    Raises:
        CommandFailed: the statement is wrong, would write, or names a table that does not exist.
    """
    statement = statement.strip().rstrip(";")
    if ";" in statement or statement.split(maxsplit=1)[0:1] == [] or statement.split(maxsplit=1)[0].casefold() not in READING:
        raise CommandFailed(f"Only one reading statement ({', '.join(READING)}) is run. Nothing was changed; the jobs write the lake.")
    builder = QueryBuilder()
    for name in LAKE_TABLES:
        if lake.exists(name):
            builder.register(name, lake.open_table(name))
    try:
        rows: list[dict[str, Any]] = pa.table(builder.execute(statement).read_all()).to_pylist()
    except (DeltaError, ValueError, pa.ArrowException) as error:
        known = ", ".join(name for name in LAKE_TABLES if lake.exists(name)) or "none yet: run `evershelf run lake_daily`"
        raise CommandFailed(f"The query was not answered: {error}. Tables: {known}.") from None
    return rows


def show(rows: Sequence[dict[str, Any]], *, limit: int) -> None:
    """Print rows as a table, no more than `limit` of them."""
    table = Table(*(rows[0] if rows else ()), show_edge=False)
    for row in rows[:limit]:
        table.add_row(*(_plain(value) for value in row.values()))
    console = Console()
    if rows:
        console.print(table)
    console.print(f"{len(rows)} rows" + (f", the first {limit} are shown" if len(rows) > limit else ""), highlight=False)


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


@click.command()
@click.argument("statement")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows to show.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"rows": [...]}.')
def sql(statement: str, limit: int, as_json: bool) -> None:
    """Answer STATEMENT over the tables events, products, orders, quarantine and reconciliation."""
    rows = query(statement)
    if as_json:
        click.echo(json.dumps({"rows": rows}, default=str))
    else:
        show(rows, limit=limit)
