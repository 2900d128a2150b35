"""What each rung is worth to the shoppers, by their true tastes, beside what its snapshot expects of it. Only a simulated shop can tell.

Makes its own days, trains on them and builds a snapshot with the real commands, then asks every rung of that snapshot for every shopper. An answer is worth
the clicks that the simulator's truth expects of it. Peers of the model: popularity, and item-kNN over the snapshot's own neighbour lists.

The shoppers stand for those who ask: accounts that came in the validation days, and as large a share of accounts that the snapshot does not know as there
were newcomers in those days.

    evershelf bench truth, or python -m benchmarks.truth --days 8 --seed 11 --home DIR (kept, and measured again when it is there)
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from rich.console import Console

from evershelf import lake
from evershelf.contracts.candidates import RECENCY, RECENT
from evershelf.contracts.rungs import RUNGS
from evershelf.demo.work import Workshop, clean_environment
from evershelf.errors import CommandFailed
from evershelf.pseudonyms import pseudonym
from evershelf.settings import load_settings
from evershelf.shops.shoppers import TRUTH, chances, load_truth
from evershelf.storage import local_path
from serving.gateway import slate
from serving.gateway.ladder import Ladder, LocalRanking, PopularItems, SnapshotCandidates, Source
from serving.gateway.question import Question, Ranked
from serving.stores.snapshot_store import SnapshotStore

DAYS, SEED, LAST_DAY = 30, 7, date(2026, 6, 28)
K = 10
RESAMPLES = 2000
# A rung answers what it can; the ones below answer the rest. `live` ranks with the same model as `local_model`, `stored` reads the same lists as `snapshot`.
LADDERS: dict[str, tuple[type[Source], ...]] = {
    "live": (LocalRanking, SnapshotCandidates, PopularItems),
    "stored": (SnapshotCandidates, PopularItems),
    "popular": (PopularItems,),
}
TWINS = {"live": ("live", "local_model"), "stored": ("stored", "snapshot"), "popular": ("popular",)}

Gains = npt.NDArray[np.float64]


def bench(days: int = DAYS, seed: int = SEED, home: Path | None = None) -> dict[str, Any]:
    """Return {"bench", "rungs": {rung: {"truth", "interval95", "expected", "error"}}, "ordered", "against": {peer: …}, …}; shares of what `live` is worth.

    Args:
        home: an installation to make and keep, or to measure again; default: one that is thrown away.
    """
    with tempfile.TemporaryDirectory() as aside:
        folder = (home or Path(aside)).absolute()
        environment = clean_environment({"EVERSHELF_HOME": str(folder), "EVERSHELF_SHOP__ADAPTER": "simulator"})
        if not (folder / "snapshots").is_dir():
            _make(folder, environment, days, seed)
        command = [sys.executable, "-m", "benchmarks.truth", "--measure", str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandFailed(f"The rungs could not be measured: {done.stderr[-2000:]}")
        return {"bench": "truth", "days": days, "seed": seed, **json.loads(done.stdout.splitlines()[-1])}


def _make(home: Path, environment: dict[str, str], days: int, seed: int) -> None:
    workshop = Workshop(environment=environment, logs=home / "logs", console=Console(stderr=True))
    first, raw = LAST_DAY - timedelta(days=days - 1), home / "raw"
    try:
        for name, command in {
            "raw days": ("simulate", "--out", str(raw), "--days", f"{days}", "--end", f"{LAST_DAY}", "--seed", f"{seed}"),
            "door": ("ingest", "--data", str(raw), "--json"),
            "lake": ("run", "lake_daily", "--from", f"{first}", "--to", f"{LAST_DAY}", "--landed", "--json"),
            "model": ("train", "--json"),
            "candidates": ("run", "candidates", "--json"),
            "snapshot": ("run", "build_snapshot", "--json"),
        }.items():
            with workshop.step(name):
                workshop.run(*command)
    finally:
        workshop.stop()


async def measure(home: Path) -> dict[str, Any]:
    """Ask every rung of the newest snapshot for every true shopper, the morning after its data."""
    started = time.monotonic()
    truth = load_truth(home / "raw" / TRUTH)
    store = SnapshotStore(max(local_path(load_settings().url("snapshots")).glob("2*"), key=lambda path: path.stat().st_mtime))
    morning = datetime.combine(date.fromisoformat(store.data_as_of) + timedelta(days=1), datetime.min.time(), UTC).timestamp() + 9 * 3600
    ladders = {name: Ladder([source() for source in sources]) for name, sources in LADDERS.items()}
    worth: dict[str, list[float]] = {name: [] for name in (*ladders, "item_knn")}
    came, newcomers = _who_came(store)
    known, weight = [], np.zeros(len(truth.user_ids))
    for row, user_id in enumerate(truth.user_ids):
        question = Question(store, "recommend", K, morning, pseudonym(str(user_id)))
        last = store.item(int(question.history.items[-1])).item_id if len(question.history.items) else None
        known.append(last is not None)
        weight[row] = not known[-1] or question.user in came
        answers = {name: (await ladder.answer(question, time.monotonic() + 60))[0] for name, ladder in ladders.items()}
        answers["item_knn"] = _nearest(question)
        for name, ranked in answers.items():
            shown = [store.item(number).item_id for number in slate.fill(question, ranked).numbers[:K].tolist()]
            worth[name].append(float(chances(truth, row, shown, last).sum()))
    gains, knows = {name: np.array(values) for name, values in worth.items()}, np.array(known)
    for group, share in ((knows, 1 - newcomers), (~knows, newcomers)):
        weight[group] *= share / max(weight[group].sum(), 1.0)
    expected = store.manifest.rung_quality
    rungs: dict[str, dict[str, Any]] = {}
    for name, gain in gains.items():
        true, interval = _ratio(gain, gains["live"], weight)
        for rung in TWINS.get(name, ()):
            error = round(expected[rung] / true - 1, 4)
            rungs[rung] = {"truth": true, "interval95": interval, "expected": expected[rung], "error": error}
    ordered = [rungs[rung]["truth"] for rung in RUNGS]
    return {
        "snapshot_id": store.snapshot_id,
        "shoppers": int((weight > 0).sum()),
        "newcomers": round(newcomers, 4),
        "clicks_per_answer": {name: round(float(gain @ weight), 4) for name, gain in gains.items()},
        "rungs": {rung: rungs[rung] for rung in RUNGS},
        "largest_error": max(abs(rung["error"]) for rung in rungs.values()),
        "ordered": ordered == sorted(ordered, reverse=True),
        "against": {peer: _difference(gains["live"], gains[peer], weight) for peer in ("popular", "item_knn")},
        "seconds": round(time.monotonic() - started, 1),
    }


def _who_came(store: SnapshotStore) -> tuple[set[str], float]:
    """Return the pseudonyms of the accounts that came in the validation days, and the share of them that had never done anything before."""
    split = date(1970, 1, 1) + timedelta(days=int(store.manifest.lineage["model"]["trained_before"]))

    def accounts(*filters: tuple[str, str, Any]) -> set[str]:
        users: set[str | None] = set(pc.unique(lake.read("events", ["user_id"], filters=list(filters))["user_id"]).to_pylist())
        return {user for user in users if user}

    came = accounts(("dt", ">=", split), ("type", "=", "impression"))
    did = accounts(("dt", "<", split), ("type", "in", ["click", "view", "cart", "purchase"]))
    return came, len(came - did) / len(came)


def _nearest(question: Question) -> Ranked:
    """Answer with item-kNN alone: the neighbours of the shopper's newest items, each item back counting less."""
    items = question.history.items[::-1][:RECENT].tolist()
    score: dict[int, float] = {}
    for back, item in enumerate(items):
        if near := question.store.neighbours(item):
            for number, similarity in zip(near.numbers().tolist(), near.values().tolist(), strict=True):
                score[number] = score.get(number, 0.0) + RECENCY**back * similarity
    best = sorted(score, key=lambda number: (-score[number], number))
    return question.allowed(Ranked(np.array(best, np.uint32), np.array([score[number] for number in best], np.float32)))


def _ratio(gain: Gains, live: Gains, weight: Gains) -> tuple[float, list[float]]:
    """Return the ratio of two weighted means over the same shoppers and its 95 % interval."""
    times = _times(len(live)) * weight
    edges = np.quantile((times @ gain) / (times @ live), (0.025, 0.975))
    return round(float((weight @ gain) / (weight @ live)), 4), [round(float(edge), 4) for edge in edges]


def _difference(live: Gains, other: Gains, weight: Gains) -> dict[str, Any]:
    """Return the weighted mean difference of clicks per answer and its 95 % interval."""
    difference, times = live - other, _times(len(live)) * weight
    low, high = np.quantile(times @ difference / times.sum(axis=1), (0.025, 0.975))
    return {"difference": round(float(weight @ difference), 4), "interval95": [round(float(low), 4), round(float(high), 4)], "wins": bool(low > 0)}


def _times(shoppers: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).multinomial(shoppers, np.full(shoppers, 1 / shoppers), size=RESAMPLES)


@click.command()
@click.option("--days", type=click.IntRange(4), default=DAYS, show_default=True, help="Days to simulate.")
@click.option("--seed", type=click.IntRange(0), default=SEED, show_default=True)
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Keep the installation here, and measure it again when it is there.")
@click.option("--measure", "only", type=click.Path(file_okay=False, path_type=Path), hidden=True)
def main(days: int, seed: int, home: Path | None, only: Path | None) -> None:
    """Print one JSON object."""
    if only:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    click.echo(json.dumps(asyncio.run(measure(only)) if only else bench(days, seed, home)))


if __name__ == "__main__":
    main()
