"""Seconds from a posted event to a changed answer at another gateway, at the default settings.

Peer: the two waits alone, as if all work took no time: a gateway ships its events every `gateway.ship_interval`, nearline makes a batch every
`nearline.interval`. Shoppers whom the snapshot does not know post one view to one gateway, at moments drawn over the whole interval; their answer from the
other one changes as soon as it knows of the view.
"""

import json
import os
import random
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any

import httpx

from benchmarks.paired import paired
from benchmarks.processes import answers, running
from evershelf.errors import CommandFailed
from evershelf.overlay import names
from evershelf.settings import load_settings
from evershelf.stack.ports import free_ports
from evershelf.stack.services import EVERSHELF
from evershelf.storage import local_path

PATIENCE = 180.0  # seconds for a process to become ready
SHOPPERS, GAP = 40, 9.7  # seconds from post to post, no divisor of the interval


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "p95"}: seconds.

    Raises:
        CommandFailed: there is no demo to measure on, or an answer did not change.
    """
    settings = load_settings()
    home = settings.home / "demo-simulator"
    if not list((home / "snapshots").glob("2*")):
        raise CommandFailed(f"There is no snapshot in {home}. Nothing was measured; run `CI=1 make demo` first.")
    waits = (settings.gateway.ship_interval + settings.nearline.interval).total_seconds()
    with tempfile.TemporaryDirectory() as aside, ExitStack() as stack:
        shared = {"EVERSHELF_HOME": str(home), "EVERSHELF_LANDING_URL": f"file://{aside}/landing", "EVERSHELF_OVERLAYS_URL": f"file://{aside}/overlays"}
        environment = os.environ | free_ports() | shared
        urls = []
        for name in ("bench-posts", "bench-asks"):
            port = free_ports()["EVERSHELF_GATEWAY__PORT"]
            own = {"EVERSHELF_GATEWAY__PORT": port, "EVERSHELF_GATEWAY__NAME": name, "EVERSHELF_GATEWAY__RUNGS": '["local_model", "snapshot", "popular"]'}
            urls.append(f"http://127.0.0.1:{port}")
            stack.enter_context(running((*EVERSHELF, "serve"), environment | own, answers(urls[-1]), PATIENCE))
        overlays = local_path(shared["EVERSHELF_OVERLAYS_URL"])
        stack.enter_context(running((*EVERSHELF, "run", "nearline"), environment, lambda: bool(names(overlays)), PATIENCE))
        posts, asks = (stack.enter_context(httpx.Client(base_url=url, trust_env=False)) for url in urls)
        _measure(posts, asks, 1, 5 * waits)  # a driver's first rows wait for its compiler
        took = _measure(posts, asks, SHOPPERS, 3 * waits)
    draws = [random.uniform(0, settings.gateway.ship_interval.total_seconds()) + random.uniform(0, settings.nearline.interval.total_seconds()) for _ in took]
    report = paired(bench="nearline", peer="the two waits alone", unit="s", rounds=list(zip(sorted(took), sorted(draws), strict=True)), digits=1)
    return report | {"p95": round(quantiles(took, n=20)[-1], 1)}


def _measure(posts: httpx.Client, asks: httpx.Client, shoppers: int, patience: float) -> list[float]:
    """Return, in the order of the changes, how long each of some shoppers' answers took to change."""
    item = asks.get("/v1/recommend", params={"user_id": "nobody"}).json()["items"][0]["item_id"]
    waiting: dict[str, float] = {}
    took: list[float] = []
    began, posted = time.monotonic(), 0
    while len(took) < shoppers:
        if posted < shoppers and time.monotonic() >= began + posted * GAP:
            user = f"bench-{os.getpid()}-{shoppers}-{posted}"
            event = {"event_id": user, "event_time": datetime.now(UTC).isoformat(), "type": "view", "user_id": user, "item_id": item}
            posts.post("/v1/events", json=[event]).raise_for_status()
            waiting[user] = time.monotonic()
            posted += 1
        changed = [user for user in waiting if asks.get("/v1/recommend", params={"user_id": user}).json()["served_by"] != "popular"]
        took += [time.monotonic() - waiting.pop(user) for user in changed]
        if waiting and time.monotonic() - min(waiting.values()) > patience:
            raise CommandFailed(f"{len(waiting)} answers did not change within {patience:.0f} s; {len(took)} did. Nothing can be said.")
        time.sleep(0.2)
    return took


if __name__ == "__main__":
    print(json.dumps(bench()))
