"""A shop as training sees it: who did what with which item, in order. Read from the lake as Arrow, no JVM.

Shoppers without an account are sequences of their own session. Impressions are left out: the full softmax already pushes down every other item.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evershelf import lake
from evershelf.contracts import TRANSACTION_CLASSES
from evershelf.intent import searched_for
from evershelf.settings import TrainingSettings, load_settings
from evershelf.text import normalized_query
from training.errors import NotEnoughData

ACTIONS = ("", "click", "view", "cart", "purchase")  # entry 0: padding
TABLES = ("events", "products", "orders")
DAY = 86_400_000_000  # microseconds
POOL = 8  # batches whose examples are sorted by length together
ROUNDS, MIXER = 6, np.uint64(0x9E3779B97F4A7C15)  # of the shuffle

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The latest description of every item; row i describes `Shop.items[i]`. Unknown: '' or nan.

    What `evershelf run labels` fills in stays out: its rules have seen the items that are kept from the category head.
    """

    title: list[str]
    brand: list[str]
    category: list[str]
    price: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Order lines, oldest first: item code, pieces, price of one, day since 1970, class (index in TRANSACTION_CLASSES)."""

    item: Ints
    quantity: Floats
    price: Floats
    day: Floats
    label: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """Interactions sorted by shopper, then time.

    `shopper`, `item`, `query` are codes into `shoppers`, `items`, `queries`; `action` is an index in ACTIONS; `time` is in days since 1970 (UTC).
    Query 0 is '': the event did not follow a search. The events of shopper s are rows `first[s]` to `first[s + 1] - 1`.
    """

    shoppers: list[str]
    known: Bools  # has an account; False: a guest's session
    items: list[str]
    queries: list[str]
    shopper: Ints
    item: Ints
    action: Ints
    query: Ints
    time: Floats
    first: npt.NDArray[np.int64]
    products: Products
    orders: Orders
    split: float  # days since 1970: validation begins
    data_as_of: date
    versions: dict[str, int]

    @property
    def as_of(self) -> float:
        """The instant of the newest interaction, in days since 1970."""
        return float(self.time.max())


def read_shop(settings: TrainingSettings, versions: dict[str, int] | None = None) -> Shop:
    """Read the last `history_days` of the lake.

    Args:
        versions: Delta version per table; default: the current ones.

    Raises:
        NotEnoughData: there are no interactions before or after the time split.
    """
    versions = versions or lake.versions(name for name in TABLES if lake.exists(name) or name != "orders")
    data_as_of = _newest_day(versions["events"])
    since = data_as_of - timedelta(days=settings.history_days - 1)
    split_day = data_as_of - timedelta(days=settings.validation_days - 1)
    events = lake.read(
        "events",
        columns=["event_id", "event_time", "user_id", "session_id", "type", "item_id", "query"],
        filters=[("dt", ">=", since), ("type", "in", [*ACTIONS[1:], "search"])],
        version=versions["events"],
    )
    products = lake.read("products", columns=["item_id", "title", "brand", "category_path", "price", "currency", "valid_from"], version=versions["products"])
    asked = partial(searched_for, language=load_settings().search.language, currencies=pc.unique(products["currency"]).to_pylist())  # as gateways read it
    return assemble(events, products, _read_orders(since, versions), split_day=split_day, data_as_of=data_as_of, versions=versions, asked=asked)


def _newest_day(version: int) -> date:
    days = lake.days("events", version)
    if not days:
        raise NotEnoughData("The table events is empty. Nothing was trained; publish a day first with `evershelf run lake_daily`.")
    return days[-1]


def _read_orders(since: date, versions: dict[str, int]) -> pa.Table:
    columns = ["ordered_at", "item_id", "quantity", "price", "transaction_class"]
    if "orders" not in versions:
        types = [pa.timestamp("us", tz="UTC"), pa.string(), pa.int32(), pa.float64(), pa.string()]
        return pa.schema(list(zip(columns, types, strict=True))).empty_table()
    return lake.read("orders", columns=columns, filters=[("dt", ">=", since)], version=versions["orders"])


def assemble(
    events: pa.Table,
    products: pa.Table,
    orders: pa.Table,
    *,
    split_day: date,
    data_as_of: date,
    versions: dict[str, int],
    asked: Callable[[str], str] = normalized_query,
) -> Shop:
    """Turn the lake's rows into a Shop.

    Args:
        asked: returns what of a query is searched for, normalised.

    Raises:
        NotEnoughData: there are no interactions before or after the time split.
    """
    guest = pc.binary_join_element_wise("session", events["session_id"], ":")
    events = events.append_column("shopper", pc.coalesce(events["user_id"], guest)).append_column("known", pc.is_valid(events["user_id"]))
    events = events.filter(pc.is_valid(events["shopper"])).sort_by([("shopper", "ascending"), ("event_time", "ascending"), ("event_id", "ascending")])
    # a search without an item is no interaction: it gives its words to the interaction that follows it
    texts, searching = _following_queries(events, asked)
    keep = np.asarray(pc.and_(pc.not_equal(events["type"], "search"), pc.is_valid(events["item_id"])))
    events, searching = events.filter(pa.array(keep)), searching[keep]

    split = float((split_day - date(1970, 1, 1)).days)
    time = days_since_1970(events["event_time"])
    if not (np.any(time < split) and np.any(time >= split)):
        raise NotEnoughData(
            f"There are {int(np.sum(time < split))} interactions before {split_day} and {int(np.sum(time >= split))} from then to {data_as_of}: "
            "a time split needs both. Nothing was trained and what is live stays live; publish more days, or lower training.validation_days."
        )
    shoppers, shopper = _codes(events["shopper"])
    known = np.zeros(len(shoppers), np.bool_)
    known[shopper] = np.asarray(events["known"])
    described = products.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    items = sorted({*described["item_id"].to_pylist(), *pc.unique(events["item_id"]).to_pylist()})
    code = {item: index for index, item in enumerate(items)}
    queries = np.unique(np.append(0, searching))
    return Shop(
        shoppers=shoppers,
        known=known,
        items=items,
        queries=[texts[query] for query in queries],
        shopper=shopper,
        item=np.asarray(pc.index_in(events["item_id"], value_set=pa.array(items, pa.string())), np.int32),
        action=np.asarray(pc.index_in(events["type"], value_set=pa.array(ACTIONS)), np.int32),
        query=np.searchsorted(queries, searching).astype(np.int32),
        time=time,
        first=np.searchsorted(shopper, np.arange(len(shoppers) + 1)),
        products=_latest(described, code),
        orders=_orders(orders, code),
        split=split,
        data_as_of=data_as_of,
        versions=versions,
    )


def _following_queries(events: pa.Table, asked: Callable[[str], str]) -> tuple[list[str], Ints]:
    """Return normalised queries, '' first, and per row the one that led to it: its own, else that of a search just before it in the same session, else ''."""
    typed = pc.fill_null(events["query"], "").combine_chunks().dictionary_encode()
    normalized = [asked(text) for text in typed.dictionary.to_pylist()]
    texts = sorted({"", *normalized})
    code = {text: index for index, text in enumerate(texts)}
    own = np.array([code[text] for text in normalized], np.int32)[np.asarray(typed.indices)]
    search = np.asarray(pc.equal(events["type"], "search"))
    session = np.asarray(pc.fill_null(events["session_id"].combine_chunks().dictionary_encode().indices, -1))
    before = np.zeros_like(own)
    before[1:] = np.where(search[:-1] & (session[1:] == session[:-1]) & (session[1:] >= 0), own[:-1], 0)
    return texts, np.where(own > 0, own, before)


def _latest(described: pa.Table, code: dict[str, int]) -> Products:
    count = len(code)
    title, brand, category, price = [""] * count, [""] * count, [""] * count, np.full(count, np.nan)
    for row in described.select(["item_id", "title", "brand", "category_path", "price"]).to_pylist():  # sorted: the newest description comes last
        index = code[row["item_id"]]
        title[index], brand[index], category[index] = row["title"] or "", row["brand"] or "", row["category_path"] or ""
        price[index] = row["price"] if row["price"] is not None else np.nan
    return Products(title=title, brand=brand, category=category, price=price)


def _orders(orders: pa.Table, code: dict[str, int]) -> Orders:
    orders = orders.filter(pc.is_in(orders["item_id"], value_set=pa.array(list(code), pa.string()))).sort_by("ordered_at")
    return Orders(
        item=np.array([code[item] for item in orders["item_id"].to_pylist()], np.int32),
        quantity=np.asarray(orders["quantity"], np.float64),
        price=np.asarray(orders["price"], np.float64),
        day=days_since_1970(orders["ordered_at"]),
        label=np.array([TRANSACTION_CLASSES.index(kind) for kind in orders["transaction_class"].to_pylist()], np.int32),
    )


def days_since_1970(times: pa.ChunkedArray) -> Floats:
    return np.asarray(times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), np.float64) / DAY


def _codes(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """Encode a sorted column; codes rise with the rows."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Pieces of shoppers' sequences. Position p of a window stands before event `begin + p` and foretells it; positions before `target` are context only."""

    begin: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.begin)


def training_windows(shop: Shop, length: int) -> Windows:
    """Cut every shopper's events before the split into windows: each event is foretold exactly once, from at least length/2 events if there are so many."""
    rows: list[tuple[int, int, int]] = []
    for first, last in pairwise(shop.first.tolist()):
        end = first + int(np.searchsorted(shop.time[first:last], shop.split))
        target = first
        while target < end:
            begin = max(first, target - length // 2)
            stop = min(end, begin + length)
            rows.append((begin, target, stop))
            target = stop
    begin, target_, end_ = np.array(rows, np.int64).reshape(-1, 3).T
    return Windows(begin=begin, target=target_, end=end_)


def next_different(shop: Shop) -> npt.NDArray[np.int64]:
    """Return per event the row of the shopper's first event from there on whose item differs from the event before it; -1 when there is none.

    A click, a view and a cart of the same item are one choice: the item to foretell is the next *other* item.
    """
    count = len(shop.item)
    begins = np.ones(count, np.bool_)  # the event begins a run of one item
    begins[1:] = (shop.item[1:] != shop.item[:-1]) | (shop.shopper[1:] != shop.shopper[:-1])
    rows = np.where(begins, np.arange(count), count)
    following = np.minimum.accumulate(rows[::-1])[::-1]
    owner = np.append(shop.shopper, -1)
    return np.where((following < count) & (owner[following] == shop.shopper), following, -1)


def shuffled(places: slice, count: int, seed: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return which of `count` examples a seeded shuffle puts at the places: a permutation of which nothing but what is asked for is ever held.

    Source:
        Luby and Rackoff, SIAM J. Comput. 1988 (a few rounds of Feistel's network permute at random); Black and Rogaway, CT-RSA 2002 (walk on until inside).
    """
    half = np.uint64(max(1, -(-max(count - 1, 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence((count, *seed)).generate_state(2 * ROUNDS, np.uint64).reshape(ROUNDS, 2)
    numbers = np.arange(places.start, places.stop, dtype=np.uint64)
    left = np.ones(len(numbers), np.bool_)
    while left.any():
        high, low = numbers[left] >> half, numbers[left] & mask
        for odd, added in keys:
            mixed = (low ^ added) * (odd | np.uint64(1))
            mixed = (mixed ^ (mixed >> np.uint64(29))) * MIXER
            high, low = low, high ^ ((mixed >> np.uint64(32)) & mask)
        numbers[left] = high << half | low
        left = numbers >= count
    return numbers.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Deal:
    """One epoch's batches, over all ranks: every example comes exactly once. Nothing that grows with the examples is held."""

    windows: Windows
    batch: int  # examples of all ranks together; the last ones of a pool may be smaller
    seed: tuple[int, ...]

    @property
    def pools(self) -> int:
        return max(1, len(self.windows) // (self.batch * POOL))

    def _pool(self, number: int) -> slice:
        return slice(number * len(self.windows) // self.pools, (number + 1) * len(self.windows) // self.pools)

    def _batches(self, number: int) -> int:
        pool = self._pool(number)
        count: int = -(-(pool.stop - pool.start) // self.batch)
        return max(1, count)

    def __len__(self) -> int:
        return sum(map(self._batches, range(self.pools)))

    def from_step(self, step: int) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the batches from one on; a batch holds examples of about the same length, so that little is spent on padding."""
        for number in range(self.pools):
            if step >= (count := self._batches(number)):
                step -= count
                continue
            pool = shuffled(self._pool(number), len(self.windows), self.seed)
            by_length = pool[np.argsort(self.windows.end[pool] - self.windows.begin[pool], kind="stable")]
            batches = np.array_split(by_length, count)
            for index in np.random.default_rng((*self.seed, number)).permutation(count)[step:]:
                yield batches[index]
            step = 0


def spread(count: int, *, step: int, steps: int, seed: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return which of `count` examples come in one of an epoch's steps, over all ranks; each comes in exactly one."""
    return shuffled(slice(step * count // steps, (step + 1) * count // steps), count, seed)
