"""What a smaller model gives up, and what it gains: models of several sizes, distilled and pruned ones, by latency and NDCG@10.

Half of the shoppers who choose the epoch choose it here too, the other half compare; those who measure models are not looked at. Every ranker is float32
LiteRT and all are timed in turn on one thread. The fastest size that is shown to give up at most MOST_LOST of the NDCG@10 of the best one is in force from the
next training on. Distilled and pruned models are measured only: no training makes them.

Sources: Hinton et al., "Distilling the knowledge in a neural network", 2015; magnitude pruning: Han et al., "Learning both weights and connections for
efficient neural networks", NeurIPS 2015.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from evershelf.contracts.model import QUERY_WORDS, RANK_INPUTS
from evershelf.errors import InvalidSettings
from evershelf.progress import Say
from evershelf.ranker import open_ranker
from evershelf.settings import Settings, TrainingSettings
from training import data, loop, rankers, tuned
from training.alone import alone
from training.blessing import FEWEST
from training.data import Shop, read_shop
from training.errors import NotEnoughData
from training.examples import Examples
from training.export import golden_requests
from training.exported import BATCH
from training.ranking import Gain, difference, ranks_of
from training.train import fit
from training.tune import halves

MOST_LOST = 0.01  # share of the best size's NDCG@10 that the chosen one may give up
TRAINED = "trained"  # as usual
PRUNED = (0.3, 0.5)  # shares of the blocks' weights that are set to 0
DISTILLING_EPOCHS = 3
BATCH_OF = {"int32": ("items", "actions", "next_item"), "float32": ("since", "until")}
TEACHER_WEIGHT = 0.5  # of what the teacher says beside what was chosen

Size = tuple[int, int]  # width, blocks
Found = list[tuple[dict[str, Any], Gain]]  # what `--json` prints of a model, and its NDCG@10 of each event


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
        InvalidSettings: no model can have such a size.
        TrainingError: a training failed, or there is nobody to compare on.
    """
    current = tuned.with_tuned(settings.training)
    trainings = {size: _sized(current, size) for size in sizes or sizes_below(current)}
    shop = read_shop(current)
    choosing, comparing = halves(shop, current.seed)
    if not len(comparing):
        raise NotEnoughData("None of the shoppers who choose the epoch came after the split, so no size can be compared. Nothing changed; publish more days.")
    work = settings.home / "training" / "frontier"
    with alone(work, "frontier"):
        found = _train(trainings, shop, choosing, comparing, work, say)
    return decide(settings.training, given_up(found, shop.shopper[comparing], current.seed), len(comparing)) | {"data_as_of": str(shop.data_as_of)}


def _sized(current: TrainingSettings, size: Size) -> TrainingSettings:
    try:
        return TrainingSettings.model_validate(current.model_dump() | {"width": size[0], "blocks": size[1]})
    except ValidationError as error:
        raise InvalidSettings(f"No model can be {size[0]} wide with {size[1]} blocks: {error.errors()[0]['msg']}. Nothing was started.") from None


def _train(
    trainings: dict[Size, TrainingSettings], shop: Shop, choosing: npt.NDArray[np.int64], comparing: npt.NDArray[np.int64], folder: Path, say: Say
) -> Found:
    """Train, distil, prune and measure."""
    models: dict[tuple[str, Size], Any] = {}
    teacher, *_ = trainings
    for size, parameters in trainings.items():
        work = folder / f"{size[0]}x{size[1]}"
        work.mkdir(parents=True)
        words, prepared = fit(work.name, parameters, shop, work, say, chooses=choosing)
        models[TRAINED, size] = loop.load_best(parameters, prepared, work)[0]
        if size != teacher:
            student = loop.load_best(parameters, prepared, work)[0]
            distil(student, models[TRAINED, teacher], prepared, parameters)
            models["distilled", size] = student
        else:
            for share in PRUNED:
                models[f"pruned {share:.0%}", size] = prune(loop.load_best(parameters, prepared, work)[0], share)
    requests = golden_requests(words, trainings[teacher].seed)
    return _measure(models, prepared, comparing, {name: np.stack([request[name] for request in requests]) for name in RANK_INPUTS}, folder)


def given_up(found: Found, owners: npt.NDArray[np.integer[Any]], seed: int) -> list[dict[str, Any]]:
    """Add the share of the best usual model's NDCG@10 that each gives up, and the upper end of its 95 % interval, paired on the same events."""
    best = max((gain for row, gain in found if row["how"] == TRAINED), key=lambda gain: float(gain.mean()))
    whole, rows = float(best.mean()) or 1.0, []
    for row, gain in found:
        lost, _, most = difference(best, gain, owners, seed)
        rows.append(row | {"given_up": round(lost / whole, 4), "given_up_at_most": round(most / whole, 4)})
    return rows


def decide(settings: TrainingSettings, rows: list[dict[str, Any]], events: int) -> dict[str, Any]:
    """Choose by what was measured on so many events, and record the size that is in force from now on where it is another one.

    Args:
        settings: without what was decided before.
    """
    current, decision, chosen = tuned.with_tuned(settings), tuned.decision() or {"parameters": {}}, choose(rows)
    size, in_force = ({"width": one["width"], "blocks": one["blocks"]} for one in (chosen, current.model_dump()))
    why = f"{size['width']} x {size['blocks']} is the fastest size shown to give up at most {MOST_LOST:.0%} of the best NDCG@10, on {events} events"
    if events < FEWEST:
        size, why = in_force, f"{events} events are too few to choose by; {FEWEST} are needed"
    elif not chosen["NDCG@10"]:
        size, why = in_force, "no model puts what was chosen among the first ten, so there is nothing to choose by"
    elif size != in_force and (own := sorted(size.keys() & settings.model_fields_set)):
        size, why = in_force, f"{why}, but settings win: remove {' and '.join(f'training.{name}' for name in own)} and run this again"
    found = {"frontier": rows, **size, "changed": size != in_force, "why": why}
    if found["changed"]:
        tuned.decide(decision | {"parameters": decision["parameters"] | size, "size": found})
    return found


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest row of a usual training that is shown to give up little enough."""
    return min((row for row in rows if row["how"] == TRAINED and row["given_up_at_most"] <= MOST_LOST), key=lambda row: row["milliseconds"])


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

    batches: dict[str, Any] = {name: tf.TensorSpec([None, None], kind) for kind, names in BATCH_OF.items() for name in names}

    @tf.function(input_signature=[batches | {"query_words": tf.TensorSpec([None, None, QUERY_WORDS], tf.int32)}])  # type: ignore[untyped-decorator]  # TensorFlow has no types
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
            step({name: tf.constant(getattr(batch, name)) for name in (*batches, "query_words")})


def prune(model: Any, share: float) -> Any:
    """Set the smallest weights of each of the blocks' dense layers to 0; return the model."""
    for block in model.blocks:
        for layer in (block.projections, block.output_projection, block.up, block.down):
            kernel = layer.kernel.numpy()
            layer.kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), share), 0, kernel))
    return model


def _measure(models: dict[tuple[str, Size], Any], examples: Examples, rows: npt.NDArray[np.int64], requests: rankers.Inputs, folder: Path) -> Found:
    """Return what is found of each model, the fastest first."""
    inputs, target = examples.sequences.histories(rows), examples.sequences.item[rows]
    found: Found = []
    opened = []
    for (how, (width, blocks)), model in models.items():
        vectors = model.item_vectors(model.content(), training=False).numpy()
        own = folder / f"{how}-{width}x{blocks}"
        own.mkdir()
        file = rankers.convert(rankers.freeze(model, vectors), "LiteRT float32", own)
        opened.append(open_ranker(file))
        gain = _gain(model, vectors, inputs, target)
        row = {"how": how, "width": width, "blocks": blocks, "megabytes": round(file.stat().st_size / 1e6, 3), "NDCG@10": round(float(gain.mean()), 5)}
        found.append((row, gain))
    taken = rankers.race(dict(enumerate(opened)), requests)
    timed = [(row | {"milliseconds": round(taken[place], 4)}, gain) for place, (row, gain) in enumerate(found)]
    return sorted(timed, key=lambda each: each[0]["milliseconds"])


def _gain(model: Any, vectors: npt.NDArray[np.float32], inputs: rankers.Inputs, target: npt.NDArray[np.integer[Any]]) -> Gain:
    """Return [events] NDCG@10 over all items but the one just before."""
    import tensorflow as tf

    from training.served import Served

    served, gains = tf.function(Served(model, tf.constant(vectors)).user), []
    for start in range(0, len(target), BATCH):
        some = {name: array[start : start + BATCH] for name, array in inputs.items()}
        scores = served(**{name: tf.constant(array) for name, array in some.items()}).numpy() @ vectors.T
        scores[:, 0] = -np.inf
        np.put_along_axis(scores, some["history_items"][:, -1:].astype(np.int64), -np.inf, axis=1)
        gains.append(ranks_of(scores, target[start : start + BATCH]).gains()["NDCG@10"])
    return np.concatenate(gains)
