"""The ladder: five sources of answers, best first. The first that answers within its share of the deadline wins; why better ones did not is told."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np

from evershelf.contracts.candidates import NEAR_WEIGHT
from evershelf.contracts.rungs import Rung
from serving.errors import ModelServerError, NoSourceAnswered, SourceUnavailable
from serving.gateway.answers import Skipped
from serving.gateway.question import NOTHING, Question, Ranked, newest_items
from serving.stores import layout
from serving.stores.layout import Floats, ItemList, Numbers
from serving.stores.redis_store import RedisReader
from serving.tf_serving.client import RankerClient

logger = logging.getLogger(__name__)

# How much fitting the words, the item or the newest items counts beside the model's score, both scaled to 0..1: a search must stay a search.
_FIT_WEIGHT = {"search": 4.0, "similar": 1.0, "recommend": NEAR_WEIGHT}
_RRF = 60.0  # Cormack, Clarke, Buettcher 2009: reciprocal rank fusion
_LIST_WEIGHT = 1.0
_FRESH_NEIGHBOURS = 3  # newest items, not yet in the snapshot, whose neighbours join the stored list


class NothingToSay(SourceUnavailable):
    """The source works but has nothing for this request; its breaker does not count it."""


class Source(Protocol):
    """One rung. `share` is the part of the remaining budget that it may use; None when it does not wait for anybody."""

    name: ClassVar[Rung]
    share: ClassVar[float | None]

    async def rank(self, question: Question, timeout: float) -> Ranked:
        """Return items, best first.

        Raises:
            SourceUnavailable: it cannot; the ladder continues.
        """


class LiveRanking:
    """The model server ranks the retrieved candidates."""

    name: ClassVar[Rung] = "live"
    share: ClassVar[float | None] = 0.6

    def __init__(self, client: RankerClient, version: int) -> None:
        self._client, self._version = client, version

    async def rank(self, question: Question, timeout: float) -> Ranked:
        _check_rankable(question)
        try:
            scores, echoed = await self._client.rank(self._version, question.inputs, timeout)
        except ModelServerError as error:
            logger.info("%s", error)  # shoppers need not know where the model server is
            raise SourceUnavailable("the model server did not answer") from None
        if echoed != self._version:  # an answer never mixes two snapshots
            raise SourceUnavailable(f"the model server answered with version {echoed} instead of {self._version}")
        return blended(question, scores[0])


class LocalRanking:
    """The same ranker in this process."""

    name: ClassVar[Rung] = "local_model"
    share: ClassVar[float | None] = None

    async def rank(self, question: Question, timeout: float) -> Ranked:
        _check_rankable(question)
        return blended(question, question.store.rank(question.inputs))


class StoredCandidates:
    """The snapshot's lists from the replicated store."""

    name: ClassVar[Rung] = "stored"
    share: ClassVar[float | None] = 0.6

    def __init__(self, reader: RedisReader) -> None:
        self._reader = reader

    async def rank(self, question: Question, timeout: float) -> Ranked:
        keys = list_keys(question)
        values = await self._reader.get(question.store.snapshot_id, keys)
        if question.kind == "search" and values[0] is None:
            raise NothingToSay("no list is stored for this query")
        return _from_lists(question, values)


class SnapshotCandidates:
    """The same lists from this gateway's own disk."""

    name: ClassVar[Rung] = "snapshot"
    share: ClassVar[float | None] = None

    async def rank(self, question: Question, timeout: float) -> Ranked:
        keys = list_keys(question)
        return _from_lists(question, [question.store.get(key) for key in keys])


class PopularItems:
    """The same for everyone."""

    name: ClassVar[Rung] = "popular"
    share: ClassVar[float | None] = None

    async def rank(self, question: Question, timeout: float) -> Ranked:
        return question.popular


_NOBODY = "nothing is known of this shopper"
_NO_MATCH = "nothing matches what was asked for"


def _check_rankable(question: Question) -> None:
    """Raise NothingToSay when the ranker would only guess."""
    if question.kind == "recommend" and not question.inputs["history_items"].any():
        raise NothingToSay(_NOBODY)
    if not question.matched:
        raise NothingToSay(_NO_MATCH)
    if question.kind == "search" and not question.inputs["query_words"].any() and not question.inputs["history_items"].any():
        raise NothingToSay("the model knows neither the shopper nor the words")
    if not question.inputs["candidates"].any():
        raise NothingToSay("the model knows none of the candidates")


def blended(question: Question, scores: Floats) -> Ranked:
    """Order the candidates by the model's score and how well they fit; what the model does not know comes as if it scored lowest."""
    numbers, fits = question.candidates
    scores = scores[: len(numbers)]
    known = question.inputs["candidates"][0, : len(numbers)] > 0
    if not np.isfinite(scores[known]).all():
        raise SourceUnavailable("the model's scores are not finite numbers")
    low, high = float(scores[known].min()), float(scores[known].max())
    scaled = np.where(known, (scores - low) / max(high - low, 1e-9), 0.0)
    total = (scaled + _FIT_WEIGHT[question.kind] * fits).astype(np.float32)
    total[~known] -= 1e-3  # below a known candidate that fits as well
    order = np.argsort(-total, kind="stable")
    return Ranked(numbers[order], total[order])


def list_keys(question: Question) -> list[bytes]:
    """Return the entries of the store that answer a question; of a stored shopper the shopper's own first.

    Raises:
        NothingToSay: there cannot be any.
    """
    if not question.matched:
        raise NothingToSay(_NO_MATCH)
    match question.kind:
        case "search":
            return [layout.query_key(question.normalized)]
        case "similar":
            assert question.number is not None  # it matched
            return [layout.neighbours_key(question.number)]
        case "recommend":
            history = question.history
            fresh = newest_items(history.items[len(history.items) - history.fresh :])[:_FRESH_NEIGHBOURS]
            keys = [layout.user_key(question.user)] if question.stored_user and question.user else []
            keys += [layout.neighbours_key(number) for number in fresh]
            if not keys:
                raise NothingToSay(_NOBODY)
            return keys


def _from_lists(question: Question, values: Sequence[bytes | None]) -> Ranked:
    """Merge what is stored under `list_keys` into one order."""
    lists: list[Numbers] = []
    match question.kind:
        case "search":
            lists = [question.lexical.numbers, *(found.numbers() for found in _decoded(values))]
        case "similar":
            for found in _decoded(values):
                return _or_nothing(question.allowed(Ranked(found.numbers(), found.values())))
        case "recommend":
            rest = list(values)
            if question.stored_user and rest:
                stored = rest.pop(0)
                lists = [layout.decode_user(stored).candidates.numbers()] if stored else []
            lists += [found.numbers() for found in _decoded(rest)]
    return _or_nothing(question.allowed(fused(lists)))


def _decoded(values: Sequence[bytes | None]) -> list[ItemList]:
    return [layout.decode_list(value) for value in values if value]


def _or_nothing(ranked: Ranked) -> Ranked:
    if not len(ranked.numbers):
        raise NothingToSay("the stored lists hold nothing that can be shown")
    return ranked


def fused(lists: Sequence[Numbers]) -> Ranked:
    """Merge ordered lists by reciprocal rank."""
    lists = [numbers for numbers in lists if len(numbers)]
    if not lists:
        return NOTHING
    everything = np.concatenate(lists)
    worth = np.concatenate([_LIST_WEIGHT / (_RRF + np.arange(1, len(numbers) + 1)) for numbers in lists]).astype(np.float32)
    if len(lists) == 1:
        return Ranked(everything, worth)
    numbers, first, place = np.unique(everything, return_index=True, return_inverse=True)
    total = np.bincount(place, worth).astype(np.float32)
    order = np.lexsort((first, -total))
    return Ranked(numbers[order], total[order])


@dataclass(slots=True)
class Breaker:
    """Spares a source that keeps failing: after `failures_allowed` in a row it rests, then one request tries it."""

    failures_allowed: int = 5
    shortest_rest: float = 0.5  # seconds; doubles with every failed probe
    longest_rest: float = 5.0
    _failures: int = 0
    _rest: float = 0.0
    _until: float = field(default=0.0)
    _probing: bool = False

    @property
    def state(self) -> Literal["closed", "open"]:
        return "closed" if self._failures < self.failures_allowed else "open"

    def allows(self, now: float) -> bool:
        """Return whether the source may be asked; when it rested long enough, one caller is let through and must report back."""
        if self._failures < self.failures_allowed:
            return True
        if self._probing or now < self._until:
            return False
        self._probing = True
        return True

    def worked(self) -> None:
        self._failures, self._rest, self._probing = 0, 0.0, False

    def untried(self) -> None:
        """Take back what `allows` gave: whether the source works was not found out, so the next request may probe it."""
        self._probing = False

    def failed(self, now: float) -> None:
        self._failures += 1
        self._probing = False
        if self._failures >= self.failures_allowed:
            self._rest = min(max(self._rest * 2, self.shortest_rest), self.longest_rest)
            self._until = now + self._rest


class Ladder:
    """The rungs of one snapshot, each with a breaker of its own: a canary's trouble never costs stable a rung."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.rungs = [(source, Breaker()) for source in sources]

    @property
    def best(self) -> Rung:
        return self.rungs[0][0].name

    async def answer(self, question: Question, deadline: float) -> tuple[Ranked, Rung, list[Skipped]]:
        """Return the best answer that can be had.

        Args:
            deadline: on the clock of time.monotonic(), seconds. Sources on this machine answer even after it: late is better than never.

        Raises:
            NoSourceAnswered: not even the popular list can be read.
        """
        skipped: list[Skipped] = []
        for source, breaker in self.rungs:
            now = time.monotonic()
            timeout = 0.0 if source.share is None else (deadline - now) * source.share
            if source.share is not None and timeout <= 0:
                skipped.append(Skipped(source.name, "no time was left"))
                continue
            if not breaker.allows(now):
                skipped.append(Skipped(source.name, "resting after failures"))
                continue
            try:
                if source.share is None:
                    ranked = await source.rank(question, 0.0)
                else:
                    async with asyncio.timeout(timeout):
                        ranked = await source.rank(question, timeout)
            except NothingToSay as nothing:
                breaker.untried()
                skipped.append(Skipped(source.name, str(nothing)))
                continue
            except (SourceUnavailable, TimeoutError) as error:
                why = str(error) or "did not answer within its share of the deadline"
            except asyncio.CancelledError:
                breaker.failed(time.monotonic())  # reported back, or a probe would never end
                raise
            except Exception:
                # A bug or a broken file must cost quality, never the answer; the trace goes to the log.
                logger.exception("rung %s of snapshot %s failed", source.name, question.store.snapshot_id)
                why = "failed; the gateway's log says how"
            else:
                breaker.worked()
                if len(ranked.numbers):
                    return ranked, source.name, skipped
                skipped.append(Skipped(source.name, "gave nothing"))
                continue
            finally:
                question.spent[source.name] = (time.monotonic() - now) * 1000
            breaker.failed(time.monotonic())
            skipped.append(Skipped(source.name, why))
        raise NoSourceAnswered(f"No rung of snapshot {question.store.snapshot_id} answered: {'; '.join(f'{skip.rung}: {skip.why}' for skip in skipped)}.")


def build_ladder(version: int | None, client: RankerClient, reader: RedisReader, wanted: Sequence[Rung]) -> Ladder:
    """Return the wanted rungs of one snapshot, whose model has this version in the model server; None: it is not there, and nothing is `live`."""
    live = () if version is None else (LiveRanking(client, version),)
    sources = (*live, LocalRanking(), StoredCandidates(reader), SnapshotCandidates(), PopularItems())
    return Ladder([source for source in sources if source.name in wanted])
