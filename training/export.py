"""Write a trained model as evershelf/contracts/model.py describes it; training/rankers.py adds the ranker for one request."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evershelf.contracts.model import HISTORY_LENGTH, MODEL_NAME, RANK_INPUTS, RANKED_CANDIDATES, SIGNATURE
from evershelf.settings import TrainingSettings
from evershelf.storage import Place
from training import loop
from training.data import ACTIONS, Shop
from training.errors import ExportFailed
from training.examples import Examples, Sequences
from training.exported import BATCH, Exported
from training.vocabulary import Vocabulary

GOLDEN_REQUESTS = 8

Inputs = dict[str, npt.NDArray[np.generic]]


def export(model: Any, vocabulary: Vocabulary, shop: Shop, folder: Path, seed: int) -> None:
    """Fill a folder with everything but the ranker for one request, evaluation.json and lineage.json.

    Raises:
        ExportFailed: scores that are no numbers.
    """
    vocabulary.save(folder / "vocabulary.json")
    golden = golden_requests(vocabulary, seed)
    _save_model(model, folder, golden[-1])
    exported = Exported(folder)
    scores = exported.scores({name: np.stack([request[name] for request in golden]) for name in RANK_INPUTS})
    if not np.isfinite(scores).all():
        raise ExportFailed(
            "The exported ranker gives scores that are no numbers. Nothing was exported and what is live stays live; train again with a lower learning rate."
        )
    requests = [
        {"inputs": {name: array.tolist() for name, array in request.items()}, "scores": row.tolist()} for request, row in zip(golden, scores, strict=True)
    ]
    (folder / "golden.json").write_bytes(msgspec.json.encode({"requests": requests}))
    _write_user_vectors(exported, shop, folder / "user_vectors.parquet")


def export_best(parameters: TrainingSettings, examples: Examples, kept: Place, vocabulary: Vocabulary, shop: Shop, folder: Path) -> tuple[Any, int]:
    """Export the best epoch of a training, from where it was kept, into a folder that is made anew; return its model, and that epoch (from 1).

    Raises:
        ExportFailed: as `export`.
    """
    model, epoch = loop.load_best(parameters, examples, kept)
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was interrupted
    folder.mkdir()
    export(model, vocabulary, shop, folder, parameters.seed)
    return model, epoch


def golden_requests(vocabulary: Vocabulary, seed: int) -> list[dict[str, npt.NDArray[np.generic]]]:
    """Return requests made of item numbers by a generator: no shopper's data. The first has no history, the last few query words, every other one padding."""
    random = np.random.default_rng(seed)
    requests = []
    for index in range(GOLDEN_REQUESTS):
        events = min(HISTORY_LENGTH, index * index)
        request: Inputs = {name: np.zeros(length, dtype) for name, (dtype, length) in RANK_INPUTS.items()}
        items = len(vocabulary.items)
        candidates = 1 + random.permutation(items - 1)[: RANKED_CANDIDATES // (1 + index % 2)]
        request["candidates"][: len(candidates)] = candidates
        if events:
            request["history_items"][-events:] = random.integers(1, items, events)
            request["history_actions"][-events:] = random.integers(1, len(ACTIONS), events)
            request["history_ages"][-events:] = np.sort(random.exponential(2.0, events))[::-1]
        if index >= GOLDEN_REQUESTS - 3 and len(vocabulary.words) > 1:
            request["query_words"][:2] = random.integers(1, len(vocabulary.words), 2)
        requests.append(request)
    return requests


def _save_model(model: Any, folder: Path, warm_up: Inputs) -> None:
    import tensorflow as tf

    from training.served import Served, rank_inputs

    content = tf.constant(model.content())
    vectors = tf.constant(model.item_vectors(content, training=False))
    np.save(folder / "item_vectors.npy", vectors.numpy())
    served = Served(model, vectors)
    history = {name: spec for name, spec in rank_inputs(None).items() if name != "candidates"}
    number = tf.TensorSpec([None], tf.int32, "items")
    amounts = {"quantity": tf.TensorSpec([None], tf.float32, "quantity"), "price": tf.TensorSpec([None], tf.float32, "price")}

    module = tf.Module()
    # A Keras variable would save a copy of itself beside the one that the functions read; the model server, which restores by graph, would find that one empty.
    module.weights = [variable.value for variable in model.variables]
    signatures = {
        SIGNATURE: tf.function(served.rank).get_concrete_function(**rank_inputs(None)),
        "user_vector": tf.function(lambda **inputs: {"vector": served.user(**inputs)}).get_concrete_function(**history),
        "next_action": tf.function(
            lambda query_words, **inputs: {
                "probability": tf.nn.softmax(model.action_head(served.state(**inputs)) + tf.cast(query_words[:, :1] * 0, tf.float32))
            }
        ).get_concrete_function(**history),
        "item_category": tf.function(
            lambda items: {"probability": tf.nn.softmax(model.category_logits(tf.gather(content, items), training=False))}
        ).get_concrete_function(items=number),
        "transaction_class": tf.function(
            lambda items, quantity, price: {"probability": tf.nn.softmax(model.class_logits(tf.gather(content, items), quantity, price))}
        ).get_concrete_function(items=number, **amounts),
    }
    tf.saved_model.save(module, str(folder / "saved_model"), signatures=signatures)
    _write_warm_up(folder / "saved_model", warm_up)


def _write_warm_up(saved_model: Path, request: Inputs) -> None:
    """Write what TensorFlow Serving replays before a version takes traffic: batches of 1 and of many."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    place = saved_model / "assets.extra"
    place.mkdir()
    with tf.io.TFRecordWriter(str(place / "tf_serving_warmup_requests")) as file:
        for batch in (1, 8):
            predict = predict_pb2.PredictRequest()
            predict.model_spec.name, predict.model_spec.signature_name = MODEL_NAME, SIGNATURE
            for name, array in request.items():
                predict.inputs[name].CopyFrom(tf.make_tensor_proto(np.repeat(array[None], batch, axis=0)))
            file.write(prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=predict)).SerializeToString())


def _write_user_vectors(exported: Exported, shop: Shop, path: Path) -> None:
    """Write the vector of every shopper with an account and a history, as of the newest interaction."""
    sequences = Sequences.of(shop, exported.vocabulary, until=np.inf)
    known = np.flatnonzero(shop.known)
    schema = pa.schema([("user_id", pa.string()), ("vector", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(known), 16 * BATCH):
            some = known[start : start + 16 * BATCH]
            vectors = exported.user_vectors(sequences.states(shop.first[some + 1] - 1, shop.as_of))
            width = vectors.shape[1]
            column = pa.ListArray.from_arrays(np.arange(0, vectors.size + 1, width, dtype=np.int32), vectors.ravel())
            writer.write_table(pa.table([pa.array([shop.shoppers[owner] for owner in some], pa.string()), column], schema=schema))
