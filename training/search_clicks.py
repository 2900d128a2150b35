"""How much words and meaning count in a shop's search: learned from what shoppers chose after they searched, and measured on what they chose later.

What they chose was shown by the search of that time, so this says little of what that search never showed: only where meaning is shown to do worse is it left
out.
"""

import json
import shutil
import tempfile
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

MOST_ITEMS, MOST_QUERIES = 20_000, 300
LEAST_CHOICES = 2  # of a query; one may be chance
LIKELY = 100  # best items by words, and as many by meaning, that are compared with what was chosen


def write(shop: Shop, converted: Path, folder: Path, language: Language, seed: int, say: Say) -> dict[str, Any]:
    """Copy the encoder into a new folder, embed the catalogue (a sample of a large one) and learn the weights; return what was measured."""
    shutil.copytree(converted, folder)
    products = lake.newest_products(["item_id", *SEARCHED.values()], shop.versions["products"])
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(products.num_rows)[:MOST_ITEMS])
    texts = {field: products[column].take(rows).to_pylist() for field, column in SEARCHED.items()}
    embedded = [hybrid.item_text(*pair) for pair in zip(texts["title"], texts["description"], strict=True)]
    encoder = TextEncoder(folder)
    write_vectors(folder, embedded, embed(embedded, encoder, [], say))
    number = {item: place for place, item in enumerate(products["item_id"].take(rows).to_pylist())}
    item = np.array([number.get(name, -1) for name in shop.items])[shop.item]
    searched = (shop.query > 0) & (item >= 0)
    with tempfile.TemporaryDirectory() as aside:
        write_lexical(Path(aside) / "index", texts, language)
        index = Hybrid(Lexical(Path(aside) / "index"), Vectors(folder), encoder)
        before, after = (
            [one for query, chosen in _chosen(shop, item, searched & part, random) if (one := _asked(index, shop.queries[query], chosen)).gain.any()]
            for part in (shop.time < shop.split, shop.time >= shop.split)
        )
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


def _chosen(
    shop: Shop, item: npt.NDArray[np.int64], rows: npt.NDArray[np.bool_], random: np.random.Generator
) -> list[tuple[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]]:
    """Return for each of a sample of queries the items that were chosen, and how often."""
    query, item = shop.query[rows], item[rows]
    often = np.flatnonzero(np.bincount(query, minlength=1) >= LEAST_CHOICES)
    return [(int(one), np.unique(item[query == one], return_counts=True)) for one in random.permutation(often)[:MOST_QUERIES]]


def _asked(index: Hybrid, text: str, chosen: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> Asked:
    """Return a query; what was chosen but neither words nor meaning find counts for nothing, whatever the weights."""
    numbers, fits = index.fits(text, LIKELY)
    gain = np.zeros(len(numbers))
    place = {int(number): place for place, number in enumerate(numbers)}
    for number, times in zip(*chosen, strict=True):
        if (found := place.get(int(number))) is not None:
            gain[found] = np.log2(1 + times)
    return Asked(fits=fits, gain=gain, judged=np.ones(len(numbers), np.bool_), likely=np.arange(len(numbers)))
