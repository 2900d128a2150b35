"""What the overlay adds to one snapshot: what it tells of days after the snapshot's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt

from evershelf.contracts.candidates import HALF_LIFE_DAYS
from evershelf.overlay import Change, Overlay
from serving.stores.layout import Floats, Numbers
from serving.stores.snapshot_store import SnapshotStore

_DAY = timedelta(days=1)


@dataclass(frozen=True, eq=False)
class Addition:
    """What the overlay adds to one snapshot.

    Attributes:
        made_at: seconds since 1970.
        in_stock: [items] bool, instead of the snapshot's.
        price, currency: [items], instead of the snapshot's; -1 is a currency that the snapshot does not know.
        changes: item number -> what its newest description says.
        chosen_items: the items that were chosen since the snapshot's data ended, by number.
        chosen: [items] float32, how often, as much as the snapshot's popular lists count it.
    """

    made_at: float
    in_stock: npt.NDArray[np.bool_]
    price: Floats
    currency: npt.NDArray[np.int32]
    changes: Mapping[int, Change]
    chosen_items: Numbers
    chosen: Floats
    _popular: dict[str, Numbers] = field(default_factory=dict)

    def popular(self, store: SnapshotStore, category: str) -> Numbers | None:
        """Return the popular items of a category, best first, counted again with what was chosen since; None when the snapshot has no list of it."""
        if category not in self._popular:
            if (known := store.popular(category)) is None:
                return None
            numbers, counts = known.numbers(), known.values()
            below = store.in_category(category) if category else None
            more = self.chosen_items if below is None else self.chosen_items[below[store.category[self.chosen_items]]]
            more = more[~np.isin(more, numbers)]
            everything = np.concatenate([numbers, more])
            total = np.concatenate([counts, np.zeros(len(more), np.float32)]) + self.chosen[everything]
            self._popular[category] = everything[np.argsort(-total, kind="stable")[: len(numbers)]]
        return self._popular[category]


def added(newest: Overlay, store: SnapshotStore) -> Addition:
    """Work out what an overlay adds to a snapshot; safe on any thread."""
    as_of = date.fromisoformat(store.data_as_of)
    changed = {item: change for item, change in newest.changes.items() if change.dt > store.data_as_of}
    later = {dt: counts for dt, counts in newest.chosen.items() if dt > store.data_as_of}
    number = store.numbers({*changed, *(item for counts in later.values() for item in counts)})
    changes = {number[item]: change for item, change in changed.items() if item in number}
    in_stock, price, currency = store.in_stock.copy(), store.price.copy(), store.currency.copy()
    place_of = {name: place for place, name in enumerate(store.currencies)}
    for place, change in changes.items():
        in_stock[place] = change.stock is None or change.stock > 0
        price[place] = np.nan if change.price is None else change.price
        currency[place] = place_of.get(change.currency or "", -1)
    chosen = np.zeros(len(in_stock), np.float32)
    end = datetime.combine(as_of + _DAY, datetime.min.time(), UTC)
    for dt, counts in later.items():
        # as the candidate job counts, from the end of the snapshot's data: what came after it counts a little more than one
        days = (datetime.combine(date.fromisoformat(dt), datetime.min.time(), UTC) + _DAY / 2 - end) / _DAY
        for item, count in counts.items():
            if item in number:
                chosen[number[item]] += count * 2.0 ** (days / HALF_LIFE_DAYS)
    return Addition(newest.made_at, in_stock, price, currency, changes, np.flatnonzero(chosen).astype(np.uint32), chosen)
