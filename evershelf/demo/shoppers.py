"""Simulated shoppers: an open-loop load on the gateways, as a process of its own.

Requests are sent at random instants, whether or not earlier ones were answered. On a machine that is too busy for that fewer are sent, never later ones: a
slow answer is always the gateway's. Shoppers with a truth click by their taste, the others now and then on something near the top; what they do is posted
back as events.
`python -m evershelf.demo.shoppers PLAN` ends on SIGTERM, or when its standard input ends because its starter is gone.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from evershelf.demo.answers import Answer
from evershelf.shops.shoppers import Truth, clicked, load_truth

TIMEOUT = 5.0  # seconds; longer is no answer
AT_ONCE = 200  # shoppers who wait or act; more do not come
NEWCOMERS = 0.15  # share of requests by shoppers whom no snapshot knows


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the shoppers do.

    Attributes:
        urls: gateways, taken in turns.
        answers: file for one JSON line per answer.
        rate: requests a second, on average.
        users, items, queries: what they ask with; raw user ids, as a shop's front end has them.
        truth: folder of the simulator's truth, or None.
    """

    urls: tuple[str, ...]
    answers: str
    rate: float
    users: tuple[str, ...]
    items: tuple[str, ...]
    queries: tuple[str, ...]
    truth: str | None = None
    seed: int = 7


class Crowd:
    """All shoppers of one process."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient) -> None:
        self._plan, self._client = plan, client
        self._random, self._numbers = random.Random(plan.seed), np.random.default_rng(plan.seed)
        self._truth: Truth | None = load_truth(Path(plan.truth)) if plan.truth else None
        self._row = {str(user): row for row, user in enumerate(self._truth.user_ids)} if self._truth else {}
        self._file = Path(plan.answers).open("ab")  # noqa: SIM115 - open for as long as the crowd shops
        self._encode = msgspec.json.Encoder().encode
        self._at_work: set[asyncio.Task[None]] = set()
        self._sessions: dict[str, str] = {}
        self._sent = 0

    async def shop(self, stop: asyncio.Event) -> None:
        """Send requests until told to stop, then wait for the answers that are still due."""
        due = time.monotonic()
        while not stop.is_set():
            due = max(due, time.monotonic() - 1.0) + self._random.expovariate(self._plan.rate)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.001, due - time.monotonic()))
            if len(self._at_work) < AT_ONCE:
                task = asyncio.create_task(self._visit())
                self._at_work.add(task)
                task.add_done_callback(self._at_work.discard)
        await asyncio.gather(*self._at_work)
        self._file.close()

    async def _visit(self) -> None:
        draw, user = self._random.random(), self._somebody()
        if draw < 0.55:
            endpoint, parameters = "recommend", {"user_id": user}
        elif draw < 0.8:
            endpoint, parameters = "search", {"q": self._query(user), "user_id": user}
        else:
            endpoint, parameters = "similar", {"item_id": self._random.choice(self._plan.items), "user_id": user}
        self._sent += 1
        base = self._plan.urls[self._sent % len(self._plan.urls)]
        body = await self._ask(endpoint, "GET", f"{base}/v1/{endpoint}", params=parameters)
        if body and body.get("items"):
            events = self._act(user, endpoint, parameters, body)
            await self._ask("events", "POST", f"{base}/v1/events", json=events)

    def _somebody(self) -> str:
        return f"newcomer-{uuid.UUID(int=self._random.getrandbits(128))}" if self._random.random() < NEWCOMERS else self._random.choice(self._plan.users)

    def _session(self, user: str) -> str:
        """Return a visit's name, which must not give the shopper away: unlike `user_id` it is stored as it is."""
        return self._sessions.setdefault(user, str(uuid.uuid4()))

    def _query(self, user: str) -> str:
        if self._truth and user in self._row:
            return str(self._numbers.choice(self._truth.queries[self._row[user]]))
        return self._random.choice(self._plan.queries)

    def _act(self, user: str, endpoint: str, parameters: dict[str, str], body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what a shopper does with an answer: sees all of it, clicks some, views what was clicked."""
        shown = body["items"]
        ids = [item["item_id"] for item in shown]
        if self._truth and user in self._row:
            taken = clicked(self._truth, self._numbers, self._row[user], ids, parameters.get("item_id"))
        else:
            taken = [item for place, item in enumerate(ids) if self._random.random() < 0.1 * 0.8**place]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        served = {
            "user_id": user,
            "session_id": self._session(user),
            "event_time": now,
            "request_id": body["request_id"],
            "snapshot_id": body["snapshot_id"],
            "rung": body["served_by"],
            "arm": body["arm"],
        }
        if endpoint == "search":
            served["query"] = parameters["q"]
        slate = {"slate": ids}
        places = {item["item_id"]: item for item in shown}
        events = [{**served, **slate, **self._event("impression", item)} for item in shown]
        events += [{**served, **self._event(kind, places[item])} for item in taken for kind in ("click", "view")]
        return events

    def _event(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        return {
            "event_id": str(uuid.UUID(int=self._random.getrandbits(128))),
            "type": kind,
            "item_id": item["item_id"],
            "position": item["position"],
            "propensity": item["propensity"],
        }

    async def _ask(self, endpoint: str, method: str, url: str, **more: Any) -> dict[str, Any] | None:
        body: dict[str, Any] = {}
        status, error, sent = 0, "", time.time()
        try:
            response = await self._client.request(method, url, **more)
            status = response.status_code
            body = response.json()
            if not response.is_success:
                error = response.text[:200]
        except (httpx.HTTPError, ValueError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        answer = Answer(
            at=sent,
            seconds=time.time() - sent,
            endpoint=endpoint,
            status=status,
            items=int(body.get("accepted", 0)) if endpoint == "events" else len(body.get("items", ())),
            served_by=str(body.get("served_by", "")),
            snapshot_id=str(body.get("snapshot_id", "")),
            arm=str(body.get("arm", "")),
            error=error,
        )
        self._file.write(self._encode(answer) + b"\n")
        self._file.flush()
        return body if answer.good else None


async def _main(plan: Plan) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else stop.set())
    # An idle connection is left before the gateway closes it (after 5 s), or a request could be sent into one that is just being closed.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=100, keepalive_expiry=1.0)
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=limits) as client:
        await Crowd(plan, client).shop(stop)
    loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    given = Path(sys.argv[1])
    plan = msgspec.json.decode(given.read_bytes(), type=Plan)
    given.unlink()  # raw user ids belong to the shop's front end and stay in its memory
    asyncio.run(_main(plan))
