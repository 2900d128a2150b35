"""`evershelf up` and `evershelf down`."""

import json
import os
import signal
from contextlib import suppress

import click

from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from evershelf.stack import supervision
from evershelf.stack.ports import free_ports
from evershelf.stack.services import services


@click.command()
@click.option("--only", default="", help="Comma-separated services; default: all of them.", metavar="A,B")
@click.option("--free-ports", "choose", is_flag=True, help="Choose free ports; they are written to <home>/stack.json.")
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, then stop everything.")
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as one JSON object on the last line.")
def up(only: str, choose: bool, foreground: bool, as_json: bool) -> None:
    """Start the local stack in the background and wait until every service is ready."""
    home = load_settings().home
    earlier = supervision.running(home)
    overrides = earlier.env if earlier else free_ports() if choose else {}
    os.environ.update(overrides)
    load_settings.cache_clear()
    settings = load_settings()
    every = list(services(settings))
    names = [name for name in only.split(",") if name] or every
    if unknown := set(names) - set(every):
        raise CommandFailed(f"There is no service {', '.join(sorted(unknown))}. Nothing was started. The services are {', '.join(every)}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of asking end the same way
    try:
        record = supervision.start(settings, names, overrides, click.echo)
    except KeyboardInterrupt:
        supervision.stop(home)
        raise CommandFailed("Interrupted while starting; everything was stopped.") from None
    if as_json:
        click.echo(json.dumps({"urls": record.urls, "ports": record.ports, "env": record.env}))
    else:
        click.echo(f"Up. Logs are in {home / 'logs'}, addresses in {home / supervision.RECORD}.")
    if foreground:
        with suppress(KeyboardInterrupt):  # from the moment that it is said
            click.echo("Ctrl-C stops everything.")
            signal.pause()
        supervision.ignore_signals()  # a second Ctrl-C must not leave half of it running
        supervision.stop(home)
        click.echo("Stopped.")


@click.command()
def down() -> None:
    """Stop exactly what `up` started, also when its starter or its supervisor was killed."""
    home = load_settings().home
    if not supervision.read_record(home):
        click.echo(f"Nothing is up in {home}.")
        return
    strays = supervision.stop(home)
    click.echo("Stopped." + (f" Left behind by a killed supervisor, and stopped one by one: {', '.join(strays)}." if strays else ""))
