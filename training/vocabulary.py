"""What the model knows by number: items, categories, words, and the features of every item. Number 0 is padding or unknown."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import QUERY_WORDS
from evershelf.text import words
from training.data import ACTIONS, Ints, Shop

TITLE_WORDS = 12
LEVELS = 3  # of the category path
MAX_WORDS = 20_000
PRICE_BUCKETS = 16
SEPARATOR = " > "


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Names in the order of their numbers; entry 0 is ''."""

    items: list[str]
    actions: list[str]
    categories: list[str]  # every prefix of every category path
    words: list[str]
    brands: list[str] = field(default_factory=list)  # models of before its time have none

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.encode({name: getattr(self, name) for name in self.__slots__}))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        return cls(**msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]]))

    def numbers_of(self, shop: Shop) -> Ints:
        """Return the number of each of the shop's items; 0 for those that this vocabulary lacks."""
        return lookup(shop.items, self.items)

    def query_words(self, queries: list[str]) -> Ints:
        """Return [queries, QUERY_WORDS] numbers of the known words, padded on the right with 0."""
        number = {word: index for index, word in enumerate(self.words)}
        table = np.zeros((len(queries), QUERY_WORDS), np.int32)
        for row, text in enumerate(queries):
            known = [number[word] for word in words(text) if word in number][:QUERY_WORDS]
            table[row, : len(known)] = known
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFeatures:
    """What an item's vector is made of; row = number of the item, row 0 all 0. `seen` is 1 for items with an interaction before the split."""

    categories: Ints  # [items, LEVELS] numbers of the path's prefixes, widest first
    brand: Ints  # [items]
    price: Ints  # [items] bucket, 0 unknown
    words: Ints  # [items, TITLE_WORDS]
    category: Ints  # [items] the whole path
    seen: npt.NDArray[np.float32]  # [items]
    log_popularity: npt.NDArray[np.float32]  # [items] log(1 + interactions before the split), mean of the seen ones taken off
    brands: int  # how many, 0 included

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {name: np.asarray(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def of(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> "ItemFeatures":
        return cls(**{name: int(arrays[name]) if name == "brands" else arrays[name] for name in cls.__slots__})  # type: ignore[arg-type]  # names and kinds as in arrays()


def build(shop: Shop) -> tuple[Vocabulary, ItemFeatures]:
    """Number everything in the shop; the same shop gives the same numbers."""
    before = shop.time < shop.split
    texts = [words(title) for title in shop.products.title]
    counted = Counter(word for text in texts for word in text)
    counted.update(word for query in set(shop.query[before].tolist()) for word in words(shop.queries[query]))
    vocabulary = Vocabulary(
        items=["", *shop.items],
        actions=list(ACTIONS),
        categories=["", *sorted({prefix for path in shop.products.category for prefix in prefixes(path)})],
        words=["", *(word for word, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_WORDS])],
        brands=["", *sorted(set(shop.products.brand) - {""})],
    )
    number = {name: index for index, name in enumerate(vocabulary.categories)}
    word_number = {word: index for index, word in enumerate(vocabulary.words)}
    count = len(vocabulary.items)
    categories, title = np.zeros((count, LEVELS), np.int32), np.zeros((count, TITLE_WORDS), np.int32)
    category = np.zeros(count, np.int32)
    for row, (path, text) in enumerate(zip(shop.products.category, texts, strict=True), start=1):
        numbers = [number[prefix] for prefix in prefixes(path)]
        categories[row, : len(numbers[:LEVELS])] = numbers[:LEVELS]
        category[row] = numbers[-1] if numbers else 0
        known = [word_number[word] for word in text if word in word_number][:TITLE_WORDS]
        title[row, : len(known)] = known
    clicks = np.bincount(shop.item[before] + 1, minlength=count).astype(np.float32)
    popularity = np.log1p(clicks)
    return vocabulary, ItemFeatures(
        categories=categories,
        brand=np.append(0, lookup(shop.products.brand, vocabulary.brands)).astype(np.int32),
        price=_price_buckets(shop.products.price),
        words=title,
        category=category,
        seen=(clicks > 0).astype(np.float32),
        log_popularity=np.where(clicks > 0, popularity - popularity[clicks > 0].mean(), popularity.min() - popularity[clicks > 0].mean()).astype(np.float32),
        brands=len(vocabulary.brands),
    )


def prefixes(path: str) -> list[str]:
    """Return every category of a path, widest first: 'a > b' gives 'a' and 'a > b'."""
    parts = [part for part in path.split(SEPARATOR) if part]
    return [SEPARATOR.join(parts[: end + 1]) for end in range(len(parts))]


def lookup(names: list[str], table: list[str]) -> Ints:
    """Return the number of each name in a table of names; 0 for those that it lacks."""
    number = {name: index for index, name in enumerate(table)}
    return np.array([number.get(name, 0) for name in names], np.int32)


def _price_buckets(price: npt.NDArray[np.float64]) -> Ints:
    known = np.isfinite(price) & (price > 0)
    buckets = np.zeros(len(price) + 1, np.int32)
    if known.any():
        edges = np.unique(np.quantile(price[known], np.linspace(0, 1, PRICE_BUCKETS)[1:-1]))
        buckets[1:][known] = 1 + np.searchsorted(edges, price[known], side="right")
    return buckets
