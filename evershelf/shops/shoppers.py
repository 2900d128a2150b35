"""How a simulated shopper acts: what is clicked is position bias times taste. The simulator and live load both act by it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRUTH = "truth"
POSITION_BIAS = 0.72  # each place is looked at this much less often than the one before
TASTE_WEIGHT = 7.0
LINK_BONUS = (3.2, 2.4, 1.8)  # for the items that tend to follow the last one, strongest first
RELUCTANCE = 3.4


@dataclass(frozen=True, slots=True)
class Truth:
    """What only the simulator knows.

    Shapes: item_vectors [items, d]; links [items, LINKS]; popularity [items]; shopper_vectors [shoppers, d]; queries [shoppers, n], texts they would type.
    """

    item_ids: NDArray[np.str_]
    item_vectors: NDArray[np.float64]
    links: NDArray[np.int64]
    popularity: NDArray[np.float64]
    user_ids: NDArray[np.str_]
    shopper_vectors: NDArray[np.float64]
    queries: NDArray[np.str_]


def save_truth(truth: Truth, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "items.npz", item_ids=truth.item_ids, item_vectors=truth.item_vectors, links=truth.links, popularity=truth.popularity)
    np.savez(folder / "shoppers.npz", user_ids=truth.user_ids, shopper_vectors=truth.shopper_vectors, queries=truth.queries)


def load_truth(folder: Path) -> Truth:
    """Read what `evershelf simulate` wrote beside its days, DIR/truth."""
    with np.load(folder / "items.npz") as items, np.load(folder / "shoppers.npz") as shoppers:
        return Truth(**{name: items[name] for name in items.files}, **{name: shoppers[name] for name in shoppers.files})


def click_probabilities(
    tastes: NDArray[np.float64], shown: NDArray[np.float64], linked: NDArray[np.float64], bias: float = POSITION_BIAS
) -> NDArray[np.float64]:
    """Return the probability of a click for each item of each page.

    Args:
        tastes: [pages, d], the shopper who looks.
        shown: [pages, places, d], the items, first place first.
        linked: [pages, places], bonus of the item for following the last one, 0 for most.

    Returns:
        [pages, places] in (0, 1).
    """
    wish = TASTE_WEIGHT * np.einsum("pd,pkd->pk", tastes, shown) + linked - RELUCTANCE
    looked_at = bias ** np.arange(shown.shape[1])
    return np.asarray(looked_at / (1.0 + np.exp(-wish)))


def link_bonus(links: NDArray[np.int64], last: NDArray[np.int64], shown: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [pages, places]: the bonus of each shown item for following item `last` ([pages], -1 for none)."""
    follows = links[np.maximum(last, 0)]  # [pages, LINKS]
    bonus = (shown[:, :, None] == follows[:, None, :]) @ np.asarray(LINK_BONUS)
    return np.where(last[:, None] >= 0, bonus, 0.0)


def chances(truth: Truth, shopper: int, item_ids: list[str], last_item: str | None = None) -> NDArray[np.float64]:
    """Return [items]: the true probability that a shopper clicks each shown item; their sum is what an answer is worth to the shop, in expected clicks.

    Args:
        shopper: row of the shopper in `truth.user_ids`.
        item_ids: what was shown, first place first; unknown ids are never clicked.
        last_item: what the shopper looked at before.
    """
    places = np.searchsorted(truth.item_ids, item_ids) if item_ids else np.zeros(0, dtype=np.int64)
    places = np.minimum(places, len(truth.item_ids) - 1)
    known = truth.item_ids[places] == np.asarray(item_ids, dtype=np.str_)
    last = int(np.searchsorted(truth.item_ids, last_item)) if last_item is not None and last_item in truth.item_ids else -1
    bonus = link_bonus(truth.links, np.array([last]), places[None, :])
    return np.where(known, click_probabilities(truth.shopper_vectors[[shopper]], truth.item_vectors[places][None], bonus)[0], 0.0)


def clicked(truth: Truth, rng: np.random.Generator, shopper: int, item_ids: list[str], last_item: str | None = None) -> list[str]:
    """Return which of the shown items a shopper clicks, in the order shown; the arguments are those of `chances`."""
    drawn = rng.random(len(item_ids)) < chances(truth, shopper, item_ids, last_item)
    return [item for item, yes in zip(item_ids, drawn, strict=True) if yes]
