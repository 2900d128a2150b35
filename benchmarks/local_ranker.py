"""Milliseconds to rank 200 candidates for one shopper in this process, beside the SavedModel called through TensorFlow.

Both are exported of one model and get the same requests, one at a time, on one thread of core 0, in turn.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import paired
from benchmarks.walks import write_walks

ROUNDS, REQUESTS = 5, 300
PARAMETERS = {"epochs": 1, "ranks": 1, "batch_size": 32, "width": 64, "blocks": 2, "heads": 1}


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "largest_difference", "same_first_ten", "rankers"}; ours is what ships."""
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.local_ranker"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    found = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    report = paired(bench="local_ranker", peer="the SavedModel through TensorFlow", unit="ms", rounds=found["rounds"], digits=3)
    return report | {name: found[name] for name in ("largest_difference", "same_first_ten", "rankers")}


def _measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        exported, found = _export(Path(folder))

        from evershelf.contracts.model import RANK_INPUTS, RANK_OUTPUT, SIGNATURE
        from evershelf.ranker import ranker_in
        from training.export import golden_requests
        from training.vocabulary import Vocabulary

        signature = tf.saved_model.load(str(exported / "saved_model")).signatures[SIGNATURE]
        local = ranker_in(exported)
        vocabulary = Vocabulary.load(exported / "vocabulary.json")
        requests = [
            {name: array[None] for name, array in request.items()} for seed in range(REQUESTS // 8 + 1) for request in golden_requests(vocabulary, seed)
        ]

        def through_tensorflow(request: dict[str, Any]) -> Any:
            return signature(**{name: tf.constant(request[name]) for name in RANK_INPUTS})[RANK_OUTPUT].numpy()[0]

        scores = [(local.scores(request).copy(), through_tensorflow(request)) for request in requests]  # both are warm now
        rounds = [(_milliseconds(local.scores, requests), _milliseconds(through_tensorflow, requests)) for _ in range(ROUNDS)]
        same = [np.array_equal(np.argsort(-ours, kind="stable")[:10], np.argsort(-theirs, kind="stable")[:10]) for ours, theirs in scores]
        difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in scores)
        return {"rounds": rounds, "largest_difference": difference, "same_first_ten": round(float(np.mean(same)), 4), "rankers": found}


def _milliseconds(rank: Callable[[dict[str, Any]], Any], requests: list[dict[str, Any]]) -> float:
    started = time.perf_counter()
    for request in requests:
        rank(request)
    return (time.perf_counter() - started) / len(requests) * 1000


def _export(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return a model's folder and what was found of each of its rankers."""
    from evershelf.progress import step
    from evershelf.settings import TrainingSettings
    from training import export, rankers
    from training.sequence_file import read_sequences
    from training.train import fit

    write_walks(folder / "walks.txt", shoppers=1000)
    shop, parameters = read_sequences(folder / "walks.txt"), TrainingSettings.model_validate(PARAMETERS)
    words, prepared = fit("walks", parameters, shop, folder, step, chooses=shop.first[1:101] - 2)
    model, _ = export.export_best(parameters, prepared, folder, words, shop, folder / "model")
    return folder / "model", rankers.ship(model, folder / "model", prepared, parameters.rankers, step)


if __name__ == "__main__":
    print(json.dumps(_measure()))
