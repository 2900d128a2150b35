"""The choice of the ranker for one request."""

import numpy as np
import pytest

from training.errors import ExportFailed
from training.rankers import Measured, choose, ndcg


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
