"""A shop brings its own ranker: it must give the golden scores, is measured as a training is, and nothing comes of one that is wrong."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.models import finished_models, models_folder
from evershelf.settings import Settings, load_settings
from tests import own_rankers
from tests.own_rankers import read
from tests.training.conftest import Installation
from training import blessing, data, exported, own_ranker
from training.errors import RankerRefused, UnusableData

pytestmark = pytest.mark.slow

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def shop(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A copy of the trained shop, which this process and its commands work on."""
    home = tmp_path_factory.mktemp("brought") / "home"
    shutil.copytree(trained[0].home, home)
    copy = replace(trained[0], home=home)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in copy.environment.items():
            if name.startswith("EVERSHELF_"):
                patch.setenv(name, value)
        load_settings.cache_clear()
        yield copy
    load_settings.cache_clear()


@pytest.fixture(scope="module")
def base(shop: Installation) -> Path:
    (folder,) = shop.models
    return folder


@pytest.fixture(scope="module")
def ring(base: Path) -> own_rankers.Table:
    """What the shoppers of the tiny shop do: from each item they go to the next one."""
    items = read(base / "vocabulary.json")["items"]
    place = np.array([int(item.split("-")[1]) if item else -100 for item in items])
    table: own_rankers.Table = (place[None] == (place[:, None] + 1) % 24).astype(np.float32)
    return table


@pytest.fixture(scope="module")
def brought(shop: Installation, base: Path, ring: own_rankers.Table) -> dict[str, Any]:
    """What the command says of a ranker that knows the ring."""
    questions, golden, file = (shop.home / name for name in ("questions.json", "golden.json", "ours.onnx"))
    assert shop.run("bring-ranker", "--questions", str(questions), "--model", base.name).code == 0
    golden.write_text(json.dumps(own_rankers.answered(read(questions), ring)))
    answer = shop.run("bring-ranker", str(own_rankers.write(file, ring)), "--golden", str(golden), "--model", base.name, "--json").answer
    return {**answer, "file": file, "golden": golden}


def test_what_the_shop_is_asked_covers_what_a_ranker_meets_and_nobodys_history(base: Path) -> None:
    requests = [request["inputs"] for request in own_ranker.questions(base)["requests"]]
    assert not any(requests[0]["history_items"])
    assert any(any(inputs["query_words"]) for inputs in requests)
    assert any(inputs["candidates"][-1] == 0 for inputs in requests)
    assert len({inputs["candidates"].index(0) for inputs in requests}) == 1  # all 25 items; a larger catalogue has requests without padding, too


def test_a_ranker_that_knows_what_comes_next_is_blessed_as_a_model_of_its_own(brought: dict[str, Any], shop: Installation, base: Path) -> None:
    folder = shop.home / "models" / brought["model_id"]
    assert brought["blessed"], brought["why"]
    assert {path.name for path in folder.iterdir()} == {path.name for path in base.iterdir()} - {"ranker.tflite"} | {"ranker.onnx"}
    assert (folder / "ranker.onnx").read_bytes() == brought["file"].read_bytes()
    assert read(folder / "golden.json")["requests"][3]["scores"] == read(brought["golden"])["requests"][3]["scores"]
    assert read(folder / "lineage.json")["own_ranker"]["base"] == base.name
    ours, theirs = read(folder / "evaluation.json"), read(base / "evaluation.json")
    assert ours["metrics"]["NDCG@10"] > 0.7  # nine of ten steps go to the next item; where a visit begins is chance
    assert ours["heads"] == theirs["heads"]
    assert ours["baselines"] == theirs["baselines"]
    assert ours["search"] == theirs["search"]
    (row,) = ours["rankers"]
    assert row["milliseconds"] > 0 and row["ratio"] > 0 and row["megabytes"] > 0
    assert finished_models()[0] == brought["model_id"]


def test_the_same_file_is_brought_once_also_when_it_is_the_newest_blessed_model(brought: dict[str, Any]) -> None:
    said: list[str] = []
    base = own_ranker.base_of(None)
    assert own_ranker.bring(load_settings(), brought["file"], brought["golden"], base, said.append) == brought["model_id"]
    assert said == [f"{brought['model_id']} is brought already"]


def test_a_brought_model_is_measured_by_its_own_ranker_on_the_cpu_whatever_gateways_have(brought: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERSHELF_GATEWAY__ONNX_PROVIDERS", '["TensorrtExecutionProvider"]')
        load_settings.cache_clear()
        settings = load_settings()
        measured = blessing.last_blessed(brought["model_id"], data.read_shop(settings.training), settings.training, settings.candidates)
    load_settings.cache_clear()
    assert not isinstance(measured, str), measured
    assert measured.report["metrics"] == brought["metrics"]


def test_one_that_fails_later_does_not_stop_the_trainings_that_are_compared_with_it(brought: dict[str, Any]) -> None:
    file = models_folder() / brought["model_id"] / "ranker.onnx"
    content = file.read_bytes()
    settings = load_settings()
    try:
        file.write_bytes(b"no graph")
        found = blessing.last_blessed(brought["model_id"], data.read_shop(settings.training), settings.training, settings.candidates)
    finally:
        file.write_bytes(content)
    assert isinstance(found, str) and found.startswith(f"the ranker that was brought as {brought['model_id']} fails: ValueError")


def test_a_vocabulary_of_another_training_is_found_out_before_anything_is_measured(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / base.name)
    vocabulary = read(base / "vocabulary.json")
    (tmp_path / base.name / "vocabulary.json").write_text(json.dumps(vocabulary | {"items": [*vocabulary["items"], "item-new"]}))
    with pytest.raises(UnusableData, match="names 27 items, and it has 26 item vectors"):
        exported.Exported(tmp_path / base.name)


def test_a_ranker_that_knows_nothing_is_refused_by_the_same_rules_and_is_there_to_be_looked_at(
    brought: dict[str, Any], base: Path, ring: own_rankers.Table, tmp_path: Path
) -> None:
    (tmp_path / "golden.json").write_text(json.dumps(own_rankers.answered(own_ranker.questions(base), -ring)))
    model_id = own_ranker.bring(load_settings(), own_rankers.write(tmp_path / "bad.onnx", -ring), tmp_path / "golden.json", base, print)
    evaluation = read(Path(str(models_folder())) / model_id / "evaluation.json")
    assert not evaluation["blessed"]
    assert any(f"of {brought['model_id']} on the same" in reason for reason in evaluation["why"])


def test_all_items_are_scored_whatever_their_number(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "model" / "ranker.tflite").unlink()
    many = 450  # three calls, the last one with padding
    vocabulary = read(base / "vocabulary.json") | {"items": ["", *(f"i{number}" for number in range(1, many))]}
    (tmp_path / "model" / "vocabulary.json").write_text(json.dumps(vocabulary))
    np.save(tmp_path / "model" / "item_vectors.npy", np.zeros((many, 9), np.float32))
    table = np.random.default_rng(1).normal(size=(many, many)).astype(np.float32)
    own_rankers.write(tmp_path / "model" / "ranker.onnx", table)
    opened = exported.OwnRanked(tmp_path / "model")
    inputs: dict[str, Any] = {"history_items": np.zeros((2, 50), np.int32), "history_actions": np.zeros((2, 50), np.int32)}
    inputs |= {"history_ages": np.zeros((2, 50), np.float32), "query_words": np.zeros((2, 8), np.int32)}
    inputs["history_items"][1, -1] = 7
    scores = opened.catalogue(inputs)
    assert np.array_equal(scores[:, 1:], table[[0, 7], 1:])
    assert np.isfinite(scores[:, 0]).all()
    table[7, 300] = np.nan
    own_rankers.write(tmp_path / "model" / "ranker.onnx", table)
    with pytest.raises(RankerRefused, match="no numbers"):
        exported.OwnRanked(tmp_path / "model").catalogue(inputs)


@pytest.fixture
def refused(base: Path, ring: own_rankers.Table, tmp_path: Path) -> Refused:
    """Bring what must be refused; return why. Nothing may be left of it."""

    def refused(file: Path | None = None, golden: dict[str, Any] | None = None, settings: Settings | None = None) -> str:
        table = 2 * ring  # what was not brought before
        (tmp_path / "golden.json").write_text(json.dumps(golden or own_rankers.answered(own_ranker.questions(base), table)))
        before = finished_models()
        with pytest.raises(RankerRefused, match="Nothing was brought") as error:
            own_ranker.bring(settings or load_settings(), file or own_rankers.write(tmp_path / "good.onnx", table), tmp_path / "golden.json", base, print)
        assert finished_models() == before
        return str(error.value)

    return refused


def test_what_is_called_otherwise_or_is_no_model_is_refused(refused: Refused, ring: own_rankers.Table, tmp_path: Path) -> None:
    assert "a ranker takes" in refused(own_rankers.write(tmp_path / "other.onnx", ring, left_out="query_words"))
    (tmp_path / "garbage.onnx").write_bytes(b"not a model")
    assert "ONNX Runtime refuses it" in refused(tmp_path / "garbage.onnx")
    assert "cannot be read" in refused(tmp_path / "absent.onnx")


def test_what_scores_otherwise_than_the_shop_says_is_refused(refused: Refused, ring: own_rankers.Table, tmp_path: Path) -> None:
    assert "on golden request 1, it gives other scores than the golden ones" in refused(own_rankers.write(tmp_path / "other.onnx", ring + np.float32(0.01)))
    assert "scores that are no numbers" in refused(own_rankers.write(tmp_path / "nan.onnx", ring * np.float32(np.nan)))
    assert "padding (candidate 0)" in refused(own_rankers.write(tmp_path / "padding.onnx", ring, padding=0.0))
    assert "asked twice" in refused(own_rankers.write(tmp_path / "noise.onnx", ring, noise=1e-5))
    assert "golden request 2, it fails" in refused(own_rankers.write(tmp_path / "small.onnx", 2 * ring[:1]))


def test_golden_requests_of_somebody_or_something_else_are_refused(refused: Refused, base: Path, ring: own_rankers.Table) -> None:
    golden = own_rankers.answered(own_ranker.questions(base), ring)
    assert f"they are not those of {base.name}" in refused(golden={"requests": golden["requests"][1:]})
    golden["requests"][3]["inputs"]["history_items"][-1] += 1
    assert f"they are not those of {base.name}" in refused(golden=golden)
    del golden["requests"][3]["inputs"]["history_items"]
    assert "lacks history_items" in refused(golden=golden)
    assert "`scores`" in refused(golden=own_ranker.questions(base))
    short = own_rankers.answered(own_ranker.questions(base), ring)
    short["requests"][0]["scores"].pop()
    assert "request 1 has 199 scores, not 200" in refused(golden=short)


def test_one_that_is_too_slow_for_gateways_is_refused(refused: Refused) -> None:
    settings = load_settings()
    hasty = settings.gateway.model_copy(update={"deadline": timedelta(microseconds=10)})
    assert "more than 10% of gateway.deadline" in refused(settings=settings.model_copy(update={"gateway": hasty}))


def test_a_command_that_says_half_of_it_is_refused(shop: Installation) -> None:
    assert shop.run("bring-ranker", "ours.onnx").code == 2
