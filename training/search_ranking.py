"""Learning to rank for search: how much each fit of evershelf/hybrid.py counts, from judged answers.

The loss is the cross-entropy between the gains of a query's items and the softmax of their scores: over the judged items, and over all that may come up, where
an unjudged one gains nothing. How much the second counts, and the ridge, are chosen by cross-validation within what there is to learn from.

Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach" (ListNet), ICML 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from evershelf import hybrid

Gains = npt.NDArray[np.float64]

FOLDS = 5
SHOWN = 10
UNJUDGED, RIDGES = (0.1, 0.3, 0.5), (3.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query. fits: [items, fits]. gain: [items], 0 where not judged. judged: [items] bool. likely: numbers of the items to learn from. missed: gains of
    what is not among the items, which no ranking gets.
    """

    fits: npt.NDArray[np.float32]
    gain: Gains
    judged: npt.NDArray[np.bool_]
    likely: npt.NDArray[np.int64]
    missed: Gains = field(default_factory=lambda: np.empty(0))

    def ndcg(self, scores: npt.NDArray[np.floating[Any]], *, judged_only: bool) -> float:
        """Return NDCG@10 of a ranking of all items, or of the judged ones."""
        gain, scores = (self.gain[self.judged], scores[self.judged]) if judged_only else (self.gain, scores)
        discount = 1 / np.log2(2 + np.arange(SHOWN))
        best, got = np.sort(np.append(gain, self.missed))[::-1][:SHOWN], gain[np.argsort(-scores, kind="stable")[:SHOWN]]
        return float(got @ discount[: len(got)]) / float(best @ discount[: len(best)])


def learn(asked: Sequence[Asked], seed: int) -> tuple[float, ...]:
    """Return the weights of hybrid.FITS; PLAIN where there are too few queries to choose by."""
    if len(asked) < 2 * FOLDS:
        return hybrid.PLAIN
    quality = {}
    for unjudged, ridge in product(UNJUDGED, RIDGES):
        gains = [
            np.mean([one.ndcg(hybrid.scores(one.fits, weights), judged_only=only) for only in (True, False)])
            for rest, held_out in folds(asked, seed)
            for weights in (_fitted(rest, unjudged, ridge),)
            for one in held_out
        ]
        quality[unjudged, ridge] = np.mean(gains)
    return _fitted(asked, *max(quality, key=lambda choice: quality[choice]))


def folds(asked: Sequence[Asked], seed: int) -> list[tuple[list[Asked], list[Asked]]]:
    """Return for each fold what there is to learn from and what is held out."""
    fold = np.random.default_rng(seed).permutation(len(asked)) % FOLDS
    return [
        ([one for one, its in zip(asked, fold, strict=True) if its != k], [one for one, its in zip(asked, fold, strict=True) if its == k]) for k in range(FOLDS)
    ]


def _fitted(asked: Sequence[Asked], unjudged: float, ridge: float) -> tuple[float, ...]:
    spread = np.concatenate([one.fits[one.likely] for one in asked]).std(axis=0) + 1e-9
    lists = [(one, items, weight) for one in asked for items, weight in ((np.flatnonzero(one.judged), 1 - unjudged), (one.likely, unjudged))]
    # all lists in one array, one after the other: a pass of numpy for all queries at once
    fits = np.concatenate([one.fits[items] for one, items, _ in lists]).astype(np.float64) / spread
    wanted = np.concatenate([one.gain[items] / one.gain[items].sum() for one, items, _ in lists])
    lengths = np.array([len(items) for _, items, _ in lists])
    weight = np.repeat([weight for _, _, weight in lists], lengths)
    begins, owner = np.cumsum(lengths) - lengths, np.repeat(np.arange(len(lists)), lengths)

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        score = fits @ weights
        score -= np.maximum.reduceat(score, begins)[owner]
        likely = np.exp(score)
        total = np.add.reduceat(likely, begins)[owner]
        value = ridge * float(weights @ weights) / 2 - float((weight * wanted) @ (score - np.log(total)))
        return value, ridge * weights + fits.T @ (weight * (likely / total - wanted))

    found = scipy.optimize.minimize(loss, np.zeros(len(spread)), jac=True, method="L-BFGS-B").x / spread
    return tuple(float(weight) for weight in found)
