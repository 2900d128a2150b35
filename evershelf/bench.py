"""`evershelf bench`: benchmarks that print a ratio against a named peer."""

import importlib
import json
import sys
from pathlib import Path

import click

from evershelf.errors import CommandFailed

BENCHES = ("gateway_snapshot", "lake_clean", "local_ranker", "nearline", "simulator", "training_ranks", "training_step")
SLOW = ("truth",)  # an hour, and no peer to print a ratio against


@click.command()
@click.argument("name", type=click.Choice([*BENCHES, *SLOW, "all"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per benchmark, each on a line.")
def bench(name: str, as_json: bool) -> None:
    """Run benchmark NAME, or all but truth, which takes an hour; from a checkout only."""
    sys.path.append(str(Path.cwd()))  # unlike `python -m`, an installed command does not look where it was called
    for one in BENCHES if name == "all" else (name,):
        try:
            measure = importlib.import_module(f"benchmarks.{one}").bench
        except ModuleNotFoundError as error:
            raise CommandFailed(f"{error.name} is not here. Nothing was measured; benchmarks run in a checkout, after `make setup`.") from None
        found = measure()
        click.echo(json.dumps(found) if as_json else "\n".join(f"{key:24}{value}" for key, value in found.items()))
