"""A simulated day as the lines of its raw files, column by column: the pieces that repeat are made once."""

from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from evershelf.contracts import EVENT_TYPES
from evershelf.shops.visits import AT, BUY, CART, ITEM, KIND, PLACES, POSITION, QUANTITY, QUERY, SESSION, Day
from evershelf.shops.world import World


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _pieces(texts: list[str]) -> NDArray[np.object_]:
    """Return the texts with an empty one behind them, which is what place -1 finds."""
    return np.array([*texts, ""], dtype=object)


def _instants(midnight: datetime, at: NDArray[np.int64]) -> list[str]:
    """Return UTC texts with milliseconds."""
    start = np.datetime64(midnight.astimezone(UTC).replace(tzinfo=None), "ms")
    return [f"{text}Z" for text in np.datetime_as_string(start + at.astype("timedelta64[ms]")).tolist()]


class Lines:
    """Turns days into lines; holds the pieces for one shop."""

    def __init__(self, world: World) -> None:
        catalogue = world.catalogue
        self._world = world
        self._kinds = _pieces([f',"type":"{kind}"' for kind in EVENT_TYPES])
        self._items = _pieces([f',"item_id":"{item}"' for item in catalogue.item_ids])
        self._queries = _pieces([f',"query":{_json(text)}' for text in world.texts])
        self._users = np.array([*(_json(str(user)) for user in (*world.user_ids, *world.robots, *world.farms)), "null"], dtype=object)
        about = zip(catalogue.item_ids, catalogue.titles, catalogue.descriptions, catalogue.brands, catalogue.category_paths, strict=True)
        self._product_heads = [
            f'{{"item_id":"{item}","title":{_json(title)},"description":{_json(text)},"brand":{_json(brand)},"category_path":{_json(path)}'
            for item, title, text, brand, path in about
        ]
        looks = zip(catalogue.item_ids, catalogue.images, catalogue.colours, catalogue.materials, strict=True)
        self._product_tails = [
            f'"image":{_json(image)},"address":"/products/{item}","attributes":{{"colour":"{colour}","material":"{material}"}},"valid_from":'
            for item, image, colour, material in looks
        ]

    def events(self, day: Day, midnight: datetime, rng: np.random.Generator, skew: NDArray[np.int64], more: str) -> list[str]:
        """Return a line per event.

        Args:
            rng: for how long an event travels, and for the names of sessions, which tell nothing.
            skew: [sessions] milliseconds by which the clock of the shopper's device is wrong.
            more: further fields, as they stand in the line, with the comma before them.
        """
        rows, world = day.events, self._world
        session = rows[:, SESSION]
        stamp = f"{midnight:%Y%m%d}"
        sessions = np.array([f"s{stamp}-{number:05d}" for number in rng.permutation(len(day.accounts)).tolist()], dtype=object)
        money = _pieces([f',"price":{price:.2f},"currency":"GBP"' for price in world.prices.tolist()])
        pieces = _pieces([f',"quantity":{count}' for count in range(rows[:, QUANTITY].max(initial=0) + 1)])
        places = _pieces([f',"position":{place}' for place in range(PLACES + 1)])
        priced = np.where((rows[:, KIND] == CART) | (rows[:, KIND] == BUY), rows[:, ITEM], -1)
        columns = (
            _instants(midnight, rows[:, AT] + skew[session]),
            _instants(midnight, rows[:, AT] + rng.integers(200, 3000, len(rows))),
            self._users[day.accounts[session]].tolist(),
            sessions[session].tolist(),
            self._kinds[rows[:, KIND]].tolist(),
            self._items[rows[:, ITEM]].tolist(),
            self._queries[rows[:, QUERY]].tolist(),
            places[rows[:, POSITION]].tolist(),
            pieces[rows[:, QUANTITY]].tolist(),
            money[priced].tolist(),
        )
        return [
            f'{{"event_id":"e{stamp}-{number:07d}","event_time":"{at}","received_at":"{came}","user_id":{user},"session_id":"{visit}"'
            f"{kind}{item}{query}{place}{piece}{cost}{more}}}"
            for number, (at, came, user, visit, kind, item, query, place, piece, cost) in enumerate(zip(*columns, strict=True))
        ]

    def orders(self, day: Day, midnight: datetime) -> tuple[list[str], NDArray[np.int64]]:
        """Return a line per order line, and [lines] milliseconds after midnight at which each is returned, -1 for never."""
        if not day.orders:
            return [], np.zeros(0, dtype=np.int64)
        table = np.array(sorted(day.orders, key=lambda line: line[1]))
        session, at, item, quantity, cancelled, returned = table.T
        moments = [_instants(midnight, column) for column in (at, cancelled, returned)]
        numbers, lines = dict[int, int](), list[str]()
        for row, (visit, thing, count, ordered, cancels, returns) in enumerate(zip(session.tolist(), item.tolist(), quantity.tolist(), *moments, strict=True)):
            numbers[visit] = numbers.get(visit, 0) + 1
            lines.append(
                f'{{"order_id":"o{midnight:%Y%m%d}-{visit:05d}","line_id":"{numbers[visit]}","ordered_at":"{ordered}","user_id":{self._users[day.accounts[visit]]}'
                f',"item_id":"{self._world.catalogue.item_ids[thing]}","quantity":{count},"price":{self._world.prices[thing]:.2f},"currency":"GBP"'
                f',"cancelled_at":{_json(cancels) if cancelled[row] >= 0 else "null"},"returned_at":{_json(returns) if returned[row] >= 0 else "null"}}}'
            )
        return lines, returned

    def products(self, midnight: datetime) -> list[str]:
        """Return a line per item in the catalogue: this evening's stock, and the day's price, which held from midnight."""
        world, since = self._world, _json(_instants(midnight, np.zeros(1, dtype=np.int64))[0])
        return [
            f'{self._product_heads[item]},"price":{world.prices[item]:.2f},"currency":"GBP","stock":{world.stock[item]},{self._product_tails[item]}{since}}}'
            for item in np.flatnonzero(world.sold).tolist()
        ]
