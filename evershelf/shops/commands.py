"""`evershelf simulate` and `evershelf ingest`."""

import json
import sys
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click

from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the raw days; `truth/` beside them is for live shoppers."
)
@click.option("--days", type=click.IntRange(1, 366), default=8, show_default=True)
@click.option("--end", type=DAY, required=True, help="The last day.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@click.option("--users", type=click.IntRange(1), default=1500, show_default=True)
@click.option("--items", type=click.IntRange(20), default=600, show_default=True)
@click.option("--visits", type=click.IntRange(1), default=550, show_default=True, help="On a usual day; one makes about 40 events.")
@click.option("--robots", type=click.FloatRange(0, 0.45), default=0.01, show_default=True, help="Share of a day's events made by robots.")
@click.option("--fraud", type=click.FloatRange(0, 0.45), default=0.003, show_default=True, help="Share of a day's events made by click farms.")
@click.option("--dirt", type=click.Choice(["none", "some", "much"]), default="some", show_default=True, help="Rows repeated, null, broken, late, mistimed.")
@click.option("--missing-day", type=DAY, multiple=True, help="A day on which nothing is delivered. May be repeated.")
@click.option("--double-day", type=DAY, multiple=True, help="A day that is delivered again with the next one. May be repeated.")
@click.option("--schema-change", type=DAY, help="From this day on events have a column that nobody announced.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def simulate(
    out: Path,
    end: datetime,
    dirt: str,
    missing_day: tuple[datetime, ...],
    double_day: tuple[datetime, ...],
    schema_change: datetime | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Make the raw days of a simulated shop; the same arguments give the same bytes."""
    from evershelf.shops.dirt import LEVELS
    from evershelf.shops.simulator import simulate as play

    trouble = replace(
        LEVELS[dirt],
        new_column_from=schema_change.date() if schema_change else None,
        doubled_days=tuple(day.date() for day in double_day),
        missing_days=tuple(day.date() for day in missing_day),
    )
    rows = {}
    for made in play(out, end=end.date(), zone=load_settings().zone, dirt=trouble, **sizes):
        rows[made.day.isoformat()] = {"events": made.events, "orders": made.orders, "products": made.products}
        what = f"{made.events} events, {made.orders} order lines, {made.products} products"
        click.echo(f"{made.day}: {what}" + ("" if made.delivered else "; nothing of it is delivered"), err=as_json)
    if as_json:
        click.echo(json.dumps({"out": str(out), "days": rows}))


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Folder of the shop's raw files.")
@click.option("--from", "first", type=DAY, help="First day; default all.")
@click.option("--to", "last", type=DAY, help="Last day; default all.")
@click.option("--day", "delivered", type=DAY, help="The day of files that name none, such as a dump of all products; default today.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def ingest(data: Path, first: datetime | None, last: datetime | None, delivered: datetime | None, as_json: bool) -> None:
    """Take a shop's raw days in: user ids become keyed hashes, unreadable files are refused by name and the other days go on.

    Exits with 3 when a file was refused.
    """
    settings = load_settings()
    adapter = ADAPTERS[settings.shop.adapter]
    day_of_dumps = (delivered or datetime.now(settings.zone)).date()
    days = [day for day in door.raw_days(adapter, data, day_of_dumps) if (first is None or first.date() <= day) and (last is None or day <= last.date())]
    if not days:
        shapes = ", ".join(source.file for source in adapter.sources if source.file)
        raise CommandFailed(f"{data} has no raw file of the shop {adapter.name} in these days ({shapes}). Nothing came in; check --data, --from and --to.")
    deliveries = []
    for day in days:
        taken = door.take_in(adapter, data, day, day_of_dumps)
        deliveries += taken
        for line in door.summary(taken):
            click.echo(line, err=as_json)
    rejected = [delivery for delivery in deliveries if delivery.outcome == "rejected"]
    if as_json:
        click.echo(
            json.dumps(
                {"days": len(days), "files": len(deliveries), "rows": sum(one.rows for one in deliveries), "rejected": [_report(one) for one in rejected]}
            )
        )
    if rejected:
        click.echo(f"{len(rejected)} of {len(deliveries)} files were refused; the lake holds their days back until they are delivered again.", err=True)
        sys.exit(3)


def _report(delivery: door.Delivery) -> dict[str, str | None]:
    day: date = delivery.day
    return {"day": day.isoformat(), "source": delivery.source, "file": delivery.file, "reason": delivery.reason}
