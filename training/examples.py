"""What the ranks read: the shop in the model's numbers, written once, a file per array. A rank maps them and holds only what it looks at."""

import mmap
from dataclasses import dataclass, fields
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import HISTORY_LENGTH, QUERY_WORDS
from training import data
from training.data import Floats, Ints, Shop, Windows
from training.vocabulary import ItemFeatures, Vocabulary

SELECTION_SHARE = 4  # one shopper in so many chooses the epoch and the masking rule, and is left out of the reported figures
SELECTION_EVENTS = 1000
HELD_OUT_ITEMS = 5  # one item in so many is kept from the category head and measures it
TEACHES = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Histories and what followed. Item 0 and action 0: padding, or nothing to foretell."""

    items: Ints  # [batch, length]
    actions: Ints  # [batch, length]
    since: npt.NDArray[np.float32]  # [batch, length] days
    until: npt.NDArray[np.float32]  # [batch, length] days
    query_words: Ints  # [batch, length, QUERY_WORDS]
    next_item: Ints  # [batch, length]
    next_action: Ints  # [batch, length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """A shop's interactions in a vocabulary's numbers, with `following` from `data.next_different`."""

    item: Ints
    action: Ints
    query: Ints
    time: Floats
    shopper: Ints
    following: npt.NDArray[np.int64]
    query_words: Ints  # [queries, QUERY_WORDS]
    until: float  # days since 1970: nothing later may be foretold

    @classmethod
    def of(cls, shop: Shop, vocabulary: Vocabulary, until: float) -> "Sequences":
        return cls(
            item=vocabulary.numbers_of(shop)[shop.item],
            action=shop.action,
            query=shop.query,
            time=shop.time,
            shopper=shop.shopper,
            following=data.next_different(shop),
            query_words=vocabulary.query_words(shop.queries),
            until=until,
        )

    def batch(self, windows: Windows, chosen: npt.NDArray[np.int64]) -> Batch:
        """Return the chosen windows, padded on the right. What lies before a window's `target` is context and foretells nothing."""
        begin, end = windows.begin[chosen, None], windows.end[chosen, None]
        length = int((end - begin).max(initial=1))
        row = begin + np.arange(length)[None]  # the event that a position foretells
        inside = row < end
        row = np.where(inside, row, 0)
        before = np.maximum(row - 1, 0)
        has_before = inside & (row > 0) & (self.shopper[before] == self.shopper[row])
        next_before = has_before & (np.arange(length)[None] > 0) & np.roll(has_before, 1, axis=1)
        until = np.where(has_before, self.time[row] - self.time[before], 0)
        foretold = inside & (row >= windows.target[chosen, None])
        following = self.following[row]
        choice = foretold & (following >= 0) & (self.time[following] < self.until)
        return Batch(
            items=np.where(has_before, self.item[before], 0).astype(np.int32),
            actions=np.where(has_before, self.action[before], 0).astype(np.int32),
            since=np.where(next_before, np.roll(until, 1, axis=1), 0).astype(np.float32),
            until=until.astype(np.float32),
            query_words=self.query_words[np.where(foretold & (following == row), self.query[row], 0)],
            next_item=np.where(choice, self.item[following], 0).astype(np.int32),
            next_action=np.where(foretold, self.action[row], 0).astype(np.int32),
        )

    def histories(self, rows: npt.NDArray[np.int64], now: Floats | None = None) -> dict[str, npt.NDArray[np.generic]]:
        """Return the shopper's state just before each row, as the contract's request inputs (without candidates, and without a query).

        Args:
            now: [rows] instant of the request in days since 1970; default: when the row's event happened.
        """
        now = self.time[rows] if now is None else now
        before = rows[:, None] - np.arange(HISTORY_LENGTH, 0, -1)[None]
        present = (before >= 0) & (self.shopper[np.maximum(before, 0)] == self.shopper[rows][:, None])
        return self._inputs(np.maximum(before, 0), present, now)

    def states(self, last: npt.NDArray[np.int64], now: float | Floats) -> dict[str, npt.NDArray[np.generic]]:
        """Return the shopper's state after each row `last`, at the instant `now` (one for all, or one each), as request inputs."""
        before = last[:, None] - np.arange(HISTORY_LENGTH - 1, -1, -1)[None]
        present = (before >= 0) & (self.shopper[np.maximum(before, 0)] == self.shopper[last][:, None])
        return self._inputs(np.maximum(before, 0), present, np.broadcast_to(np.asarray(now, np.float64), len(last)))

    def _inputs(self, before: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], now: Floats) -> dict[str, npt.NDArray[np.generic]]:
        present = present & (self.item[before] > 0)
        return {
            "history_items": np.where(present, self.item[before], 0).astype(np.int32),
            "history_actions": np.where(present, self.action[before], 0).astype(np.int32),
            "history_ages": np.where(present, np.maximum(now[:, None] - self.time[before], 0), 0).astype(np.float32),
            "query_words": np.zeros((len(before), QUERY_WORDS), np.int32),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Everything the training loop needs."""

    sequences: Sequences
    train: Windows
    selection: Windows
    features: ItemFeatures
    described: npt.NDArray[np.int64]  # numbers of the items that teach the category head
    order_item: Ints
    order_quantity: npt.NDArray[np.float32]
    order_price: npt.NDArray[np.float32]
    order_label: Ints
    words: int
    categories: int

    def save(self, folder: Path) -> None:
        arrays: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self._parts()}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}
        folder.mkdir(exist_ok=True)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", np.asarray(array))

    @classmethod
    def load(cls, folder: Path) -> "Examples":
        """Map what `save` wrote; what is only a number is read."""
        arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
        values = {name: array if array.ndim else array.item() for name, array in arrays.items()}

        def part(name: str) -> dict[str, object]:
            return {key.split(".")[1]: value for key, value in values.items() if key.startswith(f"{name}.")}

        plain = {key: value for key, value in values.items() if "." not in key}
        return cls(
            sequences=Sequences(**part("sequences")),  # type: ignore[arg-type]  # names and kinds as in save()
            train=Windows(**part("train")),  # type: ignore[arg-type]
            selection=Windows(**part("selection")),  # type: ignore[arg-type]
            features=ItemFeatures(**part("features")),  # type: ignore[arg-type]
            **plain,
        )

    def release(self) -> None:
        """Give back the pages of the files that were looked at: they stay in the system's cache and no longer count as this process's."""
        for part in (self, *self._parts().values()):
            for field in fields(part):
                if isinstance(array := getattr(part, field.name), np.memmap) and array.size:
                    array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def _parts(self) -> dict[str, Sequences | Windows | ItemFeatures]:
        return {"sequences": self.sequences, "train": self.train, "selection": self.selection, "features": self.features}


def prepare(shop: Shop, vocabulary: Vocabulary, features: ItemFeatures, chooses: npt.NDArray[np.int64]) -> Examples:
    """Cut a shop into what the ranks read; the events `chooses`, which lie after the split, choose the epoch."""
    sequences = Sequences.of(shop, vocabulary, until=shop.split)
    begin = np.maximum(chooses - HISTORY_LENGTH + 1, shop.first[shop.shopper[chooses]])
    orders, before = shop.orders, shop.orders.day < shop.split
    return Examples(
        sequences=sequences,
        train=data.training_windows(shop, HISTORY_LENGTH),
        selection=Windows(begin=begin, target=chooses, end=chooses + 1),
        features=features,
        described=np.flatnonzero((features.category > 0) & (held_out(vocabulary.items) == TEACHES)),
        order_item=vocabulary.numbers_of(shop)[orders.item[before]],
        order_quantity=orders.quantity[before].astype(np.float32),
        order_price=orders.price[before].astype(np.float32),
        order_label=orders.label[before],
        words=len(vocabulary.words),
        categories=len(vocabulary.categories),
    )


def validation_rows(shop: Shop, *, selection: bool, most: int, seed: int, choices: bool = True) -> npt.NDArray[np.int64]:
    """Return a seeded sample of validation events.

    Args:
        selection: of the shoppers who choose the epoch and the masking rule, else of those who measure.
        choices: only events that choose another item than the event before.
    """
    chooses = np.array([crc32(name.encode()) % SELECTION_SHARE == 0 for name in shop.shoppers], np.bool_)
    wanted = (shop.time >= shop.split) & (chooses[shop.shopper] == selection)
    if choices:
        wanted &= data.next_different(shop) == np.arange(len(shop.item))
    return np.sort(np.random.default_rng((seed, selection)).permutation(np.flatnonzero(wanted))[:most])


def held_out(items: list[str]) -> npt.NDArray[np.int64]:
    """Return [items] 0 for those that teach the category head; 1 and 2 for the halves of those that are kept from it. It goes by the id, so that an item that
    is kept from a model was kept from all that it began with.
    """
    number = np.array([crc32(item.encode()) for item in items])
    return np.where(number % HELD_OUT_ITEMS == 0, 1 + number // HELD_OUT_ITEMS % 2, TEACHES)
