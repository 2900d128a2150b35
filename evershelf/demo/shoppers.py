"""Simulated shoppers: an open-loop load on the gateways by shoppers who act on what they are shown (`evershelf shoppers`).

Requests are sent at random instants, whether or not earlier ones were answered. On a machine that is too busy for that fewer are sent: what is more than a
second behind is not sent at all and counted, what is more than 0.1 s behind is sent and counted, and latency is from the sending. Shoppers with a truth click
by their true taste, the others now and then on something near the top; some of what is clicked goes into the cart, some of that is bought, and all of it is
posted back as events. So a better answer earns more.
`python -m evershelf.demo.shoppers` is the same as a process that the demo starts: it reads its plan as a line of standard input, because raw user ids
belong on no disk, and ends on SIGTERM too, or when its standard input ends because its starter is gone.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.demo.answers import Answer
from evershelf.shops.shoppers import CART, PURCHASE, TASTE_WEIGHT, Truth, carted_and_bought, chances, load_truth

TIMEOUT = 5.0  # seconds; longer is no answer
AT_ONCE = 200  # shoppers who wait or act; more do not come
LATE = 0.1  # seconds; counted
BEHIND = 1.0  # seconds; who should have come earlier than that and could not does not come any more
NEWCOMERS = 0.15  # share of requests by shoppers whom no snapshot knows


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the shoppers do.

    Attributes:
        urls: gateways, taken in turns.
        answers: file for one JSON line per answer.
        rate: requests a second, on average.
        truth: folder of the simulator's truth; its shoppers, items and queries are used then.
        users, items, queries: what they ask with when there is no truth; raw user ids, as a shop's front end has them.
        seconds, requests: where it ends; never, when both are None.
    """

    urls: tuple[str, ...]
    answers: str
    rate: float
    truth: str | None = None
    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    seed: int = 7
    seconds: float | None = None
    requests: int | None = None


@dataclass(slots=True)
class Tally:
    """How the load went: requests that were due, those that were sent, those of them that were sent late, and those that this machine was too busy for."""

    due: int = 0
    sent: int = 0
    late: int = 0
    not_sent: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Shopper:
    """Somebody who comes.

    `row` is the place of the tastes in the truth, None without one; `last` what was clicked last, or looked at elsewhere before; `owned` and `left` what was
    bought lately and what is left of the week's budget, as `carted_and_bought` takes them.
    """

    user_id: str
    row: int | None
    session: str
    last: str | None = None
    owned: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    left: float = 0.0


class Crowd:
    """All shoppers of one process."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient) -> None:
        self._plan, self._client = plan, client
        self._random, self._numbers = random.Random(plan.seed), np.random.default_rng(plan.seed)
        self._truth: Truth | None = load_truth(Path(plan.truth)) if plan.truth else None
        self._users = self._truth.user_ids.tolist() if self._truth else plan.users
        self._items = self._truth.item_ids.tolist() if self._truth else plan.items
        self._file = Path(plan.answers).open("ab")  # noqa: SIM115 - open for as long as the crowd shops
        self._encode = msgspec.json.Encoder().encode
        self._at_work: set[asyncio.Task[None]] = set()
        self._known: dict[str, Shopper] = {}
        self.tally = Tally()

    async def shop(self, stop: asyncio.Event) -> None:
        """Send requests until told to stop or as many as planned, then wait for the answers that are still due."""
        started = due = time.monotonic()
        ends = started + self._plan.seconds if self._plan.seconds else None
        while not stop.is_set() and (self._plan.requests is None or self.tally.due < self._plan.requests):
            due += self._random.expovariate(self._plan.rate)
            if ends and due > ends:
                break
            self.tally.due += 1
            if time.monotonic() - due > BEHIND or len(self._at_work) >= AT_ONCE:
                self.tally.not_sent += 1
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0.001, due - time.monotonic()))
                self.tally.sent += 1
                self.tally.late += time.monotonic() - due > LATE
                task = asyncio.create_task(self._visit())
                self._at_work.add(task)
                task.add_done_callback(self._left)
            if len(self._at_work) >= AT_ONCE:
                await asyncio.sleep(0.001)  # or nobody could ever finish
            self.tally.seconds = time.monotonic() - started
        await asyncio.gather(*self._at_work, return_exceptions=True)
        self._file.close()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        if not task.cancelled() and (mistake := task.exception()):
            traceback.print_exception(mistake)  # its request is missing among the answers, and the demo finds that

    async def _visit(self) -> None:
        draw, shopper = self._random.random(), self._somebody()
        if draw < 0.55:
            endpoint, parameters = "recommend", {"user_id": shopper.user_id}
        elif draw < 0.8:
            endpoint, parameters = "search", {"q": self._query(shopper), "user_id": shopper.user_id}
        else:
            looked_at = shopper.last or str(self._random.choice(self._items))
            endpoint, parameters = "similar", {"item_id": looked_at, "user_id": shopper.user_id}
        base = self._plan.urls[self.tally.sent % len(self._plan.urls)]
        answer, body = await self._ask(endpoint, "GET", f"{base}/v1/{endpoint}", params=parameters)
        if not answer.good:
            self._record(answer)
            return
        worth, taken = self._choose(shopper, [item["item_id"] for item in body["items"]], parameters.get("item_id", shopper.last))
        events, revenue = self._act(shopper, parameters, body, taken)
        self._record(msgspec.structs.replace(answer, worth=worth, clicks=len(taken), revenue=round(revenue, 2)))
        self._record((await self._ask("events", "POST", f"{base}/v1/events", json=events))[0])

    def _somebody(self) -> Shopper:
        row = self._random.randrange(len(self._users))
        if self._random.random() < NEWCOMERS:  # somebody with tastes like anybody's, whom nobody has seen before
            return self._shopper(f"newcomer-{self._uuid()}", row)
        user = self._users[row]
        if user not in self._known:
            self._known[user] = self._shopper(user, row)
        return self._known[user]

    def _shopper(self, user: str, row: int) -> Shopper:
        # A visit's name must not give the shopper away: unlike `user_id` it is stored as it is.
        if not self._truth:
            return Shopper(user, None, self._uuid())
        liked = TASTE_WEIGHT * self._truth.item_vectors @ self._truth.shopper_vectors[row] + self._numbers.gumbel(size=len(self._items))
        last = self._items[int(liked.argmax())]
        return Shopper(user, row, self._uuid(), last, self._truth.owned[row], float(self._truth.budgets[row]))

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128)))

    def _query(self, shopper: Shopper) -> str:
        if self._truth and shopper.row is not None:
            return str(self._numbers.choice(self._truth.queries[shopper.row]))
        return self._random.choice(self._plan.queries)

    def _choose(self, shopper: Shopper, shown: list[str], last: str | None) -> tuple[float | None, list[int]]:
        """Return the true expected clicks on what is shown, when they are known, and the places (from 0) that the shopper clicks."""
        if self._truth and shopper.row is not None:
            chance = chances(self._truth, shopper.row, shown, last)
            return round(float(chance.sum()), 4), np.flatnonzero(self._numbers.random(len(shown)) < chance).tolist()
        return None, [place for place in range(len(shown)) if self._random.random() < 0.1 * 0.8**place]

    def _act(self, shopper: Shopper, parameters: dict[str, str], body: dict[str, Any], taken: list[int]) -> tuple[list[dict[str, Any]], float]:
        """Return what a shopper does with an answer, as events (sees all of it, clicks and views some, may buy some), and what that earns."""
        shown = body["items"]
        served = {
            "user_id": shopper.user_id,
            "session_id": shopper.session,
            "event_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": body["request_id"],
            "snapshot_id": body["snapshot_id"],
            "rung": body["served_by"],
            "arm": body["arm"],
        }
        if "q" in parameters:
            served["query"] = parameters["q"]
        slate = {"slate": [item["item_id"] for item in shown]}
        events, revenue = [{**served, **slate, **self._event("impression", item)} for item in shown], 0.0
        carted, bought = self._want(shopper, [shown[place]["item_id"] for place in taken])
        for item in (shown[place] for place in taken):
            shopper.last = item["item_id"]
            money = {"quantity": 1, "price": item["price"], "currency": item["currency"]}
            events += [{**served, **self._event(kind, item)} for kind in ("click", "view")]
            events += [{**served, **self._event("cart", item), **money}] if item["item_id"] in carted else []
            if item["item_id"] in bought:
                events.append({**served, **self._event("purchase", item), **money})
                revenue += item["price"] or 0.0
        return events, revenue

    def _want(self, shopper: Shopper, clicked: list[str]) -> tuple[list[str], list[str]]:
        """Return what of the clicked items goes into the cart, and what of that is bought."""
        if self._truth and shopper.row is not None:
            carted, bought, shopper.owned, shopper.left = carted_and_bought(self._truth, self._numbers, shopper.owned, shopper.left, clicked)
            return carted, bought
        carted = [item for item in clicked if self._random.random() < CART]
        return carted, [item for item in carted if self._random.random() < PURCHASE]

    def _event(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        return {"event_id": self._uuid(), "type": kind, "item_id": item["item_id"], "position": item["position"], "propensity": item["propensity"]}

    async def _ask(self, endpoint: str, method: str, url: str, **more: Any) -> tuple[Answer, dict[str, Any]]:
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
        return answer, body

    def _record(self, answer: Answer) -> None:
        self._file.write(self._encode(answer) + b"\n")
        self._file.flush()


async def run(plan: Plan, *, attached: bool = False) -> Tally:
    """Let a crowd shop until it has done what was planned, or this process is asked to end.

    Args:
        attached: end also when standard input ends.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for asked in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(asked, stop.set)
    if attached:
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else stop.set())
    # An idle connection is left before the gateway closes it (after 5 s), or a request could be sent into one that is just being closed.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=100, keepalive_expiry=1.0)
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=limits) as client:
        crowd = Crowd(plan, client)
        await crowd.shop(stop)
    if attached:
        loop.remove_reader(sys.stdin.fileno())
    return crowd.tally


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    print(json.dumps(asdict(asyncio.run(run(plan, attached=True)))))
