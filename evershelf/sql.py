"""`evershelf sql`: ask the lake's tables, without Spark (DataFusion inside deltalake). It reads and never writes."""

import json
import re

import click
import pyarrow as pa
from deltalake import QueryBuilder
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import CommandFailed

READING = "select, with, values, describe, show tables, or explain before one of them"
# What `explain` is put before counts too: `explain analyze copy ...` would write a file.
_READING = re.compile(r"(explain\s+((analyze|verbose)\s+|format\s+\w+\s+)*)?(select|with|values|describe)\b", re.IGNORECASE)


def query(statement: str) -> pa.Table:
    """Return the rows of one reading statement over the lake's tables; `show tables` names them.

    Raises:
        CommandFailed: the statement is wrong, would write, or names a table that does not exist.
    """
    statement = statement.strip().rstrip("; \n")
    tables = [name for name in LAKE_TABLES if lake.exists(name)]
    if statement.casefold().split() == ["show", "tables"]:
        return pa.table({"table": pa.array(tables, pa.string())})
    if not _READING.match(statement):
        raise CommandFailed(f"Only one reading statement ({READING}) is run. Nothing was changed; the jobs write the lake.")
    builder = QueryBuilder()
    for name in tables:
        builder.register(name, lake.open_table(name))
    try:
        return pa.table(builder.execute(statement).read_all())
    except Exception as error:  # deltalake raises plain ones for what goes wrong while a query runs
        known = ", ".join(tables) or "none yet: run `evershelf run lake_daily`"
        raise CommandFailed(f"The query was not answered: {str(error).rstrip('. ')}. Tables: {known}.") from None


def show(rows: pa.Table, *, limit: int) -> None:
    """Print rows, no more than `limit` of them: as a table, or each row as lines of its own on a terminal that is too narrow for it."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    shown = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows.slice(0, limit).to_pylist()]
    widths = {name: max(len(line) for text in (name, *(row[name] for row in shown)) for line in text.splitlines() or [""]) for name in rows.column_names}
    width = sum(widths.values()) + 3 * len(widths)
    if shown and (width <= console.width or not console.is_terminal):
        table = Table(show_edge=False)
        for name in widths:
            table.add_column(name, no_wrap=True)
        for row in shown:
            table.add_row(*(Text(value) for value in row.values()))
        Console(width=max(width, console.width)).print(table)
    else:
        longest = max(map(len, widths), default=0)
        for place, row in enumerate(shown, 1):
            console.print(f"row {place}", style="bold")
            for name, value in row.items():
                console.print(f"  {name:<{longest}}  {value}")
    console.print(f"{rows.num_rows} row{'' if rows.num_rows == 1 else 's'}" + (f", the first {limit} shown" if rows.num_rows > limit else ""))


@click.command()
@click.argument("statement")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows to show; --json prints all.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"rows": [...]}.')
def sql(statement: str, limit: int, as_json: bool) -> None:
    """Answer STATEMENT over the lake's tables, such as "select type, count(*) from events group by type".

    `show tables` names the tables, `describe TABLE` its columns.
    """
    rows = query(statement)
    if as_json:
        click.echo(json.dumps({"rows": rows.to_pylist()}, default=str))
    else:
        show(rows, limit=limit)
