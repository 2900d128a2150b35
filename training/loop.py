"""One rank of a training: `python -m training.loop WORK PULSE`, started by training/gang.py.

Every rank learns from its own share of every step; gradients are summed by Horovod and divided by what all ranks saw, so that the result does not depend on
how the examples were dealt. Rank 0 writes a checkpoint after each epoch and every `training.checkpoint_steps` steps within one; a new start goes on from it to
the very result that it would have had. Measured and kept is the running average of the weights, of the epoch that foretells best what the shoppers did who are
set aside for choosing it.

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
import numpy.typing as npt

from evershelf.settings import TrainingSettings
from evershelf.storage import Place, at, replace
from training import precision, warm_start
from training.errors import HostUnfit, LossDiverged, TrainingError
from training.examples import Examples
from training.feed import Feed, Step
from training.pulse import Pulse, host

EXAMPLES, PARAMETERS, KEPT_AT = "examples", "parameters.json", "kept_at"
CHECKPOINT, BEST = "checkpoint.npz", "best.npz"  # at the address that KEPT_AT holds
HEAD_WEIGHT = 0.2  # of each small head's loss beside the item loss
DIVERGED = 2.0  # an epoch's loss above so many times that of guessing ends the training
CLIP = 5.0  # global norm of the gradients
WARM_UP = 100  # steps in which the learning rate rises from nothing, at most a tenth of an epoch
SEQUENCES = 32  # in a step over all ranks: for so many the learning rate is meant
TINY = 1e-30  # probability below which a loss no longer grows; its gradient does
AVERAGED = 16  # steps from one look of the running average at the weights to the next: it goes over all of them


def train(work: Path, pulse: Path) -> None:
    """Run this rank to the end.

    Args:
        pulse: folder in `work`, made for this start of the ranks.

    Raises:
        HostUnfit: of this rank.
        LossDiverged: on every rank at once.
    """
    if not pulse.is_dir():  # what lies there may be a copy of another day
        raise HostUnfit(
            f"{host()} does not see {work} as the machine does that trains. Nothing was trained and what is live stays live. "
            "All hosts of training.hosts must share the home (EVERSHELF_HOME) under one path: mount it there."
        )
    settings = TrainingSettings.model_validate_json((work / PARAMETERS).read_bytes())
    if not settings.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import horovod.tensorflow as hvd  # slow imports: only a rank needs them
    import keras
    import tensorflow as tf

    hvd.init()
    if settings.gpus:
        _take_gpu(hvd, tf)
    threads = max(1, len(os.sched_getaffinity(0)) // hvd.local_size())
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if (said := precision.use(tf, settings.precision)) and hvd.rank() == 0:
        _say(said)
    examples = Examples.load(work / EXAMPLES)
    keras.utils.set_random_seed(settings.seed)
    trainer = Trainer(settings, examples, at((work / KEPT_AT).read_text()), Pulse.of_rank(pulse, hvd.rank()), hvd, tf, keras)
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


def _say(text: str) -> None:
    """Tell people: training/gang.py passes it on."""
    print(json.dumps({"say": text}), flush=True)


def _take_gpu(hvd: Any, tf: Any) -> None:
    """Let this rank see one GPU of its host only, and take no more of its memory than it needs."""
    found = tf.config.list_physical_devices("GPU")
    if len(found) < hvd.local_size():
        raise HostUnfit(
            f"{host()} has {hvd.local_size()} ranks and {len(found)} GPUs that TensorFlow can use. Nothing was trained and what is live stays live. "
            "Give it fewer ranks, set training.gpus to false, or see 'Train on GPUs' in docs/operations.md."
        )
    mine = found[hvd.local_rank()]
    tf.config.set_visible_devices(mine, "GPU")
    tf.config.experimental.set_memory_growth(mine, True)
    if hvd.rank() == 0 and hvd.size() > 1 and not hvd.nccl_built():
        _say("Horovod was built without NCCL: gradients go by way of the hosts' memory, which is slow.")


class Trainer:
    """Model, optimiser and the state of one rank."""

    def __init__(self, settings: TrainingSettings, examples: Examples, place: Place, pulse: Pulse, hvd: Any, tf: Any, keras: Any) -> None:
        from training.adam import Adam
        from training.model import NEVER, Ranker

        self.settings, self.examples, self.place, self.pulse, self.hvd, self.tf = settings, examples, place, pulse, hvd, tf
        self.feed = Feed(examples, settings, rank=hvd.rank(), ranks=hvd.size())
        self.model = model = Ranker(shape_of(settings, examples), examples.features)
        self.optimizer = Adam(model.trainable_variables)
        self.scale = scale = precision.LossScale(tf, keras, settings.precision)
        self.averages = [keras.Variable(variable.value, trainable=False) for variable in model.trainable_variables]
        self.epoch, self.best_epoch, self.best, self.seconds, self.done = 0, -1, -1.0, 0.0, 0.0
        self.step, self.spent, self.total = 0, 0.0, np.zeros(3)  # of the epoch that has begun; the total is rank 0's until the epoch ends
        # added to the biases: an id without history learns nothing, not even that it is never chosen
        hidden = (1.0 - tf.constant(examples.features.seen)) * NEVER
        by_rows = {id(table) for table in (model.id_table, model.bias, model.word_table)} if self.feed.stands_for else set()  # a step touches some rows only

        def losses(shown: dict[str, Any]) -> list[Any]:
            items, actions, next_item, next_action = tf.unstack(shown["integers"])
            since, until = tf.unstack(shown["floats"])
            part = model.part(*map(shown.get, ("items", "words", "words_of", "categories_of"))) if by_rows else model.whole()
            content = model.content(part)
            vectors = model.item_vectors(content, part, training=True, hidden=0.0 if by_rows else hidden)
            states = model.encode(vectors, items, actions, since, until, training=True)
            chosen, acting = tf.where(next_item > 0), tf.where(next_action > 0)
            users = model.user_vectors(tf.gather_nd(states, chosen), tf.gather_nd(shown["query_words"], chosen) if model.has_words else None, part)
            following = tf.gather_nd(next_item, chosen)
            if self.feed.stands_for:
                of_items = _sampled_losses(tf, users, vectors, following, shown["compared"], shown["column"], self.feed.stands_for)
            else:
                of_items = _cross_entropy(tf, following, tf.matmul(users, vectors, transpose_b=True))
            of_actions = _cross_entropy(tf, tf.gather_nd(next_action, acting), model.action_head(tf.gather_nd(states, acting)))
            sums = [tf.reduce_sum(of_items), HEAD_WEIGHT * tf.reduce_sum(of_actions), 0.0, 0.0]
            if "described" in shown:
                logits = model.category_logits(tf.gather(content, shown["described"]), training=True)
                sums[2] = HEAD_WEIGHT * tf.reduce_sum(_cross_entropy(tf, shown["category"], logits))
            if "order_item" in shown:
                logits = model.class_logits(tf.gather(content, shown["order_item"]), shown["order_quantity"], shown["order_price"])
                sums[3] = HEAD_WEIGHT * tf.reduce_sum(_cross_entropy(tf, shown["order_label"], logits))
            return sums

        of_step = {name: _spec(tf, name, tensor) for name, tensor in _tensors(tf, next(self.feed.steps(0))).items()}
        scalar, integers, floats = tf.TensorSpec([], tf.float32), tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float32)
        of_batch = {"items": integers, "actions": integers, "since": floats, "until": floats}
        answers = {"last": tf.TensorSpec([None, None], tf.bool), "answer": integers}

        @tf.function(input_signature=[of_step, scalar], autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def step(shown: dict[str, Any], rate: Any) -> Any:
            with tf.GradientTape() as tape:
                sums = tf.stack(losses(shown))
                loss = scale.up(tf.reduce_sum(sums / tf.maximum(shown["counts"], 1.0)))
            variables = model.trainable_variables
            gradients = tape.gradient(loss, [variable.value for variable in variables], unconnected_gradients="zero")
            rows: list[Any] = [None] * len(variables)
            for index, (variable, gradient) in enumerate(zip(variables, gradients, strict=True)):
                if id(variable) in by_rows and isinstance(gradient, tf.IndexedSlices):
                    rows[index], gradients[index] = gradient.indices, gradient.values
            shapes = [tf.shape(gradient) for gradient in gradients]
            flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
            if hvd.size() > 1:
                # DistributedGradientTape calls Variable.ref(), which Keras 3 no longer has
                flat = hvd.allreduce(flat, op=hvd.Sum, name="gradients", compression=getattr(hvd.Compression, settings.compression))
            flat = scale.down(flat)
            norm = tf.sqrt(2.0 * tf.nn.l2_loss(flat))
            parts = tf.split(flat * tf.minimum(1.0, CLIP / norm), tf.stack([tf.reduce_prod(shape) for shape in shapes]), num=len(shapes))
            norm = scale.step(norm, lambda: self.optimizer.apply(rate, [tf.reshape(*both) for both in zip(parts, shapes, strict=True)], rows))
            return tf.stack([sums[0], tf.cast(tf.math.count_nonzero(shown["integers"][2]), tf.float32), norm])

        @tf.function(input_signature=[scalar], autograph=False)  # type: ignore[untyped-decorator]
        def average(steps: Any) -> None:
            """Let the running average see the weights after so many steps more."""
            done = self.optimizer.steps.value
            kept = tf.minimum(settings.averaging, done / (done + 10.0)) ** steps  # the first weights are soon forgotten
            for average, variable in zip(self.averages, model.trainable_variables, strict=True):
                average.assign(average.value + (1.0 - kept) * (variable.value - average.value))

        @tf.function(input_signature=[of_batch | answers], autograph=False)  # type: ignore[untyped-decorator]
        def selection_step(batch: dict[str, Any]) -> Any:
            vectors = model.item_vectors(model.content(), training=False)
            states = model.encode(vectors, batch["items"], batch["actions"], batch["since"], batch["until"], training=False)
            last = tf.where(batch["last"])
            users = model.user_vectors(tf.gather_nd(states, last), None)
            scores = tf.matmul(users, vectors, transpose_b=True)
            row = tf.range(tf.shape(last)[0])
            target = tf.gather_nd(batch["answer"], last)
            wanted = tf.gather_nd(scores, tf.stack([row, target], axis=1))
            excluded = tf.one_hot(tf.gather_nd(batch["items"], last), tf.shape(vectors)[0], on_value=True, off_value=False, dtype=tf.bool)
            rank = 1 + tf.reduce_sum(tf.cast((scores[:, 1:] > wanted[:, None]) & ~excluded[:, 1:], tf.int32), axis=1)
            gain = tf.where((rank <= 10) & (target > 0), np.log(2.0) / tf.math.log(1.0 + tf.cast(rank, tf.float64)), 0.0)
            return tf.stack([tf.reduce_sum(gain), tf.cast(tf.shape(last)[0], tf.float64)])

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def exchange() -> None:
            for average, variable in zip(self.averages, model.trainable_variables, strict=True):
                latest = tf.identity(variable.value)
                variable.assign(average.value)
                average.assign(latest)

        self._step, self._average, self._selection_step, self._exchange = step, average, selection_step, exchange

    def run_epoch(self) -> float:
        """Return the mean item loss over all ranks.

        Raises:
            LossDiverged: on every rank at once, for all see the same sum.
        """
        settings, steps = self.settings, len(self.feed.deal(self.epoch))
        rate = settings.learning_rate * (settings.batch_size * self.hvd.size() / SEQUENCES) ** 0.5 * (1 - 0.95 * self.done)
        rising = 1 if self.epoch else max(1, min(WARM_UP, steps // 10))
        self._started = time.monotonic() - self.spent
        for step, shown in enumerate(self.feed.steps(self.epoch, self.step), start=self.step):
            if step % settings.checkpoint_steps == 0:
                if step > self.step:
                    self._checkpoint(step)
                self._reseed(step)
            figures = self.learn(shown, rate * min(1.0, (step + 1) / rising))
            if (step + 1) % AVERAGED == 0 or step + 1 == steps:
                self._average(self.tf.constant(step % AVERAGED + 1.0))
            self.total += figures
            self.pulse.beat()
            if not np.isfinite(figures[2]):  # the norm of the gradients, the same on all ranks: who left the epoch alone would keep the others waiting
                break
        return self._checked(self.epoch, self._summed())

    def learn(self, shown: Step, rate: float) -> npt.NDArray[np.float32]:
        """Do one step of `Feed`, which all ranks must do together; return this rank's sum of item losses, its number of choices, and the gradients' norm."""
        figures: npt.NDArray[np.float32] = self._step(_tensors(self.tf, shown), self.tf.constant(rate, self.tf.float32)).numpy()
        return figures

    def spent_so_far(self) -> float:
        """Return the seconds of the epoch that has begun, those before an interruption too."""
        return time.monotonic() - self._started

    def _summed(self) -> Any:
        return self.hvd.allreduce(self.tf.constant(self.total), op=self.hvd.Sum, name="total").numpy()

    def _reseed(self, step: int) -> None:
        """Let chance, each rank's own, go on from here as if nothing had been before: else a resumed training would not be the one that was interrupted."""
        chance = [variable for variable in self.model.variables if not variable.trainable]
        for place, variable in enumerate(chance):
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
            tensors = {name: self.tf.constant(getattr(batch, name)) for name in ("items", "actions", "since", "until")}
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
                _say(f"The checkpoint {self.place / CHECKPOINT} is damaged ({error}); the training begins anew. Nothing else is lost.")
        for variable in self._variables():
            variable.assign(self.hvd.broadcast(variable.value, root_rank=0))
        state = self.hvd.broadcast(self.tf.constant(state, self.tf.float64), root_rank=0, name="state").numpy()
        self.epoch, self.best_epoch, self.best = int(state[0]), int(state[1]), float(state[2])
        self._progress(float(state[3]))
        self.step, self.spent, self.total = int(state[4]), float(state[5]), state[6:] * (self.hvd.rank() == 0)

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables, *self.scale.variables, *self.averages]


def _cross_entropy(tf: Any, wanted: Any, logits: Any) -> Any:
    """Return [n] cross-entropy of `wanted` [n] int32 by logits [n, classes]. TensorFlow's own operation takes several times as long: it is not vectorised."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def losses(logits: Any) -> Any:
        place = tf.stack([tf.range(tf.shape(wanted)[0]), wanted], axis=1)
        probability = tf.nn.softmax(logits)

        def gradient(upstream: Any) -> Any:
            return tf.tensor_scatter_nd_sub(probability * upstream[:, None], place, upstream)

        return -tf.math.log(tf.maximum(tf.gather_nd(probability, place), TINY)), gradient

    return losses(logits)


def _sampled_losses(tf: Any, users: Any, vectors: Any, following: Any, compared: Any, column: Any, stands_for: float) -> Any:
    """Return [n] cross-entropy of the items that followed, estimated from a sample of all.

    Each sampled item stands for as many as there are for each that was drawn, so that the sum in the softmax is right on average.

    Args:
        users: [n, width]; vectors: [items, width]; following: [n] places in `vectors`.
        compared: [1 + sampled] places in `vectors`; the first is that of padding, and the item that followed comes into its column.
        column: [items] of each item among the compared; 0: it was not drawn.

    Source:
        Jean et al., "On using very large target vocabulary for neural machine translation", ACL 2015, with uniform sampling.
    """
    row, wanted = tf.range(tf.shape(users)[0]), tf.reduce_sum(users * tf.gather(vectors, following), axis=1)
    logits = tf.matmul(users, tf.gather(vectors, compared), transpose_b=True)
    twice = tf.stack([row, tf.gather(column, following)], axis=1)  # the item that followed, where it was drawn too
    logits = tf.tensor_scatter_nd_update(logits, twice, tf.fill(tf.shape(row), -np.inf))
    # the others count more by `stands_for`, or this one so much less
    logits = tf.tensor_scatter_nd_update(logits, tf.stack([row, tf.zeros_like(row)], axis=1), wanted - float(np.log(stands_for)))
    return _cross_entropy(tf, tf.zeros_like(row), logits)


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


def _tensors(tf: Any, step: Step) -> dict[str, Any]:
    return {name: tf.SparseTensor(*value) if isinstance(value, tuple) else tf.constant(value) for name, value in step.items()}


def _spec(tf: Any, name: str, tensor: Any) -> Any:
    first = {"integers": 4, "floats": 2}.get(name)
    kind = tf.SparseTensorSpec if isinstance(tensor, tf.SparseTensor) else tf.TensorSpec
    return kind([first, *[None] * (tensor.shape.rank - 1)], tensor.dtype)


def _packed(state: dict[str, Any], variables: list[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **state, **{f"v{index}": variable.numpy() for index, variable in enumerate(variables)})
    return file.getvalue()


if __name__ == "__main__":
    try:
        train(Path(sys.argv[1]), Path(sys.argv[2]))
    except TrainingError as error:
        print(json.dumps({"failed": type(error).__name__, "message": str(error)}), flush=True)
        sys.exit(error.exit_code)
