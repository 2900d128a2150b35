"""One rank of a training: `python -m training.loop WORK`, started by training/gang.py.

Every rank sees its own share of every epoch; gradients are summed by Horovod and divided by what all ranks saw, so that the result does not depend on how the
examples were dealt. Rank 0 writes a checkpoint after each epoch and every `training.checkpoint_steps` steps within one; a new start goes on from it to the very
result that it would have had. Measured and kept is the running average of the weights, of the epoch that foretells best what the shoppers did who are set aside
for choosing it.

Source of the average: Polyak and Juditsky, SIAM J. Control Optim. 1992; Izmailov et al., UAI 2018.
"""

import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from evershelf.contracts.model import QUERY_WORDS
from evershelf.settings import TrainingSettings
from evershelf.storage import Place, at, replace
from training import data, warm_start
from training.errors import LossDiverged
from training.examples import Batch, Examples
from training.pulse import PULSE, Pulse

EXAMPLES, PARAMETERS, KEPT_AT, FAILURE = "examples.npz", "parameters.json", "kept_at", "failure.json"
CHECKPOINT, BEST = "checkpoint.npz", "best.npz"  # at the address that KEPT_AT holds
HEAD_WEIGHT = 0.2  # of each small head's loss beside the item loss
DIVERGED = 2.0  # an epoch's loss above so many times that of guessing ends the training
CLIP = 5.0  # global norm of the gradients
WARM_UP = 100  # steps in which the learning rate rises from nothing, at most a tenth of an epoch
SEQUENCES = 32  # in a step over all ranks: for so many the learning rate is meant


def train(work: Path) -> None:
    """Run this rank to the end.

    Raises:
        LossDiverged: on every rank at once.
    """
    import horovod.tensorflow as hvd  # slow imports: only a rank needs them
    import keras
    import tensorflow as tf

    hvd.init()
    threads = max(1, len(os.sched_getaffinity(0)) // hvd.local_size())
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    settings = TrainingSettings.model_validate_json((work / PARAMETERS).read_bytes())
    examples = Examples.load(work / EXAMPLES)
    keras.utils.set_random_seed(settings.seed)
    trainer = Trainer(settings, examples, at((work / KEPT_AT).read_text()), Pulse.of_rank(work / PULSE, hvd.rank()), hvd, tf, keras)
    if (work / warm_start.START).is_file():
        warm_start.begin(trainer.model, work / warm_start.START)
    trainer.resume()
    while trainer.done < 1 and trainer.epoch - 1 - trainer.best_epoch < settings.patience:
        loss = trainer.run_epoch()
        learned = trainer.spent_so_far()
        quality = trainer.select()
        seconds = trainer.keep(quality)
        if hvd.rank() == 0:
            figures = {"epoch": trainer.epoch, "epochs": settings.epochs, "loss": round(loss, 4), "selection_ndcg": round(quality, 4)}
            print(json.dumps(figures | {"training_seconds": round(learned, 3), "seconds": round(seconds, 2)}), flush=True)


class Trainer:
    """Model, optimiser and the state of one rank."""

    def __init__(self, settings: TrainingSettings, examples: Examples, place: Place, pulse: Pulse, hvd: Any, tf: Any, keras: Any) -> None:
        from training.model import NEVER, Ranker

        self.settings, self.examples, self.place, self.pulse, self.hvd, self.tf = settings, examples, place, pulse, hvd, tf
        self.model = model = Ranker(shape_of(settings, examples), examples.features)
        self.draws = keras.random.SeedGenerator(settings.seed)
        self.optimizer = keras.optimizers.Adam(settings.learning_rate)
        self.optimizer.build(model.trainable_variables)
        self.averages = [keras.Variable(variable.value, trainable=False) for variable in model.trainable_variables]
        self.steps = keras.Variable(0.0, trainable=False)
        self.epoch, self.best_epoch, self.best, self.seconds, self.done = 0, -1, -1.0, 0.0, 0.0
        self.step, self.spent, self.total = 0, 0.0, np.zeros(3)  # of the epoch that has begun; the total is rank 0's until the epoch ends
        category = tf.constant(examples.features.category)
        # added to the biases: an id without history learns nothing, not even that it is never chosen
        seen_items = tf.constant(np.flatnonzero(examples.features.seen), tf.int32)
        hidden = (1.0 - tf.constant(examples.features.seen)) * NEVER

        def drawn() -> Any:
            """Return the numbers of the items that this step's choices are compared with, and how many items each stands for; None: with all."""
            if not 0 < settings.negatives < len(seen_items):
                return None
            places = keras.random.randint((settings.negatives,), 0, len(seen_items), seed=self.draws)
            return tf.gather(seen_items, places), len(seen_items) / settings.negatives

        def losses(batch: dict[str, Any], described: Any, orders: dict[str, Any]) -> tuple[list[Any], list[Any]]:
            content = model.content()
            vectors = model.item_vectors(content, training=True, hidden=hidden)
            states = model.encode(vectors, batch["items"], batch["actions"], batch["since"], batch["until"], training=True)
            chosen = tf.where(batch["next_item"] > 0)
            users = model.user_vectors(tf.gather_nd(states, chosen), tf.gather_nd(batch["query_words"], chosen))
            following = tf.gather_nd(batch["next_item"], chosen)
            acting = tf.where(batch["next_action"] > 0)
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
            sums = [
                tf.reduce_sum(_item_losses(tf, users, vectors, following, drawn())),
                tf.reduce_sum(cross_entropy(tf.gather_nd(batch["next_action"], acting), model.action_head(tf.gather_nd(states, acting)))),
                tf.reduce_sum(cross_entropy(tf.gather(category, described), model.category_logits(tf.gather(content, described), training=True))),
                tf.reduce_sum(cross_entropy(orders["label"], model.class_logits(tf.gather(content, orders["item"]), orders["quantity"], orders["price"]))),
            ]
            counts = [tf.shape(chosen)[0], tf.shape(acting)[0], tf.shape(described)[0], tf.shape(orders["label"])[0]]
            return sums, [tf.cast(count, tf.float32) for count in counts]

        integers, floats = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float32)
        of_batch = {"items": integers, "actions": integers, "since": floats, "until": floats, "next_item": integers, "next_action": integers}
        of_batch["query_words"] = tf.TensorSpec([None, None, QUERY_WORDS], tf.int32)
        of_orders = {"item": tf.TensorSpec([None], tf.int32), "quantity": tf.TensorSpec([None], tf.float32)}
        of_orders |= {"price": of_orders["quantity"], "label": of_orders["item"]}
        answers = {"last": tf.TensorSpec([None, None], tf.bool), "answer": integers}

        @tf.function(input_signature=[of_batch, of_orders["item"], of_orders])  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def step(batch: dict[str, Any], described: Any, orders: dict[str, Any]) -> Any:
            with tf.GradientTape() as tape:
                sums, counts = losses(batch, described, orders)
                seen = tf.stack(counts)
                everywhere = hvd.allreduce(seen, op=hvd.Sum, name="counts")
                weights = tf.constant([1.0, HEAD_WEIGHT, HEAD_WEIGHT, HEAD_WEIGHT]) / tf.maximum(everywhere, 1.0)
                loss = tf.reduce_sum(tf.stack(sums) * weights)
            values = [variable.value for variable in model.trainable_variables]
            gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, values, unconnected_gradients="zero")]
            # DistributedGradientTape calls Variable.ref(), which Keras 3 no longer has
            gradients = hvd.grouped_allreduce(gradients, op=hvd.Sum, compression=getattr(hvd.Compression, settings.compression))
            gradients, norm = tf.clip_by_global_norm(gradients, CLIP)
            self.optimizer.apply(gradients, model.trainable_variables)
            self.steps.assign_add(1.0)
            kept = tf.minimum(settings.averaging, self.steps.value / (self.steps.value + 10.0))  # the first weights are soon forgotten
            for average, variable in zip(self.averages, model.trainable_variables, strict=True):
                average.assign(average.value + (1.0 - kept) * (variable.value - average.value))
            return tf.stack([sums[0], counts[0], norm])

        @tf.function(input_signature=[of_batch | answers])  # type: ignore[untyped-decorator]
        def selection_step(batch: dict[str, Any]) -> Any:
            vectors = model.item_vectors(model.content(), training=False)
            states = model.encode(vectors, batch["items"], batch["actions"], batch["since"], batch["until"], training=False)
            last = tf.where(batch["last"])
            users = model.user_vectors(tf.gather_nd(states, last), tf.zeros((tf.shape(last)[0], 1), tf.int32))
            scores = tf.matmul(users, vectors, transpose_b=True)
            row = tf.range(tf.shape(last)[0])
            target = tf.gather_nd(batch["answer"], last)
            wanted = tf.gather_nd(scores, tf.stack([row, target], axis=1))
            excluded = tf.one_hot(tf.gather_nd(batch["items"], last), tf.shape(vectors)[0], on_value=True, off_value=False, dtype=tf.bool)
            rank = 1 + tf.reduce_sum(tf.cast((scores[:, 1:] > wanted[:, None]) & ~excluded[:, 1:], tf.int32), axis=1)
            gain = tf.where((rank <= 10) & (target > 0), np.log(2.0) / tf.math.log(1.0 + tf.cast(rank, tf.float64)), 0.0)
            return tf.stack([tf.reduce_sum(gain), tf.cast(tf.shape(last)[0], tf.float64)])

        @tf.function  # type: ignore[untyped-decorator]
        def exchange() -> None:
            for average, variable in zip(self.averages, model.trainable_variables, strict=True):
                latest = tf.identity(variable.value)
                variable.assign(average.value)
                average.assign(latest)

        self._step, self._selection_step, self._exchange = step, selection_step, exchange

    def run_epoch(self) -> float:
        """Return the mean item loss over all ranks.

        Raises:
            LossDiverged: on every rank at once, for all see the same sum.
        """
        examples, hvd, settings, epoch = self.examples, self.hvd, self.settings, self.epoch
        who: dict[str, int] = {"ranks": hvd.size(), "rank": hvd.rank(), "epoch": epoch, "seed": settings.seed}
        batches = data.deal(examples.train.end - examples.train.begin, batch=settings.batch_size, **who)
        items = data.spread(len(examples.described), steps=len(batches), **who)
        orders = data.spread(len(examples.order_label), steps=len(batches), **who)
        rate = settings.learning_rate * (settings.batch_size * hvd.size() / SEQUENCES) ** 0.5 * (1 - 0.95 * self.done)
        rising = 1 if epoch else max(1, min(WARM_UP, len(batches) // 10))
        self._started = time.monotonic() - self.spent
        for step in range(self.step, len(batches)):
            if step % settings.checkpoint_steps == 0:
                if step > self.step:
                    self._checkpoint(step)
                self._reseed(step)
            self.optimizer.learning_rate.assign(rate * min(1.0, (step + 1) / rising))
            windows, described, lines = batches[step], items[step], orders[step]
            figures = self._step(
                _tensors(self.tf, examples.sequences.batch(examples.train, windows)),
                self.tf.constant(examples.described[described], self.tf.int32),
                {
                    "item": self.tf.constant(examples.order_item[lines]),
                    "quantity": self.tf.constant(examples.order_quantity[lines]),
                    "price": self.tf.constant(examples.order_price[lines]),
                    "label": self.tf.constant(examples.order_label[lines]),
                },
            ).numpy()
            self.total += figures
            self.pulse.beat()
            if not np.isfinite(figures[2]):  # the norm of the gradients, the same on all ranks: who left the epoch alone would keep the others waiting
                break
        return self._checked(epoch, self._summed())

    def spent_so_far(self) -> float:
        """Return the seconds of the epoch that has begun, those before an interruption too."""
        return time.monotonic() - self._started

    def _summed(self) -> Any:
        return self.hvd.allreduce(self.tf.constant(self.total), op=self.hvd.Sum, name="total").numpy()

    def _reseed(self, step: int) -> None:
        """Let chance, each rank's own, go on from here as if nothing had been before: else a resumed training would not be the one that was interrupted."""
        chance = [variable for variable in self.model.variables if not variable.trainable]
        for place, variable in enumerate([*chance, self.draws.state]):
            state = np.random.SeedSequence((self.settings.seed, self.hvd.rank(), self.epoch, step, place)).generate_state(2)
            variable.assign(self.tf.cast(state, variable.dtype))

    def _checked(self, epoch: int, total: Any) -> float:
        loss = float(total[0] / max(total[1], 1.0))
        guessing = float(np.log(max(2.0, float(self.examples.features.seen.sum()))))
        if not np.isfinite(total).all() or loss > DIVERGED * guessing:
            raise LossDiverged(
                f"The loss of epoch {epoch + 1} was {loss:.4g}, where guessing gives {guessing:.4g}: it is not a number, or it diverged. Nothing was exported "
                f"and what is live stays live. Lower training.learning_rate (now {self.settings.learning_rate}); look for impossible prices and quantities."
            )
        return loss

    def select(self) -> float:
        """Return NDCG@10 over all items, of the shoppers set aside for choosing the epoch, by the averaged weights."""
        examples, hvd = self.examples, self.hvd
        self._exchange()
        mine = np.arange(len(examples.selection))[hvd.rank() :: hvd.size()]
        total = np.zeros(2)
        for chosen in np.array_split(mine, max(1, len(mine) // 256)):
            batch = examples.sequences.batch(examples.selection, chosen)
            tensors = _tensors(self.tf, batch)
            last = np.zeros(batch.items.shape, np.bool_)
            last[np.arange(len(chosen)), examples.selection.end[chosen] - examples.selection.begin[chosen] - 1] = True
            answer = np.where(last, examples.sequences.item[examples.selection.target[chosen], None], 0).astype(np.int32)
            total += self._selection_step(tensors | {"last": self.tf.constant(last), "answer": self.tf.constant(answer)}).numpy()
            self.pulse.beat()
        self._exchange()
        summed = hvd.allreduce(self.tf.constant(total), op=hvd.Sum, name="selection").numpy()
        return float(summed[0] / max(summed[1], 1.0))

    def keep(self, quality: float) -> float:
        """End an epoch: remember its averaged weights when they are the best so far, and where to resume; return its seconds."""
        seconds = self.spent_so_far()
        self.epoch, self.step, self.spent, self.total = self.epoch + 1, 0, 0.0, np.zeros(3)
        self._progress(self.seconds + seconds)
        better = quality > self.best
        if better:
            self.best, self.best_epoch = quality, self.epoch - 1
        if self.hvd.rank() == 0 and better:
            self._exchange()
            replace(self.place / BEST, _packed({"epoch": np.array(self.epoch)}, self.model.variables))
            self._exchange()
        self._write()
        return seconds

    def _checkpoint(self, step: int) -> None:
        """Remember where to resume within an epoch."""
        self.total = self._summed() * (self.hvd.rank() == 0)
        self.step, self.spent = step, self.spent_so_far()
        self._write()

    def _write(self) -> None:
        if self.hvd.rank() == 0:
            replace(self.place / CHECKPOINT, _packed({"state": self._state()}, self._variables()))
        self.pulse.beat()

    def _state(self) -> Any:
        return np.array([self.epoch, self.best_epoch, self.best, self.seconds, self.step, self.spent, *self.total])

    def _progress(self, seconds: float) -> None:
        """Say how much is done, 0 to 1: of the epochs, or of the time if there is too little for them. Rank 0's clock counts for all."""
        self.seconds = float(self.hvd.broadcast(self.tf.constant(seconds, self.tf.float64), root_rank=0, name="seconds").numpy())
        budget = self.settings.budget
        self.done = max(self.epoch / self.settings.epochs, self.seconds / budget.total_seconds() if budget else 0.0)

    def resume(self) -> None:
        """Start all ranks from rank 0's weights: those of the checkpoint when there is one that can be read."""
        state = self._state()
        if self.hvd.rank() == 0 and (self.place / CHECKPOINT).is_file():
            try:
                with np.load(io.BytesIO((self.place / CHECKPOINT).read_bytes())) as file:  # its entries have checksums
                    values = [file[f"v{index}"] for index in range(len(self._variables()))]
                    state = file["state"]
                for variable, value in zip(self._variables(), values, strict=True):
                    variable.assign(value)
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                say = f"The checkpoint {self.place / CHECKPOINT} is damaged ({error}); the training begins anew. Nothing else is lost."
                print(json.dumps({"say": say}), flush=True)
        for variable in self._variables():
            variable.assign(self.hvd.broadcast(variable.value, root_rank=0))
        state = self.hvd.broadcast(self.tf.constant(state, self.tf.float64), root_rank=0, name="state").numpy()
        self.epoch, self.best_epoch, self.best = int(state[0]), int(state[1]), float(state[2])
        self._progress(float(state[3]))
        self.step, self.spent, self.total = int(state[4]), float(state[5]), state[6:] * (self.hvd.rank() == 0)

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables, *self.averages, self.steps]


def _item_losses(tf: Any, users: Any, vectors: Any, following: Any, drawn: tuple[Any, float] | None) -> Any:
    """Return [n] cross-entropy of the items that followed: over all items, or estimated from a sample of them.

    Each sampled item stands for as many as there are for each that was drawn, so that the sum in the softmax is right on average.

    Args:
        users: [n, width]; vectors: [items, width]; following: [n] item numbers; drawn: [sampled] item numbers, and how many items each stands for.

    Source:
        Jean et al., "On using very large target vocabulary for neural machine translation", ACL 2015, with uniform sampling.
    """
    if drawn is None:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(following, tf.matmul(users, vectors, transpose_b=True))
    items, stands_for = drawn
    others = tf.matmul(users, tf.gather(vectors, items), transpose_b=True) + float(np.log(stands_for))
    others = tf.where(items[None] == following[:, None], -np.inf, others)  # it is in the sum already
    wanted = tf.reduce_sum(users * tf.gather(vectors, following), axis=1)
    return tf.reduce_logsumexp(tf.concat([wanted[:, None], others], axis=1), axis=1) - wanted


def shape_of(settings: TrainingSettings, examples: Examples) -> Any:
    from training.model import Shape

    return Shape(
        width=settings.width, blocks=settings.blocks, heads=settings.heads, dropout=settings.dropout, words=examples.words, categories=examples.categories
    )


def load_best(settings: TrainingSettings, examples: Examples, place: Place) -> tuple[Any, int]:
    """Return the model of the best epoch, and that epoch (from 1), from where it was kept."""
    from training.model import Ranker

    model = Ranker(shape_of(settings, examples), examples.features)
    with np.load(io.BytesIO((place / BEST).read_bytes())) as file:
        for index, variable in enumerate(model.variables):
            variable.assign(file[f"v{index}"])
        return model, int(file["epoch"])


def _tensors(tf: Any, batch: Batch) -> dict[str, Any]:
    return {name: tf.constant(getattr(batch, name)) for name in batch.__slots__}


def _packed(state: dict[str, Any], variables: list[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **state, **{f"v{index}": variable.numpy() for index, variable in enumerate(variables)})
    return file.getvalue()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        train(folder)
    except LossDiverged as error:
        replace(folder / FAILURE, json.dumps({"error": type(error).__name__, "message": str(error)}).encode())
        sys.exit(error.exit_code)
