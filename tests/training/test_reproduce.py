"""A model made again from its lineage, after the lake has moved on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from deltalake import DeltaTable

from evershelf.contracts import EVENTS, PRODUCTS
from evershelf.errors import EvershelfError
from evershelf.settings import TrainingSettings, load_settings
from training import commands, reproduce
from training.errors import CannotReproduce

Write = Callable[[Path, Any, list[dict[str, Any]]], None]
SMALL = TrainingSettings(validation_days=1)


def keep_model(home: Path, **changed: Any) -> str:
    """Write what a finished model says of itself, as far as a replay reads it."""
    folder = home / "models" / "2026-01-08-0123abcd"
    folder.mkdir(parents=True)
    tables = {name: DeltaTable(str(home / "lake" / name)).version() for name in ("events", "products", "orders")}
    lineage = {"tables": tables, "parameters": SMALL.model_dump(mode="json"), "code_version": "then", "shop": load_settings().shop.adapter} | changed
    (folder / "lineage.json").write_text(json.dumps(lineage))
    (folder / "evaluation.json").write_text("{}")
    return folder.name


def test_the_lake_is_read_as_it_was(shop_lake: Path, lake_writer: Write) -> None:
    original = reproduce.find(load_settings(), keep_model(shop_lake.parent))
    _, before = reproduce.replay(load_settings(), original)
    lake_writer(shop_lake, PRODUCTS, [])
    parameters, shop = reproduce.replay(load_settings(), original)
    assert parameters == SMALL
    assert shop.items == before.items
    assert shop.products.title == before.products.title
    assert any(shop.products.title)


def test_what_cannot_be_replayed_is_named(shop_lake: Path, lake_writer: Write) -> None:
    settings = load_settings()
    with pytest.raises(CannotReproduce, match=r"There is no model 2020-01-01-00000000 in .* and no snapshot of that name"):
        reproduce.find(settings, "2020-01-01-00000000")
    original = reproduce.find(settings, keep_model(shop_lake.parent))

    def replay(**changed: Any) -> None:
        reproduce.replay(settings, replace(original, lineage=original.lineage | changed))

    with pytest.raises(CannotReproduce, match="was trained on the shop elsewhere"):
        replay(shop="elsewhere")
    with pytest.raises(CannotReproduce, match=r"not trained here but brought.*that of 2026-01-08-00000001"):
        replay(own_ranker={"base": "2026-01-08-00000001", "sha256": ""})
    with pytest.raises(CannotReproduce, match="settings that this version does not have"):
        replay(parameters={"layers": 3})
    with pytest.raises(CannotReproduce, match=r"events 99.*a version was vacuumed"):
        replay(tables=original.lineage["tables"] | {"events": 99})
    lake_writer(shop_lake, EVENTS, [])
    DeltaTable(str(shop_lake / "events")).vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(CannotReproduce, match="a version was vacuumed"):
        replay()
    assert issubclass(CannotReproduce, EvershelfError)
    assert CannotReproduce.exit_code == 1


@pytest.mark.slow
def test_the_same_model_comes_out_after_the_lake_has_moved_on(trained: Any, tmp_path: Path, lake_writer: Write) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained[0].home, home)  # others use the lake as it is
    installation = replace(trained[0], home=home)
    lake_writer(home / "lake", EVENTS, [])
    answer = installation.run("train", "--reproduce", trained[1].answer["model_id"], "--json").answer
    assert answer["same"]
    assert answer["largest_score_difference"] <= 1e-3
    assert answer["largest_vector_difference"] <= 1e-3
    assert answer["metrics"]["now"] == pytest.approx(trained[1].answer["metrics"])
    assert [folder.name for folder in installation.models] == [trained[1].answer["model_id"]]
    assert not list((home / "training").glob("*/"))


@pytest.mark.slow
def test_a_score_that_is_not_the_original_one_is_told(trained: Any, tmp_path: Path) -> None:
    (made,) = trained[0].models
    evaluation = json.loads((made / "evaluation.json").read_bytes())
    for name in ("golden.json", "evaluation.json", "vocabulary.json"):
        shutil.copy(made / name, tmp_path)
    original = reproduce.Original(model_id="m", folder=tmp_path, lineage={"code_version": "then"})
    assert reproduce.compare(original, made, evaluation)["same"]
    vocabulary = json.loads((tmp_path / "vocabulary.json").read_bytes())
    del vocabulary["brands"]  # a list that models did not always have
    (tmp_path / "vocabulary.json").write_text(json.dumps(vocabulary))
    assert reproduce.compare(original, made, evaluation)["same"]
    golden = json.loads((tmp_path / "golden.json").read_bytes())
    golden["requests"][3]["scores"][0] += 0.5
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    found = reproduce.compare(original, made, evaluation)
    assert not found["same"]
    assert found["largest_score_difference"] == pytest.approx(0.5, abs=1e-3)
    with click.Context(commands.train), pytest.raises(click.exceptions.Exit) as ended:
        commands._report_reproduction(found, as_json=True)
    assert ended.value.exit_code == 1
