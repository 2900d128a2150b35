"""How a simulated shopper acts: what is clicked is position bias times taste, what is bought hangs on price, habit and budget.

The simulator and live load both act by it.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRUTH = "truth"
POSITION_BIAS = 0.72  # each place is looked at this much less often than the one before
TASTE_WEIGHT = 7.0
LINK_BONUS = (3.2, 2.4, 1.8)  # for the items that tend to follow the last one, strongest first
RELUCTANCE = 3.4
CART = 0.3  # chance that a clicked item is put into the cart, at its list price
PURCHASE = 0.45  # chance that what is in the cart is bought, when the shop has it and the budget allows it
ELASTICITY = 1.8  # demand goes with (price / list price) ** -ELASTICITY
AGAIN = (0.3, 2.5)  # times as likely to buy what one has already: an ordinary item, a consumable


@dataclass(frozen=True, slots=True)
class Truth:
    """What only the simulator knows, at the end of the last simulated day.

    Shapes: item_vectors [items, d]; links [items, LINKS]; popularity [items]; shopper_vectors [shoppers, d]; queries [shoppers, n], texts they would type;
    prices [items], what a piece costs; demand [items], how a discount raises carts, 1 for none; consumable [items], whether it is bought again and again;
    owned [shoppers, k], places of the last items bought, -1 for none; budgets [shoppers], what is left for the week, in the shop's currency;
    robots and farms: accounts of robots and of click farms. They have no row in `user_ids`: whoever measures honest shoppers leaves them out.
    """

    item_ids: NDArray[np.str_]
    item_vectors: NDArray[np.float64]
    links: NDArray[np.int64]
    popularity: NDArray[np.float64]
    prices: NDArray[np.float64]
    demand: NDArray[np.float64]
    consumable: NDArray[np.bool_]
    user_ids: NDArray[np.str_]
    shopper_vectors: NDArray[np.float64]
    queries: NDArray[np.str_]
    owned: NDArray[np.int64]
    budgets: NDArray[np.float64]
    robots: NDArray[np.str_]
    farms: NDArray[np.str_]


ITEMS = ("item_ids", "item_vectors", "links", "popularity", "prices", "demand", "consumable")


def save_truth(truth: Truth, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {one.name: getattr(truth, one.name) for one in fields(truth)}
    np.savez(folder / "items.npz", **{name: value for name, value in values.items() if name in ITEMS})
    np.savez(folder / "shoppers.npz", **{name: value for name, value in values.items() if name not in ITEMS})


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


def cart_probabilities(demand: NDArray[np.float64], consumable: NDArray[np.bool_], owned: NDArray[np.int64], shown: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [pages, places]: the probability that a click on each shown item leads to the cart.

    Args:
        demand, consumable: [items], as in `Truth`.
        owned: [pages, k], what the shopper who looks has bought lately, -1 for none.
        shown: [pages, places], places of the items.
    """
    has = (shown[:, :, None] == owned[:, None, :]).any(axis=2)
    habit = np.where(has, np.where(consumable[shown], AGAIN[1], AGAIN[0]), 1.0)
    return np.minimum(0.95, CART * demand[shown] * habit)


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


def carted_and_bought(
    truth: Truth, rng: np.random.Generator, owned: NDArray[np.int64], left: float, item_ids: list[str]
) -> tuple[list[str], list[str], NDArray[np.int64], float]:
    """Return which of the clicked items a shopper puts into the cart, and which of those are bought, one piece of each, in the order clicked.

    Args:
        owned: [k], as a row of `truth.owned`.
        left: what is left of the week's budget, which nothing that is bought exceeds; unknown ids are never bought.

    Returns:
        Carted, bought, and `owned` and `left` after that.
    """
    known = [item for item in item_ids if item in truth.item_ids]
    places = np.searchsorted(truth.item_ids, known) if known else np.zeros(0, dtype=np.int64)
    wanted = rng.random(len(known)) < cart_probabilities(truth.demand, truth.consumable, owned[None, :], places[None, :])[0]
    decided = rng.random(len(known)) < PURCHASE
    bought = []
    for item, place, price, pays in zip(known, places, truth.prices[places].tolist(), wanted & decided, strict=True):
        if pays and price <= left:
            left -= price
            owned = np.roll(owned, 1)
            owned[0] = place
            bought.append(item)
    return [item for item, yes in zip(known, wanted, strict=True) if yes], bought, owned, left
