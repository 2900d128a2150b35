"""`evershelf quarantine`: look at rows that broke a contract, repair them, and run their day again."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import IO, Any

import click
import msgspec

from evershelf import forgotten, lake, sql
from evershelf.errors import CommandFailed
from evershelf.free_text import masked
from evershelf.pseudonyms import pseudonym
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, landing

DAY = click.DateTime(["%Y-%m-%d"])


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`set`: raw column -> the value that counts instead; null empties the column."""

    row_id: str
    set: dict[str, Any]


@click.group(invoke_without_command=True)
@click.pass_context
def quarantine(context: click.Context) -> None:
    """Rows that broke a contract: look at them, repair them, run their day again."""
    if context.invoked_subcommand is None:
        context.invoke(list_rows)


@quarantine.command("list")
@click.option("--date", "day", type=DAY, help="The landing day; default all.")
@click.option("--reason", help="Only rows with this reason.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"rows": [...]}.')
def list_rows(day: datetime | None = None, reason: str | None = None, as_json: bool = False) -> None:
    """Count rows in quarantine by landing day, source and reason."""
    statement = f"select landing_dt, source, reason, count(*) as rows from quarantine {_where(day, reason, None)} "
    rows = sql.query(statement + "group by landing_dt, source, reason order by landing_dt, source, rows desc")
    if as_json:
        click.echo(json.dumps({"rows": rows.to_pylist()}, default=str))
    else:
        sql.show(rows, limit=rows.num_rows or 1)


@quarantine.command()
@click.option("--date", "day", type=DAY, help="The landing day; default all.")
@click.option("--reason", help="Only rows with this reason.")
@click.option("--row", "row_id", help="Only the row with this row_id.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Rows to show.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"rows": [...]}.')
def show(day: datetime | None, reason: str | None, row_id: str | None, limit: int, as_json: bool) -> None:
    """Show rows in quarantine as they landed, each with its reason and the row_id that a repair names."""
    where = _where(day, reason, row_id)
    rows = sql.query(f"select landing_dt, source, reason, row_id, raw from quarantine {where} order by landing_dt, source, row_id limit {limit}")
    if as_json:
        click.echo(json.dumps({"rows": rows.to_pylist()}, default=str))
    else:
        sql.show(rows, limit=limit)


@quarantine.command()
@click.option("--date", "day", type=DAY, required=True, help="The landing day.")
@click.option(
    "--corrections", type=click.File("rb"), help='JSON lines {"row_id": ..., "set": {column: value}}; - is standard input. Default: run the day again.'
)
@click.option("--partial", is_flag=True, help="As of `evershelf run lake_daily`: a required source delivered nothing.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"repaired": ..., "before": {reason: rows}, "after": {reason: rows}, "day": {...}}.')
def replay(day: datetime, corrections: IO[bytes] | None, partial: bool, as_json: bool) -> None:
    """Repair rows of a landing day and run the day again, so that they reach the lake, once.

    The landed files stay as they are: repairs are kept beside them and count in every later run. The same repairs again change nothing. Without
    --corrections the day runs again with the rules of today. Exits with 3 when the day is held back; the repairs are kept then, too.
    """
    landed = day.date()
    before = reasons(landed)
    repaired = repair(landed, corrections) if corrections else 0
    command = ["run", "lake_daily", "--date", landed.isoformat(), *(["--partial"] if partial else []), "--json"]
    done = subprocess.run([sys.executable, "-m", "evershelf.cli", *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise CommandFailed(
            f"{repaired} repairs of {landed} are kept, but the day could not be run again (`evershelf {' '.join(command)}` ended with {done.returncode})."
            " The tables keep what they had; run it again."
        )
    outcome = next(one for one in json.loads(done.stdout.splitlines()[-1])["days"] if one["day"] == landed.isoformat())
    after = reasons(landed)
    if as_json:
        click.echo(json.dumps({"repaired": repaired, "before": before, "after": after, "day": outcome}))
    else:
        click.echo(f"{landed} {outcome['outcome']}" + (f": {outcome['why']}" if outcome["why"] else ""))
        click.echo(f"{repaired} repairs; in quarantine were {_counted(before)}, are {_counted(after)}")
    sys.exit(done.returncode)


def reasons(day: date) -> dict[str, int]:
    """Count the quarantined rows of a landing day by reason."""
    found = lake.read("quarantine", columns=["reason"], filters=[("landing_dt", "=", day)])["reason"].value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in sorted(found, key=lambda pair: -pair["counts"])}


def repair(day: date, lines: Iterable[bytes]) -> int:
    """Keep corrections of a landing day's quarantined rows beside its files; return how many rows they are about.

    Raw ids of shoppers in them become keyed hashes, and free text is masked, as at the door.

    Raises:
        CommandFailed: a line is no correction, names no quarantined or repaired row, or a column that its source does not have; nothing was kept.
    """
    adapter = ADAPTERS[load_settings().shop.adapter]
    rows = lake.read("quarantine", columns=["row_id", "source"], filters=[("landing_dt", "=", day)]).to_pylist()
    source_of = {row: source.name for source in adapter.sources for row in landing.corrections(source.name, day)}
    source_of |= {_raw_hash(row["row_id"]): row["source"] for row in rows}
    kept: dict[str, dict[str, dict[str, Any]]] = {}
    gone = forgotten.read()
    for number, line in enumerate((line for line in lines if line.strip()), start=1):
        try:
            correction = msgspec.json.decode(line, type=Correction)
        except msgspec.MsgspecError as error:
            raise CommandFailed(f'Correction {number} is not {{"row_id": ..., "set": {{column: value}}}}: {error}. Nothing was changed.') from None
        raw_hash = _raw_hash(correction.row_id)
        if raw_hash not in source_of:
            raise CommandFailed(
                f"Correction {number}: {correction.row_id} is no row in quarantine of {day}. Nothing was changed; see `evershelf quarantine show`."
            )
        source = adapter.source(source_of[raw_hash])
        if unknown := correction.set.keys() - source.columns.keys():
            known = ", ".join(source.columns)
            raise CommandFailed(f"Correction {number}: {source.name} has no column {', '.join(sorted(unknown))}. Nothing was changed; it has {known}.")
        values = dict(correction.set)
        if user := values.get(source.user_column):
            who = pseudonym(str(user))
            values[source.user_column] = None if gone.covers(who) else who
        values |= {name: masked(str(values[name])) for name in source.free_text if values.get(name)}
        kept.setdefault(source.name, {}).setdefault(raw_hash, {}).update(values)
    for name, repaired in kept.items():
        landing.correct(name, day, repaired)
    return sum(map(len, kept.values()))


def _raw_hash(row_id: str) -> str:
    return row_id.rpartition("-")[0]


def _where(day: datetime | None, reason: str | None, row_id: str | None) -> str:
    conditions = [f"landing_dt = date '{day.date().isoformat()}'"] if day else []
    conditions += [f"{name} = '" + value.replace("'", "''") + "'" for name, value in (("reason", reason), ("row_id", row_id)) if value]
    return f"where {' and '.join(conditions)}" if conditions else ""


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rows} {reason}" for reason, rows in counts.items()) or "none"
