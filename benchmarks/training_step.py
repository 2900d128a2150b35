"""Examples a second that one Horovod rank learns from, beside a plain Keras `fit` of the same model with the same threads; and what a rank holds in memory.

The plain model is the Transformer of training/model.py, compiled with Keras's Adam and its cross-entropy over all items at every position; `fit` reads batches
of the same sizes, padded in the same way, from a tf.data pipeline. It is not compiled by XLA, which would begin anew for every new shape of a batch, and it has
the large pages that our ranks have. Ours does besides: clipping, the running average of the weights, the head of the next action. Each in a process of its own
on core 0, rounds in turn; the first epoch, in which the model is traced, is not timed.

Memory: the most that a process that trains for some steps has of its own (anonymous memory), on so many interactions and on four times as many. Beside it the
system caches pages of the files that are mapped, which it takes back when memory is short.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.paired import paired
from benchmarks.walks import write_walks

ROUNDS, BATCH, SHOPPERS = 3, 64, 2000
PARAMETERS = {"epochs": 2, "patience": 2, "ranks": 1, "batch_size": BATCH, "width": 64, "blocks": 2, "heads": 1, "dropout": 0.2}
INTERACTIONS, STEPS = 2_000_000, 40
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "peak_own_mb"}; peak_own_mb: {interactions: MB}."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "walks.txt")
        choices = write_walks(file, shoppers=SHOPPERS)
        rounds = []
        for number in range(ROUNDS):
            ours, theirs = (_measure(way, file, Path(folder, f"{number}-{way}")) for way in ("ours", "plain"))
            rounds.append((choices / ours, choices / theirs))
        peaks = {count: _measure(str(count), file, Path(folder, str(count))) for count in (INTERACTIONS, 4 * INTERACTIONS)}
    report = paired(bench="training_step", peer="a plain Keras fit", unit="examples/s", rounds=rounds, digits=0)
    return report | {"peak_own_mb": {f"{count} interactions": round(peak) for count, peak in peaks.items()}}


def _measure(what: str, file: Path, work: Path) -> float:
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.training_step", what, str(file), str(work)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def _ours(file: Path, work: Path) -> float:
    from evershelf.progress import step
    from evershelf.settings import TrainingSettings
    from training.sequence_file import read_sequences
    from training.train import fit

    work.mkdir()
    shop, epochs = read_sequences(file), list[dict[str, Any]]()
    fit("walks", TrainingSettings.model_validate(PARAMETERS), shop, work, step, epochs.append, chooses=shop.first[1:201] - 2)
    return float(epochs[-1]["training_seconds"])


def _plain(file: Path) -> float:
    import keras
    import tensorflow as tf

    from evershelf.settings import TrainingSettings
    from training import examples, vocabulary
    from training.feed import Feed
    from training.loop import shape_of
    from training.model import Ranker
    from training.sequence_file import read_sequences

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    shop, settings = read_sequences(file), TrainingSettings.model_validate(PARAMETERS)
    words, features = vocabulary.build(shop)
    prepared = examples.prepare(shop, words, features, shop.first[1:201] - 2)

    class Plain(Ranker):
        def call(self, batch: Any, training: bool = False) -> Any:
            vectors = self.item_vectors(self.content(), training=training)
            states = self.encode(vectors, batch["items"], batch["actions"], batch["since"], batch["until"], training=training)
            return tf.matmul(states, vectors[:, :-1], transpose_b=True) + vectors[None, None, :, -1]

    model = Plain(shape_of(settings, prepared), features)
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0), jit_compile=False)
    names = ("items", "actions", "since", "until")

    def batches() -> Any:
        for step in Feed(prepared, settings, rank=0, ranks=1).steps(0):
            items, actions, next_item, _ = step["integers"]
            yield dict(zip(names, (items, actions, *step["floats"]), strict=True)), next_item

    specs = {name: tf.TensorSpec([None, None], tf.int32 if name in ("items", "actions") else tf.float32) for name in names}
    pipeline = tf.data.Dataset.from_generator(batches, output_signature=(specs, tf.TensorSpec([None, None], tf.int32))).prefetch(2)
    seconds = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_epoch_begin(self, _epoch: int, logs: Any = None) -> None:
            self.started = time.monotonic()

        def on_epoch_end(self, _epoch: int, logs: Any = None) -> None:
            seconds.append(time.monotonic() - self.started)

    model.fit(pipeline, epochs=PARAMETERS["epochs"], verbose=0, callbacks=[Clock()])
    assert len(seconds) == PARAMETERS["epochs"]
    return seconds[-1]


def _peak(interactions: int, file: Path, work: Path) -> float:
    """Return MB of its own of a process that trains on a shop's walks, repeated until there are so many interactions; they are written by another one."""
    if not work.is_dir():
        subprocess.run([sys.executable, "-m", "benchmarks.training_step", f"write {interactions}", str(file), str(work)], check=True)
    import horovod.tensorflow as hvd
    import keras
    import tensorflow as tf

    from evershelf.settings import TrainingSettings
    from evershelf.storage import at
    from training.examples import Examples
    from training.loop import Trainer
    from training.pulse import Pulse

    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    settings = TrainingSettings.model_validate(PARAMETERS | {"negatives": 1024})
    trainer = Trainer(settings, Examples.load(work / "examples"), at(work.as_uri()), Pulse.of_rank(work, 0), hvd, tf, keras)
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], *(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")))

    watcher = threading.Thread(target=look)
    watcher.start()
    for shown in islice(trainer.feed.steps(0), STEPS):
        trainer.learn(shown, 1e-4)
    ended.set()
    watcher.join()
    return most[0] / 1024


def _write(interactions: int, file: Path, work: Path) -> None:
    """Write the examples of so many interactions: one shopper's walk after another, again and again."""
    from dataclasses import replace

    import numpy as np

    from training import examples, vocabulary
    from training.sequence_file import read_sequences

    shop = read_sequences(file)
    words, features = vocabulary.build(shop)
    prepared = examples.prepare(shop, words, features, shop.first[1:201] - 2)
    sequences, windows, rows = prepared.sequences, prepared.train, len(shop.item)
    times = -(-interactions // rows)
    shift, offset = np.repeat(np.arange(times), rows), np.repeat(np.arange(times) * rows, len(windows))
    following = np.tile(sequences.following, times)
    columns: dict[str, Any] = {name: np.tile(getattr(sequences, name), times) for name in ("item", "action", "query", "time")}
    columns |= {"shopper": np.tile(sequences.shopper, times) + (shift * len(shop.shoppers)).astype(np.int32)}
    columns |= {"following": np.where(following >= 0, following + shift * rows, -1)}
    train = {name: np.tile(getattr(windows, name), times) + offset for name in ("begin", "target", "end")}
    work.mkdir()
    replace(prepared, sequences=replace(sequences, **columns), train=replace(windows, **train)).save(work / "examples")


if __name__ == "__main__":
    what, shopping, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what.startswith("write "):
        _write(int(what.split()[1]), shopping, place)
    elif what.isdecimal():
        print(_peak(int(what), shopping, place))
    else:
        print(_ours(shopping, place) if what == "ours" else _plain(shopping))
