"""Examples a second that two Horovod ranks learn from, beside one rank; one thread each, a core each.

All train the same model on the same examples from the same first weights; an epoch without the first one, in which the model is traced, is timed from its first
step to its last. The ratio is that of the same batch over all ranks: two ranks share what one has alone. Beside it stands the one of the same batch per rank.
The losses of the same batch over all ranks are printed too: they must agree within what another seed changes.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import paired
from benchmarks.walks import write_walks

ROUNDS, EPOCHS, BATCH = 3, 3, 256  # sequences in a step over all ranks
PARAMETERS = {"epochs": EPOCHS, "patience": EPOCHS, "width": 64, "blocks": 2, "heads": 1, "dropout": 0.2, "negatives": 2048}


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "ratio_same_batch_per_rank", "loss_of_two", "loss_of_one"}."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "walks.txt")
        choices = write_walks(file)
        rounds, per_rank, losses = [], [], []
        for number in range(ROUNDS):
            two, one, half = (
                _train(file, Path(folder, f"{number}-{ranks}-{batch}"), ranks, batch, seed=number)
                for ranks, batch in ((2, BATCH // 2), (1, BATCH), (1, BATCH // 2))
            )
            rounds.append((choices / two["seconds"], choices / one["seconds"]))
            per_rank.append(half["seconds"] / two["seconds"])
            losses.append((two["loss"], one["loss"]))
    report = paired(bench="training_ranks", peer="one rank with one thread, the same batch over all ranks", unit="examples/s", rounds=rounds, digits=0)
    report["ratio_same_batch_per_rank"] = round(statistics.median(per_rank), 3)
    return report | {"loss_of_two": [two for two, _ in losses], "loss_of_one": [one for _, one in losses]}


def _train(file: Path, work: Path, ranks: int, batch: int, seed: int) -> dict[str, float]:
    cores = ",".join(map(str, range(ranks)))
    command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.training_ranks", *map(str, (file, work, ranks, batch, seed))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    epochs = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": min(epoch["training_seconds"] for epoch in epochs[1:]), "loss": epochs[-1]["loss"]}


def _epochs(file: Path, work: Path, ranks: int, batch: int, seed: int) -> list[dict[str, Any]]:
    from evershelf.progress import step
    from evershelf.settings import TrainingSettings
    from training.sequence_file import read_sequences
    from training.train import fit

    work.mkdir()
    shop, epochs = read_sequences(file), list[dict[str, Any]]()
    parameters = TrainingSettings.model_validate(PARAMETERS | {"ranks": ranks, "batch_size": batch, "seed": seed})
    fit("walks", parameters, shop, work, step, epochs.append, chooses=shop.first[1:201] - 2)
    return epochs


if __name__ == "__main__":
    print(json.dumps(_epochs(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))))
