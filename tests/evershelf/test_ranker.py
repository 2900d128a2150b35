"""Rankers that are files: ONNX, as a shop may bring its own, and what is no ranker. LiteRT is tested wherever a snapshot is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from evershelf.contracts.model import RANK_INPUTS, RANK_OUTPUT, RANKED_CANDIDATES
from evershelf.ranker import open_ranker, ranker_in
from evershelf.settings import load_settings


@pytest.fixture
def write_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Write a ranker that likes the candidates with high numbers; `left_out` is an input that it does not take."""

    def write(left_out: str = "") -> Path:
        kinds = {"int32": onnx.TensorProto.INT32, "float32": onnx.TensorProto.FLOAT}
        inputs = [onnx.helper.make_tensor_value_info(name, kinds[kind], [1, length]) for name, (kind, length) in RANK_INPUTS.items() if name != left_out]
        output = onnx.helper.make_tensor_value_info(RANK_OUTPUT, onnx.TensorProto.FLOAT, [1, RANKED_CANDIDATES])
        node = onnx.helper.make_node("Cast", ["candidates"], [RANK_OUTPUT], to=onnx.TensorProto.FLOAT)
        graph = onnx.helper.make_graph([node], "by number", inputs, [output])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, tmp_path / "ranker.onnx")
        return tmp_path / "ranker.onnx"

    return write


def test_an_onnx_ranker_ranks(write_onnx: Callable[..., Path]) -> None:
    inputs = {name: np.zeros((1, length), kind) for name, (kind, length) in RANK_INPUTS.items()}
    inputs["candidates"][0, :3] = (5, 7, 6)
    scores = ranker_in(write_onnx().parent).scores(inputs)
    assert scores.shape == (RANKED_CANDIDATES,)
    assert scores[:4].tolist() == [5, 7, 6, 0]


def test_a_ranker_that_is_called_otherwise_is_refused_by_name(write_onnx: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"it takes .*'history_items'.* a ranker takes .*'query_words'"):
        open_ranker(write_onnx(left_out="query_words"))


def test_a_provider_that_is_not_installed_is_refused_by_name(write_onnx: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_GATEWAY__ONNX_PROVIDERS", '["TensorrtExecutionProvider", "CPUExecutionProvider"]')
    load_settings.cache_clear()
    with pytest.raises(ValueError, match="has no TensorrtExecutionProvider"):
        open_ranker(write_onnx())


@pytest.mark.parametrize(("name", "who"), [("ranker.onnx", "ONNX Runtime"), ("ranker.tflite", "LiteRT")])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, who: str) -> None:
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ValueError, match=who):
        ranker_in(tmp_path)


def test_a_folder_without_a_ranker_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"ranker\.tflite and no ranker\.onnx"):
        ranker_in(tmp_path)
