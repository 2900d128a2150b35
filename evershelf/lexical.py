"""The lexical index of a catalogue: how well the texts of its items fit the words of a query, by BM25 over the stems of words, field by field."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tantivy

from evershelf.text import words

FIELDS = {"title": 4.0, "brand": 2.0, "category": 1.5, "description": 1.0}  # and what a match in each is worth
_NUMBER = "number"
_MEMORY = 128 << 20  # bytes that the writer may use
_READERS_LOCK = ".tantivy-meta.lock"
_LONGEST_QUERY = 24  # more words of one query cost time and find nothing better

Numbers = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


def write_lexical(folder: Path, texts: Mapping[str, Sequence[str | None]]) -> None:
    """Index a catalogue in a folder that is not there yet; an item's number is its place.

    Args:
        texts: of each field, one text per item.
    """
    folder.mkdir()
    builder = tantivy.SchemaBuilder()
    for field in texts:
        builder.add_text_field(field, stored=False, tokenizer_name="en_stem")
    builder.add_unsigned_field(_NUMBER, stored=True)
    index = tantivy.Index(builder.build(), path=str(folder))
    writer = index.writer(_MEMORY, 1)
    for number, row in enumerate(zip(*texts.values(), strict=True)):
        document = tantivy.Document()
        document.add_unsigned(_NUMBER, number)
        for field, value in zip(texts, row, strict=True):
            if text := " ".join(words(value)):
                document.add_text(field, text)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    (folder / _READERS_LOCK).touch()  # opening the index makes this empty file; a snapshot must not change by being opened


class Lexical:
    """An open index."""

    def __init__(self, folder: Path, fields: Mapping[str, float] = FIELDS) -> None:
        """Open an index that `write_lexical` wrote.

        Args:
            fields: which count, and how much.

        Raises:
            ValueError: it cannot be opened.
        """
        self._index, self._fields = tantivy.Index.open(str(folder)), dict(fields)
        self._searcher = self._index.searcher()

    def search(self, text: str, limit: int) -> tuple[Numbers, Floats]:
        """Return the numbers and scores of the items that match at least one word, best first."""
        wanted = words(text)[:_LONGEST_QUERY]
        if not wanted:
            return np.empty(0, np.uint32), np.empty(0, np.float32)
        hits = self._searcher.search(self._query(wanted), limit, count=False).hits
        numbers = np.fromiter((self._searcher.doc(address)[_NUMBER][0] for _, address in hits), np.uint32, len(hits))
        return numbers, np.fromiter((score for score, _ in hits), np.float32, len(hits))

    def matching_words(self, text: str, limit: int) -> dict[int, tuple[str, ...]]:
        """Return which words of a query each of its hits matches, by item number. Slower than `search`: for explaining, not for answering."""
        wanted = words(text)[:_LONGEST_QUERY]
        matching: dict[int, tuple[str, ...]] = {}
        for _, address in self._searcher.search(self._query(wanted), limit, count=False).hits if wanted else ():
            number = int(self._searcher.doc(address)[_NUMBER][0])
            matching[number] = tuple(word for word in dict.fromkeys(wanted) if self._matches(word, address))
        return matching

    def _matches(self, word: str, address: tantivy.DocAddress) -> bool:
        try:
            self._query([word]).explain(self._searcher, address)
        except ValueError:  # how tantivy says that a document does not match
            return False
        return True

    def _query(self, wanted: Sequence[str]) -> tantivy.Query:
        query, _ = self._index.parse_query_lenient(" ".join(wanted), list(self._fields), self._fields)
        return query
