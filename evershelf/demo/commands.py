"""`evershelf demo`."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path

import click
from filelock import FileLock, Timeout
from rich.console import Console

from evershelf.demo import report as reports
from evershelf.demo.circle import Circle
from evershelf.demo.report import Promise, Report
from evershelf.demo.work import Workshop, clean_environment
from evershelf.errors import CommandFailed, EvershelfError
from evershelf.settings import Settings, load_settings
from evershelf.shops import ADAPTERS, door
from evershelf.stack import supervision
from evershelf.stack.ports import free_ports

SIMULATED_DAYS, REAL_DAYS = 6, 60


@click.command()
@click.option("--shop", type=click.Choice(["simulator", "online_retail"]), default="simulator", show_default=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the shop's raw days; only for a real shop.")
@click.option("--days", type=click.IntRange(5, 366), help=f"Days to go round with.  [default: {SIMULATED_DAYS} simulated, the last {REAL_DAYS} real ones]")
@click.option("--tour", type=click.Choice(["short", "full"]), default="short", show_default=True, help="full: more faults, more bad releases.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object on the last line.")
def demo(shop: str, data: Path | None, days: int | None, tour: str, as_json: bool) -> None:
    """Go round the whole circle, break things under load, and report.

    It works in a home of its own, which it empties first. With CI=1, or without a terminal, it stops everything and exits in the end; on a terminal shoppers
    go on until Ctrl-C. It exits with 1 when a promise was broken.
    """
    if (shop == "online_retail") != bool(data):
        raise CommandFailed(
            "--data names the raw days of a real shop: `--shop online_retail --data DIR`; the simulated shop makes its own. Nothing was started."
        )
    home = load_settings().home / f"demo-{shop}"
    home.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=160)  # a log file has no width of its own
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end either way, it stops what it started
    try:
        with FileLock(home.with_suffix(".lock"), timeout=0):
            report = _go(home, shop, data.absolute() if data else None, days, tour, console)
    except Timeout:
        raise CommandFailed(f"Another demo works in {home}. Nothing was started; wait for it, or set EVERSHELF_HOME to another folder.") from None
    if as_json:
        click.echo((home / "report.json").read_text().replace("\n", ""))
    if not report.kept:
        sys.exit(1)


def _go(home: Path, shop: str, data: Path | None, wanted: int | None, tour: str, console: Console) -> Report:
    supervision.stop(home)  # what a demo that was killed left running
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    settings = _use(home, shop, free_ports())
    days = _days(settings, data, wanted)
    settings = _use(home, shop, {"EVERSHELF_AIRFLOW__FIRST_DAY": f"{days[-1]}", "EVERSHELF_AIRFLOW__LAST_DAY": f"{days[-1]}"})
    started = time.monotonic()
    workshop = Workshop(environment=dict(os.environ), logs=home / "logs" / "demo", console=console)
    report = Report(shop=shop, home=str(home), days=f"{len(days)} days, {days[0]} to {days[-1]}", steps=workshop.steps)
    circle = Circle(settings=settings, workshop=workshop, data=data, days=days, report=report)
    stays = console.is_terminal and not os.environ.get("CI")
    try:
        parts: list[Callable[[], None]] = [partial(circle.go_round, full=tour == "full"), circle.stop_shoppers, circle.conclude]
        for part in parts:
            try:
                part()
            except EvershelfError as error:
                report.promises.append(Promise("the demo reaches its end", False, str(error).splitlines()[0]))
                console.print(str(error), style="red", markup=False)
            except Exception as error:  # a mistake of ours: what was found so far is still worth its report
                report.promises.append(Promise("the demo reaches its end", False, f"{type(error).__name__}: {error}"))
                console.print_exception()
        if record := supervision.running(home):
            report.urls = record.urls
        report.seconds = time.monotonic() - started
        reports.write(report, home, circle.answers.all)
        reports.show(report, console)
        if stays and report.kept:
            circle.send_shoppers()
            console.print("Shoppers go on, everything stays up. Ctrl-C stops it.", style="bold")
            signal.pause()
    except KeyboardInterrupt:
        console.print("Stopping everything.")
        report.promises.append(Promise("the demo was not interrupted", stays and bool(report.seconds), "Ctrl-C"))
    finally:
        supervision.ignore_signals()  # a second Ctrl-C must not leave half of it running
        workshop.stop()
        supervision.stop(home)
    return report


def _use(home: Path, shop: str, more: Mapping[str, str]) -> Settings:
    """Set the demo's settings for this process and all it starts, and return them."""
    chosen = {
        "EVERSHELF_HOME": str(home),
        "EVERSHELF_SHOP__ADAPTER": shop,
        "EVERSHELF_GATEWAY__SHIP_INTERVAL": "PT2S",
        "EVERSHELF_LAKE__SPARK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",  # drivers of seconds end before Java's best compiler has paid
        # A demo has minutes and tens of requests a second: fewer and larger canary stages than a shop would take.
        "EVERSHELF_PROMOTION__SHARES": "[0.25, 0.5]",
        "EVERSHELF_PROMOTION__MIN_REQUESTS": "300",  # the clicks on so many answers tell a bad ranking from chance
        # Shoppers and batch jobs share this machine: deadlines are missed in bursts, and a breaker makes each burst longer, for one arm or the other.
        "EVERSHELF_PROMOTION__MAX_FALLBACK_RATIO": "0.25",
        "EVERSHELF_PROMOTION__MAX_SLOW_RATIO": "0.25",
        "EVERSHELF_PROMOTION__MIN_STAGE": "PT10S",
        "EVERSHELF_PROMOTION__STAGE_TIMEOUT": "PT90S",
        "EVERSHELF_TRAINING__RANKERS": '["LiteRT float32"]',  # the other forms are no part of what it shows
        **more,
    }
    environment = clean_environment(chosen)
    os.environ.clear()
    os.environ.update(environment)
    load_settings.cache_clear()
    return load_settings()


def _days(settings: Settings, data: Path | None, wanted: int | None) -> list[date]:
    """Return the landing days to go round with, oldest first.

    Raises:
        CommandFailed: there are too few raw days.
    """
    if not data:
        # The scheduler runs a day some hours after it ended: the newest that is due by now.
        now = datetime.now(settings.zone) - timedelta(hours=settings.airflow.daily_at_hour)
        last = now.date() - timedelta(days=1)
        return [last - timedelta(days=back) for back in reversed(range(wanted or SIMULATED_DAYS))]
    found = door.raw_days(ADAPTERS[settings.shop.adapter], data)[-(wanted or REAL_DAYS) :]
    if len(found) < 5:
        raise CommandFailed(f"{data} holds {len(found)} raw days of {settings.shop.adapter}; a circle needs 5. Nothing was started; check --data.")
    return found
