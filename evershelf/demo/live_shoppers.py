"""`evershelf shoppers`."""

import asyncio
import ipaddress
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
from rich.console import Console
from rich.table import Table

from evershelf.demo.answers import RUNG_COLUMNS, AnswerLog, Summary, rung_rows, summarize
from evershelf.demo.shoppers import Plan, Tally, run
from evershelf.errors import CommandFailed
from evershelf.settings import load_settings

PROGRESS = 5.0  # seconds


@click.command()
@click.option(
    "--truth",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="DIR/truth, which `evershelf simulate --out DIR` wrote: who the shoppers are and what they like.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=25.0, show_default=True, help="Requests a second, on average.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after so long.  [default: 60, without --requests]")
@click.option("--requests", type=click.IntRange(1), help="End after so many.")
@click.option("--url", "urls", multiple=True, help="A gateway; may be given several times.  [default: those of the settings]")
@click.option("--remote", is_flag=True, help="Allow gateways on other machines.")
@click.option("--answers", "kept", type=click.Path(dir_okay=False, path_type=Path), help="Add one JSON line per answer to this file.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def shoppers(
    truth: Path,
    rate: float,
    seconds: float | None,
    requests: int | None,
    urls: tuple[str, ...],
    remote: bool,
    kept: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Let simulated shoppers use the gateways over HTTP, and say what they got.

    They come at the given rate, whether or not earlier ones were answered, click and buy by their true taste, and post that as events. It exits with 1 when
    a request got a 5xx, an empty answer or none.
    """
    settings = load_settings()
    wanted = urls or settings.gateway_urls
    if far := [url for url in wanted if not remote and not _is_here(url)]:
        raise CommandFailed(f"{', '.join(far)} is not on this machine. Nothing was sent; --remote allows it.")
    seconds = 60.0 if seconds is None and requests is None else seconds
    with tempfile.TemporaryDirectory(prefix="evershelf-") as aside:
        path = kept or Path(aside) / "answers.jsonl"
        stripped = tuple(url.rstrip("/") for url in wanted)
        plan = Plan(urls=stripped, answers=str(path), rate=rate, truth=str(truth), seed=seed, seconds=seconds, requests=requests)
        log = AnswerLog(path)
        earlier = len(log.new())
        tally = asyncio.run(_watched(plan, log))
        log.new()
        answers = [answer for answer in log.all[earlier:] if answer.endpoint != "events"]
    summary = summarize(answers)
    deadline_ms = settings.gateway.deadline.total_seconds() * 1000
    late = sum(answer.seconds * 1000 > deadline_ms for answer in answers)
    if as_json:
        load = asdict(tally) | {"rate_stated": rate, "rate_achieved": round(tally.sent / max(tally.seconds, 1e-9), 2)}
        click.echo(json.dumps({"load": load, "late": late, "deadline_ms": deadline_ms, **msgspec.to_builtins(summary)}))
    else:
        _show(summary, tally, rate, late, deadline_ms)
    sys.exit(bool(summary.bad or not summary.answers))


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _watched(plan: Plan, log: AnswerLog) -> Tally:
    async def watch() -> None:
        while True:
            await asyncio.sleep(PROGRESS)
            fresh = summarize(answer for answer in log.new() if answer.endpoint != "events")
            rungs = ", ".join(f"{rung} {count}" for rung, count in fresh.by_rung.most_common())
            click.echo(f"{fresh.answers / PROGRESS:.1f} answers/s, p99 {fresh.p99_ms} ms, {fresh.bad} bad: {rungs}", err=True)

    watching = asyncio.create_task(watch())
    try:
        return await run(plan)
    finally:
        watching.cancel()


def _show(summary: Summary, tally: Tally, rate: float, late: int, deadline_ms: float) -> None:
    table = Table(*RUNG_COLUMNS, box=None, pad_edge=False)
    for row in rung_rows(summary):
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(
        f"{summary.answers} answers, p50 {summary.p50_ms} ms, p99 {summary.p99_ms} ms: 5xx {summary.server_errors}, empty {summary.empty}, "
        f"no answer {summary.unanswered}, other {summary.other}; later than {deadline_ms:.0f} ms: {late}",
        highlight=False,
    )
    console.print(
        f"{tally.sent / max(tally.seconds, 1e-9):.1f} requests/s of the {rate:g} wanted; "
        f"{tally.not_sent} of {tally.due} were not sent because this machine was too busy, {tally.late} were sent more than 0.1 s late",
        highlight=False,
    )
    for text in summary.worst:
        console.print(f"bad answer: {text}", style="red", markup=False)
