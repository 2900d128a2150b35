"""The text encoder learns a shop's own words, and is in force only where that is shown to help."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock

from evershelf.contracts import EVENTS, PRODUCTS
from evershelf.models import finished_models, models_folder
from evershelf.settings import Settings, TrainingSettings, load_settings
from evershelf.text_encoder import TOKENIZER, TextEncoder
from training import commands, contrastive, fine_tuning, search_clicks, text_encoder, tuned
from training.contrastive import Pairs
from training.data import read_shop
from training.errors import LossDiverged, UnusableData
from training.fine_tuning import fine_tune

KINDS = {  # what it is called in this shop, which no encoder has read anywhere: what is meant
    "zorvex": "office chair",
    "quimble": "garden hose",
    "fladoon": "winter gloves",
    "brentik": "coffee grinder",
    "movarl": "desk lamp",
    "yuspin": "hiking boots",
    "krelt": "picture frame",
    "ombrux": "yoga mat",
    "vintock": "phone case",
    "dwarple": "soup spoon",
}
MAKES = ("Acme", "Boreal", "Castor", "Delta", "Ember", "Fjord", "Gamma", "Helix", "Iris", "Juno")
WISHES = ("", "cheap", "best", "new", "small", "large", "red", "blue", "green", "light", "strong", "my", "a", "good", "buy", "find", "nice", "big")
DAY = datetime(2026, 1, 5, 9, tzinfo=UTC)


def _lake(lake: Path, write: Callable[..., None], wishes: int = len(WISHES)) -> None:
    """Two days; every query is asked by two shoppers on each."""
    products = [
        {"item_id": f"{kind}-{make}", "landing_dt": DAY.date(), "dt": DAY.date(), "title": f"{make} {thing}", "valid_from": DAY}
        for kind, thing in KINDS.items()
        for make in MAKES
    ]
    random, events = np.random.default_rng(5), list[dict[str, Any]]()
    for day in range(2):
        for kind in KINDS:
            for wish in WISHES[:wishes]:
                for number, make in enumerate(random.permutation(MAKES)[:8]):
                    when = DAY + timedelta(days=day, minutes=number)
                    about = {
                        "event_time": when,
                        "received_at": when,
                        "landing_dt": when.date(),
                        "dt": when.date(),
                        "session_id": f"{day}-{kind}-{wish}-{number}",
                    }
                    said = {"type": "click", "item_id": f"{kind}-{make}", "query": f"{wish} {kind}".strip(), "user_id": f"u{number % 2}"}
                    events.append(about | said | {"event_id": f"e{len(events)}"})
    write(lake, EVENTS, events)
    write(lake, PRODUCTS, products)


@pytest.fixture
def quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which a training has a day to measure on, and few but long steps are enough."""
    monkeypatch.setenv("EVERSHELF_TRAINING__VALIDATION_DAYS", "1")
    monkeypatch.setattr(contrastive, "RATE", 3e-4)
    monkeypatch.setattr(contrastive, "EPOCHS", 1)
    monkeypatch.setattr(contrastive, "LOOKS", 2)
    return home


@pytest.mark.slow
def test_words_that_only_clicks_explain_are_learned_and_in_force_from_the_next_training_on(quick: Path, lake_writer: Callable[..., None]) -> None:
    _lake(quick / "lake", lake_writer)
    tuned.decide({"parameters": {"dropout": 0.3}})
    left = quick / "models" / fine_tuning.FOLDER / "left-over"
    left.mkdir(parents=True)
    said: list[str] = []
    found = fine_tune(load_settings(), minutes=5, say=said.append)
    assert found["changed"], found
    assert found["hybrid"]["fine_tuned"] > found["hybrid"]["in_force"] + 0.2
    assert found["hybrid_new_queries"]["better_by"][1] > 0  # also on queries that it has not learned
    assert found["pairs"] >= fine_tuning.LEAST_PAIRS and found["queries"] >= fine_tuning.LEAST_QUERIES
    assert any("loss" in line and "left" in line for line in said)
    assert not (quick / "training" / "fine-tuning").exists()
    assert [folder.name for folder in left.parent.iterdir()] == [found["name"].rpartition("/")[2]]

    folder, name = text_encoder.in_force(tuned.with_tuned(TrainingSettings()))
    assert name == found["name"] == tuned.text_encoder()
    assert tuned.with_tuned(TrainingSettings()).dropout == 0.3
    query, near, far = TextEncoder(folder).vectors(["light zorvex", "office chair", "yoga mat"])
    assert query @ near > query @ far + 0.2
    assert text_encoder.in_force(TrainingSettings(text_encoder=text_encoder.published())) == (text_encoder.converted(), None)  # settings win

    shop = read_shop(load_settings().training)
    searches = search_clicks.read_searches(shop, seed=1)
    assert searches.held_out and all(search_clicks.held_out(query) for query, *_ in searches.held_out)


def test_too_few_clicks_change_nothing(quick: Path, lake_writer: Callable[..., None]) -> None:
    _lake(quick / "lake", lake_writer, wishes=3)
    outcome = CliRunner().invoke(commands.fine_tune, ["--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout.splitlines()[-1])
    assert not found["changed"]
    assert "queries to learn from, 100 are needed" in found["why"] and "1000 are needed" in found["why"]
    assert tuned.decision() is None and not (quick / "models" / fine_tuning.FOLDER).exists()


def test_what_only_one_shopper_asked_is_not_learned(quick: Path, lake_writer: Callable[..., None]) -> None:
    _lake(quick / "lake", lake_writer, wishes=3)
    shop = read_shop(load_settings().training)
    searches = search_clicks.read_searches(shop, seed=1)
    both = [fine_tuning.pairs(shop, searches, held_out=held_out) for held_out in (False, True)]
    assert sum(len(one.query) for one in both) == 10 * 3 * 8  # those before the split
    assert not {*both[0].query} & {*both[1].query}
    alone = replace(shop, shopper=np.zeros_like(shop.shopper))
    assert len(fine_tuning.pairs(alone, searches, held_out=False).query) == 0


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_it_by_name() -> None:
    backbone, tokenizer = text_encoder.load(text_encoder.published())
    backbone.set_weights([weights * np.nan if weights.dtype == np.float32 else weights for weights in backbone.get_weights()])
    pairs = Pairs(queries=["a", "b"], items=["one", "two"], query=np.array([0, 1]), item=np.array([0, 1]))
    with pytest.raises(LossDiverged, match=r"loss of the text encoder is nan after 1 steps\. Nothing was changed"):
        contrastive.learn(backbone, tokenizer, pairs, pairs, minutes=1, seed=1, say=lambda line: None)


def test_what_the_same_query_chose_is_no_negative() -> None:
    pairs = Pairs(queries=["a", "b"], items=["one", "two", "three"], query=np.array([0, 0, 1]), item=np.array([0, 2, 1]))
    assert pairs.belong(np.array([0, 1]), np.array([0, 1, 2])).tolist() == [[True, False, True], [False, True, False]]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Settings(training=TrainingSettings(text_encoder=Path("/else"))), "settings win"),
        (Settings(search={"language": "russian"}), "nothing is searched for by meaning"),
    ],
    ids=["set by hand", "no meaning"],
)
def test_nothing_is_learned_that_would_not_count(home: Path, settings: Settings, why: str) -> None:
    found = fine_tune(settings, minutes=1, say=lambda line: None)
    assert not found["changed"] and why in found["why"]


def test_an_encoder_that_is_not_shown_to_be_better_changes_nothing(home: Path, tmp_path: Path) -> None:
    assert not fine_tuning.decide([0.01, -0.001, 0.02], tmp_path, {})["changed"]
    assert tuned.decision() is None and not (home / "models").exists()


@pytest.mark.slow
def test_a_better_encoder_is_kept_where_the_models_are_and_read_from_there(hdfs: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for name in ("config.json", "model.safetensors", TOKENIZER):
        shutil.copyfile(text_encoder.published() / name, made / name)
    fingerprint = text_encoder.fingerprint(made)
    (models_folder() / "text_encoders" / "left-over").mkdir(parents=True)
    assert fine_tuning.decide([0.1, 0.01, 0.2], made, {})["changed"]
    assert text_encoder.in_force(TrainingSettings()) == (text_encoder.converted(), f"text_encoders/{fingerprint}")
    assert [one.name for one in (models_folder() / "text_encoders").iterdir()] == [fingerprint]
    assert finished_models() == []


def test_a_decision_whose_encoder_cannot_be_read_is_refused_by_name(home: Path) -> None:
    tuned.decide({"parameters": {}, tuned.TEXT_ENCODER: "written by hand"})
    with pytest.raises(UnusableData, match=f"{tuned.TUNED} is no decision that a training can take"):
        tuned.with_tuned(TrainingSettings())


def test_a_decision_whose_encoder_is_gone_is_refused_by_name(home: Path) -> None:
    tuned.decide({"parameters": {}, tuned.TEXT_ENCODER: {"name": "text_encoders/gone"}})
    with pytest.raises(UnusableData, match="names the text encoder text_encoders/gone, which is not there"):
        text_encoder.in_force(TrainingSettings())


@pytest.mark.slow
def test_only_one_learns_at_a_time_and_one_that_is_killed_changes_nothing(new_installation: Callable[..., Any], lake_writer: Callable[..., None]) -> None:
    installation = new_installation()
    _lake(installation.home / "lake", lake_writer)
    with installation.start("fine-tune", "--minutes", "5") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "before" in line:
                break
        second = installation.run("fine-tune")
        assert second.code != 0 and "runs in another process. Nothing was started" in second.err
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (installation.home / "models").exists()
    with FileLock(installation.home / "training" / "fine-tuning.lock", timeout=0):  # it is free again: what is left goes with a redaction or the next one
        pass
