"""What an answer is worth in clicks: a small model of the clicks on what shoppers were shown in the validation days, which then judges any answer.

An item is clicked when its place is looked at and the item is liked: P(click) = exp(-b (place - 1)) sigmoid(w · x). What is liked is told by what the new
model, item-kNN and popularity say of it, none of which has seen the validation days, and by how often the shop showed it to the shopper before. So one
yardstick, fitted on what really happened, measures the answers of every rung, also those that were never shown.

Sources: Richardson et al., WWW 2007, and Craswell et al., WSDM 2008 (position-based click model); Dudík et al., ICML 2011 (direct method).
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evershelf import lake
from training.data import Floats, Ints, Shop, days_since_1970

MIN_CLICKS = 200  # fewer say too little of eight weights
PAGES = 4000  # a seeded sample of so many pages is learned from
EXPOSURE_DAYS = 28  # of impressions before the split that are counted
SELECTED = 1.4  # logit by which what a shop shows is liked more than the same features say of what it does not, where `untold` is 1: its page knows more
_PRIOR = 0.5  # impressions
_STEPS = 50
_RIDGE = 1.0

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What was shown without a search since the split: rows of (page, item, place, clicked), and of each page the shopper's code and the time in days."""

    page: Rows
    item: Ints  # code into Shop.items
    place: Floats  # from 1
    clicked: npt.NDArray[np.bool_]
    shopper: Ints  # [pages]
    time: Floats  # [pages]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What shoppers were shown before the split. The shop shows what it believes that a shopper likes, so how often it did tells what it knew."""

    pairs: Rows  # sorted shopper * items + item
    times: Rows  # [pairs]
    of_shopper: Rows  # [shoppers] impressions
    share: Floats  # [items] of all impressions

    def lift(self, shopper: npt.NDArray[np.integer[Any]], item: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return [n]: log of how much more often than other shoppers each shopper was shown each item."""
        key = shopper.astype(np.int64) * len(self.share) + item
        place = np.minimum(np.searchsorted(self.pairs, key), max(len(self.pairs) - 1, 0))
        times = np.where(self.pairs[place] == key, self.times[place], 0) if len(self.pairs) else np.zeros(len(key))
        return np.asarray(np.log((times + _PRIOR) / (self._usual(shopper, item) + _PRIOR)))

    def untold(self, shopper: npt.NDArray[np.integer[Any]], item: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return [n] in (0, 1]: how little `lift` can tell. 1 for who was shown nothing yet; less, the more often an item could have been shown by now.

        It is the weight of the prior in the rate of a Poisson count: with many impressions expected, those that were seen say what the shop knew. An item's
        share is taken half-way to that of a usual impression, because it moves.
        """
        usual = (self._usual(shopper, item) + self.of_shopper[shopper] * (self.share**2).sum()) / 2
        return np.asarray(_PRIOR / (usual + _PRIOR))

    def _usual(self, shopper: npt.NDArray[np.integer[Any]], item: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return [n]: the impressions that are to be expected if the shop showed everybody the same."""
        return np.asarray(self.of_shopper[shopper] * self.share[item])


def read_pages(shop: Shop, seed: int) -> tuple[Pages, Exposure]:
    """Read what shoppers with an account were shown; nothing when the shop logs no impressions. Of the pages since the split it is a sample."""
    since = date(1970, 1, 1) + timedelta(days=int(shop.split))
    events = lake.read(
        "events",
        columns=["event_time", "user_id", "session_id", "type", "item_id", "query", "position", "request_id"],
        filters=[("dt", ">=", since - timedelta(days=EXPOSURE_DAYS)), ("type", "in", ["impression", "click"])],
        version=shop.versions["events"],
    )
    events = events.filter(pc.and_(pc.is_null(events["query"]), pc.and_(pc.is_valid(events["user_id"]), pc.is_valid(events["item_id"]))))
    events = events.filter(pc.is_valid(events["position"]))
    events = events.append_column("clicked", pa.array(_led_to_click(events))).filter(pc.equal(events["type"], "impression"))
    shopper = np.asarray(pc.index_in(events["user_id"], value_set=pa.array(shop.shoppers)).fill_null(-1), np.int32)
    item = np.asarray(pc.index_in(events["item_id"], value_set=pa.array(shop.items)).fill_null(-1), np.int32)
    time, place, was_clicked = days_since_1970(events["event_time"]), np.asarray(events["position"], np.float64), np.asarray(events["clicked"], np.bool_)
    known = (shopper >= 0) & (item >= 0)

    before = known & (time < shop.split)
    pairs, times = np.unique(shopper[before].astype(np.int64) * len(shop.items) + item[before], return_counts=True)
    exposure = Exposure(
        pairs=pairs,
        times=times,
        of_shopper=np.bincount(shopper[before], minlength=len(shop.shoppers)),
        share=np.bincount(item[before], minlength=len(shop.items)) / max(1, int(before.sum())),
    )
    rows = np.flatnonzero(known & (time >= shop.split))
    pages, page = np.unique(np.stack([shopper[rows].astype(np.float64), time[rows]]), axis=1, return_inverse=True)
    page = page.reshape(-1)
    taken = np.zeros(pages.shape[1], np.bool_)
    taken[np.random.default_rng(seed).permutation(pages.shape[1])[:PAGES]] = True
    rows, page = rows[taken[page]], (np.cumsum(taken) - 1)[page[taken[page]]]
    sample = Pages(page=page, item=item[rows], place=place[rows], clicked=was_clicked[rows], shopper=pages[0, taken].astype(np.int32), time=pages[1, taken])
    return sample, exposure


def _led_to_click(events: pa.Table) -> npt.NDArray[np.bool_]:
    """Return [events]: whether an impression led to a click, the newest one before it of the same answer or visit, item and place."""
    answer = pc.coalesce(events["request_id"], events["session_id"], pa.scalar(""))
    shown = pc.binary_join_element_wise(events["user_id"], answer, events["item_id"], pc.cast(events["position"], pa.string()), "\x1f")
    same = np.asarray(pc.dictionary_encode(shown).combine_chunks().indices)
    is_click = np.asarray(pc.equal(events["type"], "click"))
    order = np.lexsort((is_click, np.asarray(events["event_time"].cast(pa.int64())), same))
    newest = np.maximum.accumulate(np.where(is_click[order], -1, np.arange(len(order))))  # place in `order` of the newest impression so far
    found = is_click[order] & (newest >= 0)
    found[found] = same[order][newest[found]] == same[order][found]
    led = np.zeros(len(order), np.bool_)
    led[order[newest[found]]] = True
    return led


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickModel:
    """P(click | place, features) = exp(-decay (place - 1)) sigmoid(weights · standardised features)."""

    weights: Floats
    decay: float
    center: Floats
    scale: Floats

    def chances(self, features: Floats, place: Floats, untold: Floats | float = 0.0) -> Floats:
        """Return [n] from features [n, features], places [n], from 1, and `Exposure.untold` [n] of items that nobody chose to show because they would be liked.

        See SELECTED.
        """
        liking = _design((features - self.center) / self.scale) @ self.weights - SELECTED * untold
        return np.exp(-self.decay * (place - 1)) * _sigmoid(liking)


def fit(features: Floats, place: Floats, clicked: npt.NDArray[np.bool_]) -> ClickModel:
    """Fit by Fisher scoring with a small ridge.

    Args:
        features: [n, features].
        place: [n] from 1.
        clicked: [n].
    """
    center, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    X, back = _design((features - center) / scale), place - 1
    weights, decay = np.zeros(X.shape[1]), 0.1
    weights[0] = np.log(max(clicked.mean(), 1e-6))
    for _ in range(_STEPS):
        liked, seen = _sigmoid(X @ weights), np.exp(-decay * back)
        p = np.clip(seen * liked, 1e-6, 1 - 1e-6)
        slope = np.column_stack([X * (p * (1 - liked))[:, None], -back * p])
        weighted = slope / (p * (1 - p))[:, None]
        ridge = np.diag([1e-6, *[_RIDGE] * (X.shape[1] - 1), 1e-6])
        step = np.linalg.solve(slope.T @ weighted + ridge, weighted.T @ (clicked - p) - ridge @ np.append(weights, decay))
        step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-9))  # at most one unit at a time: far from the optimum a whole step may leap over it
        weights, decay = weights + step[:-1], max(0.0, decay + float(step[-1]))
        if np.abs(step).max() < 1e-6:
            break
    return ClickModel(weights=weights, decay=decay, center=center, scale=scale)


def _design(standard: Floats) -> Floats:
    """Return a constant, the features, and their squares, bounded so that nothing unseen is judged by a far end of a parabola."""
    bounded = np.clip(standard, -3, 3)
    return np.column_stack([np.ones(len(bounded)), bounded, bounded**2])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))
