"""What a ranking of the whole catalogue is worth: where the chosen item came, and what was shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Gain = npt.NDArray[np.float64]  # [events]
Scores = npt.NDArray[np.floating[Any]]
SHOWN = 10  # items of an answer
METRICS = ("HR@10", "NDCG@10", "Recall@20", "NDCG@20", "MRR")
RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Where the chosen item came, 1 is best (inf: not at all), per event; and how often each item was among the first ten."""

    rank: npt.NDArray[np.float64]
    shown: npt.NDArray[np.int64]  # [items]

    def gains(self) -> dict[str, npt.NDArray[np.float64]]:
        return {
            "HR@10": (self.rank <= 10).astype(np.float64),
            "NDCG@10": np.where(self.rank <= 10, 1 / np.log2(1 + self.rank), 0.0),
            "Recall@20": (self.rank <= 20).astype(np.float64),
            "NDCG@20": np.where(self.rank <= 20, 1 / np.log2(1 + self.rank), 0.0),
            "MRR": 1 / self.rank,
        }

    def figures(self, popular: npt.NDArray[np.number[Any]]) -> dict[str, float]:
        """Return each metric's mean; the share of the items that were shown; and the novelty of what was shown, in bits: the mean of -log2 of the share of all
        interactions that an item has (one more interaction each, so that a new item has some).

        Args:
            popular: [items] interactions of each item; item 0 is padding.

        Source:
            Vargas and Castells, "Rank and relevance in novelty and diversity metrics for recommender systems", RecSys 2011.
        """
        items = len(popular) - 1
        surprise = -np.log2((popular + 1) / (popular.sum() + items))
        shown = max(1, int(self.shown.sum()))
        return {name: round(float(gain.mean()), 5) for name, gain in self.gains().items()} | {
            "coverage@10": round(float((self.shown > 0).sum()) / items, 4),
            "novelty@10": round(float(self.shown @ surprise) / shown, 3),
        }


def ranks_of(scores: Scores, target: npt.NDArray[np.integer[Any]]) -> Ranks:
    """Return where each row's target comes among [events, items] scores; ties get the middle of their places, -inf is not ranked."""
    wanted = np.take_along_axis(scores, target[:, None].astype(np.int64), axis=1)
    better = (scores > wanted).sum(axis=1)
    same = (scores == wanted).sum(axis=1) - 1
    rank = np.where(np.isfinite(wanted[:, 0]), 1 + better + same / 2, np.inf)
    top = np.argpartition(-scores, min(SHOWN, scores.shape[1] - 1), axis=1)[:, :SHOWN]
    shown = np.bincount(top[np.isfinite(np.take_along_axis(scores, top, axis=1))], minlength=scores.shape[1])
    return Ranks(rank=rank, shown=shown)


def together(parts: list[Ranks]) -> Ranks:
    """Join the ranks of parts of the events."""
    return Ranks(rank=np.concatenate([part.rank for part in parts]), shown=np.sum([part.shown for part in parts], axis=0))


def bootstrap(gain: npt.NDArray[np.float64], owners: npt.NDArray[np.integer[Any]], seed: int) -> list[float]:
    """Return the 95 % interval of the mean gain, by resampling shoppers. A difference of two rankings' gains on the same events gives the paired interval."""
    _, owner = np.unique(owners, return_inverse=True)
    total, events = np.bincount(owner, weights=gain), np.bincount(owner)
    random = np.random.default_rng(seed)
    means = [(times @ total) / (times @ events) for times in (random.multinomial(len(total), np.full(len(total), 1 / len(total))) for _ in range(RESAMPLES))]
    return [round(float(edge), 5) for edge in np.quantile(means, (0.025, 0.975))]


def difference(ours: Gain, theirs: Gain, owners: npt.NDArray[np.integer[Any]], seed: int) -> list[float]:
    """Return by how much we gain more on the same events: [difference, its lowest, its highest value] with 95 % confidence."""
    return [round(float((ours - theirs).mean()), 5), *bootstrap(ours - theirs, owners, seed)]


def intervals(ranks: Ranks, owners: npt.NDArray[np.integer[Any]], seed: int) -> dict[str, list[float]]:
    return {metric: bootstrap(ranks.gains()[metric], owners, seed) for metric in METRICS}


def paired(ours: Ranks, theirs: Mapping[str, Ranks], owners: npt.NDArray[np.integer[Any]], seed: int) -> dict[str, dict[str, list[float]]]:
    """Return by how much we are better than each of them: its name -> metric -> `difference`."""
    gains = ours.gains()
    return {name: {metric: difference(gains[metric], gain, owners, seed) for metric, gain in other.gains().items()} for name, other in theirs.items()}
