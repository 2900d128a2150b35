"""`evaluate interactions`: what the second source makes of a shop that is two files of interactions, beside popularity and item-kNN.

A history is read as it stands in the file: when an item was held back from the middle of a visit, what the shopper did around it is known. A source that sees
the order gains much from that; figures of models that see only sets of items (the published ones for RetailRocket, and item-kNN here) do not compare with it.

Of each shopper the file to foretell holds back an item with all that the shopper did with it. The same is done once more to what there is to learn from: the
item of each shopper's last act of the strongest behaviour is held back, and these choose how the second source learns and reads a history. Only then does it
learn from everything, and is measured.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evershelf.contracts.model import HISTORY_LENGTH
from evershelf.progress import Say
from training import linear, ranking, slices
from training.data import Ints
from training.interaction_files import Interactions, read_interactions
from training.ranking import Ranks

PROTOCOL = (
    "The items of {rows} rows of {users} shoppers are foretold from all that the shoppers did with other items, ranking all {items} items but those that the "
    "shopper is known to have taken (only the strongest behaviour counts as taking). {shoppers} shoppers' last items among what there is to learn from, held "
    "back with all that was done with them, chose: {chosen}. 95 % intervals: bootstrap over shoppers, paired."
)
METRIC = "NDCG@20"  # by which is chosen
RIDGES, DECAYS = (30.0, 100.0), (1.0, 0.95, 0.8)
BATCH = 256
TIE = 1e-6  # what popularity adds: it orders what a source says nothing of

Scorer = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]  # shoppers -> [shoppers, items]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How the second source learns and reads."""

    both_ways: bool  # from the choices around each choice, or from those before it
    ridge: float
    decay: float  # of each item back in a history
    only_new: bool  # what a shopper has done anything with is not shown

    def __str__(self) -> str:
        return (
            f"learning from the choices {'around' if self.both_ways else 'before'} each choice, ridge {self.ridge:g}; each item back in a history counts "
            f"{self.decay:g} times as much; items that the shopper has {'met are left out' if self.only_new else 'only met may be shown'}"
        )


def evaluate(train: Path, test: Path, seed: int, say: Say) -> dict[str, Any]:
    """Return what `--json` prints.

    Raises:
        UnusableData: a file is not what it must be.
    """
    started = time.monotonic()
    learned, owners, targets, names = read_interactions(train, test)
    count = len(names)
    say(f"{len(learned.item)} interactions with {count - 1} items; {len(targets)} to foretell")
    shown, validation_owners, validation_targets = _hold_back(learned)
    validated: dict[Choice, float] = {}
    for both_ways, ridge in product((True, False), RIDGES):
        second = _learn(shown, count, both_ways, ridge)
        for decay, only_new in product(DECAYS, (True, False)):
            choice = Choice(both_ways=both_ways, ridge=ridge, decay=decay, only_new=only_new)
            ranks = _ranks(_by(second, shown, decay), shown, only_new, validation_owners, validation_targets)
            validated[choice] = round(float(ranks.gains()[METRIC].mean()), 5)
        say(f"{'around' if both_ways else 'before'}, ridge {ridge:g}: {METRIC} up to {max(validated.values()):.4f} after {time.monotonic() - started:.0f} s")
    chosen = max(validated, key=lambda choice: validated[choice])
    popular = _popularity(learned, count)
    found = {
        "evershelf": _ranks(_by(_learn(learned, count, chosen.both_ways, chosen.ridge), learned, chosen.decay), learned, chosen.only_new, owners, targets),
        "item_knn": _ranks(_item_knn(learned, count), learned, False, owners, targets),
        "popular": _ranks(lambda who: np.repeat(popular[None], len(who), axis=0), learned, False, owners, targets),
    }
    ours = found.pop("evershelf")
    return {
        "metrics": ours.figures(popular),
        "interval95": ranking.intervals(ours, owners, seed),
        "baselines": {name: ranks.figures(popular) for name, ranks in found.items()},
        "better_by": ranking.paired(ours, found, owners, seed),
        "slices": slices.means(ours.gains()["NDCG@10"], slices.of_events(_lengths(learned, owners), targets, np.bincount(learned.item, minlength=count))),
        "validation": {str(choice): value for choice, value in validated.items()},
        "protocol": PROTOCOL.format(rows=len(targets), users=len(np.unique(owners)), items=count - 1, shoppers=len(validation_owners), chosen=chosen),
        "users": len(np.unique(owners)),
        "seconds": round(time.monotonic() - started, 1),
    }


def _hold_back(learned: Interactions) -> tuple[Interactions, Ints, Ints]:
    """Return what is left when each shopper's last taken item is held back with all that the shopper did with it, those shoppers, and those items."""
    taken = np.flatnonzero(learned.behaviour == learned.target)
    last = taken[np.append(learned.shopper[taken][1:] != learned.shopper[taken][:-1], True)]
    width = int(learned.item.max()) + 1
    pair = learned.shopper.astype(np.int64) * width + learned.item
    return learned.without(np.isin(pair, pair[last])), learned.shopper[last], learned.item[last]


def _learn(learned: Interactions, count: int, both_ways: bool, ridge: float) -> linear.Linear:
    """A click, a view and a purchase of one item in a row are one choice."""
    choice = np.append(True, (learned.item[1:] != learned.item[:-1]) | (learned.shopper[1:] != learned.shopper[:-1]))
    return linear.fit(learned.shopper[choice], learned.item[choice], count, ridge=ridge, both_ways=both_ways)


def _by(second: linear.Linear, learned: Interactions, decay: float) -> Scorer:
    popular = _popularity(learned, second.weights.shape[0])
    return lambda who: second.scores(_histories(learned, who), decay) + np.float32(TIE / max(popular.max(), 1.0)) * popular


def _histories(learned: Interactions, who: npt.NDArray[np.int64]) -> Ints:
    """Return [shoppers, length] each one's newest items, newest last, padded with 0 on the left."""
    end = np.searchsorted(learned.shopper, who, side="right")
    begin = np.maximum(np.searchsorted(learned.shopper, who), end - HISTORY_LENGTH)
    back = end[:, None] - np.arange(HISTORY_LENGTH, 0, -1)[None]
    return np.where(back >= begin[:, None], learned.item[np.maximum(back, 0)], 0).astype(np.int32)


def _lengths(learned: Interactions, who: Ints) -> Ints:
    """Return [shoppers] how many interactions each has."""
    return np.bincount(learned.shopper, minlength=int(who.max()) + 1)[who].astype(np.int32)


def _popularity(learned: Interactions, count: int) -> npt.NDArray[np.float32]:
    """Return [items] how often each was met, a stronger behaviour counting more."""
    return np.bincount(learned.item, weights=learned.behaviour, minlength=count).astype(np.float32)


def _item_knn(learned: Interactions, count: int) -> Scorer:
    """Cosine between the items' columns of the table of shoppers and items, in which each interaction counts by its behaviour.

    Source: Sarwar et al., WWW 2001.
    """
    table = sp.csr_matrix((learned.behaviour.astype(np.float64), (learned.shopper, learned.item)), (int(learned.shopper.max()) + 1, count))
    norm = sp.diags(1 / np.maximum(np.sqrt(np.asarray(table.multiply(table).sum(axis=0)).ravel()), 1e-9))
    together = table.T @ table
    similar = norm @ (together - sp.diags(together.diagonal())) @ norm
    known = table.shape[0]

    def scores(who: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rows = (table[np.minimum(who, known - 1)] @ similar).toarray()
        return np.where((who < known)[:, None], rows, 0).astype(np.float32)

    return scores


def _ranks(scorer: Scorer, learned: Interactions, only_new: bool, owners: Ints, targets: Ints) -> Ranks:
    hidden_rows = np.ones(len(learned.item), np.bool_) if only_new else learned.behaviour == learned.target
    shopper, item = learned.shopper[hidden_rows], learned.item[hidden_rows]
    parts = []
    for start in range(0, len(owners), BATCH):
        who = owners[start : start + BATCH].astype(np.int64)
        scores = scorer(who)
        begin, end = np.searchsorted(shopper, who), np.searchsorted(shopper, who, side="right")
        row = np.repeat(np.arange(len(who)), end - begin)
        scores[row, item[np.concatenate([np.arange(*pair) for pair in zip(begin, end, strict=True)])]] = -np.inf
        scores[:, 0] = -np.inf
        parts.append(ranking.ranks_of(scores, targets[start : start + BATCH]))
    return ranking.together(parts)
