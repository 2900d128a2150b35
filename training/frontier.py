"""What a smaller model gives up, and what it gains: models of several sizes, distilled and pruned ones, by latency and NDCG@10.

Half of the shoppers who choose the epoch choose it here too, the other half compare; those who measure models are not looked at. Every ranker is float32
LiteRT and all are timed in turn on one thread. The fastest size that gives up at most MOST_LOST of the NDCG@10 of the best one is in force from the next
training on. Distilled and pruned models are measured only: no training makes them.

Sources: Hinton et al., "Distilling the knowledge in a neural network", 2015; magnitude pruning: Han et al., "Learning both weights and connections for
efficient neural networks", NeurIPS 2015.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import RANK_INPUTS
from evershelf.progress import Say
from evershelf.ranker import open_ranker
from evershelf.settings import Settings, TrainingSettings
from training import data, loop, rankers, tuned
from training.data import read_shop
from training.errors import NotEnoughData
from training.examples import Examples
from training.export import golden_requests
from training.exported import BATCH
from training.ranking import ranks_of
from training.train import fit
from training.tune import halves

MOST_LOST = 0.01  # share of the best size's NDCG@10 that the chosen one may give up
TRAINED = "trained"  # as usual
PRUNED = (0.3, 0.5)  # shares of the blocks' weights that are set to 0
DISTILLING_EPOCHS = 3
TEACHER_WEIGHT = 0.5  # of what the teacher says beside what was chosen

Size = tuple[int, int]  # width, blocks


def sizes_below(current: TrainingSettings) -> list[Size]:
    """Return the size in force, and smaller ones: fewer blocks, half and a quarter of the width."""
    widths = [width for width in (current.width, current.width // 2, current.width // 4) if width >= 8 and width % current.heads == 0]
    return [(width, blocks) for width in widths for blocks in sorted({current.blocks, 1}, reverse=True)]


def frontier(settings: Settings, sizes: list[Size], say: Say) -> dict[str, Any]:
    """Train, distil, prune and measure; record the size that is in force from now on.

    Args:
        sizes: the first one is the teacher, and what is pruned.

    Returns:
        What `--json` prints.

    Raises:
        TrainingError: a training failed, or there is nobody to compare on.
    """
    current = tuned.with_tuned(settings.training)
    sizes = sizes or sizes_below(current)
    shop = read_shop(current)
    choosing, comparing = halves(shop, current.seed)
    if not len(comparing):
        raise NotEnoughData("None of the shoppers who choose the epoch came after the split, so no size can be compared. Nothing changed; publish more days.")
    place = settings.home / "training"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="frontier-", dir=place) as aside:
        models: dict[tuple[str, Size], Any] = {}
        for width, blocks in sizes:
            work = Path(aside, f"{width}x{blocks}")
            work.mkdir()
            parameters = current.model_copy(update={"width": width, "blocks": blocks})
            words, prepared = fit(work.name, parameters, shop, work, say, chooses=choosing)
            models[TRAINED, (width, blocks)] = loop.load_best(parameters, prepared, work)[0]
            if (width, blocks) != sizes[0]:
                student = loop.load_best(parameters, prepared, work)[0]
                distil(student, models[TRAINED, sizes[0]], prepared, parameters)
                models["distilled", (width, blocks)] = student
            else:
                for share in PRUNED:
                    models[f"pruned {share:.0%}", sizes[0]] = prune(loop.load_best(parameters, prepared, work)[0], share)
        requests = golden_requests(words, current.seed)
        rows = _measure(models, prepared, comparing, {name: np.stack([request[name] for request in requests]) for name in RANK_INPUTS}, Path(aside))
    best = max(row["NDCG@10"] for row in rows if row["how"] == TRAINED)
    rows = [row | {"given_up": round(1 - row["NDCG@10"] / best, 4) if best else 0.0} for row in rows]
    chosen = choose(rows)
    decision = tuned.decision() or {"parameters": {}}
    changed = chosen["width"] != current.width or chosen["blocks"] != current.blocks
    why = f"the fastest size that gives up at most {MOST_LOST:.0%} of the best NDCG@10, {best:.4f}, on {len(comparing)} events"
    found = {"frontier": rows, "width": chosen["width"], "blocks": chosen["blocks"], "changed": changed, "why": why, "data_as_of": str(shop.data_as_of)}
    if changed:
        tuned.decide(decision | {"parameters": decision["parameters"] | {"width": chosen["width"], "blocks": chosen["blocks"]}, "size": found})
    return found


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest row of a usual training that gives up little enough."""
    return min((row for row in rows if row["how"] == TRAINED and row["given_up"] <= MOST_LOST), key=lambda row: row["milliseconds"])


def distil(student: Any, teacher: Any, examples: Examples, settings: TrainingSettings) -> None:
    """Let a trained student learn what the teacher says of all items, beside what was chosen."""
    import keras
    import tensorflow as tf

    from training.model import NEVER

    optimizer = keras.optimizers.Adam(settings.learning_rate / 2)
    optimizer.build(student.trainable_variables)
    said = tf.constant(teacher.item_vectors(teacher.content(), training=False))
    hidden = (1.0 - tf.constant(examples.features.seen)) * NEVER

    def logits(model: Any, vectors: Any, batch: Any, chosen: Any, training: bool) -> Any:
        states = model.encode(vectors, batch["items"], batch["actions"], batch["since"], batch["until"], training=training)
        users = model.user_vectors(tf.gather_nd(states, chosen), tf.gather_nd(batch["query_words"], chosen))
        return tf.matmul(users, vectors, transpose_b=True) + hidden

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(batch: dict[str, Any]) -> None:
        chosen = tf.where(batch["next_item"] > 0)
        goal = tf.nn.softmax(logits(teacher, said, batch, chosen, training=False))
        with tf.GradientTape() as tape:
            ours = logits(student, student.item_vectors(student.content(), training=True), batch, chosen, training=True)
            labels = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather_nd(batch["next_item"], chosen), ours)
            soft = tf.nn.softmax_cross_entropy_with_logits(goal, ours)
            loss = tf.reduce_sum((1 - TEACHER_WEIGHT) * labels + TEACHER_WEIGHT * soft) / tf.cast(tf.maximum(tf.shape(chosen)[0], 1), tf.float32)
        values = [variable.value for variable in student.trainable_variables]
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        optimizer.apply([tf.convert_to_tensor(gradient) for gradient in gradients], student.trainable_variables)

    for epoch in range(DISTILLING_EPOCHS):
        for windows in data.Deal(examples.train, settings.batch_size, (settings.seed, epoch)).from_step(0):
            batch = examples.sequences.batch(examples.train, windows)
            step({name: tf.constant(getattr(batch, name)) for name in ("items", "actions", "since", "until", "query_words", "next_item")})


def prune(model: Any, share: float) -> Any:
    """Set the smallest weights of each of the blocks' dense layers to 0; return the model."""
    for block in model.blocks:
        for layer in (block.projections, block.output_projection, block.up, block.down):
            kernel = layer.kernel.numpy()
            layer.kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), share), 0, kernel))
    return model


def _measure(
    models: dict[tuple[str, Size], Any], examples: Examples, rows: npt.NDArray[np.int64], requests: rankers.Inputs, folder: Path
) -> list[dict[str, Any]]:
    """Return a row for each model, fastest first."""
    target = examples.sequences.item[rows]
    rows, target = rows[target > 0], target[target > 0]
    inputs = examples.sequences.histories(rows)
    found, opened = [], {}
    for (how, (width, blocks)), model in models.items():
        vectors = model.item_vectors(model.content(), training=False).numpy()
        file = folder / f"{how}-{width}x{blocks}.tflite"
        rankers.write_litert(rankers.freeze(model, vectors), file)
        opened[file.stem] = open_ranker(file)
        row = {"how": how, "width": width, "blocks": blocks, "megabytes": round(file.stat().st_size / 1e6, 3)}
        found.append((file.stem, row | {"NDCG@10": round(_ndcg(model, vectors, inputs, target), 5)}))
    taken = rankers.race(opened, requests)
    return sorted((row | {"milliseconds": round(taken[name], 4)} for name, row in found), key=lambda row: row["milliseconds"])


def _ndcg(model: Any, vectors: npt.NDArray[np.float32], inputs: rankers.Inputs, target: npt.NDArray[np.integer[Any]]) -> float:
    """Return NDCG@10 over all items but the one just before."""
    import tensorflow as tf

    from training.served import Served

    served, gains = tf.function(Served(model, tf.constant(vectors)).user), []
    for start in range(0, len(target), BATCH):
        some = {name: array[start : start + BATCH] for name, array in inputs.items()}
        scores = served(**{name: tf.constant(array) for name, array in some.items()}).numpy() @ vectors.T
        scores[:, 0] = -np.inf
        np.put_along_axis(scores, some["history_items"][:, -1:].astype(np.int64), -np.inf, axis=1)
        gains.append(ranks_of(scores, target[start : start + BATCH]).gains()["NDCG@10"])
    return float(np.concatenate(gains).mean())
