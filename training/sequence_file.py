"""A shop that is only a file of sequences, one line per shopper: its name and the items that were chosen, in order.

What its items are may stand in a file beside it, NAME_item2attributes.json: {item: [attribute, …]}. An attribute is read as a word of the item's title.
"""

import json
from datetime import date
from pathlib import Path

import numpy as np

from training.data import ACTIONS, Orders, Products, Shop
from training.errors import UnusableData

CHOSEN = ACTIONS.index("view")
HELD_OUT = 2  # of each shopper: the last choice tests, the one before it validates
SHORTEST = 3  # choices of a shopper who is measured; who has fewer only teaches


def read_sequences(path: Path) -> Shop:
    """Return the shop of a file. Its time has no unit: the last choice but one of a shopper who is measured is at 0, where the split is, the last one at 1.

    Raises:
        UnusableData: there is no such file, a line is not a name and items, or nobody chose often enough to be measured;
            or the attributes cannot be read.
    """
    shoppers: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not (parts := line.split()):
                    continue
                if len(parts) < 2:
                    raise UnusableData(f"Line {number} of {path} names a shopper but no item. Nothing was trained; a line is a name and items, in order.")
                if parts[0] in shoppers:
                    raise UnusableData(f"Line {number} of {path} is the second one of shopper {parts[0]}. Nothing was trained; join the two in order of time.")
                shoppers[parts[0]] = parts[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableData(f"{path} cannot be read: {error}. Nothing was trained.") from None
    if not any(len(chosen) >= SHORTEST for chosen in shoppers.values()):
        raise UnusableData(f"No line of {path} has {SHORTEST} items: one to learn from, one to validate, one to test. Nothing was trained.")
    items = sorted({item for chosen in shoppers.values() for item in chosen})
    code = {item: index for index, item in enumerate(items)}
    lengths = np.array([len(chosen) for chosen in shoppers.values()])
    first = np.append(0, np.cumsum(lengths))
    held_out = np.where(lengths >= SHORTEST, HELD_OUT, 0)
    count = len(items)
    nothing = np.empty(0, np.int32)
    attributes = _attributes(path.with_name(f"{path.stem}_item2attributes.json"))
    return Shop(
        shoppers=list(shoppers),
        known=np.ones(len(shoppers), np.bool_),
        items=items,
        queries=[""],
        shopper=np.repeat(np.arange(len(shoppers), dtype=np.int32), lengths),
        item=np.array([code[item] for chosen in shoppers.values() for item in chosen], np.int32),
        action=np.full(first[-1], CHOSEN, np.int32),
        query=np.zeros(first[-1], np.int32),
        time=(np.arange(first[-1]) - np.repeat(first[1:] - held_out, lengths)).astype(np.float64),
        first=first,
        products=Products(
            title=[attributes.get(item, "") for item in items],
            brand=[""] * count,
            category=[""] * count,
            price=np.full(count, np.nan),
        ),
        orders=Orders(item=nothing, quantity=np.empty(0), price=np.empty(0), day=np.empty(0), label=nothing),
        split=0.0,
        data_as_of=date(1970, 1, 1),
        versions={},
    )


def _attributes(path: Path) -> dict[str, str]:
    """Return what is said of each item; nothing when there is no such file."""
    if not path.is_file():
        return {}
    try:
        return {item: " ".join(map(str, attributes)) for item, attributes in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnusableData(f"{path} cannot be read as attributes of items: {error}. Nothing was trained; repair it, or take it away to do without.") from None
