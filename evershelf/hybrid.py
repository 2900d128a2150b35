"""Hybrid search: how well items fit the words of a query and what it means, in one score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FITS = ("words", "meaning", "like the best", "first by words")
PLAIN = (1.0, 1.0, 0.0, 0.0)  # weights where nothing was learned
_BEST = 20  # items that say what the query is about
_HALF = 30  # the item at this place by words gets half of what the first one gets


def item_text(title: str | None, description: str | None) -> str:
    """Return what of an item is embedded."""
    return f"{title or ''}. {description or ''}"


def fits(lexical: npt.NDArray[np.floating[Any]], vectors: Floats, query: Floats) -> Floats:
    """Return [items, FITS], each at most about 1: the lexical score beside the best one; the cosine with the query; the cosine with the middle of the items
    that fit best by the sum of these two (as if the shopper had said that they are right); and the place by words, 1 for the first, 0 where no word matches.

    Args:
        lexical: [items] scores of the lexical index, 0 where no word matches.
        vectors: [items, width] of length 1.
        query: [width] of length 1.

    Source of the third: Rocchio, "Relevance feedback in information retrieval", 1971.
    """
    words = lexical / max(float(lexical.max(initial=0.0)), 1e-9)
    meaning = vectors @ query
    middle = vectors[np.argsort(-(words + meaning), kind="stable")[:_BEST]].mean(axis=0)
    like_the_best = vectors @ middle / max(float(np.linalg.norm(middle)), 1e-9)
    place = np.empty(len(words))
    place[np.argsort(-words, kind="stable")] = np.arange(len(words))
    first_by_words = np.where(lexical > 0, 1 / (1 + place / _HALF), 0)
    return np.column_stack([words, meaning, like_the_best, first_by_words]).astype(np.float32)


def scores(fitting: Floats, weights: Sequence[float] = PLAIN) -> Floats:
    """Return [items] from [items, FITS]; more is better."""
    return fitting @ np.asarray(weights, np.float32)
