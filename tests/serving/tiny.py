"""A tiny, real shop after its circle: products in the lake, a TensorFlow model, candidates. Everything that serving needs, made in a few seconds.

24 items in three categories, six shoppers. Item `i07` is sold out. The model prefers items of the category that the shopper touched last.
"""

import hashlib
import hmac
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from evershelf.contracts import EVENT_TYPES
from evershelf.contracts.model import HISTORY_LENGTH, OWN_RANKER, RANK_INPUTS, RANK_OUTPUT, TEXT_ENCODER
from evershelf.contracts.rungs import RUNGS
from evershelf.hybrid import PLAIN, WEIGHTS, item_text
from evershelf.text_encoder import TextEncoder
from evershelf.vectors import write_vectors
from tests import own_rankers

DATA_AS_OF = date(2026, 3, 1)
CATEGORIES = ("Home > Candles", "Home > Mugs", "Garden")
COLOURS = ("red", "blue", "green", "white")
KINDS = {"Home > Candles": "candle", "Home > Mugs": "mug", "Garden": "lantern"}
ITEMS = tuple(f"i{number:02d}" for number in range(24))
SOLD_OUT = "i07"
USER_KEY = "the tiny shop's key"
RAW_USERS = ("ann", "bob", "cleo", "dan", "eve", "fay")  # as the shop's front end knows them
USERS = tuple(hmac.new(USER_KEY.encode(), user.encode(), hashlib.sha256).hexdigest()[:32] for user in RAW_USERS)  # as everything behind the door does
QUERIES = {"red candle": ("i04", "i00", "i08"), "mug": ("i09", "i01", "i05"), "mug under 19": ("i05", "i01")}
WORDS = ("", *COLOURS, *KINDS.values())
WIDTH = 4


def category(item: str) -> str:
    return CATEGORIES[ITEMS.index(item) % 3]


def title(item: str) -> str:
    return f"{COLOURS[ITEMS.index(item) // 3 % 4].capitalize()} {KINDS[category(item)]} no. {ITEMS.index(item)}"


def price(item: str) -> float:
    return 1.5 + ITEMS.index(item)


@dataclass(frozen=True, slots=True)
class Tiny:
    """Where the shop is, and what its model and candidates are called."""

    home: Path
    model_id: str
    candidates_id: str


def make(home: Path) -> Tiny:
    """Write products, model and candidates under a home."""
    model_id, candidates_id = f"{DATA_AS_OF}-11111111", f"{DATA_AS_OF}-22222222"
    home.mkdir(parents=True, exist_ok=True)
    (home / "user.key").write_text(USER_KEY)
    _products(home / "lake" / "products")
    _model(home / "models" / model_id)
    make_candidates(home, candidates_id, model_id)
    return Tiny(home, model_id, candidates_id)


def make_candidates(home: Path, candidates_id: str, model_id: str, *, shift: int = 0) -> None:
    """Write candidates; `shift` turns the shoppers' lists round, which makes another snapshot of the same model."""
    folder = home / "candidates" / candidates_id
    now = datetime(2026, 3, 1, 18, tzinfo=UTC)
    user_candidates, user_history = [], []
    for place, user in enumerate(USERS):
        order = [ITEMS[(place * 3 + shift + step) % len(ITEMS)] for step in range(20)]
        user_candidates += [{"user_id": user, "item_id": item, "position": at, "score": 1 / at, "source": "item_item"} for at, item in enumerate(order, 1)]
        seen = [item for item in ITEMS if category(item) == CATEGORIES[place % 3]][:5]
        user_history += [
            {"user_id": user, "item_id": item, "type": "view", "event_time": now - timedelta(hours=at), "position": at} for at, item in enumerate(seen, 1)
        ]
    neighbours = [
        {"item_id": item, "neighbor_id": other, "position": at, "score": 1 / at}
        for item in ITEMS
        for at, other in enumerate([other for other in ITEMS if category(other) == category(item) and other != item], 1)
    ]
    queries = [{"query": query, "item_id": item, "position": at, "score": 1 / at} for query, items in QUERIES.items() for at, item in enumerate(items, 1)]
    popular = [
        {"category": name, "item_id": item, "position": at, "score": 1 / at}
        for name in ("", "Home", *CATEGORIES)
        for at, item in enumerate([item for item in ITEMS if category(item).startswith(name)], 1)
    ]
    lists = {
        "user_candidates": user_candidates,
        "item_candidates": neighbours,
        "query_candidates": queries,
        "popular_items": popular,
        "user_history": user_history,
    }
    for name, rows in lists.items():
        (folder / name).mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        for column, kind in (("position", pa.int32()), ("score", pa.float32())):
            if column in table.column_names:
                table = table.set_column(table.column_names.index(column), column, table[column].cast(kind))
        pq.write_table(table, folder / name / "part-0.parquet")
    lineage = {"model_id": model_id, "tables": {"products": 0}, "data_as_of": str(DATA_AS_OF), "code_version": "test"}
    (folder / "lineage.json").write_text(json.dumps(lineage))


def _products(folder: Path) -> None:
    def row(item: str, valid_from: datetime, name: str) -> dict[str, Any]:
        number = ITEMS.index(item)
        return {
            "item_id": item,
            "landing_dt": valid_from.date(),
            "dt": valid_from.date(),
            "title": name,
            "description": f"A {COLOURS[number // 3 % 4]} thing for the {category(item).split(' > ')[0].lower()}",
            "brand": "Acme" if number % 2 else None,
            "category_path": category(item),
            "price": price(item),
            "currency": "GBP",
            "stock": 0 if item == SOLD_OUT else None if number == 3 else 5,
            "image": f"https://shop.example/{item}.jpg",
            "address": None,
            "attributes": [("colour", COLOURS[number // 3 % 4])],
            "valid_from": valid_from,
        }

    rows = [row(item, datetime(2026, 2, 1, tzinfo=UTC), "an older name") for item in ITEMS]
    rows += [row(item, datetime(2026, 3, 1, tzinfo=UTC), title(item)) for item in ITEMS]
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("landing_dt", pa.date32()),
            ("dt", pa.date32()),
            *((name, pa.string()) for name in ("title", "description", "brand", "category_path")),
            ("price", pa.float64()),
            ("currency", pa.string()),
            ("stock", pa.int32()),
            ("image", pa.string()),
            ("address", pa.string()),
            ("attributes", pa.map_(pa.string(), pa.string())),
            ("valid_from", pa.timestamp("us", "UTC")),
        ]
    )
    write_deltalake(folder.as_uri(), pa.Table.from_pylist(rows, schema=schema), partition_by=["dt"])


def _model(folder: Path) -> None:
    import tensorflow as tf  # seconds to import: only those who make the shop pay

    random = np.random.default_rng(7)
    vectors = np.zeros((len(ITEMS) + 1, WIDTH), np.float32)
    for number in range(len(ITEMS)):
        vectors[number + 1] = np.eye(WIDTH, dtype=np.float32)[number % 3] + random.normal(0, 0.05, WIDTH)
    word_vectors = random.normal(0, 0.5, (len(WORDS), WIDTH)).astype(np.float32)
    word_vectors[0] = 0

    class Ranker(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            self.items = tf.Variable(vectors)
            self.words = tf.Variable(word_vectors)

        def __call__(self, history_items: Any, history_actions: Any, history_ages: Any, query_words: Any, candidates: Any) -> dict[str, Any]:
            recency = tf.cast(tf.range(1, HISTORY_LENGTH + 1), tf.float32) / HISTORY_LENGTH
            weight = recency * tf.exp(-history_ages / 30.0) * tf.cast(history_actions > 0, tf.float32)
            shopper = tf.einsum("bh,bhw->bw", weight, tf.gather(self.items, history_items)) + tf.reduce_sum(tf.gather(self.words, query_words), 1)
            scores = tf.einsum("bw,bcw->bc", shopper, tf.gather(self.items, candidates))
            return {RANK_OUTPUT: tf.where(candidates > 0, scores, tf.fill(tf.shape(scores), np.finfo(np.float32).min))}

    ranker = Ranker()

    def signature(batch: int | None) -> Any:
        spec = {name: tf.TensorSpec([batch, length], kind, name=name) for name, (kind, length) in RANK_INPUTS.items()}
        return tf.function(ranker.__call__).get_concrete_function(**spec)

    folder.mkdir(parents=True)
    tf.saved_model.save(ranker, str(folder / "saved_model"), signatures={"serving_default": signature(None)})
    one = folder / "one_request"
    tf.saved_model.save(ranker, str(one), signatures={"serving_default": signature(1)})
    (folder / "ranker.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(one)).convert())
    vocabulary = {"items": ["", *ITEMS], "actions": ["", *EVENT_TYPES], "categories": ["", *CATEGORIES], "words": list(WORDS)}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    inputs = {name: np.zeros((1, length), kind) for name, (kind, length) in RANK_INPUTS.items()}
    inputs["history_items"][0, -1] = inputs["history_actions"][0, -1] = 1
    inputs["candidates"][0, : len(ITEMS)] = np.arange(1, len(ITEMS) + 1)
    scores = ranker(**{name: tf.constant(value) for name, value in inputs.items()})[RANK_OUTPUT].numpy()
    golden = [{"inputs": {name: value[0].tolist() for name, value in inputs.items()}, "scores": scores[0].tolist()}]
    (folder / "golden.json").write_text(json.dumps({"requests": golden}))
    quality = dict(zip(RUNGS, (1.0, 1.0, 0.8, 0.8, 0.4), strict=True))
    (folder / "evaluation.json").write_text(json.dumps({"metrics": {"NDCG@10": 0.3}, "baselines": {}, "rung_quality": quality, "blessed": True, "why": "test"}))
    lineage = {"data_as_of": str(DATA_AS_OF), "tables": {"events": 0, "products": 0}, "seed": 7, "code_version": "test"}
    (folder / "lineage.json").write_text(json.dumps(lineage))


def bring_ranker(home: Path, model_id: str) -> str:
    """Write the model that `evershelf bring-ranker` makes of an own ranker that likes what is of the newest item's category; return its id."""
    brought = f"{DATA_AS_OF}-44444444"
    folder = home / "models" / brought
    shutil.copytree(home / "models" / model_id, folder)
    (folder / "ranker.tflite").unlink()
    of = np.array([-1, *(CATEGORIES.index(category(item)) for item in ITEMS)])
    table = (of[None] == of[:, None]).astype(np.float32)
    own_rankers.write(folder / "ranker.onnx", table)
    (folder / "golden.json").write_text(json.dumps(own_rankers.answered(own_rankers.read(folder / "golden.json"), table)))
    lineage = own_rankers.read(folder / "lineage.json") | {OWN_RANKER: {"base": model_id, "sha256": ""}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return brought


def add_text_encoder(tiny: Tiny) -> None:
    """Let the model search by meaning, too."""
    from training.text_encoder import converted

    folder = tiny.home / "models" / tiny.model_id / TEXT_ENCODER
    shutil.copytree(converted(), folder)
    (folder / WEIGHTS).write_text(json.dumps(PLAIN))
    texts = [item_text(title(item), "") for item in ITEMS]
    write_vectors(folder, texts, TextEncoder(folder).vectors(texts))
