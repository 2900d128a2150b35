"""A shop that is two Parquet files of interactions: one to learn from, with shopper, item, time and behaviour, and one to foretell, with shopper and item."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.data import Ints
from training.errors import UnusableData

# what the column may be called, in any case
NAMES = {
    "user": ("user", "user_id", "visitorid"),
    "item": ("item", "item_id", "itemid"),
    "time": ("timestamp", "ts", "time"),
    "behaviour": ("behaviour", "behavior", "event", "type"),
}
# the behaviours, from the weakest to the strongest; the strongest one that there is, is what is foretold
STRENGTH = {
    name: strength
    for strength, names in enumerate((("click", "impression"), ("view",), ("cart", "addtocart"), ("buy", "purchase", "transaction", "order")))
    for name in names
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interactions:
    """Rows in order of shopper, then time; shoppers and items are numbers, item 0 is padding."""

    shopper: Ints
    item: Ints
    behaviour: Ints  # 1 is the weakest that there is

    @property
    def target(self) -> int:
        """The behaviour that is foretold."""
        return int(self.behaviour.max())

    def without(self, rows: npt.NDArray[np.bool_]) -> "Interactions":
        return Interactions(shopper=self.shopper[~rows], item=self.item[~rows], behaviour=self.behaviour[~rows])


def read_interactions(train: Path, test: Path) -> tuple[Interactions, Ints, Ints, list[str]]:
    """Return what to learn from, the shopper and the item of each row to foretell, and the items' names by number.

    Raises:
        UnusableData: a file is not there or no Parquet, lacks a column, has an empty value or an unknown behaviour, or there is nothing in it.
    """
    learned, foretold = _read(train, ("user", "item", "time", "behaviour")), _read(test, ("user", "item"))
    kinds = [kind.lower() for kind in learned["behaviour"].to_pylist()]
    if unknown := sorted(set(kinds) - STRENGTH.keys()):
        raise UnusableData(f"{train} has behaviours that are not known: {', '.join(unknown[:5])}. Nothing was trained; known are {', '.join(STRENGTH)}.")
    present = sorted({STRENGTH[kind] for kind in kinds})
    items = sorted({*learned["item"].to_pylist(), *foretold["item"].to_pylist()}, key=_natural)
    shoppers = sorted({*learned["user"].to_pylist(), *foretold["user"].to_pylist()}, key=_natural)
    item_code, shopper_code = pa.array(items), pa.array(shoppers)

    def codes(column: pa.ChunkedArray, values: pa.Array) -> Ints:
        return np.asarray(pc.index_in(column, value_set=values), np.int32)

    shopper, item = codes(learned["user"], shopper_code), 1 + codes(learned["item"], item_code)
    behaviour, time = np.array([1 + present.index(STRENGTH[kind]) for kind in kinds], np.int32), np.asarray(learned["time"].cast(pa.float64()))
    order = np.lexsort((item, behaviour, time, shopper))
    rows = Interactions(shopper=shopper[order], item=item[order], behaviour=behaviour[order])
    return rows, codes(foretold["user"], shopper_code), 1 + codes(foretold["item"], item_code), ["", *items]


def _natural(name: str) -> tuple[int, str]:
    """Order numbers by their value: ties between items fall as in the file's own numbering."""
    return (len(name), name)


def _read(path: Path, wanted: tuple[str, ...]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UnusableData(f"{path} cannot be read as Parquet: {error}. Nothing was trained.") from None
    known = {name.lower(): name for name in table.column_names}
    columns = {}
    for name in wanted:
        found = next((known[alias] for alias in NAMES[name] if alias in known), None)
        if found is None:
            raise UnusableData(f"{path} has no column for the {name}, only {', '.join(table.column_names)}. Nothing was trained; call it {NAMES[name][0]}.")
        column = table[found]
        if column.null_count or (pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py()):
            raise UnusableData(f"Column {found} of {path} has empty values. Nothing was trained; leave those rows out.")
        if name == "time":
            columns[name] = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        else:
            columns[name] = column.cast(pa.string())
    if not table.num_rows:
        raise UnusableData(f"{path} has no rows. Nothing was trained.")
    return pa.table(columns)
