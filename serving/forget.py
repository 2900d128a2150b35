"""`evershelf forget`: from now on no gateway answers with a shopper's data, and nothing of theirs comes in. What is stored goes with the nightly `redact`."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import click

from evershelf import forgotten
from evershelf.errors import EvershelfError
from evershelf.pseudonyms import pseudonyms_ever, tombstone
from serving.promotion.gateways import Gateways, missing

_TIMEOUT_S = 5.0  # for one call


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What came of it, without a name. `added`: tombstones that did not stand before; `problem`: why the shared list did not take them, '' when it did.

    `gateways` maps each to 'ok' or what is wrong with it.
    """

    added: int
    problem: str
    seconds: float
    gateways: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.problem and all(state == "ok" for state in self.gateways.values())


def forget(user_ids: Iterable[str]) -> Forgetting:
    """Put up the tombstones of shoppers and tell every gateway, also when the shared list cannot be written; repeating it changes nothing."""
    started = time.monotonic()
    names = sorted({tombstone(pseudonym) for user_id in user_ids for pseudonym in pseudonyms_ever(user_id)})
    added, problem = 0, ""
    try:
        for name in names:
            added += forgotten.add(name)
    except (OSError, EvershelfError) as error:
        problem = str(error)
    gateways = Gateways(timeout=_TIMEOUT_S)
    try:
        reached = gateways.forget(names)
    finally:
        gateways.close()
    away = missing(reached)
    return Forgetting(added, problem, round(time.monotonic() - started, 3), {url: away.get(url, "ok") for url in reached})


@click.command("forget")
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def command(user: str, as_json: bool) -> None:
    """Forget the shopper whom the shop calls USER; '-' reads ids from standard input, one a line: they stay out of the shell's history.

    Exits with 1 when a gateway could not be told or the list could not be written. It cannot be undone. `evershelf run redact` takes out what is stored.
    """
    user_ids = [line.strip() for line in sys.stdin if line.strip()] if user == "-" else [user]
    if not user_ids:
        raise click.UsageError("There is no id on standard input.")
    result = forget(user_ids)
    if as_json:
        click.echo(json.dumps({"added": result.added, "recorded": not result.problem, "seconds": result.seconds, "gateways": result.gateways}))
    else:
        click.echo(f"{len(user_ids)} forgotten, {result.added} tombstones more, {result.seconds:.2f} s. What is stored goes with `evershelf run redact`.")
    if result.problem:
        click.echo(f"evershelf: the list of forgotten shoppers did not take it ({result.problem}). Gateways that were told know; run this again.", err=True)
    for url, state in result.gateways.items():
        if state != "ok":
            click.echo(f"evershelf: gateway {url}: {state}. It follows as soon as it reads the list; see to it.", err=True)
    sys.exit(not result.complete)
