"""`evershelf quality`: what the checks of a day found."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
import pyarrow as pa

from evershelf import sql
from evershelf.errors import CommandFailed
from evershelf.quality import store
from evershelf.quality.docs import build_docs
from evershelf.quality.drift import WINDOW
from evershelf.quality.stale import stale
from evershelf.quality.store import DayQuality


@click.command()
@click.option("--date", "day", type=click.DateTime(["%Y-%m-%d"]), help="One day in full; default: a line for each of the newest days.")
@click.option("--days", type=click.IntRange(1), default=14, show_default=True, help="How many of the newest days.")
@click.option("--docs", type=click.Path(file_okay=False, path_type=Path), help="Write Great Expectations' pages (Data Docs) of these days into this folder.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"days": [...], "stale": [...], "docs": ...}.')
def quality(day: datetime | None, days: int, docs: Path | None, as_json: bool) -> None:
    """Show what the checks of the newest days found, and where a day differs from the four weeks before it.

    A difference is a warning: it never stops a day. Below them stands what was built from days that have changed since: models, candidates and snapshots.
    """
    found = list((store.read_days(day.date(), day.date()) if day else store.newest_days(days)).values())
    if not found:
        raise CommandFailed("Nothing is known of these days; no run of `evershelf run lake_daily` has looked at them. Nothing was changed.")
    page, old = build_docs(found, docs) if docs else None, stale()
    if as_json:
        shown = [_as_json(one, whole=day is not None) for one in found]
        click.echo(json.dumps({"days": shown, "stale": msgspec.to_builtins(old), "docs": str(page) if page else None}))
        return
    if day:
        _show(found[0])
    else:
        lines = [_line(one) for one in found]
        sql.show(pa.Table.from_pylist(lines), limit=len(lines))
    for one in old:
        changed = "; ".join(f"{table} {', '.join(f'{dt} ({was} -> {now} rows)' for dt, (was, now) in days.items())}" for table, days in one.changed.items())
        click.echo(f"stale: {one.kind} {one.id}, built before these days changed: {changed}")
    if page:
        click.echo(f"Data Docs: {page}")


def _as_json(one: DayQuality, *, whole: bool) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.to_builtins(one)
    if not whole:
        content.pop("measures")
    return content


def _line(one: DayQuality) -> dict[str, Any]:
    result = one.result or {}
    validations = result.get("validations", [])
    sources = result.get("sources", {}).values()
    return {
        "day": one.day,
        "outcome": result.get("outcome", "not run"),
        "rows in": sum(source["rows_in"] for source in sources),
        "quarantined": sum(source["rows_quarantined"] for source in sources),
        "expectations": f"{_held(validations)} of {sum(len(one['results']) for one in validations)} hold",
        "warnings": len(one.warnings),
        "the first": one.warnings[0].says if one.warnings else result.get("why"),
    }


def _held(validations: list[dict[str, Any]]) -> int:
    return sum(one["success"] for validation in validations for one in validation["results"])


def _show(one: DayQuality) -> None:
    result = one.result or {}
    click.echo(f"{one.day} {result.get('outcome', 'was not run as a landing day')}" + (f": {result['why']}" if result.get("why") else ""))
    for name, counts in result.get("sources", {}).items():
        reasons = ", ".join(f"{reason} {rows}" for reason, rows in counts["reasons"].items())
        click.echo(f"  {name}: {counts['rows_in']} rows in, {counts['rows_quarantined']} quarantined" + (f" ({reasons})" if reasons else ""))
    for validation in result.get("validations", []):
        click.echo(f"  {validation['meta']['about']}: {_held([validation])} of {len(validation['results'])} expectations hold")
        for broken in (each for each in validation["results"] if not each["success"]):
            click.echo(f"    not {broken['expectation_config']['type']} {broken['expectation_config']['kwargs']}: {broken['result']}")
    for table, measures in one.measures.items():
        click.echo(f"  {table}: {measures['rows']} rows of this calendar day")
    first, last = one.day - WINDOW, one.day - timedelta(days=1)
    click.echo(f"  {len(one.warnings)} differences from {first} to {last}")
    for warning in one.warnings:
        click.echo(f"    {warning.table} {warning.kind}: {warning.says}")
