"""Take forgotten shoppers out of all that is stored: landing, lake, candidates, models, Redis, overlays and snapshots.

What is to do is read from what is there, never from notes: killed at any moment, the next run does the rest, and data that came back from an older backup are
taken out again. Tombstones say who it is: each shopper found is hashed and looked up.

landing      files are written anew without their rows, in one step each
lake         partitions are written anew, in one commit each; days whose landing has changed are published again by `lake_daily`, so that tables and
             reconciliation are what the landing gives; then every file of an older version that holds a row of theirs is deleted
candidates, models   Parquet files are written anew; what an interrupted training has prepared is removed
Redis        their entries of every snapshot are dropped
overlays     those that tell of them are deleted; nearline writes the next one without them
snapshots    a copy without them is sealed for each, and takes its place in the promotion log under the same model version. Gateways go on with the original
             until they have loaded the copy; then the original is deleted

Exit codes: 0 done, 1 something could not be done and is named; run it again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime

import click
import msgspec

from evershelf import forgotten, storage
from evershelf.errors import CommandFailed, EvershelfError
from evershelf.progress import Say
from evershelf.settings import load_settings
from evershelf.version import code_version
from serving.redaction import released, tables
from serving.redaction.found import Redaction

RECEIPTS = "receipts"  # in the home


def redact(say: Say, publish: Callable[[date, date], None] | None = None) -> Redaction:
    """Take every forgotten shopper out; what fails is named and keeps no other place from being redacted.

    Args:
        say: told about progress, one line at a time.
        publish: publishes a range of landing days; `evershelf run lake_daily` by default.
    """
    run = Redaction(load_settings(), forgotten.read(), say)
    if not run.gone:
        return run

    def publish_again() -> None:
        for first, last in tables.published_again(run):
            (publish or _lake_daily)(first, last)

    for step in (
        tables.redact_lake,
        lambda _: publish_again(),
        tables.delete_old_files,
        tables.redact_files,
        released.redact_redis,
        released.drop_overlays,
        released.redact_snapshots,
    ):
        try:
            step(run)
        except (EvershelfError, OSError) as error:
            run.problem(str(error))
        except Exception as error:  # such as a damaged file: it must not keep the other places from being redacted
            run.problem(f"{type(error).__name__}: {error}")
    return run


def _lake_daily(first: date, last: date) -> None:
    # --partial: what these days lack they lacked when they were published
    days = ["--from", first.isoformat(), "--to", last.isoformat(), "--landed", "--partial"]
    done = subprocess.run([sys.executable, "-m", "evershelf.cli", "run", "lake_daily", *days], stdout=sys.stderr, check=False)
    if done.returncode:
        raise CommandFailed(f"`evershelf run lake_daily` ended with {done.returncode} for {first} to {last}: their reconciliation counts rows that went.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def main(as_json: bool) -> None:
    """Take forgotten shoppers out of landing, lake, candidates, models, Redis, overlays and snapshots, and leave a receipt that names nobody."""
    started, at = time.monotonic(), datetime.now(UTC)
    run = redact(lambda line: click.echo(line, err=True))
    receipt = {"at": at.isoformat(timespec="seconds"), "code_version": code_version(), **run.as_json(), "tables": tables.versions()}
    receipt["seconds"] = round(time.monotonic() - started, 1)
    if receipt["removed"] or run.problems:
        storage.create(run.settings.home / RECEIPTS / f"redact-{at:%Y%m%dT%H%M%S%f}.json", msgspec.json.format(msgspec.json.encode(receipt)))
    if as_json:
        click.echo(json.dumps(receipt))
    else:
        click.echo("; ".join(f"{place} {count}" for place, count in receipt["removed"].items()) or "nothing to take out")
    sys.exit(bool(run.problems))


if __name__ == "__main__":
    main()
