"""Ranks are killed, stopped and started again, and what comes out is what would have come out."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.settings import TrainingSettings
from training import loop, pulse, train
from training.errors import RankLost
from training.pulse import PULSE, Watch
from training.sequence_file import read_sequences

EPOCHS = 8
SMALL = {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8, "width": 16, "checkpoint_steps": 3, "negatives": 12, "hangs_after": timedelta(seconds=20)}


class Training:
    """One training of a small file, which may be disturbed after an epoch."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        self.work, self.said, self.epochs = folder / "work", list[str](), list[dict[str, Any]]()
        self.work.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(6)
        starts, lengths = random.integers(30, size=200), random.integers(5, 12, size=200)
        walks = [
            " ".join([f"u{number}", *(f"i{(start + step) % 30}" for step in range(length))])
            for number, (start, length) in enumerate(zip(starts, lengths, strict=True))
        ]
        (folder / "file.txt").write_text("\n".join(walks))
        self.shop = read_sequences(folder / "file.txt")
        self.parameters = TrainingSettings.model_validate(SMALL | parameters)

    def run(self, disturb: dict[int, Any] | None = None) -> None:
        """Train; when an epoch in `disturb` is reported, which is while the next one runs, send its signal to the last rank, or to all."""
        left = dict(disturb or {})

        def after(epoch: dict[str, Any]) -> None:
            self.epochs.append(epoch)
            if chosen := left.pop(epoch["epoch"], None):
                sent, everyone = chosen
                for process in self.ranks() if everyone else self.ranks()[-1:]:
                    os.kill(process, sent)

        last = self.shop.first[1:] - 1
        train.fit("small", self.parameters, self.shop, self.work, self.said.append, after, chooses=last - 1)

    def ranks(self) -> list[int]:
        found = []
        for process in Path("/proc").iterdir():
            try:
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
            except (OSError, ValueError):
                continue
            if arguments[1:3] == ["-m", "training.loop"] and arguments[3] == str(self.work):
                found.append(int(process.name))
        return sorted(found)

    def outcome(self) -> list[tuple[int, float, float]]:
        return [(epoch["epoch"], epoch["loss"], epoch["selection_ndcg"]) for epoch in self.epochs]

    def best(self) -> dict[str, Any]:
        with np.load(self.work / loop.BEST) as file:
            return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_whose_ranks_are_killed_and_stopped_ends_with_the_very_weights_of_one_that_was_left_alone(tmp_path: Path) -> None:
    alone, disturbed = Training(tmp_path / "alone"), Training(tmp_path / "disturbed")
    alone.run()
    disturbed.run({2: (signal.SIGKILL, False), 4: (signal.SIGKILL, True), 6: (signal.SIGSTOP, False)})
    restarts = [line for line in disturbed.said if "Starting the ranks again" in line]
    assert len(restarts) == 3, disturbed.said
    assert "does not run" in restarts[2]  # the one that was stopped, by its number
    assert not disturbed.ranks()
    assert disturbed.outcome() == alone.outcome()
    assert [epoch["epoch"] for epoch in disturbed.epochs] == [*range(1, EPOCHS + 1)]
    ours, theirs = disturbed.best(), alone.best()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

    (alone.work / loop.CHECKPOINT).write_bytes(b"PK\3\4 not what it was")
    alone.said.clear()
    alone.epochs.clear()
    alone.run()
    assert any("is damaged" in line and "begins anew" in line for line in alone.said)
    assert alone.outcome() == disturbed.outcome()


@pytest.mark.slow
def test_ranks_that_are_lost_again_and_again_end_the_training_by_name(tmp_path: Path) -> None:
    training = Training(tmp_path, restarts=1)
    training.parameters = training.parameters.model_copy(update={"blocks": 0, "width": -1})  # no model can be made of that: each start fails
    with pytest.raises(RankLost, match="started again 1 times without finishing an epoch"):
        training.run()
    assert not (training.work / loop.BEST).exists()


def test_the_rank_that_keeps_the_others_waiting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "STARTING", 0.3)
    watch = Watch(tmp_path / PULSE, ranks=2, limit=0.3)
    assert watch.hanging() is None
    rows = np.memmap(tmp_path / PULSE, np.float64, "r+").reshape(-1, 3)
    rows[:, pulse.PROCESS], rows[:, pulse.STEPS], rows[:, pulse.SHOWN] = (70, 71), (5, 4), time.monotonic()
    assert watch.hanging() is None  # steps were done
    time.sleep(0.4)
    assert "rank 1 (process 71) hangs" in str(watch.hanging())
    rows[0, pulse.SHOWN] -= 2 * pulse.SILENT
    assert "rank 0 (process 70) does not run" in str(watch.hanging())
    rows[1, pulse.STEPS] += 1
    assert watch.hanging() is None
