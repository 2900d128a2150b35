"""A search for parameters survives a kill, its winner is in force only by a recorded decision, and the settings' own words win over it."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evershelf.settings import TrainingSettings
from training import tuned
from training.errors import UnusableData


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_was_killed_goes_on_and_ends_with_a_recorded_decision(new_installation: Callable[..., Any]) -> None:
    installation = new_installation(TRAINING__EPOCHS="2", TRAINING__RANKS="1")
    with installation.start("tune", "--trials", "2", "--seeds", "1") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("trial 0:"):
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (installation.home / "models" / tuned.TUNED).exists()

    outcome = installation.run("tune", "--trials", "2", "--seeds", "1", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.answer
    assert "trial 0:" not in outcome.err  # it was done
    assert len(found["compared"]) == 1
    assert found["changed"] == all(one["best_trial"] > one["in_force"] for one in found["compared"])
    assert found["in_force"]["width"] == 16
    file = installation.home / "models" / tuned.TUNED
    assert file.exists() == found["changed"]
    assert not list((installation.home / "training").glob("*/trial-*"))

    left = subprocess.run(["pgrep", "-f", f"training.loop {installation.home}"], capture_output=True, check=False)
    assert not left.stdout


def test_what_was_decided_counts_where_the_settings_say_nothing(home: Path) -> None:
    assert tuned.with_tuned(TrainingSettings()) == TrainingSettings()
    tuned.decide({"parameters": {"width": 128, "dropout": 0.3, "batch_size": 8}})
    in_force = tuned.with_tuned(TrainingSettings(dropout=0.1, epochs=3))
    assert (in_force.width, in_force.dropout, in_force.batch_size, in_force.epochs) == (128, 0.1, 8, 3)
    assert json.loads((home / "models" / tuned.TUNED).read_bytes())["parameters"]["width"] == 128


def test_the_encoder_stays_until_another_one_is_decided_for(home: Path) -> None:
    for name in ("text_encoders/1", "text_encoders/2"):
        tuned.decide({"parameters": {}, tuned.TEXT_ENCODER: {"name": name}})
        tuned.decide({"parameters": {"width": 128}})
        assert (tuned.text_encoder(), tuned.with_tuned(TrainingSettings()).width) == (name, 128)


def test_a_decision_that_no_training_can_take_is_refused(home: Path) -> None:
    tuned.decide({"parameters": {"width": -1}})
    with pytest.raises(UnusableData, match="width"):
        tuned.with_tuned(TrainingSettings())
