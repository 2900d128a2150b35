"""Rules that say what a catalogue leaves out: an item's category, brand or price. Weak supervision (Ratner et al., "Data programming", NeurIPS 2016), with the
accuracy of every rule measured each day on the items whose value is known.

A rule guesses for every item without looking at that item's own value. Whoever changes what a rule does gives it the next version.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from evershelf.text import words

Kind = Literal["category", "brand", "price"]
Price = tuple[float, str]  # and its currency
Value = str | Price
Guesses = list[Value | None]

ALIKE = 5  # items that must agree before a word of theirs tells a category
AGREE = 0.9  # share of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The newest description of each item, in order of ids; all lists are as long. What is not known is None, or '' for a title.

    Attributes:
        before: the last price that an earlier description gave, if it is recent.
        paid: the last price that an order paid, if it is recent.
    """

    items: Sequence[str]
    title: Sequence[str]
    category: Sequence[str | None]
    brand: Sequence[str | None]
    price: Sequence[Price | None]
    before: Sequence[Price | None]
    paid: Sequence[Price | None]

    def known(self, kind: Kind) -> Sequence[Value | None]:
        return {"category": self.category, "brand": self.brand, "price": self.price}[kind]


@dataclass(frozen=True, slots=True)
class Rule:
    """`guess` returns a value per item, None where it has nothing to say."""

    name: str
    version: int
    kind: Kind
    meaning: str
    guess: Callable[[Catalogue], Guesses]


def _category_of_title(catalogue: Catalogue) -> Guesses:
    return _agreed(catalogue, [" ".join(words(title)) for title in catalogue.title], 1)


def _category_of_last_word(catalogue: Catalogue) -> Guesses:
    return _agreed(catalogue, [(words(title) or [""])[-1] for title in catalogue.title], ALIKE)


def _agreed(catalogue: Catalogue, keys: Sequence[str], least: int) -> Guesses:
    """Guess the category of AGREE of the other items with the same key, when there are enough of them."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, category in zip(keys, catalogue.category, strict=True):
        if key and category:
            counts[key][category] += 1
    found: Guesses = []
    for key, own in zip(keys, catalogue.category, strict=True):
        others = Counter(counts[key]) if key in counts else Counter[str]()
        if key and own:
            others[own] -= 1
        total = sum(others.values())
        best, votes = max(others.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
        found.append(best if total >= least and votes >= AGREE * total else None)
    return found


def _brand_in_title(catalogue: Catalogue) -> Guesses:
    """The longest brand of another item that the title begins with, word by word."""
    items_of = Counter(brand for brand in catalogue.brand if brand)
    spelled: dict[tuple[str, ...], str] = {}
    for brand in sorted(items_of):
        if parts := tuple(words(brand)):
            spelled.setdefault(parts, brand)
    longest = max(map(len, spelled), default=0)
    found: Guesses = []
    for title, own in zip(catalogue.title, catalogue.brand, strict=True):
        begins = tuple(words(title))[:longest]
        named = (spelled.get(begins[:end]) for end in range(len(begins), 0, -1))
        found.append(next((brand for brand in named if brand and items_of[brand] > (brand == own)), None))
    return found


RULES = (
    Rule("same_title", 1, "category", "other items of the same title are in it", _category_of_title),
    Rule(
        "last_word",
        1,
        "category",
        f"{AGREE:.0%} of the other items whose title ends with the same word, at least {ALIKE}, are in it",
        _category_of_last_word,
    ),
    Rule("title_begins_with", 1, "brand", "the title begins with the brand of another item", _brand_in_title),
    Rule("last_described", 1, "price", "the price of the item's last description that gave one", lambda catalogue: list(catalogue.before)),
    Rule("last_paid", 1, "price", "what the item's last order paid", lambda catalogue: list(catalogue.paid)),
)
