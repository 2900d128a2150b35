"""`evaluate search`: what hybrid search makes of a catalogue and of judged answers, beside plain BM25.

The weights of each query's fits are learned from the other four fifths of the queries.

Source of the gain, 2 ** rating - 1: Burges et al., "Learning to rank using gradient descent", ICML 2005.
"""

import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tantivy

from evershelf import hybrid
from evershelf.lexical import Lexical, write_lexical
from evershelf.progress import Say
from evershelf.text_encoder import TextEncoder
from evershelf.vectors import embed
from training import ranking, search_ranking
from training.search_files import Catalogue, read_catalogue, read_judgments
from training.search_ranking import Asked
from training.text_encoder import converted

PROTOCOL = (
    "{items} products ranked for {queries} queries that have a relevant one; gain 2^rating - 1. NDCG@10 ranks all products, and an unjudged one gains nothing; "
    "'judged' ranks only those that were judged for the query. bm25: tantivy's, with its English analyser, over one field of all text; words: our lexical "
    "index over the same. The weights for a query were learned from the other folds of {folds}. 95 % intervals: bootstrap over queries, paired."
)
METRICS = {"NDCG@10": False, "NDCG@10 judged": True}  # and whether only judged products are ranked
LIKELY = 100  # best items by words, and as many by meaning, that are learned from beside the judged ones
EVERYTHING = "everything"


def evaluate(products: Path, judgments: Path, encoder: Path | None, seed: int, say: Say) -> dict[str, Any]:
    """Return what `--json` prints.

    Args:
        encoder: folder of the text encoder; None: the one that comes with us.

    Raises:
        UnusableData: a file is not what it must be.
    """
    started = time.monotonic()
    catalogue = read_catalogue(products)
    judged, unknown = read_judgments(judgments, catalogue)
    if unknown:
        say(f"{unknown} judgments are of products that are not in the catalogue; they are left out")
    say(f"{len(catalogue.ids)} products, {len(judged.queries)} queries with a relevant one")
    described = [hybrid.item_text(*pair) for pair in zip(catalogue.texts["title"], catalogue.texts["description"], strict=True)]
    opened = TextEncoder(converted(encoder), threads=len(os.sched_getaffinity(0)))
    vectors = embed(described, opened, [], say)
    queries = opened.vectors(judged.queries)
    say(f"embedded after {time.monotonic() - started:.0f} s")
    texts = _everything(catalogue)
    with tempfile.TemporaryDirectory() as folder:
        lexical = _lexical(texts, Path(folder) / "index", judged.queries)
    plain = _plain_bm25(texts, judged.queries)
    asked = [_asked(hybrid.fits(words, vectors, query), ratings) for words, query, ratings in zip(lexical, queries, judged.ratings, strict=True)]
    gains = _gains(asked, plain, seed)
    owners = np.arange(len(asked))
    ours = gains.pop("evershelf")
    return {
        "metrics": _means(ours),
        "interval95": {metric: ranking.bootstrap(gain, owners, seed) for metric, gain in ours.items()},
        "baselines": {name: _means(theirs) for name, theirs in gains.items()},
        "better_by": {
            name: {metric: ranking.difference(ours[metric], gain, owners, seed) for metric, gain in theirs.items()} for name, theirs in gains.items()
        },
        "weights": dict(zip(hybrid.FITS, (round(weight, 3) for weight in search_ranking.learn(asked, seed)), strict=True)),
        "protocol": PROTOCOL.format(items=len(catalogue.ids), queries=len(asked), folds=search_ranking.FOLDS),
        "queries": len(asked),
        "seconds": round(time.monotonic() - started, 1),
    }


def _everything(catalogue: Catalogue) -> list[str]:
    """Return all that is said of each product."""
    texts = catalogue.texts
    return [" ".join(parts) for parts in zip(texts["title"], texts["code"], texts["brand"], texts["description"], strict=True)]


def _lexical(everything: list[str], folder: Path, queries: list[str]) -> list[npt.NDArray[np.float32]]:
    """Return the scores [items] of our lexical index for each query, over one field of all that is said of a product."""
    write_lexical(folder, {EVERYTHING: everything})
    index = Lexical(folder, {EVERYTHING: 1.0})
    found = []
    for query in queries:
        scores = np.zeros(len(everything), np.float32)
        numbers, values = index.search(query, len(everything))
        scores[numbers] = values
        found.append(scores)
    return found


def _plain_bm25(everything: list[str], queries: list[str]) -> list[npt.NDArray[np.float32]]:
    """Return the BM25 scores [items] for each query as tantivy gives them with its own English analyser: what ours is compared with."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(EVERYTHING, tokenizer_name="en_stem")
    builder.add_unsigned_field("number", fast=True)
    index = tantivy.Index(builder.build())
    writer = index.writer(num_threads=1)
    for number, text in enumerate(everything):
        document = tantivy.Document()
        document.add_text(EVERYTHING, text)
        document.add_unsigned("number", number)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher, found = index.searcher(), []
    for query in queries:
        wanted, _ = index.parse_query_lenient(" ".join(re.findall(r"[^\W_]+", query)), [EVERYTHING])
        hits = searcher.search(wanted, len(everything), count=False).hits
        scores = np.zeros(len(everything), np.float32)
        numbers = np.array(searcher.fast_field_values("number", [address for _, address in hits]), np.int64)
        scores[numbers] = [score for score, _ in hits]
        found.append(scores)
    return found


def _asked(fits: npt.NDArray[np.float32], ratings: dict[int, float]) -> Asked:
    places, gain, judged = np.array(list(ratings)), np.zeros(len(fits)), np.zeros(len(fits), np.bool_)
    gain[places], judged[places] = 2.0 ** np.array(list(ratings.values())) - 1, True
    best = [np.argsort(-fits[:, fit], kind="stable")[:LIKELY] for fit in (0, 1)]
    return Asked(fits=fits, gain=gain, judged=judged, likely=np.unique(np.concatenate([places, *best])))


def _gains(asked: list[Asked], plain: list[npt.NDArray[np.float32]], seed: int) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Return what each way to rank gains: its name -> metric -> [queries]."""
    learned: dict[int, tuple[float, ...]] = {}
    for rest, held_out in search_ranking.folds(asked, seed):
        learned |= dict.fromkeys(map(id, held_out), search_ranking.learn(rest, seed))
    weights = {"evershelf": None, "words": (1.0, 0.0, 0.0, 0.0), "meaning": (0.0, 1.0, 0.0, 0.0), "plain_sum": hybrid.PLAIN}
    gains = {
        name: {
            metric: np.array([one.ndcg(hybrid.scores(one.fits, fixed or learned[id(one)]), judged_only=only) for one in asked])
            for metric, only in METRICS.items()
        }
        for name, fixed in weights.items()
    }
    bm25 = {metric: np.array([one.ndcg(its, judged_only=only) for one, its in zip(asked, plain, strict=True)]) for metric, only in METRICS.items()}
    return gains | {"bm25": bm25}


def _means(gains: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
    return {metric: round(float(gain.mean()), 5) for metric, gain in gains.items()}
