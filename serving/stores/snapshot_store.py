"""Read one snapshot from local disk: memory-mapped lists and items, the indexes of words and of meaning, the ranker. Nothing here writes."""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.contracts.snapshot import ITEMS, SEARCH, STORE, VECTORS
from evershelf.errors import SnapshotDamaged
from evershelf.hybrid import WEIGHTS, Hybrid
from evershelf.lexical import Lexical
from evershelf.ranker import Ranker, ranker_in
from evershelf.snapshot import Manifest, read_manifest
from evershelf.text_encoder import ENCODER, TOKENIZER, TextEncoder
from evershelf.vectors import Vectors
from serving.errors import SourceUnavailable
from serving.stores import layout
from serving.stores.layout import Floats, Item, ItemList, Numbers, UserLists

logger = logging.getLogger(__name__)

_encoders: WeakValueDictionary[tuple[str, ...], TextEncoder] = WeakValueDictionary()  # by checksums: snapshots of one encoder share what it needs in memory
_CACHED_ITEMS = 20_000
_CACHED_CATEGORIES = 1_000


class SnapshotStore:
    """One open snapshot. Not safe for several threads at once: the ranker keeps its inputs.

    Attributes:
        vocabulary: [items] int32, the model's index of each item, 0 when it has none.
        in_stock: [items] bool; unknown stock counts as in stock.
        category: [items] int32, place in `categories`.
        price: [items] float32, nan where there is none. currency: [items] int32, place in `currencies`, where '' is none.
        action_index: [event types] int32, the model's index of each of EVENT_TYPES, 0 when it has none.
        hide_seen: whether recommendations leave out all that the shopper has chosen before, or only the newest of it; what the evaluation found better.
    """

    def __init__(self, folder: Path) -> None:
        """Open a snapshot whose files were verified before.

        Raises:
            SnapshotDamaged: a file cannot be opened.
        """
        self.snapshot_id = folder.name
        self.manifest: Manifest = read_manifest(folder)
        self.data_as_of = self.manifest.data_as_of
        # A snapshot that nobody refreshes must not make every shopper look inactive: ages count to one day after its data end at most.
        self.latest_request = datetime.combine(date.fromisoformat(self.data_as_of) + timedelta(days=2), datetime.min.time(), UTC).timestamp()
        try:
            self._open(folder)
        except (lmdb.Error, OSError, ValueError, TypeError, msgspec.MsgspecError) as error:
            raise SnapshotDamaged(f"Snapshot {folder.name} cannot be opened: {error}. It is refused; what is live stays live. Build it again.") from error
        self.ranker_problem = ""
        try:
            self._ranker: Ranker | None = ranker_in(folder)
        except (OSError, ValueError) as error:
            self._ranker, self.ranker_problem = None, f"the ranker cannot be loaded: {error}"
        self._items: OrderedDict[int, Item] = OrderedDict()
        self._in_category: dict[str, npt.NDArray[np.bool_] | None] = {}

    def _open(self, folder: Path) -> None:
        self._store = lmdb.open(str(folder / STORE), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)
        self._catalogue = lmdb.open(str(folder / ITEMS), subdir=False, readonly=True, lock=False, readahead=False, max_dbs=4, max_readers=1)
        by_id, items, known_words, columns = (
            self._catalogue.open_db(name, create=False) for name in (layout.BY_ID, layout.ITEMS_BY_NUMBER, layout.WORDS, layout.COLUMNS)
        )
        # One read transaction each for the life of the store: nobody writes to a snapshot.
        self._lists = self._store.begin(buffers=False)
        self._ids = by_id
        self._by_id = self._catalogue.begin(db=by_id)
        self._by_number = self._catalogue.begin(db=items)
        self._words = self._catalogue.begin(db=known_words)
        with self._catalogue.begin(db=columns) as reading:
            column = dict(reading.cursor())
        self.vocabulary = np.frombuffer(column[layout.COLUMN_VOCABULARY], layout.INDEX)
        self.in_stock = np.frombuffer(column[layout.COLUMN_IN_STOCK], np.bool_)
        self.category = np.frombuffer(column[layout.COLUMN_CATEGORY], layout.INDEX)
        self.categories = msgspec.msgpack.decode(column[layout.CATEGORIES], type=list[str])
        self.price, self.currency = np.frombuffer(column[layout.COLUMN_PRICE], layout.SCORE), np.frombuffer(column[layout.COLUMN_CURRENCY], layout.INDEX)
        self.currencies = msgspec.msgpack.decode(column[layout.CURRENCIES], type=list[str])
        self.action_index = np.array(msgspec.msgpack.decode(column[layout.ACTIONS], type=list[int]), np.int32)
        self.hide_seen = msgspec.msgpack.decode(column[layout.HIDE_SEEN], type=bool)
        self._lexical = Lexical(folder / SEARCH)
        self._hybrid, self.meaning_problem = None, ""
        if (folder / VECTORS).is_dir():
            try:
                self._hybrid = self._open_hybrid(folder / VECTORS)
            except Exception as error:  # whatever is wrong with it costs quality, never the snapshot
                self.meaning_problem = f"what finds items by meaning cannot be opened: {error}"
                logger.exception("of snapshot %s, %s; words answer alone", self.snapshot_id, self.meaning_problem)

    def _open_hybrid(self, folder: Path) -> Hybrid:
        digests = tuple(self.manifest.files[f"{VECTORS}/{name}"].sha256 for name in (ENCODER, TOKENIZER))
        if (encoder := _encoders.get(digests)) is None:
            encoder = _encoders[digests] = TextEncoder(folder)
        return Hybrid(self._lexical, Vectors(folder), encoder, msgspec.json.decode((folder / WEIGHTS).read_bytes(), type=tuple[float, float, float, float]))

    def close(self) -> None:
        """Unmap the files; nothing can be read afterwards. A process opens a snapshot once at a time."""
        self._store.close()
        self._catalogue.close()

    def get(self, key: bytes) -> bytes | None:
        """Return one entry of store.lmdb as it was written."""
        return self._lists.get(key)

    def entries(self) -> "lmdb.Cursor":
        """Return a cursor over all (key, value) entries of store.lmdb."""
        return self._lists.cursor()

    def entry_count(self) -> int:
        return int(self._store.stat()["entries"])

    def user(self, pseudonym: str) -> UserLists | None:
        value = self.get(layout.user_key(pseudonym))
        return layout.decode_user(value) if value else None

    def neighbours(self, number: int) -> ItemList | None:
        return self.list(layout.neighbours_key(number))

    def popular(self, category: str = "") -> ItemList | None:
        return self.list(layout.popular_key(category))

    def list_of_query(self, normalized_query: str) -> ItemList | None:
        return self.list(layout.query_key(normalized_query)) if normalized_query else None

    def in_category(self, category: str) -> npt.NDArray[np.bool_] | None:
        """Return [categories] bool, which categories are this one or lie below it; None when there is none."""
        if category not in self._in_category:
            below = np.array([name == category or name.startswith(category + layout.SEPARATOR) for name in self.categories], np.bool_)
            if len(self._in_category) >= _CACHED_CATEGORIES:
                self._in_category.clear()
            self._in_category[category] = below if below.any() else None
        return self._in_category[category]

    def list(self, key: bytes) -> ItemList | None:
        value = self.get(key)
        return layout.decode_list(value) if value else None

    def number(self, item_id: str) -> int | None:
        """Return an item's number, None when the snapshot does not know it."""
        value = self._by_id.get(layout.id_key(item_id))
        return int.from_bytes(value, "little") if value else None

    def numbers(self, item_ids: Iterable[str]) -> dict[str, int]:
        """Return the number of each item that the snapshot knows. Safe on any thread."""
        with self._catalogue.begin(db=self._ids) as reading:
            found = ((item, reading.get(layout.id_key(item))) for item in item_ids if item)
            return {item: int.from_bytes(value, "little") for item, value in found if value}

    def item(self, number: int) -> Item:
        """Return what an answer shows of an item."""
        if (known := self._items.get(number)) is not None:
            return known
        value = self._by_number.get(layout.number_key(number))
        if value is None:
            raise SourceUnavailable(f"item number {number} is not in snapshot {self.snapshot_id}")
        item = self._items[number] = layout.decode_item(value)
        if len(self._items) > _CACHED_ITEMS:
            self._items.popitem(last=False)
        return item

    def word_index(self, word: str) -> int:
        """Return a word's index in the model's vocabulary, 0 when it has none."""
        value = self._words.get(layout.id_key(word))
        return int.from_bytes(value, "little") if value else 0

    def search(self, text: str, limit: int) -> tuple[Numbers, Floats]:
        """Return the numbers and scores of the items that match a word or, where the snapshot has vectors, mean the same, best first."""
        if self._hybrid:
            try:
                return self._hybrid.search(text, limit)
            except Exception:  # whatever is wrong with it costs quality, never the answer
                logger.exception("search by meaning failed in snapshot %s; words answer alone", self.snapshot_id)
        return self._lexical.search(text, limit)

    @property
    def language(self) -> str:
        """The language of the lexical index."""
        return self._lexical.language

    def corrected(self, text: str) -> dict[str, str]:
        """Return the words of a query that no item has and that are read as another: word -> likeliest other word."""
        return self._lexical.corrected(text)

    def matching_words(self, text: str, limit: int) -> dict[int, tuple[str, ...]]:
        """Return which words of a query each of its hits matches, by item number. Slower than `search`: for explaining, not for answering."""
        return self._lexical.matching_words(text, limit)

    def rank(self, inputs: dict[str, npt.NDArray[Any]]) -> Floats:
        """Score candidates with the ranker in this process.

        Args:
            inputs: as in RANK_INPUTS, with a batch of 1.

        Returns:
            [RANKED_CANDIDATES] float32.

        Raises:
            SourceUnavailable: the ranker could not be loaded, or cannot rank these.
        """
        if self._ranker is None:
            raise SourceUnavailable(self.ranker_problem)
        try:
            return self._ranker.scores(inputs)
        except ValueError as error:
            logger.error("snapshot %s: %s", self.snapshot_id, error)
            raise SourceUnavailable("the ranker refuses the request: it knows other items or words than the snapshot") from None
