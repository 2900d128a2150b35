"""`evershelf lineage`: what a table's day was made of and by which code, and what was built from which version of the tables. No Spark."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from evershelf.storage import ASIDE, at, glob

BUILT = (("models", "lineage.json"), ("candidates", "lineage.json"), ("snapshots", "manifest.json"))  # place, the file in each folder that says from what
DAY = click.DateTime(["%Y-%m-%d"])


def references() -> dict[str, dict[int, list[str]]]:
    """Return, table -> version -> names, which stored models, candidates and snapshots were built from a version of a table.

    Raises:
        CommandFailed: one of them does not say from what it was built.
    """
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for place, name in BUILT:
        for path in glob(at(load_settings().url(place)), f"*/{name}"):  # type: ignore[arg-type]  # every place is one
            if path.parent.name.startswith(ASIDE):
                continue
            try:
                versions = {(table, int(version)) for tables in _tables(json.loads(path.read_bytes())) for table, version in tables.items()}
            except (OSError, ValueError, TypeError) as error:
                raise CommandFailed(
                    f"{path} cannot be read ({error}): which versions it needs is not known. Nothing was changed; mend it or move its folder away."
                ) from None
            for table, version in sorted(versions):
                found[table][version].append(f"{place}/{path.parent.name}")
    return found


def _tables(lineage: Any) -> Iterator[dict[str, int]]:
    """Yield what is called `tables`, however deep: a snapshot's lineage holds those of its model and its candidates."""
    if isinstance(lineage, dict):
        for name, value in lineage.items():
            if name == "tables" and isinstance(value, dict):
                yield value
            else:
                yield from _tables(value)


def commits(table: str) -> Iterator[dict[str, Any]]:
    """Yield the commits of a table, newest first: version, at, operation, and what its writer said about it."""
    for commit in lake.open_table(table).history():
        try:
            about = json.loads(commit.get("userMetadata") or "{}")
        except ValueError:
            about = {}
        at = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC).isoformat(timespec="seconds")
        code = about.get("code_version") or commit.get("code_version")
        yield {"version": commit["version"], "at": at, "operation": commit["operation"], "code_version": code, **about}


@click.command()
@click.argument("table", type=click.Choice(list(LAKE_TABLES)))
@click.option("--date", "day", type=DAY, help="Only the commit that the table's day comes from now: its inputs and the code.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Commits to show, newest first.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"table", "commits": [...]}.')
def lineage(table: str, day: datetime | None, limit: int, as_json: bool) -> None:
    """Show the commits of TABLE: when, by which code version, from which landed files, and what was built from that version.

    Exits with 1 when no commit says that it published the day of --date.
    """
    found = commits(table)
    if day:
        wanted = day.date().isoformat()
        found = (commit for commit in found if wanted in commit.get("days", ()))
        limit = 1
    users = references().get(table, {})
    shown = [{**commit, "built_from_it": users.get(commit["version"], [])} for commit, _ in zip(found, range(limit), strict=False)]
    if day and not shown:
        raise CommandFailed(f"No commit of {table} says that it published {wanted}. Its days are shown by `evershelf sql`; older code kept no lineage.")
    if as_json:
        click.echo(json.dumps({"table": table, "commits": shown}))
        return
    for commit in shown:
        days = commit.get("days", [])
        what = f"{commit['operation']}" + (f" of {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else "")
        click.echo(f"version {commit['version']}, {commit['at']}: {what}; code {commit['code_version'] or 'unknown'}")
        for name, checksum in commit.get("inputs", {}).items():
            click.echo(f"  from {name}  sha256 {checksum}")
        for name, version in commit.get("tables", {}).items():
            click.echo(f"  from {name} version {version}")
        if accuracy := commit.get("accuracy"):
            click.echo("  accuracy: " + ", ".join(f"{name} {value}" for name, value in accuracy.items()))
        for name in commit["built_from_it"]:
            click.echo(f"  built from it: {name}")
