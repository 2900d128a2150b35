"""One gateway process without its HTTP: assigns each request to a snapshot, climbs down that snapshot's ladder, counts."""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from evershelf import overlay
from evershelf.contracts import EVENT_TYPES
from evershelf.free_text import masked_query
from evershelf.pseudonyms import pseudonym, shared_secret
from evershelf.settings import Settings
from evershelf.storage import at
from serving.errors import NoSourceAnswered, ServingError
from serving.gateway import requests, slate, why
from serving.gateway.answers import (
    MAX_EVENTS,
    MAX_USER_ID_BYTES,
    Accepted,
    Answer,
    Arm,
    Event,
    EventCounts,
    HoldWish,
    LandedEvent,
    OverlayStatus,
    RungStatus,
    Status,
    Tombstone,
    Why,
)
from serving.gateway.counters import Counters
from serving.gateway.following import Follower, Live, Loaded
from serving.gateway.journal import Journal
from serving.gateway.ladder import build_ladder
from serving.gateway.memory import AnswerMemory
from serving.gateway.overlays import Overlays, merged
from serving.gateway.question import Kind, Question, RecentEvent
from serving.gateway.recent import RecentEvents
from serving.gateway.requests import Refused
from serving.gateway.tombstones import Tombstones
from serving.promotion.log import PromotionLog
from serving.stores.redis_store import RedisReader
from serving.tf_serving.client import RankerClient

logger = logging.getLogger(__name__)

_SEND_EVERY = 1.0  # seconds between packets to StatsD
_LOOK_FOR_OVERLAYS = 1.0  # seconds at least: a new one comes once a minute
_VIEW = EVENT_TYPES.index("view")


class Gateway:
    """Everything behind the HTTP endpoints. Built and used on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.gateway
        self.home = settings.home / "gateway" / self.settings.name
        self.home.mkdir(parents=True, exist_ok=True)
        self._zone, self._currencies = settings.zone, frozenset(settings.shop.currencies)
        self._own_home = _claim(self.home, self.settings.name)
        self.admin_token = self.settings.admin_token.get_secret_value() or shared_secret("admin.token")
        self._ranker = RankerClient(f"{settings.model_server.host}:{settings.model_server.port}")
        self._reader = RedisReader(settings.redis)
        self.counters = Counters()
        self.recent = RecentEvents()
        self.tombstones = Tombstones(self.home / "forgotten.json")
        self.journal = Journal(self.home / "events", at(settings.url("landing"), patient=False), self.settings.name, self._gone)
        self.follower = Follower(
            self.home,
            PromotionLog(at(settings.url("promotions"), patient=False)),
            at(settings.url("snapshots"), patient=False),
            lambda version: build_ladder(version, self._ranker, self._reader, self.settings.rungs),
        )
        self.overlays = Overlays(
            overlay.folder(patient=False),
            settings.nearline.expires.total_seconds(),
            lambda: [loaded for name in self.follower.loaded if (loaded := self.follower.find(name))],
            self._gone,
        )
        self.memory = AnswerMemory(self.settings.remembered_answers)
        self._dropped = self.tombstones.known  # whose data this process no longer holds
        self._explaining = asyncio.Lock()  # explanations must not add up to a load
        self._started, self._started_at = time.monotonic(), datetime.now(UTC)
        self._deadline = self.settings.deadline.total_seconds()
        self._events = msgspec.json.Decoder(list[Event])
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        poll = self.settings.log_poll.total_seconds()
        await asyncio.to_thread(self.tombstones.start, poll)  # before the first answer
        await asyncio.to_thread(self.follower.start, poll)
        self.overlays.start(max(poll, _LOOK_FOR_OVERLAYS))
        forever = (self._reader.connect(), self._ship_forever(), self._send_forever(), self._drop_forever(poll))
        self._tasks = [asyncio.create_task(task) for task in forever]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.journal.close()
        await asyncio.to_thread(self.follower.stop)
        await asyncio.to_thread(self.overlays.stop)
        await asyncio.to_thread(self.tombstones.stop)
        await self._ranker.close()
        await self._reader.close()
        self._own_home.close()

    async def _ship_forever(self) -> None:
        while True:  # at once after a start: the process before may have left something
            await asyncio.to_thread(self.journal.ship)
            await asyncio.sleep(self.settings.ship_interval.total_seconds())

    async def _send_forever(self) -> None:
        while True:
            await asyncio.sleep(_SEND_EVERY)
            await self.counters.send()

    async def _drop_forever(self, poll: float) -> None:
        while True:
            await asyncio.sleep(poll)
            if self.tombstones.known is not self._dropped:
                await self._drop()

    def _gone(self, user: str | None) -> bool:
        return self.tombstones.known.covers(user)

    async def _drop(self) -> None:
        """Drop from memory what belongs to forgotten shoppers. Nothing asks for it any more: this is so that it is not there."""
        known, shoppers, answers = self.tombstones.known, self.recent.shoppers(), self.memory.answers()
        await asyncio.to_thread(self.overlays.drop)
        self.recent.drop(await asyncio.to_thread(lambda: [user for user in shoppers if known.covers(user)]))
        self.memory.drop(await asyncio.to_thread(lambda: [request_id for request_id, user in answers if known.covers(user)]))
        self._dropped = known

    @property
    def ready(self) -> bool:
        try:
            self.follower.live.assign("")
        except NoSourceAnswered:
            return False
        return True

    async def search(self, given: Mapping[str, str]) -> Answer:
        text, k = requests.query(given), requests.k(given)
        return await self._answer("search", given, k, required=False, text=text)

    async def recommend(self, given: Mapping[str, str]) -> Answer:
        k, category, items = requests.k(given), requests.category(given), requests.recent(given)
        now = time.time()
        seen = [RecentEvent(item, _VIEW, now) for item in items]
        return await self._answer("recommend", given, k, required=True, category=category, seen=seen)

    async def similar(self, given: Mapping[str, str]) -> Answer:
        item_id, k = requests.item_id(given), requests.k(given)
        return await self._answer("similar", given, k, required=False, item_id=item_id)

    async def _answer(
        self,
        kind: Kind,
        given: Mapping[str, str],
        k: int,
        *,
        required: bool,
        text: str = "",
        item_id: str = "",
        category: str = "",
        seen: Sequence[RecentEvent] = (),
    ) -> Answer:
        """Answer one request from the one snapshot that it is assigned to.

        Raises:
            Refused: the shopper's id is wrong.
            NoSourceAnswered: there is no snapshot, or neither its rungs nor last-good's popular list can be read.
        """
        started = time.monotonic()
        raw_user = requests.user_id(given, required=required)
        session = requests.session_id(given)
        request_id = os.urandom(16).hex()
        user = pseudonym(raw_user) if raw_user else None
        if self._gone(user):
            user = None  # a guest, who has no past
        recent = [*(merged(self.recent.of(user), self.overlays.recent(user)) if user else ()), *seen]
        self.counters.requests += 1
        live = self.follower.live
        assigned, arm = live.assign(user or session or request_id)
        unable: list[str] = []
        for loaded, its_arm in _and_last_good(live, assigned, arm):
            now = time.time()
            addition = self.overlays.of(loaded.snapshot_id, now)
            question = Question(loaded.store, kind, k, now, user, category, text, item_id, recent, addition)
            try:
                ranked, rung, skipped = await loaded.ladder.answer(question, started + self._deadline)
                filled = slate.fill(question, ranked)
                items = slate.show(question, filled, self.settings.explored_share)
                matched, understood = question.matched, question.understood(filled.numbers)
            except Exception:  # whatever is wrong with one snapshot, the next may be whole
                logger.exception("snapshot %s cannot answer", loaded.snapshot_id)
                self.counters.failed(loaded.snapshot_id, its_arm)
                unable.append(loaded.snapshot_id)
                continue
            milliseconds = (time.monotonic() - started) * 1000
            best = loaded.ladder.best
            self.counters.answered(loaded.snapshot_id, its_arm, kind, rung, milliseconds, empty=not items, skipped=skipped, best=best)
            quality = loaded.store.manifest.rung_quality[rung]
            age = round(now - addition.made_at, 3) if addition else None
            answer = Answer(request_id, rung, loaded.snapshot_id, its_arm, loaded.store.data_as_of, age, quality, matched, items, skipped, understood)
            try:
                if not self._gone(user):  # who may have been forgotten just now
                    self.memory.add(question, answer, milliseconds, unable)
            except Exception:  # what is only for `evershelf why` must not cost a shopper the answer
                logger.exception("answer %s is not remembered", request_id)
            return answer
        raise NoSourceAnswered(
            f"Neither snapshot {assigned.snapshot_id} nor last-good can be read. Look at /v1/status and the disk, then start this gateway again."
        )

    async def why(self, request_id: str) -> Why:
        """Explain a recent answer.

        Raises:
            Refused: this gateway did not give it, or has forgotten it.
        """
        answered = self.memory.find(request_id)
        if answered is None or self._gone(answered.user):
            raise Refused(
                404,
                "not_remembered",
                f"Gateway {self.settings.name} does not know the answer {request_id[:64]!r}. It started at {self._started_at:%Y-%m-%d %H:%M:%S} UTC and keeps "
                f"the last {self.memory.most} answers.",
            )
        async with self._explaining:
            addition = self.overlays.of(answered.snapshot_id, time.time())
            return await why.explain(request_id, answered, self.follower.find(answered.snapshot_id), addition, self.settings.name)

    async def accept(self, body: bytes) -> Accepted:
        """Take events: all of them on disk, or none acknowledged. A forgotten shopper's are acknowledged like any other, and not kept.

        Raises:
            Refused: an event breaks the contract; names the place.
            OSError: the disk does not take them.
        """
        try:
            events = self._events.decode(body)
        except msgspec.ValidationError as error:
            raise Refused(400, "invalid_event", f"{error}. None of the events was taken.") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, "invalid_json", f"The body is not a JSON list of events: {error}. None was taken.") from None
        if len(events) > MAX_EVENTS:
            raise Refused(413, "too_many_events", f"The body holds {len(events)} events; allowed are {MAX_EVENTS}. None was taken.")
        for place, event in enumerate(events):
            self._check(place, event)
        received_at = datetime.now(UTC)
        landed = [event for event in (_landed(event, received_at) for event in events) if not self._gone(event.user_id)]
        if landed:
            await self.journal.append(str(received_at.astimezone(self._zone).date()), [msgspec.json.encode(event) for event in landed])
        for event in events:
            self.counters.reported(event.snapshot_id, event.type)
        for event in landed:
            if event.user_id and event.item_id and not self._gone(event.user_id):  # who may have been forgotten just now
                self.recent.add(event.user_id, event.type, event.item_id, event.event_time.timestamp())
        self.counters.accepted(len(landed))
        return Accepted(len(events))

    def _check(self, place: int, event: Event) -> None:
        """Check what a type cannot say."""
        try:
            event.event_time.astimezone(UTC)
        except OverflowError:
            raise _refused_event(place, "event_time", "is outside the years 1 to 9999 in UTC") from None
        if event.currency is not None and event.currency not in self._currencies:
            raise _refused_event(place, "currency", f"is {event.currency[:20]!r}; allowed are {', '.join(sorted(self._currencies))}")
        if event.user_id is not None and len(event.user_id.encode()) > MAX_USER_ID_BYTES:
            raise _refused_event(place, "user_id", f"has more than {MAX_USER_ID_BYTES} bytes")
        if event.type == "search" and not event.query:
            raise _refused_event(place, "query", "is missing; a search needs it")
        if event.type != "search" and not event.item_id:
            raise _refused_event(place, "item_id", f"is missing; an event of type {event.type} needs it")

    async def forget(self, body: bytes) -> Status:
        try:
            names = msgspec.json.decode(body, type=list[Tombstone])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, "invalid_json", f"{error}. The body must be a list of tombstones, 64 hex digits each; nobody was forgotten.") from None
        await asyncio.to_thread(self.tombstones.add, names)
        await self._drop()
        return self.status()

    async def follow(self) -> Status:
        await asyncio.to_thread(self.follower.follow, now=True)
        return self.status()

    async def hold(self, body: bytes) -> Status:
        try:
            wish = msgspec.json.decode(body, type=HoldWish)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, "invalid_json", f'{error}. The body must be {{"snapshot_id": ..., "epoch": ..., "why": ...}}; nothing was changed.') from None
        try:
            await asyncio.to_thread(self.follower.hold, wish.snapshot_id, wish.epoch, wish.why)
        except ServingError as error:
            raise Refused(409, "not_held", str(error)) from None
        return self.status()

    def status(self) -> Status:
        live = self.follower.live
        answering = (live.held if live.hold else live.stable) or live.last_good
        rungs: dict[str, RungStatus] = {}
        for source, breaker in answering.ladder.rungs if answering else ():
            rungs[source.name] = RungStatus(breaker.state, self.counters.rungs[source.name])
        return Status(
            name=self.settings.name,
            seq=live.log.seq,
            stable=live.log.stable,
            canary=live.log.canary,
            canary_share=live.log.canary_share,
            last_good=live.last_good.snapshot_id if live.last_good else None,
            held=live.hold,
            loaded=self.follower.loaded,
            problems=self.follower.problems | self.tombstones.problems | self.overlays.problems,
            uptime_s=round(time.monotonic() - self._started, 3),
            rungs=rungs,
            answers=self.counters.status(),
            requests=self.counters.requests,
            shed=self.counters.shed,
            events=EventCounts(self.counters.events_accepted, self.journal.shipped, self.journal.waiting, self.counters.events_shed),
            forgotten=len(self.tombstones.known),
            overlay=self._overlay_status(),
        )

    def _overlay_status(self) -> OverlayStatus | None:
        known = self.overlays.newest
        return OverlayStatus(round(time.time() - known.made_at, 3), len(known.changes), len(known.shoppers)) if known else None


def _and_last_good(live: Live, assigned: Loaded, arm: Arm) -> list[tuple[Loaded, Arm]]:
    """Return the assigned snapshot, and last-good behind it: not an answer of two, but another whole answer when the first cannot be read."""
    return [(assigned, arm)] if live.last_good in (None, assigned) else [(assigned, arm), (live.last_good, "last_good")]


def _claim(home: Path, name: str) -> BinaryIO:
    """Lock a gateway's folder for the life of this process.

    Raises:
        ServingError: another process has it.
    """
    lock = (home / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ServingError(f"A gateway named {name} runs already on {home}. This one was not started; give it a name of its own with --name.") from None
    return lock


def _refused_event(place: int, name: str, problem: str) -> Refused:
    return Refused(400, "invalid_event", f"The {name} of event {place} {problem} - at `$[{place}].{name}`. None of the events was taken.")


def _landed(event: Event, received_at: datetime) -> LandedEvent:
    fields = msgspec.structs.asdict(event)
    fields["event_time"] = event.event_time.astimezone(UTC)
    if event.user_id:
        fields["user_id"] = pseudonym(event.user_id)
    if event.query:
        fields["query"] = masked_query(event.query)
    return LandedEvent(**fields, received_at=received_at)
