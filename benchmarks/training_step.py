"""Examples a second that one Horovod rank learns from, beside a plain Keras `fit` of the same model with the same threads.

The plain model is the Transformer of training/model.py, compiled with Keras's Adam and its cross-entropy over all items at every position; `fit` reads batches
of the same sizes, padded in the same way, from a tf.data pipeline. Ours does besides: the exchange between ranks, clipping, the running average of the weights.
Each in a process of its own on core 0, rounds in turn.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.paired import paired
from benchmarks.walks import write_walks

ROUNDS, BATCH, SHOPPERS = 3, 64, 4000
PARAMETERS = {"epochs": 3, "patience": 3, "ranks": 1, "batch_size": BATCH, "width": 64, "blocks": 2, "heads": 1, "dropout": 0.2}


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "peak_mb"}."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "walks.txt")
        choices = write_walks(file, shoppers=SHOPPERS)
        rounds, peaks = [], []
        for number in range(ROUNDS):
            ours, theirs = (_measure(way, file, Path(folder, f"{number}-{way}")) for way in ("ours", "plain"))
            rounds.append((choices / ours["seconds"], choices / theirs["seconds"]))
            peaks.append(ours["peak_mb"])
    report = paired(bench="training_step", peer="a plain Keras fit", unit="examples/s", rounds=rounds, digits=0)
    return report | {"peak_mb": max(peaks)}


def _measure(way: str, file: Path, work: Path) -> dict[str, Any]:
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.training_step", way, str(file), str(work)]
    done = subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _ours(file: Path, work: Path) -> dict[str, Any]:
    import resource

    from evershelf.progress import step
    from evershelf.settings import TrainingSettings
    from training.sequence_file import read_sequences
    from training.train import fit

    work.mkdir()
    shop, epochs = read_sequences(file), list[dict[str, Any]]()
    fit("walks", TrainingSettings.model_validate(PARAMETERS), shop, work, step, epochs.append, chooses=shop.first[1:201] - 2)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    return {"seconds": min(epoch["training_seconds"] for epoch in epochs[1:]), "peak_mb": peak}


def _plain(file: Path) -> dict[str, Any]:
    import keras
    import numpy as np
    import tensorflow as tf

    from evershelf.settings import TrainingSettings
    from training import data, examples, vocabulary
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
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0))
    names = ("items", "actions", "since", "until")

    def batches() -> Any:
        for chosen in data.deal(prepared.train.end - prepared.train.begin, batch=BATCH, ranks=1, rank=0, epoch=0, seed=1):
            batch = prepared.sequences.batch(prepared.train, chosen)
            yield {name: getattr(batch, name) for name in names}, batch.next_item

    specs = {name: tf.TensorSpec([None, None], tf.int32 if name in ("items", "actions") else tf.float32) for name in names}
    pipeline = tf.data.Dataset.from_generator(batches, output_signature=(specs, tf.TensorSpec([None, None], tf.int32))).prefetch(2)
    seconds = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_epoch_begin(self, _epoch: int, logs: Any = None) -> None:
            self.started = time.monotonic()

        def on_epoch_end(self, _epoch: int, logs: Any = None) -> None:
            seconds.append(time.monotonic() - self.started)

    model.fit(pipeline, epochs=3, verbose=0, callbacks=[Clock()])
    assert np.isfinite(seconds).all()
    return {"seconds": min(seconds[1:])}


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(json.dumps(_ours(Path(sys.argv[2]), Path(sys.argv[3])) if sys.argv[1] == "ours" else _plain(Path(sys.argv[2]))))
