"""The simulated shop: raw days as a real shop's systems would drop them, the same bytes for the same seed.

Shoppers come with tastes over a catalogue, look at pages (after a search or as recommendations), click by position bias times taste, and go on from what
they clicked last: some items tend to follow others, which is what a sequence model can learn. They buy by price, habit and budget. Robots and click farms
mix in. docs/simulator.md has every parameter. What only the simulator knows is written aside, in `truth/`.

The lake keeps the first delivery of an order line and no row that is more than two days late. So that a return is seen at all, the shop drops a line that
comes back within two days on the day when it comes back, with `returned_at`; a later return has no place in the contract and is not simulated.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from evershelf import storage
from evershelf.shops import demand
from evershelf.shops.dirt import Dirt, Post
from evershelf.shops.raw_lines import Lines
from evershelf.shops.shoppers import TRUTH, save_truth
from evershelf.shops.visits import DAY, SECOND, play
from evershelf.shops.world import open_shop

NOISE = 0.03  # of the number of visits, from day to day
PACKED = 1  # gzip level: twice as fast as the usual one, for a fifth more bytes
NEW_COLUMN = ',"app_version":"5.2.0"'


@dataclass(frozen=True, slots=True)
class Simulated:
    """What happened on one simulated day, in rows; `delivered` is False for a missing day."""

    day: date
    events: int
    orders: int
    products: int
    delivered: bool


def simulate(
    out: Path,
    *,
    days: int,
    end: date,
    seed: int = 7,
    users: int = 1500,
    items: int = 600,
    visits: int = 550,
    robots: float = 0.01,
    fraud: float = 0.003,
    zone: ZoneInfo | None = None,
    dirt: Dirt | None = None,
) -> Iterator[Simulated]:
    """Write the raw days of the simulated shop and yield each when it is there.

    Args:
        out: `out/YYYY-MM-DD/{events,orders,products}.jsonl.gz` and, with the last day, `out/truth/` are written.
        days: how many, the last one is `end`.
        users, items: on the first day; more come every day.
        visits: visits on a usual day; a visit makes about 40 events.
        robots, fraud: shares of a day's events that robots and click farms make.
        zone: the shop's calendar, default Europe/London.
        dirt: what goes wrong on the way; the same things happen in the shop whatever it is.

    The lines depend on nothing but the arguments (how they are compressed is up to the machine's zlib). One day at a time is in memory, and what is late.
    """
    zone, dirt = zone or ZoneInfo("Europe/London"), dirt or Dirt()
    world = open_shop(seed, users, items, days)
    lines, post = Lines(world), Post(dirt)
    for offset in range(days):
        day = end - timedelta(days=days - 1 - offset)
        rng, way = np.random.default_rng([seed, 2, day.toordinal()]), np.random.default_rng([seed, 4, day.toordinal()])
        midnight = datetime.combine(day, time(), tzinfo=zone)
        length = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone).timestamp() - midnight.timestamp()
        world.morning(day, offset, rng)
        visitors = max(1, round(visits * demand.volume(day) * rng.normal(1, NOISE)))
        played = play(world, rng, visitors, int(length) * SECOND, robots=robots, fraud=fraud)

        more = NEW_COLUMN if dirt.new_column_from and day >= dirt.new_column_from else ""
        events = lines.events(played, midnight, rng, post.clocks(way, len(played.accounts)), more)
        orders, returned = lines.orders(played, midnight)
        products = lines.products(midnight)
        in_time = np.zeros(len(events), dtype=np.int64)
        for name, rows, held in (("events", events, in_time), ("orders", orders, np.maximum(returned // DAY, 0)), ("products", products, None)):
            arrived = post.deliver(day, name, rows, way, held)
            if arrived is not None:
                text = "".join(f"{line}\n" for line in arrived).encode()
                storage.replace(out / day.isoformat() / f"{name}.jsonl.gz", gzip.compress(text, PACKED, mtime=0))
        if day == end:
            save_truth(world.truth(), out / TRUTH)
        yield Simulated(day, len(events), len(orders), len(products), delivered=day not in dirt.missing_days)
