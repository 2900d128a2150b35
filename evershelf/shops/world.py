"""The simulated shop itself: its shoppers and what it has on its shelves, carried from day to day."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from evershelf.shops import demand
from evershelf.shops.catalogue import DIMENSIONS, QUERIES, SHELF_NAMES, Catalogue, make_catalogue
from evershelf.shops.shoppers import Truth
from evershelf.text import words

NEW_ITEMS = 0.004  # of the opening catalogue, a day
NEW_SHOPPERS = 0.01  # of the first day's shoppers, a day
ROBOTS, FARMS = 0.002, 0.001  # robots, and click farms, per shopper; at least one of each
FARM_ACCOUNTS, FARM_TARGETS = 5, 3  # accounts of a click farm, and items that it pushes
WHOLESALE = 0.02  # share of shoppers who buy by the hundred
DRIFT = 0.02  # a day, per dimension of a taste of length 1
BUDGET = (200.0, 0.8)  # a shopper's week: median, and spread of its logarithm
WHOLESALE_BUDGET = 200  # times as much
OWNED = 8  # so many of the items last bought count as had
CAPACITY = (200, 600)  # pieces of an item that the shop stores
SALES = 0.5  # how much more a popular item is shown: popularity ** SALES
REFILL = 1 / 3  # chance each morning that an item of which less than a tenth is left is refilled


@dataclass(slots=True, kw_only=True)
class World:
    """The first group never changes, the second does.

    begins, joins: [items], [shoppers]: the day, counted from 0, on which an item is first sold and a shopper first comes.
    searches: [shoppers, n], places in `texts`; asked: [texts, 3], places in `holds`; holds: [words, items], whether an item's title or path has the word,
        the last word is none.
    """

    seed: int
    catalogue: Catalogue
    begins: NDArray[np.int64]
    joins: NDArray[np.int64]
    user_ids: NDArray[np.str_]
    robots: NDArray[np.str_]
    farms: NDArray[np.str_]
    targets: NDArray[np.int64]  # [farms, FARM_TARGETS]
    searches: NDArray[np.int64]
    texts: list[str]
    asked: NDArray[np.int64]
    holds: NDArray[np.bool_]
    activity: NDArray[np.float64]
    wholesale: NDArray[np.bool_]
    allowance: NDArray[np.float64]
    consumable: NDArray[np.bool_]
    capacity: NDArray[np.int64]

    offset: int
    tastes: NDArray[np.float64]
    last: NDArray[np.int64]  # [shoppers], what each clicked last, -1 for nothing
    owned: NDArray[np.int64]
    budgets: NDArray[np.float64]
    stock: NDArray[np.int64]
    prices: NDArray[np.float64]
    demand: NDArray[np.float64]
    pull: NDArray[np.float64]  # [items], how much each is shown to somebody without a taste

    @property
    def sold(self) -> NDArray[np.bool_]:
        """[items]: in the catalogue today, in stock or not."""
        return self.begins <= self.offset

    def morning(self, day: date, offset: int, rng: np.random.Generator) -> None:
        """Begin a day: tastes drift, a new week brings a new budget, shelves are refilled and priced."""
        self.offset = offset
        self.tastes += DRIFT * rng.normal(size=self.tastes.shape)
        self.tastes /= np.linalg.norm(self.tastes, axis=1, keepdims=True)
        if day.weekday() == 0:
            self.budgets = self.allowance.copy()
        refilled = (self.stock < self.capacity // 10) & (rng.random(len(self.stock)) < REFILL)
        self.stock = np.where(refilled, self.capacity, self.stock)
        self.prices, self.demand = demand.todays_prices(self.seed, day, self.catalogue.shelves, self.catalogue.prices)
        self.pull = demand.season(day)[self.catalogue.shelves] * self.catalogue.popularity**SALES

    def truth(self) -> Truth:
        """Return what is true now of the items and shoppers who are there."""
        items, people = int(self.sold.sum()), int((self.joins <= self.offset).sum())  # both come in the order of their arrays
        return Truth(
            item_ids=np.array(self.catalogue.item_ids[:items]),
            item_vectors=self.catalogue.vectors[:items],
            links=self.catalogue.links[:items],
            popularity=self.catalogue.popularity[:items] / self.catalogue.popularity[:items].sum(),
            prices=self.prices[:items],
            demand=self.demand[:items],
            consumable=self.consumable[:items],
            user_ids=self.user_ids[:people],
            shopper_vectors=self.tastes[:people],
            queries=np.array(self.texts)[self.searches[:people]],
            owned=self.owned[:people],
            budgets=self.budgets[:people],
            robots=self.robots,
            farms=self.farms,
        )


def open_shop(seed: int, users: int, items: int, days: int) -> World:
    """Make the shop as it is before its first day, with everything and everybody who will come later."""
    rng = np.random.default_rng([seed, 3])
    begins = np.concatenate([np.zeros(items, dtype=np.int64), np.repeat(np.arange(1, days), rng.poisson(NEW_ITEMS * items, days - 1))])
    joins = np.concatenate([np.zeros(users, dtype=np.int64), np.repeat(np.arange(1, days), rng.poisson(NEW_SHOPPERS * users, days - 1))])
    catalogue, people = make_catalogue(seed, len(begins), items), len(joins)

    favourites = rng.choice(items, (people, 3), p=catalogue.popularity[:items])
    tastes = (catalogue.vectors[favourites] * np.array([1.0, 0.7, 0.45])[:, None]).sum(axis=1) + 0.08 * rng.normal(size=(people, DIMENSIONS))
    tastes /= np.linalg.norm(tastes, axis=1, keepdims=True)
    looked_for = np.column_stack([favourites, rng.choice(items, (people, 2), p=catalogue.popularity[:items])])
    kinds = rng.choice(len(QUERIES), looked_for.shape, p=QUERIES)
    texts: dict[str, int] = {}
    typed = [catalogue.query(item, kind) for item, kind in zip(looked_for.ravel().tolist(), kinds.ravel().tolist(), strict=True)]
    searches = [texts.setdefault(text, len(texts)) for text in typed]
    asked, holds = _words(catalogue, list(texts))

    activity = np.minimum(rng.pareto(1.6, people) + 0.3, 12.0)
    wholesale = rng.random(people) < WHOLESALE
    allowance = np.round(BUDGET[0] * rng.lognormal(0, BUDGET[1], people) * np.where(wholesale, WHOLESALE_BUDGET, 1), 2)
    robots, farms = max(1, int(ROBOTS * users)), max(1, int(FARMS * users))
    # no number tells robots and farms from shoppers
    numbers = rng.permutation(users + robots + farms * FARM_ACCOUNTS)
    numbers = np.concatenate([numbers[:users], np.arange(len(numbers), len(numbers) + people - users), numbers[users:]])
    accounts = np.array([f"shopper-{number:06d}" for number in numbers])
    capacity = rng.integers(*CAPACITY, len(catalogue))
    return World(
        seed=seed,
        catalogue=catalogue,
        begins=begins,
        joins=joins,
        user_ids=accounts[:people],
        robots=accounts[people : people + robots],
        farms=accounts[people + robots :],
        targets=rng.integers(0, items, (farms, FARM_TARGETS)),
        searches=np.array(searches).reshape(looked_for.shape),
        texts=list(texts),
        asked=asked,
        holds=holds,
        activity=activity,
        wholesale=wholesale,
        allowance=allowance,
        consumable=np.isin(catalogue.shelves, [place for place, (_, shelf) in enumerate(SHELF_NAMES) if shelf in demand.CONSUMABLES]),
        capacity=capacity,
        offset=0,
        tastes=tastes,
        last=np.full(people, -1, dtype=np.int64),
        owned=np.full((people, OWNED), -1, dtype=np.int64),
        budgets=allowance.copy(),
        stock=np.where(begins == 0, rng.integers(0, capacity), capacity),
        prices=catalogue.prices,
        demand=np.ones(len(catalogue)),
        pull=np.ones(len(catalogue)),
    )


def _words(catalogue: Catalogue, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return [texts, 3] which words each text is made of, and [words, items] which items have them in their title or path; the last word is in none."""
    split = [list(dict.fromkeys(words(text))) for text in texts]
    places = {word: place for place, word in enumerate(dict.fromkeys(word for text in split for word in text))}
    asked = np.full((len(texts), max(len(text) for text in split)), len(places), dtype=np.int64)
    for row, text in enumerate(split):
        asked[row, : len(text)] = [places[word] for word in text]
    holds = np.zeros((len(places) + 1, len(catalogue)), dtype=np.bool_)
    for item, (title, path) in enumerate(zip(catalogue.titles, catalogue.category_paths, strict=True)):
        holds[[places[word] for word in words(f"{title} {path}") if word in places], item] = True
    return asked, holds
