"""One request put to one snapshot, and what every rung of the ladder may ask of it. Each part is worked out once, when it is first needed."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evershelf.contracts import EVENT_TYPES
from evershelf.contracts.candidates import RECENCY, RECENT
from evershelf.contracts.model import HISTORY_LENGTH, QUERY_WORDS, RANK_INPUTS, RANKED_CANDIDATES
from evershelf.intent import Wanted, understand
from evershelf.text import normalized_query, words
from serving.gateway.addition import Addition
from serving.gateway.answers import Understood
from serving.stores.layout import ACTION, NUMBER, SECONDS, Floats, ItemList, Numbers, UserLists, parents
from serving.stores.snapshot_store import SnapshotStore

logger = logging.getLogger(__name__)

Kind = Literal["search", "recommend", "similar"]

NEIGHBOURS_OF = 5  # newest items whose neighbours are retrieved
DEEPER = 20
_DAY = 86_400.0
_NO_NUMBERS = np.empty(0, np.uint32)
_NO_FLOATS = np.empty(0, np.float32)


class RecentEvent(NamedTuple):
    """Something a shopper did since the snapshot: item id, place of the type in EVENT_TYPES, seconds since 1970."""

    item_id: str
    action: int
    time: float


class History(NamedTuple):
    """Item numbers, places in EVENT_TYPES and seconds since 1970, newest last; the last `fresh` of them are not in the snapshot."""

    items: Numbers
    actions: npt.NDArray[np.uint8]
    times: npt.NDArray[np.int64]
    fresh: int


class Ranked(NamedTuple):
    """Item numbers, best first, and their scores."""

    numbers: Numbers
    scores: Floats


NOTHING = Ranked(_NO_NUMBERS, _NO_FLOATS)

Origin = Literal["own_list", "neighbours", "words", "query_list", "popular"]


class Found(NamedTuple):
    """One list that candidates come from: item numbers, best first; `item` is whose neighbours they are, `category` where they are popular."""

    origin: Origin
    numbers: Numbers
    item: int | None = None
    category: str = ""


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        user: pseudonym; None for a guest.
        category: only items of this category path; '' for all.
        text: the query as it was typed; '' when this is no search.
        item_id: the item to find similar ones for; '' when there is none.
        recent: what the shopper did since the snapshot, newest last.
        addition: what nearline knows that the snapshot does not; None without.
        now: seconds since 1970.
        spent: milliseconds, as far as they were needed: 'retrieval' (the ranker's candidates and what matches the words) and each rung that was tried, by name.
    """

    store: SnapshotStore
    kind: Kind
    k: int
    now: float
    user: str | None = None
    category: str = ""
    text: str = ""
    item_id: str = ""
    recent: Sequence[RecentEvent] = ()
    addition: Addition | None = None
    spent: dict[str, float] = field(default_factory=dict)

    @cached_property
    def stored_user(self) -> UserLists | None:
        return self.store.user(self.user) if self.user else None

    @cached_property
    def history(self) -> History:
        """What the shopper chose, in the snapshot and since: events of the types that the model learns from."""
        stored = self.stored_user
        if stored and stored.history_items:
            items, times = np.frombuffer(stored.history_items, NUMBER), np.frombuffer(stored.history_times, SECONDS)
            actions = np.frombuffer(stored.history_actions, ACTION)
            if not (telling := self.store.action_index[actions] > 0).all():
                items, actions, times = items[telling], actions[telling], times[telling]
        else:
            items, actions, times = _NO_NUMBERS, np.empty(0, np.uint8), np.empty(0, np.int64)
        newest = int(times[-1]) if len(times) else 0
        # Events of before the newest stored one are in the snapshot already.
        fresh = [
            (number, event.action, int(event.time))
            for event in self.recent
            if int(event.time) > newest and self.store.action_index[event.action] and (number := self.store.number(event.item_id)) is not None
        ]
        if fresh:
            new_items, new_actions, new_times = zip(*fresh, strict=True)
            items = np.concatenate([items, np.array(new_items, np.uint32)])
            actions = np.concatenate([actions, np.array(new_actions, np.uint8)])
            times = np.concatenate([times, np.array(new_times, np.int64)])
        return History(items, actions, times, len(fresh))

    @cached_property
    def number(self) -> int | None:
        """The number of the item that similar ones are wanted for."""
        return self.store.number(self.item_id) if self.item_id else None

    @cached_property
    def wanted(self) -> Wanted:
        """What the query says: what is searched for, and at which price."""
        return understand(self.text, self.store.language, self.store.currencies)

    @cached_property
    def corrected(self) -> dict[str, str]:
        """The words of the query that no item has, and what they are read as."""
        return self.store.corrected(self.wanted.text) if self._hits is not NOTHING else {}

    @cached_property
    def searched_words(self) -> list[str]:
        """What is searched for, word by word; in place of a word that neither the model nor any item knows, what it is read as."""
        known = self.store.word_index
        return [word if word not in self.corrected or known(word) else self.corrected[word] for word in words(self.wanted.text)]

    @cached_property
    def normalized(self) -> str:
        """Under which the query's list is stored: as it was typed, or else without the price, or else as it is read."""
        if self.wanted.priced and self.store.list_of_query(whole := normalized_query(self.text)):
            return whole
        typed = normalized_query(self.wanted.text)
        return typed if not self.corrected or self.store.list_of_query(typed) else " ".join(self.searched_words)

    @cached_property
    def lexical(self) -> Ranked:
        """What matches the query's words and may be shown, by BM25; nothing when the index cannot be read."""
        found = self.allowed(self._hits)
        return Ranked(found.numbers[:RANKED_CANDIDATES], found.scores[:RANKED_CANDIDATES])

    @property
    def depth(self) -> int:
        """How many hits are looked at: more where only those of a price count."""
        return RANKED_CANDIDATES * (DEEPER if self.wanted.priced else 1)

    @cached_property
    def _hits(self) -> Ranked:
        """What matches the query's words."""
        if not self.text:
            return NOTHING
        began = time.perf_counter()
        try:
            return Ranked(*self.store.search(self.wanted.text, self.depth))
        except Exception:  # whatever is wrong with it costs quality, never the answer
            logger.exception("the lexical index of snapshot %s failed", self.store.snapshot_id)
            return NOTHING
        finally:
            self._retrieving(began)

    @cached_property
    def matched(self) -> bool:
        """Whether the snapshot knows what was asked for: a word of the query, the item, the category."""
        match self.kind:
            case "search" if self.wanted.priced and not self.normalized:  # a price and nothing else
                return bool(self._cost_it(self.popular.numbers).all())
            case "search":
                return len(self.lexical.numbers) > 0 or self.store.list_of_query(self.normalized) is not None
            case "similar":
                return self.number is not None
            case "recommend":
                return not self.category or self.store.in_category(self.category) is not None

    @cached_property
    def allowed_items(self) -> npt.NDArray[np.bool_] | None:
        """Per category place, whether its items are wanted; None: all are."""
        return self.store.in_category(self.category) if self.category else None

    @cached_property
    def _price_counts(self) -> bool:
        """Whether a price was named, and something that was found can be had for it."""
        if not self.wanted.priced:
            return False
        listed = self.store.list_of_query(self.normalized)
        found = distinct([self._hits.numbers, *([listed.numbers()] if listed else [])])
        return not len(found) or bool((self._cost_it(found) & (self.addition or self.store).in_stock[found]).any())

    def _cost_it(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Return [items] whether items cost what is wanted; one without a price does not."""
        today, wanted = self.addition or self.store, self.wanted
        price = today.price[numbers]
        cost = np.isfinite(price)
        if wanted.price_from is not None:
            cost &= price >= np.float32(wanted.price_from)
        if wanted.price_to is not None:
            cost &= price <= np.float32(wanted.price_to)
        if wanted.currency is not None:
            known = self.store.currencies
            cost &= today.currency[numbers] == (known.index(wanted.currency) if wanted.currency in known else len(known))
        return cost

    def allowed(self, ranked: Ranked) -> Ranked:
        """Return what can be sold, is in the wanted category, has the wanted price, is not the item itself, and was not chosen before."""
        numbers = ranked.numbers
        keep = (self.addition or self.store).in_stock[numbers]
        if self._price_counts:
            keep &= self._cost_it(numbers)
        if self.allowed_items is not None:
            keep &= self.allowed_items[self.store.category[numbers]]
        if self.number is not None:
            keep &= numbers != self.number
        if self.kind == "recommend" and len(chosen := self.history.items):
            hidden = chosen[-HISTORY_LENGTH:] if self.store.hide_seen else chosen[-1:]
            keep &= (numbers[:, None] != hidden).all(axis=1)  # for so few, several times faster than np.isin
        return ranked if keep.all() else Ranked(numbers[keep], ranked.scores[keep])

    @cached_property
    def popular(self) -> Ranked:
        """Popular items of the wanted, of the item's or of the query's likeliest category, then of its parents, then of the whole shop."""
        numbers = distinct(found.numbers for found in self.popular_lists)
        everything = Ranked(numbers, 1.0 / np.arange(1, len(numbers) + 1, dtype=np.float32))
        sellable = self.allowed(everything)
        return sellable if len(sellable.numbers) else everything  # better sold-out, of another category or price than nothing

    @cached_property
    def popular_lists(self) -> list[Found]:
        names = parents(self._likeliest_category)
        lists = ((name, self._popular_in(name)) for name in names)
        return [Found("popular", numbers, category=name) for name, numbers in lists if numbers is not None]

    def _popular_in(self, category: str) -> Numbers | None:
        if self.addition:
            return self.addition.popular(self.store, category)
        found = self.store.popular(category)
        return found.numbers() if found else None

    @cached_property
    def _likeliest_category(self) -> str:
        if self.category:
            return self.category
        if self.number is not None:
            return self.store.categories[int(self.store.category[self.number])]
        if self.kind == "search" and len(self.lexical.numbers):
            votes = np.bincount(self.store.category[self.lexical.numbers], self.lexical.scores)
            return self.store.categories[int(votes.argmax())]
        return ""

    def understood(self, shown: Numbers) -> Understood | None:
        """Return how the query was read, for an answer with these items."""
        if self.kind != "search":
            return None
        wanted = self.wanted
        dropped = wanted.priced and not self._cost_it(shown).all()
        return Understood(wanted.text, self.corrected, wanted.price_from, wanted.price_to, wanted.currency, dropped, self._likeliest_category or None)

    @cached_property
    def _near(self) -> ItemList | None:
        return self.store.neighbours(self.number) if self.number is not None else None

    @cached_property
    def candidates(self) -> Ranked:
        """What the ranker orders: at most RANKED_CANDIDATES items, and how well each fits before ranking, 0 to 1."""
        lexical = self.lexical  # has a clock of its own
        began = time.perf_counter()
        numbers = distinct(found.numbers for found in self.retrieved())
        fits = np.zeros(len(numbers), np.float32)
        match self.kind:
            case "search" if len(lexical.scores):
                fits[: len(lexical.scores)] = lexical.scores / max(float(lexical.scores[0]), 1e-9)
            case "similar" if self._near and len(numbers):
                scores = self._near.values()
                fits = scores / max(float(scores[0]), 1e-9)
            case "recommend":
                fits = self._nearness(numbers)
        ranked = self.allowed(Ranked(numbers, fits))
        self._retrieving(began)
        return Ranked(ranked.numbers[:RANKED_CANDIDATES], ranked.scores[:RANKED_CANDIDATES])

    def retrieved(self) -> Iterable[Found]:
        """Return the lists that the ranker's candidates come from, the most telling first."""
        match self.kind:
            case "search":
                yield Found("words", self.lexical.numbers)
                if queried := self.store.list_of_query(self.normalized):
                    yield Found("query_list", queried.numbers())
            case "similar" if self._near:
                yield Found("neighbours", self._near.numbers(), item=self.number)
            case "recommend":
                if self.stored_user:
                    yield Found("own_list", self.stored_user.candidates.numbers())
                for number, near in self._near_newest:
                    yield Found("neighbours", near.numbers()[: RANKED_CANDIDATES // NEIGHBOURS_OF], item=number)
                yield Found("popular", self.popular.numbers)

    def _retrieving(self, began: float) -> None:
        self.spent["retrieval"] = self.spent.get("retrieval", 0.0) + (time.perf_counter() - began) * 1000

    @cached_property
    def _near_newest(self) -> list[tuple[int, ItemList]]:
        """The neighbours of the newest items, by item, newest first."""
        return [(number, near) for number in newest_items(self.history.items) if (near := self.store.neighbours(number))]

    def _nearness(self, numbers: Numbers) -> Floats:
        """Return how near each item is to what the shopper chose last, 0 to 1: item-kNN, as the candidate job counts it."""
        fits = np.zeros(len(numbers), np.float32)
        if not self._near_newest or not len(numbers):
            return fits
        newest = self.history.items[: -RECENT - 1 : -1]
        recency = RECENCY ** np.arange(len(newest))
        near = np.concatenate([found.numbers() for _, found in self._near_newest])
        worth = np.concatenate([found.values() * recency[newest == number].sum() for number, found in self._near_newest])
        order = np.argsort(numbers)
        place = np.minimum(np.searchsorted(numbers, near, sorter=order), len(numbers) - 1)
        hit = numbers[order[place]] == near
        fits += np.bincount(order[place[hit]], worth[hit], len(numbers)).astype(np.float32)
        return fits / max(float(fits.max()), 1e-9)

    @cached_property
    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """The ranker's inputs: RANK_INPUTS with a batch of 1."""
        inputs = {name: np.zeros((1, length), kind) for name, (kind, length) in RANK_INPUTS.items()}
        history = self.history
        if self.kind == "similar" and self.number is not None:  # the item itself is what the shopper looks at
            items, actions, times = np.array([self.number]), np.array([EVENT_TYPES.index("view")]), np.array([self.now])
        else:
            items, actions, times = history.items, history.actions, history.times
        index, action = self.store.vocabulary[items], self.store.action_index[actions]
        known = index > 0
        index, action, times = index[known][-HISTORY_LENGTH:], action[known][-HISTORY_LENGTH:], times[known][-HISTORY_LENGTH:]
        if length := len(index):
            inputs["history_items"][0, -length:] = index
            inputs["history_actions"][0, -length:] = action
            inputs["history_ages"][0, -length:] = np.maximum(min(self.now, self.store.latest_request) - times, 0) / _DAY
        if self.text:
            known_words = [index for word in self.searched_words if (index := self.store.word_index(word))][:QUERY_WORDS]
            inputs["query_words"][0, : len(known_words)] = known_words
        numbers = self.candidates.numbers
        inputs["candidates"][0, : len(numbers)] = self.store.vocabulary[numbers]
        return inputs


def newest_items(items: Numbers) -> list[int]:
    """Return the newest distinct items of a history, newest first."""
    return list(dict.fromkeys(items[::-1].tolist()))[:NEIGHBOURS_OF]


def distinct(lists: Iterable[Numbers]) -> Numbers:
    """Join lists, each free of repetitions, with each item at its first place."""
    joined = [numbers for numbers in lists if len(numbers)]
    if not joined:
        return _NO_NUMBERS
    if len(joined) == 1:
        return joined[0]
    seen = dict.fromkeys(np.concatenate(joined).tolist())  # for a few hundred, several times faster than np.unique
    return np.fromiter(seen, np.uint32, len(seen))
