"""The lake's fault matrix: each fault at each step of a day, three seeds each.

    python -m tests.faults.matrix [--only TEXT] [--shard 1/4] [--seeds 3]

A case takes a small shop with some days published, and has the day after them published (or the tables maintained) by the real command on a real HDFS. When
the command says on standard error that the case's step begins, it is stopped, the fault is done to it or to HDFS, and it goes on; the first seed does so at
once, the others after a moment of their own, at most until the next step begins. When it has ended, HDFS is made whole and the command is run once more. Then
every table must be row for row what it is without any fault, maintenance must work and leave exactly the tables' files, and HDFS must miss nothing. All the
while a reader looks at every table (lakes.Reader).

Every result is a line of `results.jsonl` as soon as the case ends. Cases that are there for the same code are not run again, so what was interrupted goes on
where it was. `result.json` sums up.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import click
import msgspec
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from evershelf import lake, maintain_lake, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.hdfs import ASIDE
from evershelf.settings import PREFIX, load_settings
from evershelf.stack import supervision
from evershelf.stack.hdfs import DATANODES
from evershelf.stack.ports import free_ports
from tests.faults.cluster import Cluster
from tests.faults.driver import Driver, Lines, until
from tests.faults.lakes import DAY, Reader, Undisturbed, put, tables, undisturbed
from tests.faults.worker import ENVIRONMENT, Worker

CHECKOUT = Path(__file__).parents[2]
FAULTS = ("driver", "datanode", "namenode", "disk full", "corrupt block", "airflow worker")
STEPS = ("read", "clean", "data write", "quarantine write", "commit", "vacuum")
WRITTEN = ("events", "orders", "products")
LINES = ("read ", "clean ", "write ", "commit ", "vacuum ")  # how the lines begin by which a command says its step
PRODUCT = ("evershelf", "spark_jobs", "dags", "plugins", "requirements")
LATEST_S = 1.5  # the longest moment between a step's begin and the fault


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one step; the seed chooses the shop, the moment, and the DataNode, the table or the block that is hit."""

    fault: str
    step: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.fault}-{self.step}-{self.seed}".replace(" ", "-")

    @property
    def job(self) -> str:
        return "maintain_lake" if self.step == "vacuum" else "lake_daily"

    def line(self, rng: random.Random) -> str:
        """Return what the command says when the step begins, or a part of it that the seed chooses."""
        parts = {
            "read": (f"read {DAY}",),
            "clean": (f"clean {DAY}",),
            "data write": tuple(f"write {name}" for name in WRITTEN),
            "quarantine write": ("write quarantine",),
            "commit": tuple(f"commit {name}" for name in (*WRITTEN, "quarantine", "reconciliation")),
            "vacuum": tuple(f"vacuum {name}" for name in LAKE_TABLES),
        }
        return rng.choice(parts[self.step])


class Result(msgspec.Struct, kw_only=True):
    """What came of a case.

    at: the line at which the fault fell; hit: what was hit; first, again: exit codes of both runs. looks, unread: of the reader.
    """

    case: str
    fault: str
    step: str
    seed: int
    code: str
    passed: bool = False
    problems: list[str] = []
    at: str = ""
    hit: str = ""
    first: int | None = None
    again: int | None = None
    looks: int = 0
    unread: list[str] = []
    seconds: float = 0.0


def every_case(seeds: int = 3) -> list[Case]:
    """Return the cases; those that need Airflow last, since it takes its share of the machine for as long as it runs."""
    return sorted((Case(fault, step, seed) for seed, fault, step in product(range(1, seeds + 1), FAULTS, STEPS)), key=lambda case: case.fault == FAULTS[-1])


@cache
def code_hash(*places: str) -> str:
    """Return the version of everything that a result depends on, or of some files and folders of the checkout."""
    found = hashlib.sha256()
    for place in places or (*PRODUCT, "tests/faults"):
        below = [CHECKOUT / place, *(CHECKOUT / place).rglob("*")]
        for path in sorted(path for path in below if path.suffix in (".py", ".json", ".txt") and not path.name.startswith("test_")):
            found.update(f"{path.relative_to(CHECKOUT)}".encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


class Matrix:
    """Runs cases on one HDFS, one after the other.

    Args:
        work: folder for HDFS, logs and undisturbed lakes.
        shared: folder for what is the same for all shards.
    """

    def __init__(self, work: Path, shared: Path, stack: supervision.Running) -> None:
        self.work, self.shared, self.stack = work, shared, stack
        self.cluster = Cluster(stack, load_settings().home)
        self._driver: Driver | None = None
        self._worker: Worker | None = None

    @property
    def driver(self) -> Driver:
        if self._driver is None or not self._driver.alive:
            self._driver = Driver()
        return self._driver

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            supervision.start(load_settings(), ["airflow"], self.stack.env, lambda line: None)
            self._worker = Worker(load_settings().home)
        return self._worker

    def close(self) -> None:
        if self._driver is not None:
            self._driver.kill()

    def shop(self, seed: int) -> Undisturbed:
        self.shared.mkdir(parents=True, exist_ok=True)
        with FileLock(self.shared / f"seed-{seed}.lock"):
            return undisturbed(self.shared / f"seed-{seed}", seed, self.driver.run)

    def run(self, case: Case) -> Result:
        """Run a case. Whatever goes wrong is one of the result's problems."""
        result = Result(case=case.name, fault=case.fault, step=case.step, seed=case.seed, code=code_hash())
        started = time.monotonic()
        try:
            self._run(case, result)
        except Exception as error:
            result.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}")
        try:
            self.cluster.heal()
        except TimeoutError as error:
            result.problems.append(str(error))
        result.passed, result.seconds = not result.problems, round(time.monotonic() - started, 1)
        return result

    def _run(self, case: Case, result: Result) -> None:
        rng, shop = random.Random(case.name), self.shop(case.seed)
        # Airflow's tasks have the settings with which it was started.
        folder = "/airflow-worker" if case.fault == "airflow worker" else f"/{case.name}-{os.getpid()}"
        settle(EVERSHELF_STORAGE_URL=f"hdfs://{folder}")
        root = storage.at(load_settings().url("landing")).parent
        if case.fault == "airflow worker":
            self.worker.settle(case.job)
        tree, before = (shop.after, shop.tables_after) if case.step == "vacuum" else (shop.before, shop.tables_before)
        storage.remove(root)
        put(tree, root)
        log = self.work / "cases" / f"{case.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        try:
            with Reader(load_settings().url("lake"), before, shop.tables_after) as reader:
                if case.fault == "airflow worker":
                    self._in_airflow(case, rng, result)
                else:
                    self._by_hand(case, rng, folder, log, result)
        finally:
            result.looks, result.unread = reader.looks, sorted(set(reader.unread))
            result.problems += dict.fromkeys(reader.wrong)
        if not reader.looks:
            result.problems.append("the reader never saw the tables")
        if reader.unread and case.fault not in ("datanode", "namenode") and case.step != "vacuum":  # which deletes at once here, and not after a week
            result.problems.append(f"the reader met errors, though HDFS was up: {result.unread[0]}")
        if result.again:
            result.problems.append(f"the run after it ended with {result.again}")
        self._look_at(shop, root, folder, result)
        if not result.problems:
            storage.remove(root)

    def _by_hand(self, case: Case, rng: random.Random, folder: str, log: Path, result: Result) -> None:
        command = ["run", case.job, *(["--date", DAY.isoformat()] if case.job == "lake_daily" else [])]
        env = {"EVERSHELF_STORAGE_URL": load_settings().storage_url, "EVERSHELF_HOME": str(load_settings().home)}
        known = self.cluster.blocks(folder)
        driver = self.driver
        driver.begin(command, env, log)
        moment = 0.0 if case.seed == 1 else rng.uniform(0, LATEST_S)
        said = until(case.line(rng), Lines(log), driver.ended, moment, LINES)
        if said is None:
            raise RuntimeError(f"the command ended without coming to the step; see {log}")
        result.at = f"{said} + {moment:.2f} s"
        if case.fault == "driver":
            driver.kill()
            result.first = -9
        else:
            driver.freeze()
            try:
                result.hit = self._break(case, rng, folder, known)
            finally:
                driver.thaw()
            result.first = driver.end()
        if "Traceback (most recent call last)" in log.read_text():
            result.problems.append(f"the command ended with a stack trace, as if this could not be foreseen; see {log}")
        self.cluster.heal()
        log.open("a").write("---- again\n")
        result.again = self.driver.run(command, env, log)

    def _break(self, case: Case, rng: random.Random, folder: str, known: Mapping[str, str]) -> str:
        number = rng.randint(1, DATANODES)
        if case.fault == "datanode":
            self.cluster.kill_datanode(number)
            return f"DataNode {number}"
        if case.fault == "namenode":
            self.cluster.kill_namenode()
            return "NameNode"
        if case.fault == "disk full":
            self.cluster.fill(folder)
            return folder
        if case.step in ("read", "clean"):
            return self.cluster.corrupt(f"{folder}/landing", (), number, rng)
        return self.cluster.corrupt(f"{folder}/lake", known, number, rng)

    def _in_airflow(self, case: Case, rng: random.Random, result: Result) -> None:
        worker = self.worker
        moment = 0.0 if case.seed == 1 else rng.uniform(0, LATEST_S)
        lines = worker.begin(case.job)
        said = until(case.line(rng), lines, lambda: False, moment, LINES)
        result.at, alone = f"{said} + {moment:.2f} s", case.seed == 2
        worker.kill(case.job, alone=alone)
        result.hit, result.first = "the worker alone" if alone else "the worker and the command", -9
        result.again = 0 if worker.again(case.job) else 1
        worker.settle(case.job)

    def _look_at(self, shop: Undisturbed, root: storage.Place, folder: str, result: Result) -> None:
        """Compare the lake with the undisturbed one, maintain it, and compare again."""
        self.cluster.wait_until_whole(folder)
        for maintained in (False, True):
            if maintained:
                maintain_lake.maintain()
            for name, content in tables(load_settings().url("lake")).items():
                if not content.equals(shop.tables_after[name]):
                    rows = f"{content.num_rows} rows instead of {shop.tables_after[name].num_rows}"
                    result.problems.append(f"{name} is not as without the fault{' once maintained' if maintained else ''}: {rows}")
        if left := [path for path, _ in storage.files_below(root / "lake") if ASIDE in path]:
            result.problems.append(f"left aside: {', '.join(left[:5])}")
        for name in LAKE_TABLES:
            below = {path for path, _ in storage.files_below(root / "lake" / name) if not path.startswith("_delta_log/")}
            if below != lake.files(lake.open_table(name)):
                result.problems.append(f"maintenance leaves other files than the table's: {name}: {sorted(below ^ lake.files(lake.open_table(name)))[:5]}")


def settle(**variables: str) -> None:
    """Let settings be these from here on."""
    os.environ.update(variables)
    load_settings.cache_clear()


@contextmanager
def matrix(work: Path, shared: Path) -> Iterator[Matrix]:
    """Start HDFS for some cases; in the end nothing is left of it but logs and what failed."""
    home, before = work / "home", dict(os.environ)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    supervision.stop(home)  # of a run that was killed
    shutil.rmtree(home, ignore_errors=True)  # Airflow would go on with what it had begun
    ports = free_ports()
    settle(
        **ports,
        **ENVIRONMENT,
        EVERSHELF_AIRFLOW__LAST_DAY=DAY.isoformat(),  # by the clock nothing runs
        RUST_LOG="off",  # a client that tries another DataNode tells so
        EVERSHELF_HOME=str(home),
        EVERSHELF_STORAGE_URL="hdfs:///airflow-worker",
        EVERSHELF_PRIVACY__USER_KEY="the same pseudonyms everywhere",
        EVERSHELF_LAKE__SPARK_MASTER="local[1]",
        EVERSHELF_LAKE__SPARK_MEMORY="600m",
        EVERSHELF_LAKE__SPARK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # a day of a few hundred rows is compiled for longer than it runs
        EVERSHELF_LAKE__TIME_TRAVEL="PT0S",  # maintenance has something to delete
    )
    try:
        cases = Matrix(work, shared, supervision.start(load_settings(), ["hdfs"], ports, lambda line: None))
        try:
            yield cases
        finally:
            cases.close()
    finally:
        supervision.stop(home)
        os.environ.clear()
        os.environ.update(before)
        load_settings.cache_clear()


def known_results(file: Path) -> dict[str, Result]:
    """Return what is known of each case for the code as it is."""
    found, code = dict[str, Result](), code_hash()
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with suppress(msgspec.DecodeError):  # half a line of a run that was killed
            result = msgspec.json.decode(line, type=Result)
            if result.code == code:
                found[result.case] = result
    return found


def summary(cases: Sequence[Case], results: Mapping[str, Result]) -> dict[str, Any]:
    ran = [results[case.name] for case in cases if case.name in results]
    return {
        "code": code_hash(),
        "cases": len(cases),
        "ran": len(ran),
        "passed": sum(one.passed for one in ran),
        "failed": [msgspec.to_builtins(one) for one in ran if not one.passed],
        "looks": sum(one.looks for one in ran),
        "seconds": round(sum(one.seconds for one in ran), 1),
    }


def show(console: Console, cases: Sequence[Case], results: Mapping[str, Result]) -> None:
    """Print what came of each fault at each step: passed of ran."""
    table = Table("fault", *STEPS, title="passed/ran/cases")
    for fault in FAULTS:
        cells = []
        for step in STEPS:
            mine = [case for case in cases if (case.fault, case.step) == (fault, step)]
            ran = [results[case.name] for case in mine if case.name in results]
            cells.append(f"{'[red]' if not all(one.passed for one in ran) else ''}{sum(one.passed for one in ran)}/{len(ran)}/{len(mine)}")
        table.add_row(fault, *cells)
    console.print(table)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=CHECKOUT / "build" / "faults", help="Folder for results, logs and HDFS.", show_default=True)
@click.option("--shard", default="1/1", help="Which part of the cases, such as 2/4.", show_default=True)
@click.option("--only", multiple=True, help="Cases in whose name this occurs, such as driver-commit. May be repeated.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--failed", "again", is_flag=True, help="Run those again that failed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def main(work: Path, shard: str, only: tuple[str, ...], seeds: int, again: bool, as_json: bool) -> None:
    """Run the fault matrix, or go on with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of asking leave nothing behind
    signal.signal(signal.SIGINT, signal.default_int_handler)
    number, _, of = shard.partition("/")
    work, console, cases = work.absolute(), Console(stderr=True), every_case(seeds)
    mine = [case for case in cases if not only or any(part in case.name for part in only)][int(number) - 1 :: int(of)]
    file = work / "results.jsonl"
    known = known_results(file)
    due = [case for case in mine if case.name not in known or (again and not known[case.name].passed)]
    console.print(f"{len(mine)} cases, {len(mine) - len(due)} of them known; the others run now.")
    if due:
        with matrix(work / f"shard-{number}-of-{of}", work / "undisturbed" / code_hash(*PRODUCT, "tests/faults/lakes.py")) as cluster:
            for case in due:
                result = cluster.run(case)
                with file.open("ab") as results:
                    results.write(msgspec.json.encode(result) + b"\n")
                said = "passed" if result.passed else f"FAILED: {'; '.join(result.problems)}"
                what = f"at {result.at}: {result.hit or 'driver'}, first run ended with {result.first}"
                console.print(f"{case.name}: {said} ({result.seconds:.0f} s, {what})", markup=False, soft_wrap=True)
    known = known_results(file)
    outcome = summary(cases, known)
    storage.replace(work / "result.json", json.dumps(outcome, indent=1).encode())
    show(console, cases, known)
    if as_json:
        click.echo(json.dumps(outcome))
    sys.exit(not all(known[case.name].passed for case in mine))


if __name__ == "__main__":
    main()
