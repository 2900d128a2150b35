"""The simulated shop: raw days as a real shop's systems would drop them, the same bytes for the same seed.

Shoppers come with tastes over a catalogue, look at pages (after a search or as recommendations), click by position bias times taste, and go on from what
they clicked last: some items tend to follow others, which is what a sequence model can learn. A little dirt is mixed in: repetitions, missing fields,
broken lines, rows that arrive up to two days late. What only the simulator knows is written aside, in `truth/`.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from evershelf import storage
from evershelf.shops.catalogue import DIMENSIONS, Catalogue, make_catalogue
from evershelf.shops.shoppers import TRUTH, Truth, click_probabilities, link_bonus, save_truth
from evershelf.text import words

Row = dict[str, Any]

PLACES = 6  # items on a page
PAGES = 8  # at most, in one visit
STAY = 0.8  # chance of a further page
LATE = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirt:
    """Shares of rows that come repeated, without a required field, broken, or late."""

    repeated: float = 0.003
    missing: float = 0.001
    broken: float = 0.0005
    late: float = 0.02


CLEAN = Dirt(repeated=0, missing=0, broken=0, late=0)


@dataclass(frozen=True, slots=True)
class _Shop:
    catalogue: Catalogue
    truth: Truth
    activity: NDArray[np.float64]  # [shoppers], sums to 1
    wholesale: NDArray[np.bool_]  # [shoppers]
    matches: dict[str, NDArray[np.float64]]  # query -> [items], how well each item answers it


@dataclass(frozen=True, slots=True)
class Simulated:
    """What one simulated day holds: the raw rows of each file."""

    day: date
    events: int
    orders: int
    products: int


def simulate(
    out: Path,
    *,
    days: int,
    end: date,
    seed: int = 7,
    users: int = 1500,
    items: int = 600,
    visits: int = 550,
    zone: ZoneInfo | None = None,
    dirt: Dirt | None = None,
) -> Iterator[Simulated]:
    """Write the raw days of the simulated shop and yield each when it is there.

    Args:
        out: `out/YYYY-MM-DD/{events,orders,products}.jsonl.gz` and `out/truth/` are written.
        days: how many, the last one is `end`.
        visits: visits a day; a visit makes about 35 events.
        zone: the shop's calendar, default Europe/London.
        dirt: shares of imperfect rows.

    The bytes depend on nothing but the arguments.
    """
    zone, dirt = zone or ZoneInfo("Europe/London"), dirt or Dirt()
    shop = _open_shop(seed, users, items)
    save_truth(shop.truth, out / TRUTH)
    last = np.full(users, -1, dtype=np.int64)  # what each shopper clicked last
    late: dict[date, dict[str, list[Row]]] = {}
    for offset in range(days):
        day = end - timedelta(days=days - 1 - offset)
        rng = np.random.default_rng([seed, 2, day.toordinal()])
        events, orders = _visits(shop, rng, day, zone, visits, last)
        rows = {"events": events, "orders": orders, "products": _products(shop, rng, day, zone)}
        for name, kept in rows.items():
            if name != "products":
                kept = _hold_back(kept, rng, day, dirt.late, late, name)
                kept += late.get(day, {}).get(name, [])
            storage.replace(out / day.isoformat() / f"{name}.jsonl.gz", _soiled(kept, rng, dirt))
        yield Simulated(day, len(events), len(orders), len(rows["products"]))


def _open_shop(seed: int, users: int, items: int) -> _Shop:
    catalogue = make_catalogue(seed, items)
    rng = np.random.default_rng([seed, 3])
    favourites = rng.choice(items, (users, 3), p=catalogue.popularity)
    tastes = (catalogue.vectors[favourites] * np.array([1.0, 0.7, 0.45])[:, None]).sum(axis=1) + 0.08 * rng.normal(size=(users, DIMENSIONS))
    tastes /= np.linalg.norm(tastes, axis=1, keepdims=True)
    queries = [[_query(catalogue, rng, int(item)) for item in row] for row in rng.choice(items, (users, 2), p=catalogue.popularity)]
    queries = [[_query(catalogue, rng, int(item)) for item in row] + more for row, more in zip(favourites, queries, strict=True)]
    activity = rng.pareto(1.6, users) + 0.3
    truth = Truth(
        item_ids=np.array(catalogue.item_ids),
        item_vectors=catalogue.vectors,
        links=catalogue.links,
        popularity=catalogue.popularity,
        user_ids=np.array([f"shopper-{index:06d}" for index in range(users)]),
        shopper_vectors=tastes,
        queries=np.array(queries),
    )
    return _Shop(catalogue, truth, activity / activity.sum(), rng.random(users) < 0.02, _matches(catalogue, set(truth.queries.flat)))


def _query(catalogue: Catalogue, rng: np.random.Generator, item: int) -> str:
    """Return what somebody types who looks for such an item: words of its title, its shelf or its brand."""
    title = words(catalogue.titles[item])
    shelf = " ".join(words(catalogue.category_paths[item].split(" > ")[-1]))
    brand, _, material, *noun = title
    return (" ".join(noun), f"{material} {noun[-1]}", shelf, f"{brand} {noun[-1]}", noun[-1])[rng.choice(5, p=(0.4, 0.2, 0.2, 0.1, 0.1))]


def _visits(shop: _Shop, rng: np.random.Generator, day: date, zone: ZoneInfo, visits: int, last: NDArray[np.int64]) -> tuple[list[Row], list[Row]]:
    """Play all visits of a day, page by page; `last` is carried on."""
    truth, catalogue = shop.truth, shop.catalogue
    visits = max(1, int(visits * rng.normal(1.0, 0.05)))
    shopper = rng.choice(len(truth.user_ids), visits, p=shop.activity)
    guest = rng.random(visits) < 0.08
    # seconds after local midnight: a peak at noon and a higher one in the evening, all between 6:00 and 23:00
    clock = np.where(rng.random(visits) < 0.4, rng.normal(12.5, 2.0, visits), rng.normal(19.5, 1.6, visits)).clip(6.0, 22.8) * 3600
    midnight = datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)
    events, orders = _Writer(day, midnight, "e"), _Writer(day, midnight, "o")
    active = np.ones(visits, dtype=bool)
    bought: dict[int, int] = {}  # visit -> lines so far

    for _ in range(PAGES):
        at = np.flatnonzero(active)
        if not len(at):
            break
        who = shopper[at]
        searching = rng.random(len(at)) < 0.35
        wanted = rng.integers(0, truth.queries.shape[1], len(at))
        shown = _page(shop, rng, who, last[who], np.where(searching, wanted, -1))
        chance = click_probabilities(truth.shopper_vectors[who], truth.item_vectors[shown], link_bonus(truth.links, last[who], shown))
        clicks = rng.random(shown.shape) < chance
        carts = clicks & (rng.random(shown.shape) < 0.3)
        purchases = carts & (rng.random(shown.shape) < 0.45)
        pause = rng.uniform(4, 40, shown.shape)
        for row, visit in enumerate(at.tolist()):
            user = None if guest[visit] else str(truth.user_ids[who[row]])
            session = f"s{day:%Y%m%d}-{visit:05d}"
            second = float(clock[visit])
            query = str(truth.queries[who[row], wanted[row]]) if searching[row] else None
            if query:
                events.add(second, user_id=user, session_id=session, type="search", query=query)
            second += 1
            for place in range(PLACES):
                events.add(
                    second, user_id=user, session_id=session, type="impression", item_id=catalogue.item_ids[shown[row, place]], query=query, position=place + 1
                )
            for place in np.flatnonzero(clicks[row]).tolist():
                item = int(shown[row, place])
                about: Row = {"user_id": user, "session_id": session, "item_id": catalogue.item_ids[item]}
                money: Row = {"price": float(catalogue.prices[item]), "currency": "GBP"}
                second += float(pause[row, place])
                events.add(second, **about, type="click", query=query, position=place + 1)
                events.add(second + 1, **about, type="view")
                second += 2
                if carts[row, place]:
                    second += 6
                    events.add(second, **about, type="cart", quantity=1, **money)
                if purchases[row, place]:
                    second += 30
                    quantity = (
                        int(rng.integers(100, 300)) if shop.wholesale[who[row]] and rng.random() < 0.6 else int(rng.choice(4, p=(0.7, 0.18, 0.08, 0.04))) + 1
                    )
                    events.add(second, **about, type="purchase", quantity=quantity, **money)
                    bought[visit] = bought.get(visit, 0) + 1
                    # clothes come back more often than the rest
                    regretted = rng.random() < (0.18 if catalogue.category_paths[item].startswith("Clothing") else 0.03)
                    orders.rows.append(
                        {
                            "order_id": f"o{session[1:]}",
                            "line_id": str(bought[visit]),
                            "ordered_at": orders.moment(second),
                            "user_id": user,
                            "item_id": catalogue.item_ids[item],
                            "quantity": quantity,
                            **money,
                            "cancelled_at": orders.moment(second + float(rng.uniform(60, 900))) if regretted else None,
                        }
                    )
                last[who[row]] = item
            clock[visit] = second + float(rng.uniform(5, 60))
        active[at] = rng.random(len(at)) < STAY
    return events.rows, orders.rows


def _page(shop: _Shop, rng: np.random.Generator, who: NDArray[np.int64], last: NDArray[np.int64], query: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [pages, PLACES] distinct items: what follows the last one, what suits the shopper, what sells; on a search what the query's shelf holds."""
    catalogue, truth = shop.catalogue, shop.truth
    wish = 4.0 * truth.shopper_vectors[who] @ catalogue.vectors.T + 0.5 * np.log(catalogue.popularity) + rng.gumbel(size=(len(who), len(catalogue)))
    following = np.flatnonzero(last >= 0)
    np.add.at(wish, (following[:, None], catalogue.links[last[following]]), 6.0)
    wish[following, last[following]] = -np.inf
    for row in np.flatnonzero(query >= 0):
        wish[row] += 8.0 * shop.matches[str(truth.queries[who[row], query[row]])]
    return np.argsort(-wish, axis=1)[:, :PLACES]


def _matches(catalogue: Catalogue, queries: set[str]) -> dict[str, NDArray[np.float64]]:
    """Return for each query [items]: the share of its words that each item's title or shelf holds."""
    texts = [set(words(f"{title} {path}")) for title, path in zip(catalogue.titles, catalogue.category_paths, strict=True)]
    asked = {query: set(words(query)) for query in queries}
    return {query: np.array([len(wanted & text) / len(wanted) for text in texts]) for query, wanted in asked.items()}


class _Writer:
    """Numbers rows and gives them their time."""

    def __init__(self, day: date, midnight: datetime, prefix: str) -> None:
        self.rows: list[Row] = []
        self._name = f"{prefix}{day:%Y%m%d}"
        self._midnight = midnight

    def moment(self, second: float) -> str:
        return (self._midnight + timedelta(seconds=second)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def add(self, second: float, **fields: Any) -> None:
        fields = {"event_id": f"{self._name}-{len(self.rows):06d}", "event_time": self.moment(second), "received_at": self.moment(second + 1.5), **fields}
        self.rows.append(fields)


def _products(shop: _Shop, rng: np.random.Generator, day: date, zone: ZoneInfo) -> list[Row]:
    catalogue = shop.catalogue
    stock = rng.poisson(60, len(catalogue)) * (rng.random(len(catalogue)) > 0.01)
    since = datetime.combine(day, time(), tzinfo=zone).astimezone(UTC).isoformat().replace("+00:00", "Z")
    return [
        {
            "item_id": item,
            "title": catalogue.titles[index],
            "description": catalogue.descriptions[index],
            "brand": catalogue.brands[index],
            "category_path": catalogue.category_paths[index],
            "price": float(catalogue.prices[index]),
            "currency": "GBP",
            "stock": int(stock[index]),
            "image": catalogue.images[index],
            "address": f"/products/{item}",
            "attributes": {"colour": catalogue.descriptions[index].split(" in ")[1].split(" ")[0]},
            "valid_from": since,
        }
        for index, item in enumerate(catalogue.item_ids)
    ]


def _hold_back(rows: list[Row], rng: np.random.Generator, day: date, share: float, late: dict[date, dict[str, list[Row]]], name: str) -> list[Row]:
    """Take out the rows that will arrive with a later day, and put them there."""
    delay = np.where(rng.random(len(rows)) < share, rng.integers(1, LATE.days + 1, len(rows)), 0)
    for index in np.flatnonzero(delay):
        late.setdefault(day + timedelta(days=int(delay[index])), {}).setdefault(name, []).append(rows[index])
    return [row for row, days in zip(rows, delay, strict=True) if not days]


def _soiled(rows: list[Row], rng: np.random.Generator, dirt: Dirt) -> bytes:
    """Return the gzipped JSON lines of the rows, with dirt."""
    draws = rng.random((len(rows), 3)) < (dirt.repeated, dirt.missing, dirt.broken)
    lines: list[bytes] = []
    for row, (repeated, missing, broken) in zip(rows, draws, strict=True):
        line = msgspec.json.encode({**row, next(iter(row)): None} if missing else row)
        lines.append(line[: len(line) // 2] if broken else line)
        if repeated:
            lines.append(line)
    return gzip.compress(b"\n".join(lines) + b"\n" if lines else b"", mtime=0)
