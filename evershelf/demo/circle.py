"""The demo's steps. A tour is a list of them; every step is a real command, run as an operator would run it."""

import csv
import gzip
import math
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pyarrow.parquet as pq

from evershelf import lake
from evershelf.contracts.rungs import Rung
from evershelf.demo import sabotage
from evershelf.demo.answers import AnswerLog, summarize
from evershelf.demo.faults import Fault
from evershelf.demo.plots import Decision
from evershelf.demo.report import LandingDay, Promise, Report
from evershelf.demo.shoppers import Plan
from evershelf.demo.work import Job, Workshop
from evershelf.errors import CommandFailed
from evershelf.settings import Settings
from evershelf.shops.shoppers import TRUTH
from evershelf.stack import redis, supervision
from evershelf.stack.airflow_api import AirflowApi
from evershelf.stack.services import services
from evershelf.storage import at, at_hand, files_below, glob

RATE = 30.0  # requests a second; each answer is followed by a post of events
VISITS = 300  # of the simulated shop, a day; enough for a model that is worth something, and no more, as the demo has minutes
SCHEDULED = 2  # days that the first driver leaves to Airflow: one scheduled run, one backfill
BASICS = "redis,statsd,prometheus"
HELD_S = 10.0  # what is broken on purpose stays broken at least so long, so that answers show what that costs

Step = tuple[str, Callable[[], str]]  # what the report calls it; what does it, and returns its outcome


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
    background: dict[str, Job] = field(default_factory=dict)  # what was begun early because it only needs time
    candidates_id: str = ""
    second: str = ""  # the snapshot of all days
    worse: str = ""  # the one with a worse ranking
    snapshots: list[str] = field(default_factory=list)  # promoted, oldest first
    rolled_back: tuple[str, float] | None = None  # which snapshot, and when the command had ended (epoch seconds)

    def __post_init__(self) -> None:
        self.raw = self.data or self.settings.home / "raw"
        self.answers = AnswerLog(self.settings.home / "answers.jsonl")

    def go_round(self, *, full: bool) -> None:
        """Run a tour; what was promised and what came of it is in the report, also when a step raises."""
        for name, act in self.tour(full=full):
            with self.workshop.step(name) as done:
                done.outcome = act()

    def tour(self, *, full: bool) -> list[Step]:
        """Return the steps of a tour, in order.

        Shoppers without a truth click blindly, so only a simulated shop can find out by their clicks that a snapshot is bad.
        """
        one, other = self.days[-1], self.days[-2]
        steps: list[Step] = [
            (f"raw days {self.days[0]} to {one} come in", self.take_in),
            (f"lake: {len(self.days) - SCHEDULED} days, one Spark driver", self.fill_lake),
            (f"train, {self.settings.training.ranks} Horovod ranks", self.train),
            ("candidates", self.make_candidates),
            ("first snapshot: built, stack started, promoted", self.promote_first),
            (f"Airflow begins {one} as scheduled, {other} as a backfill", self.begin_dags),
            ("kill -9 the model server under load", self.kill_model_server),
            ("Airflow ends both", self.end_dags),
            ("Redis loses its primary", self.lose_redis_primary),
        ]
        if full:
            steps += [("all of Redis is lost, sentinels too", self.lose_redis), ("model server and Redis are lost together", self.lose_both)]
        steps += [("candidates and second snapshot, of all days", self.build_second), ("promote it through its canary, under load", self.promote_second)]
        if not self.data:
            steps.append(("a snapshot with a worse ranking is released", self.release_worse_ranking))
            if full:
                steps.append(("a snapshot with broken candidates is released", self.release_broken_candidates))
        steps.append(("roll back, under load", self.roll_back))
        if full:
            steps.append(("the way forward: built again, and promoted", self.promote_again))
            if not self.data:
                steps.append(("an item sells out", self.sell_out))
        return [*steps, ("a rotten day arrives", self.bring_rotten_day), ("shoppers' events reach landing", self.ship_events)]

    def fill_lake(self) -> str:
        basics = self.workshop.begin("up", "--only", BASICS)
        published = self.workshop.run("run", "lake_daily", "--from", f"{self.days[0]}", "--to", f"{self.days[-SCHEDULED - 1]}", "--landed", "--json")
        basics.wait()
        return f"{len(published.get('days', ()))} days"

    def train(self) -> str:
        self.background["airflow"] = self.workshop.begin("up", "--only", "airflow")  # its slow start overlaps with training
        model = self.workshop.run("train", "--json")
        self.promise("a model is trained and blessed", bool(model["blessed"]), "; ".join(model["why"]))
        return f"{model['model_id']}, {'blessed' if model['blessed'] else 'refused'}"

    def make_candidates(self) -> str:
        self.background["serving"] = self.workshop.begin("up", "--only", "model-server,gateway")
        self.candidates_id = str(self.workshop.run("run", "candidates", "--json")["candidates_id"])
        return self.candidates_id

    def promote_first(self) -> str:
        snapshot = self.build(self.candidates_id)
        self.background.pop("serving").wait()
        self.background.pop("airflow").wait()
        self.promote(snapshot, "the first one")
        self.send_shoppers()
        return snapshot

    def build(self, candidates_id: str) -> str:
        return str(self.workshop.run("run", "build_snapshot", "--candidates", candidates_id, "--json")["snapshot_id"])

    def promote(self, snapshot: str, why: str) -> str:
        self.workshop.run("promote", snapshot, "--why", why, "--json")
        self.snapshots.append(snapshot)
        return snapshot

    def take_in(self) -> str:
        """Make the raw days when the shop is simulated, and take them in at the door."""
        if not self.data:
            size = ("--days", f"{len(self.days)}", "--end", f"{self.days[-1]}", "--visits", f"{VISITS}")
            self.workshop.run("simulate", "--out", str(self.raw), *size)
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
        self.shoppers = self.workshop.module("evershelf.demo.shoppers")
        assert self.shoppers.process.stdin
        with suppress(BrokenPipeError):  # one that ended at once is found when it is stopped
            self.shoppers.process.stdin.write(msgspec.json.encode(plan) + b"\n")
            self.shoppers.process.stdin.flush()

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

    @property
    def airflow(self) -> AirflowApi:
        return AirflowApi(f"http://127.0.0.1:{self.settings.airflow.port}")

    def begin_dags(self) -> str:
        """Let the scheduler run the newest day by itself and a backfill run the one before, as from the UI; meanwhile things break."""
        self.airflow.backfill("lake_daily", self.days[-2], self.settings.zone)
        self.airflow.unpause("lake_daily")
        return "both days are asked for"

    def end_dags(self) -> str:
        runs = self.airflow.wait_for_runs("lake_daily", {"scheduled", "backfill"}, timeout=900)
        said = ", ".join(f"{run['run_type']} {run['state']}" for run in runs)
        self.promise("Airflow runs one day by schedule and one as a backfill", all(run["state"] == "success" for run in runs), said)
        self.background["candidates"] = self.workshop.begin("run", "candidates", "--json")  # needs the days, and nothing of the faults that come next
        return said

    def kill_model_server(self) -> str:
        """Kill it, see answers go on from the next rung, and wait until it is live again."""
        self.wait_for("answers from live", lambda: any(answer.served_by == "live" for answer in self.answers.new()), 60)
        with self.fault("the model server is killed", expected="local_model") as fault:
            psutil.Process(supervision.program_pid(self.stack(), "model-server")).kill()
            self.wait_until_live_again(fault.start)
        return fault.outcome

    def lose_redis_primary(self) -> str:
        """Take the primary away until a replica stands in its place, then bring it back as one."""
        lost = redis.current_primary(self.settings)
        assert lost
        with self.fault("Redis loses its primary") as fault:
            supervision.stop_program(self.stack(), lost)
            self.wait_for("another primary", lambda: redis.current_primary(self.settings) not in (None, lost), 60)
            fault.outcome = f"{redis.current_primary(self.settings)} took over from {lost} after {time.time() - fault.start:.1f} s"
            self.wait_for("shoppers who meet it", lambda: time.time() > fault.start + HELD_S, HELD_S)
            supervision.start_program(self.stack(), lost)
            self.wait_for("Redis in step", services(self.settings)["redis"].ready, 60)
        return fault.outcome

    def lose_redis(self) -> str:
        """Take every server and sentinel away for a while."""
        with self.fault("all of Redis is lost") as fault:
            self.without(redis.redis_programs(self.settings))
            self.wait_for("Redis in step", services(self.settings)["redis"].ready, 60)
            fault.outcome = f"in step again after {time.time() - fault.start:.1f} s"
        return fault.outcome

    def lose_both(self) -> str:
        """Take the model server and all of Redis away for a while: what is left is the gateway's own disk."""
        with self.fault("model server and Redis are lost", expected="local_model") as fault:
            self.without(["model-server", *redis.redis_programs(self.settings)])
            self.wait_until_live_again(fault.start)
            self.wait_for("Redis in step", services(self.settings)["redis"].ready, 60)
        return fault.outcome

    def without(self, programs: Collection[str]) -> None:
        """Stop programs, let shoppers meet that, and start them again."""
        for program in programs:
            supervision.stop_program(self.stack(), program)
        gone = time.time()
        self.wait_for("shoppers who meet it", lambda: time.time() > gone + HELD_S, HELD_S)
        for program in programs:
            supervision.start_program(self.stack(), program)

    def stack(self) -> supervision.Running:
        record = supervision.running(self.settings.home)
        assert record
        return record

    @contextmanager
    def fault(self, name: str, *, expected: Rung = "live", released: str = "") -> Iterator[Fault]:
        """Put what happens inside into the report as one fault."""
        fault = Fault(name=name, expected=expected, released=released)
        self.report.faults.append(fault)
        try:
            yield fault
        finally:
            fault.end = time.time()
        fault.outcome = fault.outcome or f"well again after {fault.end - fault.start:.1f} s"

    def wait_until_live_again(self, since: float) -> None:
        self.wait_for("answers from local_model", lambda: any(answer.served_by == "local_model" for answer in self.answers.since(since)), 60)
        fell = next(answer.at for answer in self.answers.since(since) if answer.served_by == "local_model")
        self.wait_for("live again", lambda: any(answer.served_by == "live" for answer in self.answers.since(fell + 0.5)), 180)

    def build_second(self) -> str:
        self.candidates_id = str(self.background.pop("candidates").wait()["candidates_id"])
        self.second = self.build(self.candidates_id)
        return self.second

    def promote_second(self) -> str:
        """Promote it; the snapshot that is bad on purpose is built meanwhile, because a promotion mostly waits for shoppers."""
        if self.data:
            return self.promote(self.second, "fresh days")
        candidates = at(self.settings.url("candidates")) / self.candidates_id
        with sabotage.mixed_up_model(candidates, at(self.settings.url("models"))) as bad:
            building = self.workshop.begin("run", "build_snapshot", "--candidates", bad, "--json")
            self.promote(self.second, "fresh days")
            self.worse = str(building.wait()["snapshot_id"])
        return self.second

    def promote_again(self) -> str:
        return self.promote(self.build(self.candidates_id), "built again after the rollback")

    def release_worse_ranking(self) -> str:
        return self.release_bad("a worse ranking is released", self.worse)

    def release_broken_candidates(self) -> str:
        with sabotage.upside_down_candidates(at(self.settings.url("candidates")) / self.candidates_id) as bad:
            snapshot = self.build(bad)
        return self.release_bad("broken candidates are released", snapshot)

    def release_bad(self, name: str, snapshot: str) -> str:
        """Release a snapshot that golden queries cannot find bad; the judge must, and until then it gets no more than its canary share."""
        before = self.status()["stable"]
        with self.fault(name, released=snapshot) as fault:
            ended = self.workshop.run("promote", snapshot, "--why", name, "--json", allowed=(0, 1))
            fault.outcome = f"{ended['outcome']}: {ended['why']}"
        self.promise(f"{name}: thrown out, and what is live stays live", ended["outcome"] == "rejected" and self.status()["stable"] == before, ended["why"])
        time.sleep(1.0)  # what was sent before the end has its answer by then
        answered = [answer for answer in self.answers.since(fault.start) if answer.at < fault.end and answer.served_by]
        tried = min((answer.at for answer in answered if answer.snapshot_id == snapshot), default=fault.start)
        trial = [answer for answer in answered if answer.at >= tried]
        share = max((float(stage["share"]) for stage in ended["stages"]), default=0.0)
        its = sum(answer.snapshot_id == snapshot for answer in trial)
        # Shoppers are drawn to arms by their ids, so the share of a few hundred answers scatters about the canary's share.
        most = share * len(trial) + 4 * math.sqrt(share * (1 - share) * len(trial))
        self.promise(f"{name}: it never gets more than its canary share", its <= most, f"{its} of {len(trial)} answers at a share of {share:.0%}")
        return fault.outcome

    def roll_back(self) -> str:
        """Roll back; what was started after the command ended must not carry the bad id."""
        bad, good = self.snapshots[-1], self.snapshots[-2]
        self.workshop.run("rollback", "--why", "the demo shows the way back", "--json")
        done = time.time()
        self.rolled_back = (bad, done)
        self.wait_for("a hundred answers after it", lambda: sum(bool(answer.served_by) for answer in self.answers.since(done)) >= 100, 60)
        return f"{good} answers again, {bad} is out"

    def sell_out(self) -> str:
        """Deliver today's description of the item that strangers see first: none is left. Nearline takes it out of the answers, without a new snapshot."""
        first, today = self.shown_to_strangers()[0], datetime.now(self.settings.zone).date()
        with gzip.open(self.raw / f"{self.days[-1]}" / "products.jsonl.gz", "rb") as file:
            whole = (line for line in file if f'"item_id":"{first}"'.encode() in line and line.endswith(b"}\n"))  # some lines are broken on purpose
            described = msgspec.json.decode(next(whole))
        folder = self.settings.home / "sold out" / f"{today}"
        folder.mkdir(parents=True)
        (folder / "products.jsonl").write_bytes(msgspec.json.encode({**described, "stock": 0, "valid_from": datetime.now(UTC)}) + b"\n")
        self.workshop.run("ingest", "--data", str(folder.parent), "--json")
        landed = time.monotonic()
        self.workshop.run("run", "nearline", "--once", "--json")
        self.wait_for("answers without it", lambda: first not in self.shown_to_strangers(), 30)
        outcome = f"{first} left the answers {time.monotonic() - landed:.1f} s after it was delivered as sold out, driver's start included"
        self.promise("an item that sells out is gone without a new snapshot", True, outcome)
        return outcome

    def shown_to_strangers(self) -> list[str]:
        answer = httpx.get(f"{self.settings.gateway_urls[0]}/v1/recommend", params={"user_id": "a stranger"}, timeout=5.0, trust_env=False)
        return [item["item_id"] for item in answer.json()["items"]]

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
        for _, path in files_below(at(self.settings.url("landing")) / "gateway"):
            with path.open("rb") as packed, gzip.open(packed, "rb") as file:
                for line in file:
                    lines += 1
                    seen.add(msgspec.json.decode(line)["event_id"])
        return len(seen) if len(seen) == lines else -lines

    def stop_shoppers(self) -> None:
        """Stop them, when they have not been; one request that was sent and has no record would be an answer that nobody looked at."""
        shoppers, self.shoppers = self.shoppers, None
        if not shoppers:
            return
        if shoppers.process.poll() is None:
            shoppers.process.terminate()
        tally = shoppers.wait()
        self.report.not_sent += int(tally["not_sent"])
        self.answers.new()
        asked, sent = sum(answer.endpoint != "events" for answer in self.answers.all), int(tally["sent"])
        self.promise("every request that was sent is accounted for", asked == sent, f"{sent} sent, {asked} with an outcome")

    def conclude(self) -> None:
        """Read what is promised of the whole out of the answers, the promotion log and the lake."""
        self.answers.new()
        every = self.report.answers = summarize(self.answers.all)
        self.promise("not one 5xx, empty or missing answer to a valid request", every.bad == 0 < every.answers, f"{every.answers} responses, {every.bad} bad")
        for fault in self.report.faults:
            fault.measure(self.answers.all)
            rungs = ", ".join(f"{rung} {count}" for rung, count in fault.by_rung.items())
            self.promise(f"{fault.name}: answers go on", fault.survived, f"{fault.requests} answers meanwhile ({rungs}), {fault.lost} lost")
        self.report.decisions = decisions(self.settings, since=min((answer.at for answer in self.answers.all), default=0.0))
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


def decisions(settings: Settings, since: float) -> list[Decision]:
    """Return what the promotion log says of the time since an instant (epoch seconds)."""
    what = {"canary": "canary {share:.0%}", "promoted": "promoted", "rejected": "rejected", "rolled_back": "rolled back"}
    found = []
    for path in glob(at(settings.url("promotions")), "[!.]*.json"):
        record = msgspec.json.decode(path.read_bytes())
        instant = datetime.fromisoformat(record["at"]).timestamp()
        if record["kind"] in what and instant >= since:
            found.append(Decision(instant, what[record["kind"]].format(share=record.get("share", 0.0)), record["snapshot_id"]))
    return found


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
    finished = glob(at(settings.url("candidates")), "[!.]*/lineage.json")
    if not finished:
        return {}
    newest = max(finished, key=lambda path: path.stat().st_mtime).parent
    products = lake.read("products", ["item_id", "title", "dt"]).sort_by("dt").to_pylist()
    titles = {row["item_id"]: row["title"] for row in products}
    with at_hand(newest) as lists_of:
        popular = pq.read_table(lists_of / "popular_items", filters=[("category", "=", ""), ("position", "<=", length)]).sort_by("position").to_pylist()
        lists = {"popular": [titles.get(row["item_id"], row["item_id"]) for row in popular]}
        for row in popular[:4]:
            item = row["item_id"]
            near = pq.read_table(lists_of / "item_candidates", filters=[("item_id", "=", item), ("position", "<=", length)]).sort_by("position").to_pylist()
            lists[f"near {titles.get(item, item)}"] = [titles.get(one["neighbor_id"], one["neighbor_id"]) for one in near]
    return lists
