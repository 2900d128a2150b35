"""How much words and meaning count in a shop's search: learned from what shoppers chose after they searched, and measured on what they chose later.

What they chose was shown by the search of that time, so this says little of what that search never showed: only where meaning is shown to do worse is it left
out.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evershelf import hybrid, lake
from evershelf.hybrid import SEARCHED, WEIGHTS, Hybrid
from evershelf.lexical import Lexical, write_lexical
from evershelf.progress import Say
from evershelf.text import Language
from evershelf.text_encoder import TextEncoder
from evershelf.vectors import Vectors, embed, write_vectors
from training import ranking, search_ranking
from training.data import Shop
from training.search_ranking import Asked
from training.text_encoder import Encoder

MOST_ITEMS, MOST_QUERIES = 20_000, 300
LEAST_CHOICES = 2  # of a query; one may be chance
LIKELY = 100  # best items by words, and as many by meaning, that are compared with what was chosen


Chosen = tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64]]  # a query, the numbers of the items that were chosen, and how often


def held_out(query: str) -> bool:
    """Return whether no encoder is ever fine-tuned on a query, so that how much meaning counts can be learned from it: so for one in five."""
    return hashlib.blake2b(query.encode(), digest_size=1).digest()[0] % 5 == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Searches:
    """A sample of the catalogue, and what was chosen of it after a sample of the queries.

    texts: field of the lexical index -> of each item. embedded: the same as one text. item: [events] the item's number, -1 where it is not in the sample.
    before, after: the split. held_out: of those before it, queries that no encoder is fine-tuned on.
    """

    texts: dict[str, list[str | None]]
    embedded: list[str]
    item: npt.NDArray[np.int64]
    before: list[Chosen]
    after: list[Chosen]
    held_out: list[Chosen]


def read_searches(shop: Shop, seed: int) -> Searches:
    """Return what was chosen after searches."""
    products = lake.newest_products(["item_id", *SEARCHED.values()], shop.versions["products"])
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(products.num_rows)[:MOST_ITEMS])
    texts = {field: products[column].take(rows).to_pylist() for field, column in SEARCHED.items()}
    number = {item: place for place, item in enumerate(products["item_id"].take(rows).to_pylist())}
    item = np.array([number.get(name, -1) for name in shop.items])[shop.item]
    searched, early = (shop.query > 0) & (item >= 0), shop.time < shop.split
    parts = {"before": early, "after": ~early, "held_out": early & np.array([held_out(query) for query in shop.queries])[shop.query]}
    chosen = {name: _chosen(shop, item, searched & part, random) for name, part in parts.items()}
    embedded = [hybrid.item_text(*pair) for pair in zip(texts["title"], texts["description"], strict=True)]
    return Searches(texts=texts, embedded=embedded, item=item, **chosen)


def asked(searches: Searches, encoder: Encoder, folder: Path, language: Language, say: Say) -> tuple[list[Asked], list[Asked]]:
    """Copy the encoder into a new folder and embed the catalogue; return the queries to learn weights from, and those after the split."""
    shutil.copytree(encoder.folder, folder)
    opened = TextEncoder(folder)
    write_vectors(folder, searches.embedded, embed(searches.embedded, opened, [], say))
    with tempfile.TemporaryDirectory() as aside:
        write_lexical(Path(aside) / "index", searches.texts, language)
        index = Hybrid(Lexical(Path(aside) / "index"), Vectors(folder), opened)
        before, after = ([_asked(index, *one) for one in part] for part in (searches.held_out if encoder.fine_tuned else searches.before, searches.after))
    return before, after


def found(queries: list[Asked]) -> list[Asked]:
    """Return the queries of which something chosen was found; what was not counts for nothing, whatever the weights."""
    return [replace(one, missed=np.empty(0)) for one in queries if one.gain.any()]


def write(shop: Shop, encoder: Encoder, folder: Path, language: Language, seed: int, say: Say) -> dict[str, Any]:
    """Copy the encoder into a new folder, embed the catalogue (a sample of a large one) and learn the weights; return what was measured."""
    before, after = map(found, asked(read_searches(shop, seed), encoder, folder, language, say))
    weights = search_ranking.learn(before, seed)
    report: dict[str, Any] = {"queries_learned_from": len(before), "queries_measured": len(after)}
    if after:
        ours, words = (np.array([one.ndcg(hybrid.scores(one.fits, by), judged_only=False) for one in after]) for by in (weights, hybrid.WORDS))
        difference = ranking.difference(ours, words, np.arange(len(after)), seed)
        report |= {"NDCG@10": round(float(ours.mean()), 5), "words_alone": round(float(words.mean()), 5), "better_by": difference}
        if difference[2] < 0:
            weights = hybrid.WORDS
    report["weights"] = dict(zip(hybrid.FITS, weights, strict=True))
    (folder / WEIGHTS).write_text(json.dumps(weights))
    return report


def _chosen(shop: Shop, item: npt.NDArray[np.int64], rows: npt.NDArray[np.bool_], random: np.random.Generator) -> list[Chosen]:
    """Return what was chosen after each of a sample of the queries."""
    query, item = shop.query[rows], item[rows]
    often = np.flatnonzero(np.bincount(query, minlength=1) >= LEAST_CHOICES)
    return [(shop.queries[one], *np.unique(item[query == one], return_counts=True)) for one in random.permutation(often)[:MOST_QUERIES]]


def _asked(index: Hybrid, text: str, items: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> Asked:
    numbers, fits = index.fits(text, LIKELY)
    worth = dict(zip(items.tolist(), np.log2(1 + times).tolist(), strict=True))
    gain = np.array([worth.pop(number, 0.0) for number in numbers.tolist()])
    missed = np.array(list(worth.values()))
    return Asked(fits=fits, gain=gain, judged=np.ones(len(numbers), np.bool_), likely=np.arange(len(numbers)), missed=missed)
