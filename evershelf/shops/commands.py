"""`evershelf simulate` and `evershelf ingest`."""

import json
import sys
from datetime import date, datetime
from pathlib import Path

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
@click.option("--visits", type=click.IntRange(1), default=550, show_default=True, help="A day.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def simulate(out: Path, days: int, end: datetime, seed: int, users: int, items: int, visits: int, as_json: bool) -> None:
    """Make the raw days of a simulated shop; the same arguments give the same bytes."""
    from evershelf.shops.simulator import simulate as play

    rows = {}
    for made in play(out, days=days, end=end.date(), seed=seed, users=users, items=items, visits=visits, zone=load_settings().zone):
        rows[made.day.isoformat()] = {"events": made.events, "orders": made.orders, "products": made.products}
        click.echo(f"{made.day}: {made.events} events, {made.orders} order lines, {made.products} products", err=as_json)
    if as_json:
        click.echo(json.dumps({"out": str(out), "days": rows}))


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Folder of the shop's raw days.")
@click.option("--from", "first", type=DAY, help="First day; default all.")
@click.option("--to", "last", type=DAY, help="Last day; default all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def ingest(data: Path, first: datetime | None, last: datetime | None, as_json: bool) -> None:
    """Take a shop's raw days in: user ids become keyed hashes, unreadable files are refused by name and the other days go on.

    Exits with 3 when a file was refused.
    """
    adapter = ADAPTERS[load_settings().shop.adapter]
    days = [day for day in door.raw_days(adapter, data) if (first is None or first.date() <= day) and (last is None or day <= last.date())]
    if not days:
        shapes = ", ".join(source.file for source in adapter.sources if source.file)
        raise CommandFailed(f"{data} has no raw file of the shop {adapter.name} in these days ({shapes}). Nothing came in; check --data, --from and --to.")
    deliveries = []
    for day in days:
        taken = door.take_in(adapter, data, day)
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
