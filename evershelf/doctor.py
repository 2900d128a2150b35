"""`evershelf doctor`: what this machine has, what is missing, what to do about it."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import click
import psutil
from rich.console import Console
from rich.table import Table

from evershelf import storage
from evershelf.errors import CommandFailed, InvalidSettings
from evershelf.settings import load_settings
from evershelf.stack.services import CHECKOUT, find_program

GIB = 1 << 30
FREE_DISK, MEMORY = 5 * GIB, 8 * GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `needed_for` names what does not work without it; `advice` is '' when it is fine."""

    name: str
    fine: bool
    found: str
    needed_for: str
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def doctor(as_json: bool) -> None:
    """Check what this machine has and what is missing; exits with 1 when something is."""
    findings = list(examine())
    healthy = all(finding.fine for finding in findings)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}))
    else:
        table = Table("", "what", "found", "needed for", "what to do")
        for finding in findings:
            table.add_row("ok" if finding.fine else "MISSING", finding.name, finding.found, finding.needed_for, finding.advice)
        Console().print(table)
    if not healthy:
        sys.exit(1)


def examine() -> Iterator[Finding]:
    """Look at everything, one finding at a time."""
    setup = "run `make setup`"
    version = platform.python_version()
    yield Finding("Python", sys.version_info[:2] == (3, 11), version, "everything", "" if sys.version_info[:2] == (3, 11) else "use Python 3.11; " + setup)
    yield _settings()
    yield _java(setup)
    for program, purpose in (
        ("redis-server", "rung `stored`"),
        ("prometheus", "monitoring"),
        ("promtool", "checking the alert rules"),
        ("statsd_exporter", "monitoring"),
    ):
        yield _try(program, purpose, setup, lambda program=program: find_program(program))  # type: ignore[misc]  # mypy does not infer defaults of lambdas
    for name, folder, purpose in (("delta", "jars", "lake, candidates"), ("hadoop", "hdfs", "the HDFS of the local stack")):
        jars = sorted((CHECKOUT / "deploy" / folder / "target" / "jars").glob(f"{name}-*.jar"))
        yield Finding(f"{name.capitalize()} jars", bool(jars), f"{len(jars)} files", purpose, "" if jars else setup)
    for role, module in (("gateway", "lmdb"), ("spark", "pyspark"), ("training", "tensorflow"), ("airflow", "airflow"), ("stack", "supervisor")):
        there = find_spec(module) is not None
        yield Finding(
            f"role {role}", there, module if there else "not installed", f"everything of {role}", "" if there else f"{setup}, or install evershelf[{role}]"
        )
    yield _try("Horovod with TensorFlow", "training", setup, _horovod)
    yield _resources()
    yield _disk()


def _try(name: str, needed_for: str, advice: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look(), needed_for)
    except CommandFailed as error:
        return Finding(name, False, str(error).split(". ")[0], needed_for, advice)


def _settings() -> Finding:
    try:
        return Finding("settings", True, f"home {load_settings().home}", "everything")
    except InvalidSettings as error:
        return Finding("settings", False, str(error), "everything", "correct them")


def _java(setup: str) -> Finding:
    java = shutil.which("java")
    if not java:
        return Finding("Java", False, "none", "lake, candidates", setup)
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', said)
    fine = match is not None and int(match[1]) in (17, 21)  # what Spark 4.1 runs on
    return Finding("Java", fine, said.splitlines()[0] if said else "no answer", "lake, candidates", "" if fine else "install Java 17 or 21")


def _horovod() -> str:
    code = "import horovod, horovod.tensorflow as hvd; assert hvd.gloo_built(); print(horovod.__version__)"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)  # its libraries stay out of this process
    if done.returncode:
        raise CommandFailed((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return done.stdout.strip()


def _resources() -> Finding:
    total, cores = psutil.virtual_memory().total, os.cpu_count() or 1
    fine = total >= MEMORY and cores >= 2
    return Finding("machine", fine, f"{cores} cores, {total / GIB:.0f} GiB", "the whole stack", "" if fine else "the whole stack wants 2 cores and 8 GiB")


def _disk() -> Finding:
    try:
        home = load_settings().home
    except InvalidSettings:
        home = CHECKOUT
    free = storage.free_space(home)
    return Finding("disk", free >= FREE_DISK, f"{free / GIB:.0f} GiB free for {home}", "lake, snapshots", "" if free >= FREE_DISK else "free 5 GiB")
