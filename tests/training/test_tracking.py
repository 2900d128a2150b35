"""What TensorBoard will show of a training, read back from its files."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from evershelf.settings import load_settings
from training.tracking import Run

FOUND = {
    "metrics": {"NDCG@10": 0.5},
    "baselines": {"popular": {"NDCG@10": 0.25}},
    "blessed": True,
    "why": ["better than popular"],
    "best_epoch": 2,
}


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(events: EventAccumulator) -> dict[str, list[float]]:
    """Return tag -> its values in order."""
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith(("epoch/", "evaluation/"))]
    return {tag: [float(make_ndarray(one.tensor_proto)) for one in events.Tensors(tag)] for tag in tags}


def test_a_run_keeps_its_parameters_its_epochs_its_figures_and_where_the_model_is(home: Path) -> None:
    said: list[str] = []
    run = Run(load_settings(), "2026-01-08-0123abcd", {"events": 3}, said.append)
    for number, loss in enumerate([3.0, 2.5], start=1):
        run.epoch({"epoch": number, "loss": loss, "selection_ndcg": 0.1 * number, "seconds": 1.5})
    run.finish(FOUND, Path("/models/m"))
    events = read(home / "runs" / "2026-01-08-0123abcd")
    found = scalars(events)
    assert found["epoch/loss"] == [3.0, 2.5]
    assert found["epoch/NDCG@10 of the shoppers set aside"] == pytest.approx([0.1, 0.2])
    assert (found["evaluation/NDCG@10 of model"], found["evaluation/NDCG@10 of popular"]) == ([0.5], [0.25])
    parameters = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content).session_start_info.hparams
    assert parameters["learning_rate"].number_value == pytest.approx(load_settings().training.learning_rate)
    assert parameters["events"].string_value == "3"
    (text,) = events.Tensors("model")
    assert make_ndarray(text.tensor_proto).item() == b"`/models/m`: blessed. better than popular"
    assert said == []


def test_what_cannot_be_tracked_is_said_once_and_stops_nothing(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "runs").write_text("not a folder")
    said: list[str] = []
    run = Run(load_settings(), "m", {}, said.append)
    run.epoch({"epoch": 1, "loss": 3.0, "selection_ndcg": 0.1, "seconds": 1.5})
    run.finish(FOUND, Path("/models/m"))
    (problem,) = said
    assert "not tracked" in problem
    assert "it goes on" in problem


@pytest.mark.slow
def test_a_real_training_is_tracked(trained: Any) -> None:
    installation, outcome = trained
    found = scalars(read(installation.home / "runs" / outcome.answer["model_id"]))
    assert len(found["epoch/loss"]) > 1
    assert found["evaluation/NDCG@10 of model"] == [pytest.approx(outcome.answer["metrics"]["NDCG@10"])]
