"""Hybrid search: how well items fit the words of a query and what it means, in one score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evershelf.lexical import Lexical
from evershelf.text import words
from evershelf.text_encoder import TextEncoder
from evershelf.vectors import Vectors

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint32]

FITS = ("words", "meaning", "like the best", "first by words")
PLAIN, WORDS = (1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)  # weights where nothing was learned; where meaning counts for nothing
SEARCHED = {"title": "title", "brand": "brand", "category": "category_path", "description": "description"}  # field of the lexical index -> column of products
WEIGHTS = "weights.json"  # beside the vectors
NEAREST = 200
_BEST = 20  # items that say what the query is about
_HALF = 45  # the item at this place by words gets half of what the first one gets; those well before it nearly as much as that
_LEAST = 0.4  # cosine; an item that matches no word and means less of what was searched for is no answer (six of seven right ones mean more)


def item_text(title: str | None, description: str | None) -> str:
    """Return what of an item is embedded; "" where nothing is known."""
    return f"{title or ''}. {description or ''}" if title or description else ""


def fits(lexical: npt.NDArray[np.floating[Any]], vectors: Floats, query: Floats) -> Floats:
    """Return [items, FITS], each at most about 1: the lexical score beside the best one; the cosine with the query; the cosine with the middle of the items
    that fit best by the sum of these two (as if the shopper had said that they are right); and the place by words, 1 for the first, 0 where no word matches.

    Args:
        lexical: [items] scores of the lexical index, 0 where no word matches.
        vectors: [items, width] of length 1.
        query: [width] of length 1.

    Source of the third: Rocchio, "Relevance feedback in information retrieval", 1971.
    """
    by_words = lexical / max(float(lexical.max(initial=0.0)), 1e-9)
    meaning = vectors @ query
    middle = vectors[np.argsort(-(by_words + meaning), kind="stable")[:_BEST]].mean(axis=0)
    like_the_best = vectors @ middle / max(float(np.linalg.norm(middle)), 1e-9)
    place = np.empty(len(lexical))
    place[np.argsort(-by_words, kind="stable")] = np.arange(len(lexical))
    first_by_words = np.where(lexical > 0, 1 / (1 + (place / _HALF) ** 2), 0)
    return np.column_stack([by_words, meaning, like_the_best, first_by_words]).astype(np.float32)


def scores(fitting: Floats, weights: Sequence[float] = PLAIN) -> Floats:
    """Return [items] from [items, FITS]; more is better."""
    return fitting @ np.asarray(weights, np.float32)


class Hybrid:
    """A catalogue's two indexes, searched as one. Not safe for several threads at once."""

    def __init__(self, lexical: Lexical, vectors: Vectors, encoder: TextEncoder, weights: Sequence[float] = PLAIN) -> None:
        self._lexical, self._vectors, self._encoder, self._weights = lexical, vectors, encoder, weights

    def search(self, text: str, limit: int) -> tuple[Numbers, Floats]:
        """Return the numbers and scores, above 0 and at most 1, of the items that match a word or mean the same, best first."""
        numbers, fitting = self.fits(text, limit)
        if not len(numbers):
            return numbers, np.empty(0, np.float32)
        worth = scores(fitting, self._weights)
        best = np.argsort(-worth, kind="stable")[:limit]
        return numbers[best], np.maximum(worth[best] / max(float(worth[best[0]]), 1e-6), 1e-3)

    def fits(self, text: str, limit: int) -> tuple[Numbers, Floats]:
        """Return the numbers of the first items by words, at most `limit`, and of the nearest ones by meaning, at most NEAREST; and [items, FITS] of them."""
        if not (spoken := words(text)):
            return np.empty(0, np.uint32), np.empty((0, len(FITS)), np.float32)
        by_words, lexical = self._lexical.search(text, limit)
        read_as = self._lexical.corrected(text)
        query = self._encoder.vector(" ".join(read_as.get(word, word) for word in spoken) if read_as else text)
        near, cosine = self._vectors.nearest(query, min(limit, NEAREST))
        near = near[(cosine >= _LEAST) & ~np.isin(near, by_words)]
        numbers = np.concatenate([by_words, near])
        if not len(numbers):
            return numbers, np.empty((0, len(FITS)), np.float32)
        return numbers, fits(np.concatenate([lexical, np.zeros(len(near), np.float32)]), self._vectors.of(numbers), query)
