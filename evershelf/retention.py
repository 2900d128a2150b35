"""Delete what is older than `privacy.retention_days` says: days of the lake's tables, and of landing. No Spark.

A table loses its old days in one commit, then their files, also those that only older versions name: what is too old is gone, and no version brings it back.
Landing goes last, and later than all that is made of it (the settings see to it): a day that is run again must find the days around it.

May be killed at any moment and run as often as you like. Takes turns with lake_daily.
"""

import json
from datetime import date, datetime, timedelta

import click

from evershelf import lake, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.settings import LANDING, load_settings
from evershelf.shops import landing
from evershelf.storage import Place
from evershelf.version import code_version


def delete_old(today: date) -> dict[str, list[date]]:
    """Delete the days that are too old.

    Args:
        today: the shop's own day; of `retention_days` days, today is the newest.

    Returns:
        Table (or LANDING) -> the days that went, in order; those with nothing to delete are left out.
    """
    settings = load_settings()
    first = {name: today - timedelta(days=days - 1) for name, days in settings.privacy.retention_days.items()}
    gone: dict[str, list[date]] = {}
    with lake.turn():
        for name, table in LAKE_TABLES.items():
            if name in first and lake.exists(name):
                gone[name] = _delete_days(table, first[name])
        if LANDING in first:
            gone[LANDING] = _delete_landing(storage.at(settings.url("landing")), first[LANDING])
    return {name: days for name, days in gone.items() if days}


def _delete_days(table: Table, first: date) -> list[date]:
    opened = lake.open_table(table.name)
    old = [day for day in lake.days_of(opened) if day < first]
    if old:
        about = {"code_version": code_version(), "retention": f"before {first}"}
        opened.delete(f"{table.partition} < '{first}'", commit_properties=lake.said(about))
    current = lake.files(opened)
    for folder in storage.glob(storage.at(lake.table_url(table.name)), f"{table.partition}=*"):
        if date.fromisoformat(folder.name.partition("=")[2]) < first:
            for name, path in storage.files_below(folder):
                if f"{folder.name}/{name}" not in current:
                    path.unlink()
    return old


def _delete_landing(root: Place, first: date) -> list[date]:
    old = [folder for folder in storage.glob(root, f"*/{landing.PREFIX}*") if date.fromisoformat(folder.name.removeprefix(landing.PREFIX)) < first]
    for folder in old:
        storage.remove(folder)
    return sorted({date.fromisoformat(folder.name.removeprefix(landing.PREFIX)) for folder in old})


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def main(as_json: bool) -> None:
    """Delete days of tables and landing that are older than privacy.retention_days."""
    settings = load_settings()
    gone = delete_old(datetime.now(settings.zone).date())
    for name, days in gone.items():
        click.echo(f"{name}: {len(days)} days deleted, {days[0]} to {days[-1]}", err=as_json)
    if as_json:
        click.echo(json.dumps({"deleted": {name: [str(day) for day in days] for name, days in gone.items()}}))
    elif not gone:
        click.echo("Nothing is too old." if settings.privacy.retention_days else "privacy.retention_days is empty: everything is kept.")


if __name__ == "__main__":
    main()
