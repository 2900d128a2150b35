"""Examples a second that two Horovod ranks learn from, beside one rank; one thread each, the same global batch.

Both train the same model on the same examples from the same first weights; an epoch without the first one, in which the model is traced, is timed from its
first step to its last. The losses are printed too: they must agree within what another seed changes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import paired
from benchmarks.walks import write_walks

ROUNDS, EPOCHS, BATCH = 3, 3, 64
PARAMETERS = {"epochs": EPOCHS, "patience": EPOCHS, "width": 64, "blocks": 2, "heads": 1, "dropout": 0.2, "negatives": 2048}


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "loss_of_two", "loss_of_one"}."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "walks.txt")
        choices = write_walks(file)
        rounds, losses = [], []
        for number in range(ROUNDS):
            two, one = (_train(file, Path(folder, f"{number}-{ranks}"), ranks, seed=number) for ranks in (2, 1))
            rounds.append((choices / two["seconds"], choices / one["seconds"]))
            losses.append((two["loss"], one["loss"]))
    report = paired(bench="training_ranks", peer="one rank with one thread", unit="examples/s", rounds=rounds, digits=0)
    return report | {"loss_of_two": [two for two, _ in losses], "loss_of_one": [one for _, one in losses]}


def _train(file: Path, work: Path, ranks: int, seed: int) -> dict[str, float]:
    cores = ",".join(map(str, range(ranks)))
    command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.training_ranks", str(file), str(work), str(ranks), str(seed)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    epochs = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": min(epoch["training_seconds"] for epoch in epochs[1:]), "loss": epochs[-1]["loss"]}


def _epochs(file: Path, work: Path, ranks: int, seed: int) -> list[dict[str, Any]]:
    from evershelf.progress import step
    from evershelf.settings import TrainingSettings
    from training.sequence_file import read_sequences
    from training.train import fit

    work.mkdir()
    shop, epochs = read_sequences(file), list[dict[str, Any]]()
    parameters = TrainingSettings.model_validate(PARAMETERS | {"ranks": ranks, "batch_size": BATCH // ranks, "seed": seed})
    fit("walks", parameters, shop, work, step, epochs.append, chooses=shop.first[1:201] - 2)
    return epochs


if __name__ == "__main__":
    print(json.dumps(_epochs(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
