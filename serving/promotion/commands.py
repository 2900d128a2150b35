"""`evershelf status | snapshots | promote | rollback | pin | freeze`."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evershelf import snapshot as store
from evershelf.errors import SnapshotDamaged
from evershelf.settings import load_settings
from evershelf.storage import at
from serving.errors import PromotionRefused
from serving.gateway.answers import Status
from serving.promotion.log import LiveState, PromotionLog

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
_WHY = click.option("--why", default="by hand", show_default=True, help="The reason, for the promotion log.")


def _print_json(content: Mapping[str, Any]) -> None:
    click.echo(json.dumps(content))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _log() -> PromotionLog:
    return PromotionLog(at(load_settings().url("promotions")))


@click.command()
@_JSON
def status(as_json: bool) -> None:
    """Show what is live, since when, how old, and whether somebody must act."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a model server that is away is in the report already
    from serving.promotion.overview import look

    overview = look()
    if as_json:
        _print_json(overview.as_json())
    else:
        console = Console()
        state = overview.state
        console.print(f"stable     {state.stable or 'none'}" + (f"   since {state.since[:19]}, data {overview.data_age_days} days old" if state.stable else ""))
        console.print(f"last-good  {overview.last_good or 'none'}")
        console.print(f"canary     {state.canary or 'none'}" + (f"   {state.canary_share:.0%} of the shoppers" if state.canary else ""))
        console.print("models     " + _models(overview.models, state))
        shares = overview.figures
        ages = {table: "" if age is None else f", {age} days old" for table, age in shares.table_age_days.items()}
        tables = "; ".join(f"{table} {health or 'unknown'}{ages[table]}" for table, health in shares.table_health.items())
        console.print(f"A          {_shares(shares.availability, 'A')}   ({tables})")
        console.print(f"P          {_shares(shares.accuracy, 'P')}")
        console.print(f"A x P      {_shares(shares.a_times_p, 'A x P')}")
        for name, on in (("pinned", state.pinned), ("frozen", state.frozen)):
            if on:
                console.print(f"[yellow]{name}: promotions are refused")
        table = Table("gateway", "up", "overlay", *overview.rungs, "shed", "events waiting", box=None, pad_edge=False)
        for url, gateway in overview.reached.items():
            if isinstance(gateway, Status):
                rungs = [f"{gateway.rungs[rung].answers}" if rung in gateway.rungs else "-" for rung in overview.rungs]
                overlay = f"{gateway.overlay.age_s:.0f} s" if gateway.overlay else "-"
                table.add_row(gateway.name, f"{gateway.uptime_s:.0f} s", overlay, *rungs, str(gateway.shed), str(gateway.events.waiting))
            else:
                table.add_row(url, "[red]away")
        table.add_row("quality", "", "", *(f"{overview.quality[rung]:.3f}" if rung in overview.quality else "unknown" for rung in overview.rungs))
        console.print(table)
        for problem in overview.problems:
            console.print("[red]![/red]", escape(problem), highlight=False)
        if not overview.problems:
            console.print("[green]nobody must act")


def _shares(shares: Mapping[str, float | None], name: str) -> str:
    return "   ".join(f"{name if of == 'answers' else f'{name}_{of}'} {'unknown' if share is None else f'{share:.3f}'}" for of, share in shares.items())


def _models(models: dict[int, str] | None, state: LiveState) -> str:
    if models is None:
        return "the model server is away"
    names = {version: snapshot_id for snapshot_id, version in state.registrations.items()}
    return ", ".join(f"{version} {models[version]} ({names.get(version, 'unknown')})" for version in models if models[version] != "END") or "none loaded"


@click.command()
@click.option("--verify", is_flag=True, help="Read every byte and compare it with the manifests.")
@_JSON
def snapshots(verify: bool, as_json: bool) -> None:
    """List the stored snapshots, newest data first. Exits with 1 when one is damaged."""
    folder = at(load_settings().url("snapshots"))
    state = _log().state()
    found = []
    for snapshot_id in store.stored_snapshots(folder):
        entry: dict[str, Any] = {"snapshot_id": snapshot_id, "role": _role(snapshot_id, state), "registration": state.registrations.get(snapshot_id)}
        try:
            manifest = store.verify(folder / snapshot_id) if verify else store.read_manifest(folder / snapshot_id)
        except SnapshotDamaged as error:
            entry["problem"] = str(error)
        else:
            entry |= {"model_id": manifest.model_id, "created_at": manifest.created_at, "bytes": sum(file.size for file in manifest.files.values())}
        found.append(entry)
    if as_json:
        _print_json({"snapshots": found, "verified": verify})
    else:
        table = Table("snapshot", "role", "model", "created", "MB", box=None, pad_edge=False)
        for entry in found:
            size = f"{entry['bytes'] / 1e6:.1f}" if "bytes" in entry else ""
            table.add_row(entry["snapshot_id"], entry["role"], entry.get("model_id", "[red]damaged"), entry.get("created_at", ""), size)
        Console().print(table if found else f"No snapshots in {folder}. Build one with `evershelf run build_snapshot`.")
        for entry in found:
            if "problem" in entry:
                _say(entry["problem"])
    sys.exit(any("problem" in entry for entry in found))


def _role(snapshot_id: str, state: LiveState) -> str:
    if snapshot_id == state.stable:
        return "stable"
    if snapshot_id == state.canary:
        return f"canary {state.canary_share:.0%}"
    if snapshot_id in state.out:
        return "out"
    if snapshot_id in state.last_good:
        return "last-good" if snapshot_id == state.last_good[0] else "was stable"
    return "registered" if snapshot_id in state.registrations else "new"


@click.command()
@click.argument("snapshot_id")
@_WHY
@_JSON
def promote(snapshot_id: str, why: str, as_json: bool) -> None:
    """Try SNAPSHOT_ID on growing shares of the shoppers; promote it, or reject it and put everything back. Exits with 1 when it is not stable afterwards."""
    from serving.promotion.promoter import promote as run

    promotion = run(snapshot_id, why, _say)
    if as_json:
        _print_json(dataclasses.asdict(promotion))
    else:
        click.echo(f"{snapshot_id}: {promotion.outcome} after {promotion.seconds:.1f} s: {promotion.why}")
    sys.exit(promotion.outcome == "rejected")


@click.command()
@click.option("--to", help="A snapshot that was stable before.  [default: last-good]")
@_WHY
@click.option("--reconcile", is_flag=True, help="Only give the log the record of an earlier break-glass rollback.")
@_JSON
def rollback(to: str | None, why: str, reconcile: bool, as_json: bool) -> None:
    """Put last-good back, everywhere, at once. Exits with 1 when a gateway does not answer with it yet or the log has no record."""
    from serving.promotion.rollback import PENDING, roll_back

    if reconcile and not (load_settings().home / PENDING).exists():
        raise PromotionRefused("No break-glass rollback waits for its record. Nothing was changed.")
    result = roll_back(to, why, _say, reconcile=reconcile)
    if as_json:
        _print_json({"from": result.from_, "to": result.to, "recorded": result.recorded, "seconds": result.seconds, "gateways": result.gateways})
    else:
        click.echo(f"back from {result.from_} to {result.to} in {result.seconds:.2f} s")
        if not result.recorded:
            click.echo("The log has no record yet. Run `evershelf rollback --reconcile` when its storage is back.")
    for url, problem in result.gateways.items():
        if problem != "ok":
            _say(f"evershelf: gateway {url}: {problem}. It follows as soon as it reads the log; see to it.")
    sys.exit(not (result.complete and result.recorded))


@click.command()
@click.option("--off", is_flag=True, help="Take the pin off.")
@_WHY
@_JSON
def pin(off: bool, why: str, as_json: bool) -> None:
    """Keep stable what is stable: promotions are refused until the pin is taken off. Rollbacks still work."""
    log = _log()
    state = log.state()
    if state.stable is None:
        raise PromotionRefused("Nothing is stable, so there is nothing to pin. Nothing was changed.")
    if state.pinned == off:
        log.append("pinned", state.stable, why, expected=state, on=not off)
    _print_json({"stable": state.stable, "pinned": not off}) if as_json else click.echo(f"{state.stable} is {'no longer ' * off}pinned")


@click.command()
@click.option("--off", is_flag=True, help="Allow promotions again.")
@_WHY
@_JSON
def freeze(off: bool, why: str, as_json: bool) -> None:
    """Stop every promotion, and automatic rollbacks, until unfrozen. `evershelf rollback` by hand still works."""
    log = _log()
    state = log.state()
    if state.frozen == off:
        log.append("frozen", state.stable or "", why, expected=state, on=not off)
    _print_json({"frozen": not off}) if as_json else click.echo("promotions are allowed again" if off else "promotions are frozen")
