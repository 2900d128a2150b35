"""`evershelf quarantine`: look at rows that broke a contract."""

import json
from datetime import datetime

import click

from evershelf import sql

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--date", "day", type=DAY, help="The landing day; default all.")
@click.option("--reason", help="Only rows with this reason; the rows themselves are shown then.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Rows to show.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"rows": [...]}.')
def quarantine(day: datetime | None, reason: str | None, limit: int, as_json: bool) -> None:
    """Count rows in quarantine by landing day, source and reason; with --reason, show the rows."""
    conditions = [f"landing_dt = date '{day.date().isoformat()}'"] if day else []
    if reason:
        conditions.append("reason = '" + reason.replace("'", "''") + "'")
    where = f"where {' and '.join(conditions)}" if conditions else ""
    if reason:
        statement = f"select landing_dt, source, row_id, raw from quarantine {where} order by landing_dt, source, row_id limit {limit}"
    else:
        statement = f"select landing_dt, source, reason, count(*) as rows from quarantine {where} "
        statement += "group by landing_dt, source, reason order by landing_dt, source, rows desc"
    rows = sql.query(statement)
    if as_json:
        click.echo(json.dumps({"rows": rows.to_pylist()}, default=str))
    else:
        sql.show(rows, limit=limit if reason else rows.num_rows or 1)
