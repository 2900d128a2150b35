"""The choice of the ranker for one request."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from evershelf.ranker import ranker_in
from evershelf.settings import RankerForm, TrainingSettings, load_settings
from training import examples, export, vocabulary
from training.errors import ExportFailed
from training.rankers import Measured, choose, ndcg, ship
from training.sequence_file import read_sequences

Ship = Callable[..., list[dict[str, Any]]]


def measured(form: str, precision: str, milliseconds: float, *, difference: float = 1e-6, lost: float | None = 0.0) -> Measured:
    return Measured(form=form, precision=precision, milliseconds=milliseconds, megabytes=1.0, largest_difference=difference, ndcg_lost=lost)


LITERT, ONNX = measured("LiteRT", "float32", 0.1), measured("ONNX", "float32", 0.3)


def test_the_fastest_float32_ranker_with_the_golden_scores_ships() -> None:
    assert choose([ONNX, LITERT]) is LITERT
    assert choose([ONNX, measured("LiteRT", "float32", 0.1, difference=0.002)]) is ONNX


@pytest.mark.parametrize(
    ("milliseconds", "lost", "ships"),
    [(0.07, 0.01, True), (0.08, 0.0, False), (0.07, 0.011, False), (0.07, None, False)],
    ids=["fast enough", "not 1.3 times as fast", "gives up too much", "not measured"],
)
def test_int8_ships_only_where_it_is_worth_it_and_shown_to_agree(milliseconds: float, lost: float | None, ships: bool) -> None:
    small = measured("LiteRT", "int8", milliseconds, difference=0.1, lost=lost)
    assert (choose([LITERT, ONNX, small]) is small) == ships


def test_nothing_ships_when_no_float32_ranker_gives_the_golden_scores() -> None:
    wrong = [measured("LiteRT", "float32", 0.1, difference=0.5), measured("ONNX", "float32", 0.1, difference=float("nan"))]
    with pytest.raises(ExportFailed, match=r"LiteRT 0\.5, ONNX nan"):
        choose([*wrong, measured("LiteRT", "int8", 0.01)])


def test_the_target_is_the_first_candidate_and_padding_is_behind_it() -> None:
    padding = np.finfo(np.float32).min
    scores = np.array([[3, 2, 1, padding], [1, 2, 3, padding]], np.float32)
    assert ndcg(scores) == pytest.approx((1 + 1 / np.log2(4)) / 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Callable[[int], examples.Examples]]:
    """A model that has learned nothing, its folder, and examples with so many events that choose."""
    from training.model import Ranker, Shape

    place = tmp_path_factory.mktemp("exported")
    (place / "walks.txt").write_text("\n".join(f"u{number} a b c d e f" for number in range(120)))
    shop = read_sequences(place / "walks.txt")
    words, features = vocabulary.build(shop)
    model = Ranker(Shape(width=8, blocks=1, heads=2, dropout=0.0, words=len(words.words), categories=len(words.categories)), features)
    (place / "model").mkdir()
    export.export(model, words, shop, place / "model", seed=1)
    return model, place / "model", lambda events: examples.prepare(shop, words, features, shop.first[1:][:events] - 1)


@pytest.fixture
def ship_it(exported: tuple[Any, Path, Callable[[int], examples.Examples]], tmp_path: Path) -> Ship:
    """Ship some forms of a copy of it into `tmp_path / "model"`."""
    model, folder, prepared = exported
    shutil.copytree(folder, tmp_path / "model")
    return lambda forms, said, events=120: ship(model, tmp_path / "model", prepared(events), forms, said.append)


@pytest.mark.slow
def test_every_form_is_tried_on_the_cpu_and_one_of_them_ships(ship_it: Ship, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_GATEWAY__ONNX_PROVIDERS", '["TensorrtExecutionProvider"]')  # of the gateways' hosts; not here
    load_settings.cache_clear()
    forms, said = TrainingSettings().rankers, list[str]()
    found = ship_it(forms, said)
    assert forms == get_args(RankerForm)
    assert {f"{row['form']} {row['precision']}" for row in found} == set(forms)
    assert [row["agrees"] for row in found if row["precision"] == "float32"] == [True, True]
    assert all(row["ndcg_lost"] is not None for row in found)
    (shipped,) = (row["form"] for row in found if row["ships"])
    assert shipped == "LiteRT"  # three times as fast as the other one, so chance does not decide
    assert len(said) == 4 and "ships" in " ".join(said)
    ranker_in(tmp_path / "model")


@pytest.mark.slow
def test_a_form_that_cannot_be_made_is_left_out_and_named(ship_it: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # as where it is not installed
    said = list[str]()
    (row,) = ship_it(["ONNX float32", "LiteRT float32"], said, 3)
    assert row["ships"] and row["form"] == "LiteRT"
    assert said[0].startswith("ranker ONNX float32 is left out, it cannot be made or run here: ModuleNotFoundError")
    assert "NDCG@10 not measured (3 events, 100 are needed)" in said[1]
    with pytest.raises(ExportFailed, match="none was made"):
        ship_it(["ONNX float32"], said)
