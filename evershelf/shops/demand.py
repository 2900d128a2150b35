"""When and what the simulated shop's customers want: weekdays, seasons, campaigns. All of it follows the calendar, whatever day a simulation begins."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from evershelf.shops.catalogue import SHELF_NAMES
from evershelf.shops.shoppers import ELASTICITY

WEEKDAYS = (1.10, 1.02, 0.96, 0.94, 0.90, 0.98, 1.10)  # visits, Monday first; the mean is 1
BUSY_WEEKS = {**dict.fromkeys(range(46, 52), 1.35), **dict.fromkeys((52, 53, 1), 0.85), **dict.fromkeys(range(29, 34), 0.92)}  # ISO week -> visits
# department or shelf -> (month of the peak, swing): it is shown 1 + swing times as much as usual at the peak, 1 - swing half a year off
SEASONS = {"Garden": (6, 0.6), "Camping": (7, 0.6), "Knitwear": (12, 0.5), "Toys": (12, 0.4), "Bedding": (1, 0.3), "Cards": (12, 0.4)}
CONSUMABLES = ("Cards", "Writing", "Art")  # shelves of what is used up and bought again
CAMPAIGNS = 3  # begin in a week
DISCOUNTS = (0.2, 0.3, 0.4)
LONGEST_CAMPAIGN = 5  # days; the shortest lasts three


@dataclass(frozen=True, slots=True)
class Campaign:
    """A shelf (place in SHELF_NAMES) is sold at 1 - discount of its list prices from the first to the last day."""

    shelf: int
    first: date
    last: date
    discount: float


def volume(day: date) -> float:
    """Return how many visits a day gets, as a multiple of the usual."""
    return WEEKDAYS[day.weekday()] * BUSY_WEEKS.get(day.isocalendar().week, 1.0)


def season(day: date) -> NDArray[np.float64]:
    """Return [shelves]: how much of each shelf is shown, as a multiple of the usual."""
    factors = np.ones(len(SHELF_NAMES))
    for place, names in enumerate(SHELF_NAMES):
        for month, swing in (SEASONS[name] for name in names if name in SEASONS):
            factors[place] *= 1 + swing * np.cos(2 * np.pi * (day.timetuple().tm_yday - 30.4 * (month - 0.5)) / 365.25)
    return factors


def campaigns(seed: int, day: date) -> list[Campaign]:
    """Return the campaigns that run on a day; of two on one shelf both are there."""
    running = []
    for week in (day.toordinal() // 7 - 1, day.toordinal() // 7):
        rng = np.random.default_rng([seed, 5, week])
        shelves = rng.choice(len(SHELF_NAMES), CAMPAIGNS, replace=False)
        begins = 7 * week + rng.integers(0, 7, CAMPAIGNS)
        ends = begins + rng.integers(2, LONGEST_CAMPAIGN, CAMPAIGNS)
        discounts = rng.integers(0, len(DISCOUNTS), CAMPAIGNS)
        for shelf, begin, end, discount in zip(shelves.tolist(), begins.tolist(), ends.tolist(), discounts.tolist(), strict=True):
            if begin <= day.toordinal() <= end:
                running.append(Campaign(shelf, date.fromordinal(begin), date.fromordinal(end), DISCOUNTS[discount]))
    return running


def todays_prices(seed: int, day: date, shelves: NDArray[np.int64], prices: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [items] prices of a day, and [items] how much more its price makes each item wanted; the best discount counts.

    Args:
        shelves: [items], places in SHELF_NAMES.
        prices: [items], list prices.
    """
    discounts = np.zeros(len(SHELF_NAMES))
    for campaign in campaigns(seed, day):
        discounts[campaign.shelf] = max(discounts[campaign.shelf], campaign.discount)
    return np.round(prices * (1 - discounts[shelves]), 2), (1 - discounts[shelves]) ** -ELASTICITY
