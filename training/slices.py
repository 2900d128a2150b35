"""Parts of a shop that a good mean can hide: which events belong to whom, and how much of what is shown falls to small brands."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data import Bools, Ints, Shop

LIGHT, HEAVY = 5, 20  # a history shorter than the one, or at least as long as the other
HALF = 0.5  # head items, and large brands, are the fewest that make up so much of all choices


def of_shop(shop: Shop, rows: npt.NDArray[np.int64], history: Ints, target: Ints, chosen: npt.NDArray[np.int64]) -> dict[str, Bools]:
    """Return which of the measured events belong to each slice.

    Args:
        rows: [events] of the shop; history: [events, length] items before each, 0 is padding; target: [events] item numbers; chosen: [items] choices that
            were learned from.
    """
    known = shop.known[shop.shopper[rows]]
    return {"known": known, "guest": ~known} | of_events((history > 0).sum(axis=1), target, chosen) | {"after_search": shop.query[rows] > 0}


def of_events(length: npt.NDArray[np.integer[Any]], target: Ints, chosen: npt.NDArray[np.integer[Any]]) -> dict[str, Bools]:
    """Return the slices by the length [events] of the history and by the item."""
    head = _largest(chosen)
    return {
        "no_history": length == 0,
        "light_history": (length > 0) & (length < LIGHT),
        "heavy_history": length >= HEAVY,
        "new_item": chosen[target] == 0,
        "head_item": head[target],
        "tail_item": ~head[target] & (chosen[target] > 0),
    }


def means(gain: npt.NDArray[np.float64], slices: Mapping[str, Bools]) -> dict[str, dict[str, float]]:
    """Return what is reported of an NDCG@10 [events]."""
    return {name: {"events": int(part.sum()), "NDCG@10": round(float(gain[part].mean()), 5)} for name, part in slices.items() if part.any()}


def small_brands(brands: list[str], shown: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> dict[str, float] | None:
    """Return the share of small brands among what was shown, what was chosen, and the items; None for a shop that names no brands.

    Args:
        brands, shown, chosen: one entry per item number.
    """
    names, brand = np.unique(brands, return_inverse=True)
    of_brand = np.bincount(brand, weights=chosen, minlength=len(names))
    of_brand[names == ""] = 0
    branded = np.array(brands) != ""
    small = ~_largest(of_brand)[brand] & branded
    if not small.any():
        return None

    def share(counts: npt.NDArray[np.number[Any]]) -> float:
        return round(float(counts[small].sum() / max(counts[branded].sum(), 1)), 4)

    return {"of_shown": share(shown), "of_choices": share(chosen), "of_items": share(np.ones(len(brands), np.int64))}


def _largest(counts: npt.NDArray[np.number[Any]]) -> Bools:
    """Return which entries are among the fewest that make up HALF of the sum."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    largest = np.zeros(len(counts), np.bool_)
    largest[order] = (before < HALF * counts.sum()) & (counts[order] > 0)
    return largest
