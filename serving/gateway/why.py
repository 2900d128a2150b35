"""Explain one recent answer: put the same question to the same snapshot again and look at what came from where, and what moved the first items.

Where a ranker ordered the candidates, each item that it knows of the shopper, and each word of the query, is left out once, and the candidates are ranked
without it by the snapshot's own ranker in this process. What an item loses by that is what it owed to it. The candidates stay the same meanwhile: that a list
proposed an item at all is told by the lists it is on. Shoppers' requests are answered between two such rankings.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evershelf.contracts import EVENT_TYPES
from evershelf.contracts.model import HISTORY_LENGTH, RANKED_CANDIDATES
from serving.errors import SourceUnavailable
from serving.gateway import slate
from serving.gateway.addition import Addition
from serving.gateway.answers import Moved, Origins, Tried, Why, WhyItem
from serving.gateway.following import Loaded
from serving.gateway.ladder import LocalRanking, PopularItems, SnapshotCandidates, blended, list_keys
from serving.gateway.memory import Remembered
from serving.gateway.question import Found, Question, Ranked
from serving.stores import layout
from serving.stores.layout import Floats, Numbers

_FIRST = 5  # items that are explained
_TOLD = 2  # things that moved an item, at most
_LEAST = 0.1  # standard deviations; less is noise to a person
_DID = {"click": "looked at", "view": "looked at", "cart": "put in the basket", "purchase": "bought"}
_RANKED = ("live", "local_model")


class _Feature(NamedTuple):
    """One thing that the ranker knows: an item of the history or a word, and the ranker's inputs without it."""

    item_id: str | None
    word: str | None
    words: str
    inputs: dict[str, npt.NDArray[Any]]


class _Effect(NamedTuple):
    """What leaving out a feature does: per candidate, how much higher it scores because of the feature; and the order without it."""

    feature: _Feature
    gain: Floats
    order: Ranked


async def explain(request_id: str, answered: Remembered, loaded: Loaded | None, addition: Addition | None, gateway: str) -> Why:
    """Explain an answer; without its snapshot, tell what was written down about it. `addition` is what the overlay adds to the snapshot now."""
    items, origins, note = _only_ids(answered), list[Origins](), ""
    candidates = same_order = understood = None
    if loaded is None:
        note = f"Snapshot {answered.snapshot_id} is not loaded any more, so where the items came from and what moved them cannot be worked out now."
    else:
        question = Question(
            loaded.store,
            answered.kind,
            answered.k,
            answered.at,
            answered.user,
            answered.category,
            answered.query,
            answered.item_id,
            answered.recent,
            addition,
        )
        lists = list(_lists(question, answered.served_by))
        source = LocalRanking() if answered.served_by in _RANKED else PopularItems() if answered.served_by == "popular" else SnapshotCandidates()
        try:
            ranked = await source.rank(question, 0.0)
            effects = await _effects(question) if answered.served_by in _RANKED else []
        except SourceUnavailable as error:
            ranked, effects, note = None, [], f"It cannot be ranked again in this process ({error}), so what moved the items is not known."
        retrieved = question.candidates if answered.served_by in _RANKED else ranked
        allowed = set(retrieved.numbers.tolist()) if retrieved else set[int]()
        candidates = len(allowed)
        origins = [Origins(found.origin, _origin(question, found), len(allowed.intersection(found.numbers.tolist()))) for found in lists]
        if ranked:
            same_order = _same(answered, question, slate.fill(question, ranked).numbers)
            if not same_order:
                note = "Ranked again, the order is not quite the one that was shown; the places below are those of now."
        understood = question.understood(np.array([question.store.number(item_id) for item_id in answered.items], layout.NUMBER))
        items = _explained(question, answered, lists, ranked, effects)
    return Why(
        request_id=request_id,
        gateway=gateway,
        at=datetime.fromtimestamp(answered.at, UTC).isoformat(timespec="milliseconds"),
        endpoint=answered.kind,
        user=answered.user,
        query=answered.query,
        item_id=answered.item_id,
        category=answered.category,
        k=answered.k,
        recent_events=len(answered.recent),
        snapshot_id=answered.snapshot_id,
        arm=answered.arm,
        unable=answered.unable,
        served_by=answered.served_by,
        expected_quality=answered.expected_quality,
        matched=answered.matched,
        ms=round(answered.milliseconds, 3),
        retrieval_ms=_ms(answered, "retrieval"),
        rungs=[
            *(Tried(skip.rung, skip.why, _ms(answered, skip.rung)) for skip in answered.skipped),
            Tried(answered.served_by, "answered", _ms(answered, answered.served_by)),
        ],
        candidates=candidates,
        origins=origins,
        same_order=same_order,
        items=items,
        note=note,
        understood=understood,
    )


def _ms(answered: Remembered, name: str) -> float | None:
    return round(answered.spent[name], 3) if name in answered.spent else None


def _only_ids(answered: Remembered) -> list[WhyItem]:
    return [WhyItem(item_id, "", place, propensity, [], "", None, None, []) for place, item_id, propensity in _shown(answered)[:_FIRST]]


def _shown(answered: Remembered) -> list[tuple[int, str, float]]:
    """Return place, item id and propensity of each item."""
    return [(place, *shown) for place, shown in enumerate(zip(answered.items, answered.propensities, strict=True), 1)]


def _lists(question: Question, rung: str) -> Iterator[Found]:
    """Return the lists that a rung's items came from; popular ones last, each category's own."""
    if rung in _RANKED:
        yield from (found for found in question.retrieved() if found.origin != "popular")
    elif rung != "popular":
        if question.kind == "search":
            yield Found("words", question.lexical.numbers)
        for key in list_keys(question):
            if (value := question.store.get(key)) is None:
                continue
            if key.startswith(b"u:"):
                yield Found("own_list", layout.decode_user(value).candidates.numbers())
            elif key.startswith(b"q:"):
                yield Found("query_list", layout.decode_list(value).numbers())
            else:
                yield Found("neighbours", layout.decode_list(value).numbers(), item=int(key[2:]))
    if question.kind == "recommend" or rung == "popular":
        yield from question.popular_lists


def _origin(question: Question, found: Found) -> str:
    """Return what a list is, in words for a shopper."""
    match found.origin:
        case "own_list":
            return "picked for you from what you did before"
        case "neighbours":
            return f"often chosen by those who chose {_title(question, found.item or 0)}"
        case "words":
            return f"fits what you searched for: '{' '.join(question.searched_words)}'"
        case "query_list":
            return f"often chosen after searching for '{question.normalized}'"
        case "popular":
            return f"popular in {found.category}" if found.category else "popular in the whole shop"


def _title(question: Question, number: int) -> str:
    item = question.store.item(number)
    return item.title or item.item_id


def _same(answered: Remembered, question: Question, ranked: Numbers) -> bool:
    """Whether the ranked items are those that were shown, places that explored left out."""
    now = [question.store.item(number).item_id for number in ranked[: question.k].tolist()]
    shown = _shown(answered)
    return len(now) == len(shown) and all(_explored(propensity) or item_id == other for (_, item_id, propensity), other in zip(shown, now, strict=True))


def _explored(propensity: float) -> bool:
    return propensity < 0.5  # at most a fifth of the answers explore, one place each: a ranked item's propensity is 0.8 or more


async def _effects(question: Question) -> list[_Effect]:
    """Rank without each feature in turn."""
    count = len(question.candidates.numbers)
    known = question.inputs["candidates"][0, :count] > 0
    scores = question.store.rank(question.inputs)[:count]
    spread = max(float(scores[known].std()), 1e-9)
    effects = []
    for feature in _features(question):
        await asyncio.sleep(0)  # shoppers first
        without = question.store.rank(feature.inputs)[:count]
        difference = np.where(known, scores - without, 0.0)
        gain = np.where(known, difference - difference[known].mean(), 0.0) / spread  # what lifts every candidate alike moves none
        effects.append(_Effect(feature, gain.astype(np.float32), blended(question, without)))
    return effects


def _features(question: Question) -> Iterator[_Feature]:
    """Return what may be left out: of a similar-items request nothing, since all that the ranker looks at is the item itself."""
    inputs, history = question.inputs, question.history
    if question.kind != "similar":
        index = question.store.vocabulary[history.items]
        for place in _newest_places(index).values():
            number, did = int(history.items[place]), _DID[EVENT_TYPES[history.actions[place]]]
            keep = inputs["history_items"][0] != index[place]
            kept = {name: _compact(inputs[name], keep, newest_last=True) for name in ("history_items", "history_actions", "history_ages")}
            title = _title(question, number)
            phrase = f"because you {did} {title}" if did != "put in the basket" else f"because you put {title} in your basket"
            yield _Feature(question.store.item(number).item_id, None, phrase, {**inputs, **kept})
    for word in dict.fromkeys(question.searched_words):
        keep = inputs["query_words"][0] != question.store.word_index(word)
        if not keep.all():
            yield _Feature(None, word, f"because of your word '{word}'", {**inputs, "query_words": _compact(inputs["query_words"], keep, newest_last=False)})


def _newest_places(index: npt.NDArray[np.int32]) -> dict[int, int]:
    """Return, of each item in the ranker's inputs, the place of its newest event in a history with these vocabulary indexes."""
    return {int(index[place]): int(place) for place in np.flatnonzero(index > 0)[-HISTORY_LENGTH:]}


def _compact(values: npt.NDArray[Any], keep: npt.NDArray[np.bool_], *, newest_last: bool) -> npt.NDArray[Any]:
    """Return inputs [1, length] without some entries, padded as the ranker expects it."""
    kept, compact = values[0, keep], np.zeros_like(values)
    compact[0, len(compact[0]) - len(kept) if newest_last else 0 :][: len(kept)] = kept
    return compact


def _explained(question: Question, answered: Remembered, lists: Iterable[Found], ranked: Ranked | None, effects: list[_Effect]) -> list[WhyItem]:
    matching = question.store.matching_words(question.wanted.text, RANKED_CANDIDATES) if question.text else {}
    items = []
    for place, item_id, propensity in _shown(answered)[:_FIRST]:
        number = question.store.number(item_id)
        assert number is not None  # this snapshot showed it
        before = _place(question.candidates.numbers, number) if answered.served_by in _RANKED else None
        after = _place(ranked.numbers, number) if ranked else None
        moved = _moved(question, number, effects)
        reasons = [*(move.words for move in moved), *_proposed(question, number, lists, matching.get(number, ()))]
        if _explored(propensity):
            reasons.append("shown on trial: now and then one place tries something else")
        did = _movement(before, after, known=bool(question.store.vocabulary[number] > 0)) if before and after else ""
        items.append(WhyItem(item_id, _title(question, number), place, propensity, reasons, did, before, after, moved))
    return items


def _proposed(question: Question, number: int, lists: Iterable[Found], matching: Sequence[str]) -> Iterator[str]:
    """Return why the lists that an item is on proposed it; of the popular ones the narrowest category says it."""
    on = [found for found in lists if number in found.numbers]
    if near := [_title(question, found.item) for found in on if found.item is not None]:
        yield f"often chosen by those who chose {' or '.join(near)}"
    if any(found.origin == "words" for found in on):
        yield f"matches your words '{' '.join(matching)}'" if matching else f"is about what you searched for: '{question.text}'"
    yield from (_origin(question, found) for found in on if found.origin in ("own_list", "query_list"))
    yield from [_origin(question, found) for found in on if found.origin == "popular"][:1]


def _movement(before: int, after: int, *, known: bool) -> str:
    if not known:
        return "new to the ranking model, so placed by how it was found"
    return f"the ranking model left it at place {after}" if before == after else f"the ranking model moved it from place {before} to {after}"


def _moved(question: Question, number: int, effects: list[_Effect]) -> list[Moved]:
    """Return what lifted an item most."""
    if (place := _place(question.candidates.numbers, number)) is None:
        return []
    best = sorted(effects, key=lambda effect: -effect.gain[place - 1])[:_TOLD]
    return [
        Moved(feature.item_id, feature.word, feature.words, round(float(gain[place - 1]), 3), _place(order.numbers, number) or 0)
        for feature, gain, order in best
        if gain[place - 1] >= _LEAST
    ]


def _place(numbers: Numbers, number: int) -> int | None:
    """Return where an item stands, 1 for the first."""
    found = np.flatnonzero(numbers == number)
    return int(found[0]) + 1 if len(found) else None
