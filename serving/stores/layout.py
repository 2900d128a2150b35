"""How a snapshot's lists and items are written as bytes: the one place that the builder and every reader agree on.

Inside a snapshot an item is a number: its place in the order of item ids, from 0. Lists are arrays of such numbers, so they are small, compare fast and need no
model's vocabulary. `store.lmdb` has one entry per key below; Redis holds the same entries under a prefix that names the snapshot.

store.lmdb   u:<pseudonym> -> UserLists · i:<number>, q:<normalised query>, c:<category, '' is the whole shop> -> ItemList
items.lmdb   by_id: item id -> number · items: number -> Item · words: word -> index in the model's vocabulary · columns: arrays with one place per item
"""

import hashlib
import struct

import msgspec
import numpy as np
import numpy.typing as npt

NUMBER = np.dtype("<u4")
SCORE = np.dtype("<f4")
ACTION = np.dtype("u1")  # index in EVENT_TYPES
SECONDS = np.dtype("<i8")  # since 1970-01-01T00:00Z
INDEX = np.dtype("<i4")

BY_ID, ITEMS_BY_NUMBER, WORDS, COLUMNS = b"by_id", b"items", b"words", b"columns"
COLUMN_VOCABULARY, COLUMN_IN_STOCK, COLUMN_CATEGORY = b"vocabulary", b"in_stock", b"category"
COLUMN_PRICE, COLUMN_CURRENCY = b"price", b"currency"
CATEGORIES, CURRENCIES = b"categories", b"currencies"  # the texts behind COLUMN_CATEGORY and COLUMN_CURRENCY
ACTIONS = b"actions"  # the model's index of each of EVENT_TYPES, 0 when it has none
HIDE_SEEN = b"hide_seen"  # whether recommendations leave out all that the shopper has chosen before (true) or only the newest of it

SEPARATOR = " > "  # between the parts of a category path

USERS = b"u:"  # prefix of what is stored of shoppers
_LONGEST_KEY = 500  # LMDB takes 511 bytes

Numbers = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


class ItemList(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Item numbers (uint32), best first, and their scores (float32)."""

    items: bytes
    scores: bytes

    def numbers(self) -> Numbers:
        return np.frombuffer(self.items, NUMBER)

    def values(self) -> Floats:
        return np.frombuffer(self.scores, SCORE)


class UserLists(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is stored of a shopper: candidates, best first, and history, newest last."""

    candidates: ItemList
    history_items: bytes
    history_actions: bytes
    history_times: bytes


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an answer shows of an item."""

    item_id: str
    title: str
    price: float | None
    currency: str | None
    category_path: str | None
    image: str | None


decode_list = msgspec.msgpack.Decoder(ItemList).decode
decode_user = msgspec.msgpack.Decoder(UserLists).decode
decode_item = msgspec.msgpack.Decoder(Item).decode
encode = msgspec.msgpack.Encoder().encode


def user_key(pseudonym: str) -> bytes:
    return _bounded(USERS, pseudonym)


def neighbours_key(number: int) -> bytes:
    return b"i:%d" % number


def query_key(normalized_query: str) -> bytes:
    return _bounded(b"q:", normalized_query)


def popular_key(category: str) -> bytes:
    return _bounded(b"c:", category)


def id_key(text: str) -> bytes:
    """Return the key of an item id or a word in items.lmdb."""
    return _bounded(b"", text)


def number_key(number: int) -> bytes:
    return struct.pack(">I", number)  # big end first, so that LMDB keeps them in order


def _bounded(prefix: bytes, text: str) -> bytes:
    key = prefix + text.encode()
    return key if 0 < len(key) <= _LONGEST_KEY else prefix + b"\0" + hashlib.sha256(key).digest()


def parents(category: str) -> list[str]:
    """Return a category path, then its wider and wider parents, and '' (the whole shop) last."""
    parts = category.split(SEPARATOR) if category else []
    return [SEPARATOR.join(parts[:end]) for end in range(len(parts), -1, -1)]
