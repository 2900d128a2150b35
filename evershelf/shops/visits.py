"""A day in the simulated shop: shoppers' visits page by page, and what robots and click farms do beside them.

Everything is drawn for many pages at once. Instants are whole milliseconds after the shop's midnight from the first moment on, so that no rounding of the
machine's can move one. All other numbers are compared with fresh draws of 53 bits: two machines whose exp(), log() or matrix products differ in the last bit
would have to draw a number within about 1e-15 of a limit to part ways, which a million days of a million events will not see.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evershelf.contracts import EVENT_TYPES
from evershelf.shops.catalogue import SHELF_NAMES
from evershelf.shops.shoppers import PURCHASE, cart_probabilities, click_probabilities, link_bonus
from evershelf.shops.world import FARM_ACCOUNTS, World

PLACES = 6  # items on a page
PAGES = 8  # at most, in one visit
STAY = 0.8  # chance of a further page
SEARCHES = 0.35  # share of pages that answer a search
GUESTS = 0.08  # share of visits of shoppers who do not log in
TASTE, FOLLOWS, MATCHES, AGAIN = 4.0, 6.0, 8.0, 3.0  # what a page shows: weights of taste, links, a query's words, consumables had
PIECES = (0.7, 0.88, 0.96)  # of 1, at most 2, at most 3 pieces, else 4
BULK = (100, 300)  # pieces, for wholesale, in six lines of ten
REGRET = {"Clothing": (0.10, 0.10)}  # department -> chance that a line is cancelled, that it is returned
USUAL_REGRET = (0.02, 0.02)
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
OPENS = 6 * HOUR
POOL, BLOCK = 1000, 128  # of a bigger catalogue, so many items are drawn for so many pages; what follows and what is searched for is added
SEARCH, IMPRESSION, CLICK, VIEW, CART, BUY = range(len(EVENT_TYPES))
AT, SESSION, KIND, ITEM, QUERY, POSITION, QUANTITY = range(7)  # columns of a day's events; -1 is none


@dataclass(frozen=True, slots=True)
class Day:
    """What happened.

    events: [events, 7] int64, columns as named above, in the order of time.
    accounts: [sessions], places in the shoppers, robots and farms of the world, one after the other; -1 for a guest.
    orders: one tuple per line: session, instant, item, pieces, instant of cancellation or -1, instant of return or -1.
    """

    events: NDArray[np.int64]
    accounts: NDArray[np.int64]
    orders: list[tuple[int, ...]]


class _Log:
    def __init__(self) -> None:
        self.rows: list[NDArray[np.int64]] = []

    def add(self, kind: int, *columns: NDArray[np.int64] | int, position: NDArray[np.int64] | int = -1, quantity: NDArray[np.int64] | int = -1) -> None:
        """Add events: instants, sessions, items, queries."""
        at, session, item, query = columns
        rows = np.empty((np.size(at), 7), dtype=np.int64)
        for column, values in ((AT, at), (SESSION, session), (KIND, kind), (ITEM, item), (QUERY, query), (POSITION, position), (QUANTITY, quantity)):
            rows[:, column] = values
        self.rows.append(rows)

    def count(self) -> int:
        return sum(len(rows) for rows in self.rows)


def play(world: World, rng: np.random.Generator, visits: int, length: int, *, robots: float, fraud: float) -> Day:
    """Play a day of `length` milliseconds; `world` goes on by it. `robots` and `fraud` are their shares of the day's events."""
    log, orders = _Log(), list[tuple[int, ...]]()
    closes = length - HOUR // 4  # who is on a page then ends before midnight
    here = world.activity * (world.joins <= world.offset)
    who = rng.choice(len(here), visits, p=here / here.sum())
    # a peak at noon and a higher one in the evening
    hours = np.where(rng.random(visits) < 0.4, rng.normal(12.5, 2.0, visits), rng.normal(19.5, 1.6, visits))
    clock = np.clip((hours * HOUR).astype(np.int64), OPENS, closes - HOUR // 2)
    accounts = np.where(rng.random(visits) < GUESTS, -1, who)

    busy = np.full(len(here), -MINUTE, dtype=np.int64)
    for mine in _waves(who, clock):  # one visit of a shopper after the other, so that what was clicked last is really the last
        clock[mine] = np.maximum(clock[mine], busy[who[mine]] + MINUTE)
        at = mine
        for _ in range(PAGES):
            at = at[clock[at] < closes]
            if not len(at):
                break
            clock[at] = _look(world, rng, log, orders, at, who[at], clock[at])
            at = at[rng.random(len(at)) < STAY]
        busy[who[mine]] = clock[mine]

    honest = log.count()
    whole = honest / (1 - robots - fraud)
    crawled = _crawl(world, rng, log, int(robots * whole), visits, closes)
    farmed = _farm(world, rng, log, int(fraud * whole / 3), visits + len(crawled), closes)
    accounts = np.concatenate([accounts, crawled, farmed])
    events = np.concatenate(log.rows)
    return Day(events[np.argsort(events[:, AT], kind="stable")], accounts, orders)


def _waves(who: NDArray[np.int64], clock: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split visits into waves: each shopper's first ones, the second ones, and so on."""
    order = np.lexsort((clock, who))
    first = np.searchsorted(who[order], who[order])
    rank = np.arange(len(who)) - first
    return [np.sort(order[rank == wave]) for wave in range(int(rank.max()) + 1)]


def _look(
    world: World,
    rng: np.random.Generator,
    log: _Log,
    orders: list[tuple[int, ...]],
    session: NDArray[np.int64],
    who: NDArray[np.int64],
    now: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Let each of [pages] distinct shoppers look at a page from `now` on; return when they are done with it."""
    pages = len(who)
    wanted = world.searches[who, rng.integers(0, world.searches.shape[1], pages)]
    query = np.where(rng.random(pages) < SEARCHES, wanted, -1)
    shown = np.concatenate([show(world, rng, who[start : start + BLOCK], query[start : start + BLOCK]) for start in range(0, pages, BLOCK)])
    chance = click_probabilities(world.tastes[who], world.catalogue.vectors[shown], link_bonus(world.catalogue.links, world.last[who], shown))
    clicks = rng.random(shown.shape) < chance
    carts = clicks & (rng.random(shown.shape) < cart_probabilities(world.demand, world.consumable, world.owned[who], shown))
    quantity = _settle(world, rng, who, shown, carts & (rng.random(shown.shape) < PURCHASE))
    bought = quantity > 0

    pause = rng.integers(4 * SECOND, 40 * SECOND, shown.shape)
    spent = np.where(clicks, pause + 2 * SECOND + 6 * SECOND * carts + 30 * SECOND * bought, 0)
    clicked_at = (now + SECOND)[:, None] + np.cumsum(spent, axis=1) - spent + pause
    searching = np.flatnonzero(query >= 0)
    log.add(SEARCH, now[searching], session[searching], -1, query[searching])
    places = np.arange(1, PLACES + 1)
    log.add(IMPRESSION, np.repeat(now + SECOND, PLACES), np.repeat(session, PLACES), shown.ravel(), np.repeat(query, PLACES), position=np.tile(places, pages))
    row, place = np.nonzero(clicks)
    log.add(CLICK, clicked_at[row, place], session[row], shown[row, place], query[row], position=place + 1)
    log.add(VIEW, clicked_at[row, place] + SECOND, session[row], shown[row, place], -1)
    row, place = np.nonzero(carts)
    log.add(CART, clicked_at[row, place] + 8 * SECOND, session[row], shown[row, place], -1, quantity=1)
    row, place = np.nonzero(bought)
    bought_at = clicked_at[row, place] + 38 * SECOND
    log.add(BUY, bought_at, session[row], shown[row, place], -1, quantity=quantity[row, place])
    orders += _lines(world, rng, session[row], bought_at, shown[row, place], quantity[row, place])

    any_click = np.flatnonzero(clicks.any(axis=1))
    world.last[who[any_click]] = shown[any_click, PLACES - 1 - np.argmax(clicks[any_click, ::-1], axis=1)]
    return np.asarray(now + SECOND + spent.sum(axis=1) + rng.integers(5 * SECOND, 60 * SECOND, pages))


def show(world: World, rng: np.random.Generator, who: NDArray[np.int64], query: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [pages, PLACES] distinct items: what follows the last one, what suits the shopper, what sells; on a search what has the query's words.

    Items are drawn without repetition by their weights: the smallest of exponential draws, each divided by its weight.
    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    catalogue, last = world.catalogue, world.last[who]
    usual = world.pull * (world.sold & (world.stock > 0))
    following, searching = np.flatnonzero(last >= 0), np.flatnonzero(query >= 0)
    pool = np.arange(len(catalogue)) if len(catalogue) <= POOL else _pool(world, rng, usual, last[following], query[searching])
    weight = usual[pool] * np.exp(TASTE * world.tastes[who] @ catalogue.vectors[pool].T)
    factor, places = np.exp(FOLLOWS), np.searchsorted(pool, catalogue.links[last[following]])
    weight[following[:, None], places] *= factor
    weight[following, np.searchsorted(pool, last[following])] = 0.0
    row, had = np.nonzero((world.owned[who] >= 0) & world.consumable[world.owned[who]])
    had_places = np.minimum(np.searchsorted(pool, world.owned[who][row, had]), len(pool) - 1)
    there = pool[had_places] == world.owned[who][row, had]
    weight[row[there], had_places[there]] *= np.exp(AGAIN)
    asked = world.asked[query[searching]]
    share = world.holds[:, pool][asked].sum(axis=1) / (asked < len(world.holds) - 1).sum(axis=1, keepdims=True)
    weight[searching] *= np.exp(MATCHES * share)
    race = rng.standard_exponential(weight.shape) / np.maximum(weight, 1e-300)
    first = np.argpartition(race, PLACES, axis=1)[:, :PLACES]
    return np.asarray(pool[np.take_along_axis(first, np.argsort(np.take_along_axis(race, first, axis=1), axis=1), axis=1)])


def _pool(world: World, rng: np.random.Generator, usual: NDArray[np.float64], last: NDArray[np.int64], query: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the items, in order, among which the pages of a block choose."""
    drawn = np.argpartition(rng.standard_exponential(len(usual)) / np.maximum(usual, 1e-300), POOL)[:POOL]
    found = [np.flatnonzero(world.holds[word]) for word in np.unique(world.asked[query])]
    matching = [rng.choice(items, PLACES) for items in found if len(items)]
    return np.unique(np.concatenate([drawn, last, world.catalogue.links[last].ravel(), *matching]))


def _settle(world: World, rng: np.random.Generator, who: NDArray[np.int64], shown: NDArray[np.int64], wants: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return [pages, PLACES] pieces bought: of what is wanted, what the shop has and the week's budget allows, first place first."""
    quantity = np.zeros(shown.shape, dtype=np.int64)
    row, place = np.nonzero(wants)
    pieces = 1 + np.searchsorted(PIECES, rng.random(len(row)))
    bulk = world.wholesale[who[row]] & (rng.random(len(row)) < 0.6)
    pieces = np.where(bulk, rng.integers(*BULK, len(row)), pieces)
    for page, column, shopper, item, count in zip(row.tolist(), place.tolist(), who[row].tolist(), shown[row, place].tolist(), pieces.tolist(), strict=True):
        taken = min(count, int(world.stock[item]))
        cost = taken * float(world.prices[item])
        if taken and cost <= world.budgets[shopper]:
            quantity[page, column] = taken
            world.stock[item] -= taken
            world.budgets[shopper] -= cost
            world.owned[shopper, 1:] = world.owned[shopper, :-1].copy()
            world.owned[shopper, 0] = item
    return quantity


def _lines(
    world: World, rng: np.random.Generator, session: NDArray[np.int64], at: NDArray[np.int64], item: NDArray[np.int64], quantity: NDArray[np.int64]
) -> list[tuple[int, ...]]:
    """Return the order lines of purchases; some are cancelled within minutes, some returned within two days."""
    regret = np.array([REGRET.get(department, USUAL_REGRET) for department, _ in SHELF_NAMES])[world.catalogue.shelves[item]]
    draw = rng.random(len(at))
    cancelled = np.where(draw < regret[:, 0], at + rng.integers(MINUTE, 15 * MINUTE, len(at)), -1)
    back = DAY * rng.integers(1, 3, len(at)) + rng.integers(9 * HOUR, 18 * HOUR, len(at))
    returned = np.where((draw >= regret[:, 0]) & (draw < regret.sum(axis=1)), back, -1)
    return list(zip(*(column.tolist() for column in (session, at, item, quantity, cancelled, returned)), strict=True))


def _crawl(world: World, rng: np.random.Generator, log: _Log, events: int, session: int, closes: int) -> NDArray[np.int64]:
    """Let robots walk through the catalogue, several events a second; return the account of each of their sessions, the first of which is `session`."""
    accounts, items = list[int](), np.flatnonzero(world.sold)
    while events > 0:
        size = min(events, int(rng.integers(150, 500)))
        at = rng.integers(OPENS, closes) + np.cumsum(rng.integers(150, 600, size))
        searching = rng.random(size) < 0.15
        walked = items[(rng.integers(len(items)) + np.arange(size)) % len(items)]
        texts = rng.integers(0, len(world.texts), size)
        log.add(SEARCH, at[searching], session + len(accounts), -1, texts[searching])
        log.add(VIEW, at[~searching], session + len(accounts), walked[~searching], -1)
        accounts.append(len(world.user_ids) + int(rng.integers(len(world.robots))))
        events -= size
    return np.array(accounts, dtype=np.int64)


def _farm(world: World, rng: np.random.Generator, log: _Log, hits: int, session: int, closes: int) -> NDArray[np.int64]:
    """Let click farms click what they push, over and over, and never buy; return the account of each of their sessions, the first of which is `session`."""
    account = np.sort(rng.integers(0, len(world.farms), hits))
    item = world.targets[account // FARM_ACCOUNTS, rng.integers(0, world.targets.shape[1], hits)]
    begin = rng.integers(0, closes - OPENS, len(world.farms))
    at = OPENS + (begin[account] + np.cumsum(rng.integers(2 * SECOND, 6 * SECOND, hits))) % (closes - OPENS)
    place = rng.integers(1, PLACES + 1, hits)
    log.add(IMPRESSION, at, session + account, item, -1, position=place)
    log.add(CLICK, at + SECOND, session + account, item, -1, position=place)
    log.add(VIEW, at + 2 * SECOND, session + account, item, -1)
    return len(world.user_ids) + len(world.robots) + np.arange(len(world.farms))
