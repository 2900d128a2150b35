"""What the model must beat: the popular list, and item-kNN on what was chosen together. Also the lists that the stored rungs would answer with."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evershelf.contracts.candidates import BACKWARD, BASKET, GAP, HALF_LIFE_DAYS, RECENCY, RECENT
from training.data import Shop

Vectors = npt.NDArray[np.float32]


def popularity(shop: Shop, numbers: npt.NDArray[np.int32], count: int) -> Vectors:
    """Return [count] time-decayed interactions before the split, by item number."""
    before = shop.time < shop.split
    weight = 0.5 ** ((shop.split - shop.time[before]) / HALF_LIFE_DAYS)
    return np.bincount(numbers[shop.item[before]], weights=weight, minlength=count).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbors:
    """Item-item cosine similarities; the neighbours of item i are columns[start[i]:start[i + 1]], best first."""

    start: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]
    count: int

    def scores(self, histories: npt.NDArray[np.int32]) -> Vectors:
        """Return [histories, items] from [histories, length] item numbers, newest last, 0 is padding."""
        scores = np.zeros((len(histories), self.count), np.float32)
        for back in range(1, min(RECENT, histories.shape[1]) + 1):
            for row, item in enumerate(histories[:, -back]):
                if item > 0:
                    columns = slice(self.start[item], self.start[item + 1])
                    scores[row, self.columns[columns]] += RECENCY ** (back - 1) * self.similarity[columns]
        return scores

    def nearest(self, item: int, most: int) -> npt.NDArray[np.int64]:
        return self.columns[self.start[item] : min(self.start[item] + most, self.start[item + 1])]


def neighbors(shop: Shop, numbers: npt.NDArray[np.int32], count: int, half_life: float = HALF_LIFE_DAYS) -> Neighbors:
    """Count which items one shopper chose before the split, weighted by age, by what came between and by which came first, and take cosines: as the candidate
    job does.

    Args:
        half_life: days after which a choice counts half; inf: all count the same.

    Sources: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001; Garg et al., "Sequence and time aware neighborhood for
    session-based recommendations" (STAN), SIGIR 2019.
    """
    before = np.flatnonzero(shop.time < shop.split)
    newest_first = before[np.lexsort((shop.item[before], -shop.time[before], shop.shopper[before]))]
    pair = shop.shopper[newest_first].astype(np.int64) * count + numbers[shop.item[newest_first]]
    _, once = np.unique(pair, return_index=True)  # the newest interaction of each shopper with each item
    rows = newest_first[np.sort(once)]
    owner, item = shop.shopper[rows], numbers[shop.item[rows]].astype(np.int64)
    weight = 0.5 ** ((shop.split - shop.time[rows]) / half_life)
    place = np.arange(len(rows)) - np.searchsorted(owner, owner)
    keep = (place < BASKET) & (item > 0)
    owner, item, weight, time = owner[keep], item[keep], weight[keep], shop.time[rows][keep]
    instant = np.cumsum(np.append(0, (owner[1:] != owner[:-1]) | (time[1:] != time[:-1])))  # numbered from the newest on; lines of one order have the same
    froms, tos, weights = [], [], []
    for back in range(1, BASKET):
        same = owner[back:] == owner[:-back]
        older, newer = item[back:][same], item[:-back][same]
        apart = (instant[back:] - instant[:-back])[same]
        forward = np.minimum(weight[back:], weight[:-back])[same] * GAP ** np.maximum(apart - 1, 0)
        froms += [older, newer]
        tos += [newer, older]
        weights += [forward, forward * np.where(apart > 0, BACKWARD, 1.0)]
    pairs, position = np.unique(np.concatenate(froms) * count + np.concatenate(tos), return_inverse=True)
    together = np.bincount(position, weights=np.concatenate(weights), minlength=len(pairs))
    alone = np.bincount(item, weights=weight, minlength=count)
    row, column = pairs // count, pairs % count
    cosine = together / np.sqrt(alone[row] * alone[column])
    order = np.lexsort((column, -cosine, row))
    return Neighbors(start=np.searchsorted(row, np.arange(count + 1)), columns=column[order], similarity=cosine[order], count=count)
