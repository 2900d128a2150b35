"""The lexical index of a catalogue: how well the texts of its items fit the words of a query, by BM25 over the stems of words, field by field.

A word that no item has is read as the words nearest to it (Damerau, CACM 1964: insertions, deletions, substitutions and transpositions of neighbours). A word's
synonyms, and the bare number of a measure, count beside the word, for less. The folder holds what all of this needs, so an index is read as it was written.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from math import log
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import tantivy
from tantivy import Filter, Occur, Query, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

from evershelf.text import Language, normalized_query, number_of, words

FIELDS = {"title": 4.0, "brand": 2.0, "category": 1.5, "description": 1.0}  # and what a match in each is worth

Synonyms = Mapping[str, Sequence[str]]  # a word or words, normalised -> what counts beside

_NUMBER = "number"
_MEMORY = 128 << 20  # bytes that the writer may use
_READERS_LOCK = ".tantivy-meta.lock"
_LONGEST_QUERY = 24  # more words of one query cost time and find nothing better
_LONGEST_WORD = 40  # characters; what is longer is neither indexed nor searched for
_STEMS = "stems"  # name of the analyser
_RULES, _DICTIONARY = "rules.json", "dictionary"  # in the index's folder: how it is read; all words of the catalogue
_WORD, _FOLDED, _ITEMS = "word", "folded", "items"

_BESIDE = 0.5  # what a synonym, or the number of a measure alone, is worth beside the word
_GUESSED = 0.7  # what a nearby word is worth beside one that is there
_MOST_GUESSES = 3
_COMMON = 0.1  # share of the items: a word of so many tells little; a guess may tell as much at least
_REMEMBERED = 10_000  # words of queries
_EDITS = ((8, 2), (4, 1))  # letters of a word, and by how many edits at most it may differ

Numbers = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


class _Rules(msgspec.Struct, frozen=True):
    language: Language
    synonyms: dict[str, list[str]]


class _Stem(NamedTuple):
    """A stem that items have, and how much it counts."""

    stem: str
    weight: float


class _Reading(NamedTuple):
    """How one word of a query is read.

    key: under which its synonyms are found. stems: those that stand for it, the best first. guess: the nearby word that it is taken for, or None.
    """

    key: str
    stems: tuple[_Stem, ...]
    guess: str | None


def read_synonyms(text: str) -> dict[str, list[str]]:
    """Read a shop's synonyms: groups, one a line, joined by commas; `a, b => c, d` counts c and d beside a and b, not the other way; # begins a comment.

    Raises:
        ValueError: names the lines that cannot be read, and why.
    """
    found: dict[str, list[str]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.partition("#")[0].strip()):
            continue
        left, *right = ([normalized_query(part) for part in side.split(",")] for side in line.split("=>"))
        if len(right) > 1:
            problems.append(f"line {number} has more than one =>")
        elif not all([*left, *(part for side in right for part in side)]):
            problems.append(f"line {number} has a part without a word")
        elif long := [word for side in (left, *right) for part in side for word in part.split() if len(word) > _LONGEST_WORD]:
            problems.append(f"line {number} has a word of more than {_LONGEST_WORD} characters, {long[0]!r}, which no search finds")
        elif not right and len(left) < 2:
            problems.append(f"line {number} has no comma and no =>, so nothing that {left[0]!r} is a synonym of")
        else:
            for part in left:
                beside = found.setdefault(part, [])
                beside.extend(other for other in dict.fromkeys(right[0] if right else left) if other != part and other not in beside)
    if problems:
        raise ValueError("; ".join(problems))
    return found


def write_lexical(folder: Path, texts: Mapping[str, Sequence[str | None]], language: Language = "english", synonyms: Synonyms | None = None) -> None:
    """Index a catalogue in a folder that is not there yet; an item's number is its place.

    Args:
        texts: of each field, one text per item.
        language: whose endings words lose.
        synonyms: as `read_synonyms` returns them.
    """
    folder.mkdir()
    builder = tantivy.SchemaBuilder()
    for field in texts:
        builder.add_text_field(field, stored=False, tokenizer_name=_STEMS)
    builder.add_unsigned_field(_NUMBER, fast=True)
    index = tantivy.Index(builder.build(), path=str(folder))
    index.register_tokenizer(_STEMS, _analyser(language))
    holding: Counter[str] = Counter()  # items that have a word
    writer = index.writer(_MEMORY, 1)
    for number, row in enumerate(zip(*texts.values(), strict=True)):
        document, has = tantivy.Document(), set[str]()
        document.add_unsigned(_NUMBER, number)
        for field, value in zip(texts, row, strict=True):
            if found := _searched(value):
                document.add_text(field, " ".join(_with_numbers(found)))
                has.update(found)
        writer.add_document(document)
        holding.update(has)
    _finish(folder, writer)
    _write_dictionary(folder / _DICTIONARY, holding)
    rules = _Rules(language, {left: list(right) for left, right in (synonyms or {}).items()})
    (folder / _RULES).write_bytes(msgspec.json.encode(rules))


def _write_dictionary(folder: Path, holding: Mapping[str, int]) -> None:
    """Index all words that may be meant by a word with a typo: one document per word."""
    folder.mkdir()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(_WORD, stored=True, tokenizer_name="raw")
    builder.add_text_field(_FOLDED, stored=False, tokenizer_name="raw", index_option="basic")
    builder.add_unsigned_field(_ITEMS, fast=True)
    writer = tantivy.Index(builder.build(), path=str(folder)).writer(_MEMORY, 1)
    fold = TextAnalyzerBuilder(Tokenizer.raw()).filter(Filter.ascii_fold()).build()
    for word, items in sorted(holding.items()):
        if _may_be_misspelt(word):
            document = tantivy.Document()
            document.add_text(_WORD, word)
            document.add_text(_FOLDED, fold.analyze(word)[0])
            document.add_unsigned(_ITEMS, items)
            writer.add_document(document)
    _finish(folder, writer)


def _finish(folder: Path, writer: tantivy.IndexWriter) -> None:
    writer.commit()
    writer.wait_merging_threads()
    (folder / _READERS_LOCK).touch()  # opening the index makes this empty file; a snapshot must not change by being opened


def _analyser(language: Language) -> TextAnalyzer:
    return TextAnalyzerBuilder(Tokenizer.whitespace()).filter(Filter.ascii_fold()).filter(Filter.stemmer(language)).build()


def _searched(text: str | None) -> list[str]:
    return [word for word in words(text) if len(word) <= _LONGEST_WORD]


def _with_numbers(found: Sequence[str]) -> Iterator[str]:
    """Return words, and behind each measure its bare number: who searches for '27 monitor' means '27 inch'."""
    for word in found:
        yield word
        if number := number_of(word):
            yield number


def _may_be_misspelt(word: str) -> bool:
    return not any(map(str.isdigit, word))  # the next number or model is no typo


class Lexical:
    """An open index. Safe on one thread at a time.

    Attributes:
        language: whose words it holds.
    """

    def __init__(self, folder: Path, fields: Mapping[str, float] = FIELDS) -> None:
        """Open an index that `write_lexical` wrote.

        Args:
            fields: which count, and how much.

        Raises:
            ValueError: it cannot be opened.
            OSError: a file of it cannot be read.
        """
        rules = msgspec.json.decode((folder / _RULES).read_bytes(), type=_Rules)
        self.language = rules.language
        self._fields, self._analyser = dict(fields), _analyser(rules.language)
        self._index, dictionary = tantivy.Index.open(str(folder)), tantivy.Index.open(str(folder / _DICTIONARY))
        self._index.register_tokenizer(_STEMS, self._analyser)
        self._schema, self._searcher = self._index.schema, self._index.searcher()
        self._words, self._dictionary = dictionary.schema, dictionary.searcher()
        self._fold = TextAnalyzerBuilder(Tokenizer.raw()).filter(Filter.ascii_fold()).build()
        self._beside: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for left, others in rules.synonyms.items():
            self._beside.setdefault(self._stems(left), []).extend(filter(None, map(self._indexed, others)))
        self._longest_left = max(map(len, self._beside), default=0)
        self._remembered = OrderedDict[str, _Reading]()  # no lru_cache of a method: a closed index would wait for the collector of cycles

    def search(self, text: str, limit: int) -> tuple[Numbers, Floats]:
        """Return the numbers and scores of the items that match at least one word, best first."""
        query = self._query(self._readings(text))
        hits = self._searcher.search(query, limit, count=False).hits if query else []
        numbers = self._searcher.fast_field_values(_NUMBER, [address for _, address in hits])
        return np.array(numbers, np.uint32), np.fromiter((score for score, _ in hits), np.float32, len(hits))

    def corrected(self, text: str) -> dict[str, str]:
        """Return the words of a query that no item has and that are read as another: word -> likeliest other word."""
        return {word: reading.guess for word, reading in self._readings(text) if reading.guess}

    def matching_words(self, text: str, limit: int) -> dict[int, tuple[str, ...]]:
        """Return which words of a query each of its hits matches, as they are read, by item number. Slower than `search`: for explaining, not for answering."""
        readings = self._readings(text)
        query = self._query(readings)
        hits = self._searcher.search(query, limit, count=False).hits if query else []
        single = {reading.guess or word: query for word, reading in readings if (query := self._query([(word, reading)]))}
        numbers = self._searcher.fast_field_values(_NUMBER, [address for _, address in hits])
        return {
            int(number or 0): tuple(word for word, query in single.items() if self._matches(query, address))
            for number, (_, address) in zip(numbers, hits, strict=True)
        }

    def _readings(self, text: str) -> list[tuple[str, _Reading]]:
        read = [(word, self._read(word)) for word in _searched(text)[:_LONGEST_QUERY]]
        there = [self._telling(stem) for _, reading in read if not reading.guess for stem, _ in reading.stems[:1]]
        if not there or not any(reading.guess for _, reading in read):
            return read
        # A guess tells no more than a word that is there: one by chance, of few items, would outweigh all that was asked for.
        most = max(*there, _idf(_COMMON * self._searcher.num_docs, self._searcher.num_docs))
        return [
            (word, reading._replace(stems=tuple(_Stem(stem, weight * min(1.0, most / self._telling(stem))) for stem, weight in reading.stems)))
            if reading.guess
            else (word, reading)
            for word, reading in read
        ]

    def _read(self, word: str) -> _Reading:
        if word in self._remembered:
            self._remembered.move_to_end(word)
        else:
            self._remembered[word] = self._look_up(word)
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return self._remembered[word]

    def _look_up(self, word: str) -> _Reading:
        stem = next(iter(self._stems(word)), "")
        number = number_of(word)
        beside = self._known([(stem, 1.0), *([(number, _BESIDE)] if number else [])])
        if beside or (stem,) in self._beside or not _may_be_misspelt(word):
            return _Reading(stem, beside, None)
        guesses: dict[str, str] = {}
        for other in self._nearest(word):
            guesses.setdefault(next(iter(self._stems(other)), ""), other)
        stems = self._known([(stem, _GUESSED) for stem in guesses])
        return _Reading(stems[0].stem, stems, guesses[stems[0].stem]) if stems else _Reading(stem, (), None)

    def _stems(self, text: str) -> tuple[str, ...]:
        return tuple(self._analyser.analyze(text))

    def _indexed(self, text: str) -> tuple[str, ...]:
        """Return the stems of words as they lie side by side in the index: behind a measure that is not the last, its number."""
        found = text.split()
        return self._stems(" ".join([*_with_numbers(found[:-1]), *found[-1:]]))

    def _items(self, stem: str) -> int:
        """Return about how many items have a stem."""
        return max(self._searcher.doc_freq(field, stem) for field in self._fields)

    def _known(self, stems: Sequence[tuple[str, float]]) -> tuple[_Stem, ...]:
        return tuple(_Stem(stem, weight) for stem, weight in stems if stem and self._items(stem))

    def _telling(self, stem: str) -> float:
        """Return how much a stem tells of the items that have it."""
        return _idf(self._items(stem), self._searcher.num_docs)

    def _nearest(self, word: str) -> list[str]:
        """Return the words of the catalogue that differ least from one that is not in it, the commonest first."""
        edits = next((edits for letters, edits in _EDITS if len(word) >= letters), 0)
        for distance in range(1, edits + 1):
            near = Query.fuzzy_term_query(self._words, _FOLDED, self._fold.analyze(word)[0], distance)
            if hits := self._dictionary.search(near, _MOST_GUESSES, count=False, order_by_field=_ITEMS).hits:
                return [str(self._dictionary.doc(address)[_WORD][0]) for _, address in hits]
        return []

    def _query(self, readings: Sequence[tuple[str, _Reading]]) -> Query | None:
        """Return what finds the items that match at least one word; None when none can."""
        parts: list[Query] = []
        place = 0
        while place < len(readings):
            length, others = self._beside_at([reading.key for _, reading in readings[place : place + self._longest_left]])
            own = [_best([self._phrase((stem,), weight) for stem, weight in reading.stems]) for _, reading in readings[place : place + length] if reading.stems]
            beside = [self._phrase(other, _BESIDE) for other in others]
            parts.extend([_best([*([_sum(own)] if own else []), *beside])] if beside else own)
            place += length
        return _sum(parts) if parts else None

    def _beside_at(self, keys: Sequence[str]) -> tuple[int, Sequence[tuple[str, ...]]]:
        """Return how many words have synonyms together, the most that do (1 when none has), and the synonyms."""
        for length in range(len(keys), 0, -1):
            if others := self._beside.get(tuple(keys[:length])):
                return length, others
        return 1, ()

    def _phrase(self, stems: Sequence[str], weight: float) -> Query:
        """Return what finds stems side by side, in any of the fields."""
        return _sum(
            [
                Query.boost_query(
                    Query.phrase_query(self._schema, field, list(stems)) if len(stems) > 1 else Query.term_query(self._schema, field, stems[0]), weight * worth
                )
                for field, worth in self._fields.items()
            ]
        )

    def _matches(self, query: Query, address: tantivy.DocAddress) -> bool:
        try:
            query.explain(self._searcher, address)
        except ValueError:  # how tantivy says that a document does not match
            return False
        return True


def _best(queries: Sequence[Query]) -> Query:
    """Return what finds what any of them finds, and gives it the best of their scores."""
    return queries[0] if len(queries) == 1 else Query.disjunction_max_query(queries)


def _sum(queries: Sequence[Query]) -> Query:
    return queries[0] if len(queries) == 1 else Query.boolean_query([(Occur.Should, query) for query in queries])


def _idf(items: float, everything: int) -> float:
    return log(1 + (everything - items + 0.5) / (items + 0.5))
