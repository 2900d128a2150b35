"""The demo's steps, in order. Every step is a real command, run as an operator would run it."""

import csv
import gzip
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pyarrow.parquet as pq

from evershelf import lake
from evershelf.demo.answers import AnswerLog, summarize
from evershelf.demo.report import LandingDay, Promise, Report
from evershelf.demo.shoppers import Plan
from evershelf.demo.work import Job, Workshop
from evershelf.errors import CommandFailed
from evershelf.settings import Settings
from evershelf.shops.shoppers import TRUTH
from evershelf.stack import supervision
from evershelf.stack.airflow_api import AirflowApi
from evershelf.storage import local_path

RATE = 25.0  # requests a second; each answer is followed by a post of events
SCHEDULED = 2  # days that the first driver leaves to Airflow: one scheduled run, one backfill
BASICS = "redis,statsd,prometheus"


@dataclass(slots=True, kw_only=True)
class Circle:
    """One demo: what it works with and what it found so far."""

    settings: Settings
    workshop: Workshop
    data: Path | None
    days: list[date]
    report: Report
    raw: Path = field(init=False)
    answers: AnswerLog = field(init=False)
    shoppers: Job | None = None
    rolled_back: tuple[str, float] | None = None  # which snapshot, and when the command had ended (epoch seconds)

    def __post_init__(self) -> None:
        self.raw = self.data or self.settings.home / "raw"
        self.answers = AnswerLog(self.settings.home / "answers.jsonl")

    def go_round(self) -> None:
        """Run every step; what was promised and what came of it is in the report, also when a step raises."""
        first, last = self.days[0], self.days[-1]
        old = self.days[:-SCHEDULED]
        step = self.workshop.step
        with step(f"raw days {first} to {last} come in") as done:
            done.outcome = self.take_in()
        with step(f"lake: {len(old)} days, one Spark driver") as done:
            basics = self.workshop.begin("up", "--only", BASICS)
            published = self.workshop.run("run", "lake_daily", "--from", f"{old[0]}", "--to", f"{old[-1]}", "--landed", "--json")
            basics.wait()
            done.outcome = f"{len(published.get('days', ()))} days"
        airflow = self.workshop.begin("up", "--only", "airflow")  # its slow start overlaps with training
        with step(f"train, {self.settings.training.ranks} Horovod ranks") as done:
            model = self.workshop.run("train", "--json")
            done.outcome = f"{model['model_id']}, {'blessed' if model['blessed'] else 'refused'}"
            self.promise("a model is trained and blessed", bool(model["blessed"]), "; ".join(model["why"]))
        with step("candidates"):
            self.workshop.run("run", "candidates", "--json")
        with step("first snapshot") as done:
            earlier = done.outcome = self.workshop.run("run", "build_snapshot", "--json")["snapshot_id"]
        with step("stack: model server, gateway, Airflow"):
            self.workshop.run("up", "--only", "model-server,gateway")
            airflow.wait()
        with step(f"promote {earlier}"):
            self.workshop.run("promote", earlier, "--why", "the first one", "--json")
        self.send_shoppers()
        with step(f"Airflow: {self.days[-1]} as scheduled, {self.days[-2]} as a backfill") as done:
            done.outcome = self.run_dags()
        with step("candidates and second snapshot, of all days") as done:
            self.workshop.run("run", "candidates", "--json")
            later = done.outcome = self.workshop.run("run", "build_snapshot", "--json")["snapshot_id"]
        with step(f"promote {later} through its canary, under load"):
            self.workshop.run("promote", later, "--why", "fresh days", "--json")
        with step("kill -9 the model server under load") as done:
            done.outcome = self.kill_model_server()
        with step("roll back, under load") as done:
            done.outcome = self.roll_back(later, earlier)
        with step("a rotten day arrives") as done:
            done.outcome = self.bring_rotten_day()
        with step("shoppers' events reach landing") as done:
            done.outcome = self.ship_events()

    def take_in(self) -> str:
        """Make the raw days when the shop is simulated, and take them in at the door."""
        if not self.data:
            self.workshop.run("simulate", "--out", str(self.raw), "--days", f"{len(self.days)}", "--end", f"{self.days[-1]}")
        came = self.workshop.run("ingest", "--data", str(self.raw), "--from", f"{self.days[0]}", "--to", f"{self.days[-1]}", "--json")
        self.promise("every raw day comes in", not came.get("rejected"), f"{came.get('rows')} rows")
        return f"{came.get('rows')} rows in {came.get('files')} files"

    def send_shoppers(self) -> None:
        """Start the load: the shop's own shoppers, items and words."""
        plan = Plan(
            urls=self.settings.gateway_urls,
            answers=str(self.answers.path),
            rate=RATE,
            seed=len(self.workshop.jobs),  # a second crowd must not repeat the first one's event ids
        )
        if self.data:
            titles = lake.read("products", ["item_id", "title"]).to_pydict()
            words = [word.lower() for title in titles["title"] for word in title.split() if len(word) > 3 and word.isalpha()]
            queries = tuple(random.Random(7).sample(words, min(500, len(words))))
            plan = msgspec.structs.replace(plan, users=tuple(sorted(self.known_users())), items=tuple(sorted(set(titles["item_id"]))), queries=queries)
        else:
            plan = msgspec.structs.replace(plan, truth=str(self.raw / TRUTH))
        path = self.settings.home / "shoppers.json"
        path.write_bytes(msgspec.json.encode(plan))
        self.shoppers = self.workshop.module("evershelf.demo.shoppers", str(path))

    def known_users(self) -> set[str]:
        """Return the raw ids of shoppers who are in a real shop's raw days."""
        assert self.data
        found: set[str] = set()
        for day in self.days:
            path = self.data / f"{day}.csv"
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as file:
                    found |= {row["CustomerID"].removesuffix(".0") for row in csv.DictReader(file) if row["CustomerID"]}
        return found

    def run_dags(self) -> str:
        """Let the scheduler run the newest day by itself and a backfill run the one before, as from the UI."""
        api = AirflowApi(f"http://127.0.0.1:{self.settings.airflow.port}")
        api.backfill("lake_daily", self.days[-2], self.settings.zone)
        api.unpause("lake_daily")
        runs = api.wait_for_runs("lake_daily", {"scheduled", "backfill"}, timeout=420)
        said = ", ".join(f"{run['run_type']} {run['state']}" for run in runs)
        self.promise("Airflow runs one day by schedule and one as a backfill", all(run["state"] == "success" for run in runs), said)
        return said

    def kill_model_server(self) -> str:
        """Kill it, see answers go on from the next rung, and wait until it is live again."""
        record = supervision.running(self.settings.home)
        assert record
        self.wait_for("answers from live", lambda: any(answer.served_by == "live" for answer in self.answers.new()), 30)
        killed = time.time()
        psutil.Process(supervision.program_pid(record, "model-server")).kill()
        self.wait_for("answers from local_model", lambda: any(answer.served_by == "local_model" for answer in self.answers.since(killed)), 30)
        fell = next(answer.at for answer in self.answers.since(killed) if answer.served_by == "local_model")
        self.wait_for("live again", lambda: any(answer.served_by == "live" for answer in self.answers.since(fell + 0.5)), 120)
        back = next(answer.at for answer in self.answers.since(fell + 0.5) if answer.served_by == "live")
        between = [answer for answer in self.answers.since(killed) if answer.at < back and answer.endpoint != "events"]
        meanwhile, lost = summarize(between), sum(not answer.good for answer in between)
        rungs = ", ".join(f"{rung} {count}" for rung, count in meanwhile.by_rung.items())
        outcome = f"{meanwhile.answers} answers meanwhile ({rungs}), {lost} lost, live again after {back - killed:.1f} s"
        self.promise("answers go on while the model server is dead", lost == 0 and meanwhile.by_rung["local_model"] > 0, outcome)
        return outcome

    def roll_back(self, bad: str, good: str) -> str:
        """Roll back; what was started after the command ended must not carry the bad id."""
        self.workshop.run("rollback", "--why", "the demo shows the way back", "--json")
        done = time.time()
        self.rolled_back = (bad, done)
        self.wait_for("a hundred answers after it", lambda: sum(bool(answer.served_by) for answer in self.answers.since(done)) >= 100, 60)
        return f"{good} answers again, {bad} is out"

    def bring_rotten_day(self) -> str:
        """Deliver a day that is no text at all; it is held back by name, and what is live stays live."""
        rotten = self.days[0] - timedelta(days=1)
        folder = self.settings.home / "rotten"
        name = f"{rotten}.csv" if self.data else f"{rotten}/events.jsonl.gz"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(random.Random(7).randbytes(50_000))
        before = self.status()["stable"]
        came = self.workshop.run("ingest", "--data", str(folder), "--json", allowed=(3,))
        job = self.workshop.begin("run", "lake_daily", "--date", f"{rotten}", "--json")
        job.wait(allowed=(3,))
        words = job.last_words()
        named = [f"{one['file']}: {one['reason']}" for one in came.get("rejected", ())]
        self.promise(
            "a rotten day is held back by name, and what is live stays live",
            bool(named) and f"{rotten}" in words and self.status()["stable"] == before,
            f"{rotten}: {', '.join(named)}",
        )
        return f"{rotten} held back: {', '.join(named)}"

    def status(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.settings.gateway_urls[0]}/v1/status", timeout=5.0, trust_env=False).json())

    def ship_events(self) -> str:
        """Stop the shoppers, and find every event that was acknowledged in landing."""
        self.stop_shoppers()
        acknowledged = sum(answer.items for answer in self.answers.all if answer.endpoint == "events")
        self.wait_for("every event is shipped", lambda: self.status()["events"]["waiting"] == 0, 60)
        landed = self.count_landed()
        outcome = f"{acknowledged} events acknowledged, {landed} in landing"
        self.promise("every acknowledged event reaches landing, once", landed == acknowledged > 0, outcome)
        return outcome

    def count_landed(self) -> int:
        """Return the events that gateways shipped; negative when one is there twice."""
        seen: set[str] = set()
        lines = 0
        for path in (local_path(self.settings.url("landing")) / "gateway").rglob("*.gz"):
            with gzip.open(path, "rb") as file:
                for line in file:
                    lines += 1
                    seen.add(msgspec.json.decode(line)["event_id"])
        return len(seen) if len(seen) == lines else -lines

    def stop_shoppers(self) -> None:
        if self.shoppers and self.shoppers.process.poll() is None:
            self.shoppers.process.terminate()
            self.shoppers.process.wait(30)
        self.answers.new()

    def conclude(self) -> None:
        """Read what is promised of the whole out of the answers and the lake."""
        self.answers.new()
        every = self.report.answers = summarize(self.answers.all)
        bad = every.server_errors + every.unanswered + every.empty + every.other
        self.promise("not one 5xx, empty or missing answer to a valid request", bad == 0 and every.answers > 0, f"{every.answers} answers, {bad} bad")
        if self.rolled_back:
            bad_id, instant = self.rolled_back
            after = summarize(self.answers.since(instant)).by_snapshot
            self.promise(
                "after the rollback no answer carries the id that was rolled back",
                after[bad_id] == 0 < sum(after.values()),
                f"{sum(after.values())} answers since",
            )
        self.report.landing = reconciliation()
        odd = [f"{day.day} {day.source}" for day in self.report.landing if not day.adds_up]
        self.promise(
            "rows in = clean + quarantined + deduplicated, every day",
            not odd and bool(self.report.landing),
            ", ".join(odd) or f"{len(self.report.landing)} deliveries",
        )
        self.report.lists = telling_lists(self.settings)

    def promise(self, promise: str, kept: bool, detail: str = "") -> None:
        self.report.promises.append(Promise(promise, kept, detail))

    def wait_for(self, what: str, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise CommandFailed(f"The demo waited {timeout:.0f} s for this in vain: {what}. See {self.workshop.logs} and the services' logs beside it.")
            time.sleep(0.25)


def reconciliation() -> list[LandingDay]:
    """Return what the lake says of every landing day and source, in order."""
    rows = lake.read("reconciliation").to_pylist() if lake.exists("reconciliation") else []
    days = [
        LandingDay(
            day=row["landing_dt"].isoformat(),
            source=row["source"],
            outcome=row["outcome"],
            rows_in=row["rows_in"],
            clean=row["rows_clean"],
            quarantined=row["rows_quarantined"],
            deduplicated=row["rows_deduplicated"],
            reasons=dict(row["reasons"] or {}),
            why=row["why"],
        )
        for row in rows
    ]
    return sorted(days, key=lambda day: (day.day, day.source))


def telling_lists(settings: Settings, length: int = 8) -> dict[str, list[str]]:
    """Return the newest popular list and the neighbours of its first items, as titles, so that a person can judge them."""
    folders = sorted(path for path in local_path(settings.url("candidates")).glob("*") if (path / "lineage.json").is_file())
    if not folders:
        return {}
    newest = max(folders, key=lambda path: path.stat().st_mtime)
    products = lake.read("products", ["item_id", "title", "dt"]).sort_by("dt").to_pylist()
    titles = {row["item_id"]: row["title"] for row in products}
    popular = pq.read_table(newest / "popular_items", filters=[("category", "=", ""), ("position", "<=", length)]).sort_by("position").to_pylist()
    lists = {"popular": [titles.get(row["item_id"], row["item_id"]) for row in popular]}
    for row in popular[:4]:
        item = row["item_id"]
        near = pq.read_table(newest / "item_candidates", filters=[("item_id", "=", item), ("position", "<=", length)]).sort_by("position").to_pylist()
        lists[f"near {titles.get(item, item)}"] = [titles.get(one["neighbor_id"], one["neighbor_id"]) for one in near]
    return lists
