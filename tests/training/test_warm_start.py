"""A training that goes on from yesterday's model, and one that starts from another shop's."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.settings import TrainingSettings
from tests.training.conftest import Installation, make_lake
from training import data, warm_start
from training.data import Windows
from training.errors import UnusableData
from training.model import Ranker, Shape
from training.vocabulary import ItemFeatures, Vocabulary

SMALL = TrainingSettings(width=8, heads=1, warm_start=True, validation_days=1, full_every=3)


def ranker(words: Vocabulary, **shape: Any) -> tuple[Ranker, ItemFeatures]:
    count, nothing = len(words.items), np.zeros(len(words.items), np.int32)
    features = ItemFeatures(
        categories=nothing[:, None],
        brand=nothing,
        price=nothing,
        words=nothing[:, None],
        category=nothing,
        seen=np.ones(count, np.float32),
        log_popularity=np.zeros(count, np.float32),
        brands=len(words.brands),
    )
    sizes = {"width": 8, "blocks": 1, "heads": 1, "dropout": 0.0, "words": len(words.words), "categories": len(words.categories)}
    return Ranker(Shape(**sizes | shape), features), features


def vocabulary(items: str, words: str, categories: str, brands: str) -> Vocabulary:
    split = {"items": items, "words": words, "categories": categories, "brands": brands}
    return Vocabulary(actions=[], **{name: ["", *text.split()] for name, text in split.items()})


OLD, NEW = vocabulary("a b c", "red blue", "x y", "acme"), vocabulary("b c d", "green blue", "w y", "zeta acme")


def keep(folder: Path, **lineage: Any) -> tuple[Ranker, ItemFeatures]:
    """Write a model folder, as far as a later training reads it: item c had no history."""
    model, features = ranker(OLD)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(len(variable.shape)).normal(size=variable.shape))
    folder.mkdir(parents=True)
    OLD.save(folder / "vocabulary.json")
    warm_start.keep(model, replace(features, seen=np.array([0, 1, 1, 0], np.float32)), folder)
    about = {"shop": "simulator", "trained_before": 1.0, "start": None} | lineage
    (folder / "lineage.json").write_text(json.dumps(about))
    (folder / "evaluation.json").write_text('{"blessed": true}')
    return model, features


@pytest.mark.parametrize("same_shop", [True, False])
def test_what_is_known_by_name_is_carried_over_and_the_rest_is_new(tmp_path: Path, same_shop: bool) -> None:
    before, _ = keep(tmp_path / "model")
    start = warm_start.Start(model_id="model", weights="", same_shop=same_shop, since=None, generation=0)
    warm_start.prepare((start, tmp_path / "model"), NEW, tmp_path / "start.npz")
    model, _ = ranker(NEW)
    fresh, old = tables(model), tables(before)
    warm_start.begin(model, tmp_path / "start.npz")
    new = tables(model)
    assert np.array_equal(new["words"][2], old["words"][2])  # blue
    assert np.array_equal(new["words"][1], fresh["words"][1])  # green
    assert np.array_equal(new["brands"][2], old["brands"][1])  # acme
    assert np.array_equal(new["head"][:, 2], old["head"][:, 2])  # y
    assert np.array_equal(new["head"][:, 1], fresh["head"][:, 1])  # w
    for name in ("ids", "bias"):
        assert np.array_equal(new[name][1], old[name][2] if same_shop else fresh[name][1])  # b
        assert np.array_equal(new[name][2:], fresh[name][2:])  # c, whom nobody had met, and d
    assert np.array_equal(new["attention"], old["attention"])


def tables(model: Ranker) -> dict[str, Any]:
    named = {"ids": model.id_table, "bias": model.bias, "words": model.word_table, "brands": model.brand_table}
    named |= {"head": model.category_head.kernel, "attention": model.blocks[0].projections.kernel}
    return {name: variable.numpy().copy() for name, variable in named.items()}


def test_only_the_new_days_are_learned_and_a_share_of_the_old_ones(shop_lake: Path) -> None:
    shop = data.read_shop(SMALL)
    windows = data.training_windows(shop, 8)
    since = shop.split - 1

    def foretold(some: Windows) -> list[int]:
        assert (some.begin <= some.target).all()
        return sorted(row for target, end in zip(some.target, some.end, strict=True) for row in range(target, end))

    before = [row for row in foretold(windows) if shop.time[row] < since]
    after = [row for row in foretold(windows) if shop.time[row] >= since]
    assert before and after
    none, some, every = (warm_start._since(windows, shop.time, since, share, np.random.default_rng(1)) for share in (0.0, 0.3, 1.0))
    assert foretold(none) == after
    assert foretold(every) == sorted(before + after)
    assert len(after) < len(foretold(some)) < len(before + after)


def test_a_training_goes_on_from_the_newest_model_unless_a_full_one_is_due(shop_lake: Path) -> None:
    shop, models = data.read_shop(SMALL), shop_lake.parent / "models"

    def why(parameters: TrainingSettings = SMALL, adapter: str = "simulator") -> str:
        chosen, why = warm_start.choose(parameters, shop, adapter)
        assert chosen is None
        return why

    assert why(TrainingSettings()) == "training.warm_start is off"
    keep(models / "2026-01-08-00000001")  # of the same day: a training that is repeated must not go on from itself
    assert why() == "there is no model of an earlier day"
    keep(models / "2026-01-06-00000001")
    keep(models / "2026-01-07-00000001", start={"generation": 1}, trained_before=shop.split - 1)
    keep(models / "2026-01-07-00000002", own_ranker={"base": "2026-01-07-00000001", "sha256": ""})  # says nothing of the base's training
    chosen, _ = warm_start.choose(SMALL, shop, "simulator")
    assert chosen
    start, folder = chosen[0], models / "2026-01-07-00000001"
    assert (start.model_id, start.since, start.generation, start.same_shop) == (folder.name, shop.split - 1, 2, True)
    assert warm_start.again({"start": start.lineage()}) == chosen
    assert why(SMALL.model_copy(update={"full_every": 2})) == "one training in 2 is a full one, and 2026-01-07-00000001 ends 1 in a row that were not"
    assert why(adapter="elsewhere") == "2026-01-07-00000001 was trained on the shop simulator"
    assert "is built otherwise" in why(SMALL.model_copy(update={"width": 16}))
    assert "is built otherwise" in why(SMALL.model_copy(update={"blocks": 2}))
    (folder / "evaluation.json").write_text('{"blessed": false}')
    assert why() == "2026-01-07-00000001, the newest one before it, was refused"
    (folder / "weights.npz").write_bytes(b"other")
    with pytest.raises(UnusableData, match="began with the weights of 2026-01-07-00000001"):
        warm_start.again({"start": start.lineage()})
    with pytest.raises(UnusableData, match="is no model that a training can start from"):
        warm_start.named("elsewhere", SMALL, shop, "simulator")


def test_a_model_that_somebody_names_has_not_learned_the_days_that_measure(shop_lake: Path) -> None:
    shop, models = data.read_shop(SMALL), shop_lake.parent / "models"
    keep(models / "2026-01-07-00000001", trained_before=shop.split)
    keep(models / "2026-01-08-00000001", trained_before=shop.split + 1)
    start, folder = warm_start.named("2026-01-07-00000001", SMALL, shop, "simulator")
    assert (start.same_shop, start.since, folder.name) == (True, None, "2026-01-07-00000001")
    with pytest.raises(UnusableData, match="2026-01-08-00000001 has learned from the days from 2026-01-08 on"):
        warm_start.named("2026-01-08-00000001", SMALL, shop, "simulator")
    start, _ = chosen = warm_start.named("2026-01-08-00000001", SMALL, shop, "elsewhere")  # a model of the shop that this installation had before
    assert not start.same_shop
    assert warm_start.again({"start": start.lineage()}) == chosen
    start, _ = warm_start.named(str(models / "2026-01-08-00000001"), SMALL, shop, "simulator")  # a folder is another shop's
    assert not start.same_shop


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_damaged_weights_are_no_start_and_end_no_training(shop_lake: Path, where: float) -> None:
    shop, folder = data.read_shop(SMALL), shop_lake.parent / "models" / "2026-01-07-00000001"
    keep(folder, trained_before=shop.split - 1)
    content = (folder / "weights.npz").read_bytes()
    place = int(where * len(content))
    damaged = content[:place] + bytes(200) + content[place + 200 :] if where < 1 else content[:-200]
    (folder / "weights.npz").write_bytes(damaged)
    chosen, why = warm_start.choose(SMALL, shop, "simulator")
    assert chosen is None and "2026-01-07-00000001 keeps a weights.npz that cannot be read" in why
    with pytest.raises(UnusableData, match="cannot be read"):
        warm_start.named(folder.name, SMALL, shop, "simulator")


def test_a_model_of_before_brands_and_starts_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text('{"items": ["", "a"], "actions": [""], "categories": [""], "words": [""]}')
    assert Vocabulary.load(tmp_path / "vocabulary.json").brands == []
    assert warm_start.again({"tables": {}}) is None


@pytest.mark.slow
def test_tomorrow_s_model_goes_on_from_today_s_and_is_the_same_when_it_is_asked_for_again(trained: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained[0].home, home)
    installation = Installation(home, {"EVERSHELF_TRAINING__WARM_START": "1", "EVERSHELF_TRAINING__WARM_EPOCHS": "2"})
    (today,) = installation.models
    make_lake(home / "lake", days=5)
    outcome = installation.run("train", "--json")
    tomorrow = home / "models" / outcome.answer["model_id"]
    start = json.loads((tomorrow / "lineage.json").read_bytes())["start"]
    split = (date(2026, 1, 8) - date(1970, 1, 1)).days
    assert start == {"model_id": today.name, "weights": start["weights"], "same_shop": True, "since": split, "generation": 1}
    assert f"goes on from {today.name}, with what happened since 2026-01-08" in outcome.err
    assert "epoch 2/2" in outcome.err
    assert any(f"of {today.name} on the same events" in reason for reason in outcome.answer["why"])
    assert outcome.answer["metrics"]["NDCG@10"] > 1.5 * json.loads((tomorrow / "evaluation.json").read_bytes())["baselines"]["popular"]["NDCG@10"]
    assert installation.run("train", "--json").answer["model_id"] == tomorrow.name
    assert len(installation.models) == 2
    assert installation.run("train", "--reproduce", tomorrow.name, "--json").answer["same"]
