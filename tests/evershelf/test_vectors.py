"""Vectors of texts: written once, found again, nearest first."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evershelf.text_encoder import TextEncoder
from evershelf.vectors import Vectors, embed, write_vectors
from training.text_encoder import converted

TEXTS = ["a red candle", "a mug for coffee", "garden lantern", "wireless headphones"]


def _random(count: int, width: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(3).normal(size=(count, width))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_the_nearest_are_found_and_each_has_the_vector_that_was_written(tmp_path: Path) -> None:
    vectors = _random(3000, 32)
    write_vectors(tmp_path, [str(number) for number in range(3000)], vectors)
    opened = Vectors(tmp_path)
    assert len(opened) == 3000
    np.testing.assert_allclose(opened.of(np.array([7, 2999, 0])), vectors[[7, 2999, 0]], atol=1e-3)
    found = [len(np.intersect1d(opened.nearest(query, 50)[0], np.argsort(-vectors @ query)[:50])) / 50 for query in _random(40, 32) + 0.01]
    assert np.mean(found) > 0.95
    numbers, cosine = opened.nearest(vectors[12], 5)
    assert numbers[0] == 12 and abs(cosine[0] - 1) < 1e-2


def test_known_texts_are_not_embedded_again(tmp_path: Path) -> None:
    encoder = TextEncoder(converted())
    known = _random(2, encoder.width)  # such as no encoder gives
    write_vectors(tmp_path, [TEXTS[2], TEXTS[0]], known)
    found = embed(TEXTS, encoder, [tmp_path], lambda line: None)
    np.testing.assert_allclose(found[[2, 0]], known, atol=1e-3)
    np.testing.assert_allclose(found[[1, 3]], encoder.vectors([TEXTS[1], TEXTS[3]]))


def test_a_process_that_searches_by_meaning_can_open_a_ranker_in_onnx_later() -> None:
    """Gateways did not survive it: what usearch brings along and ONNX Runtime get on in one order only."""
    subprocess.run([sys.executable, "-c", "import evershelf.vectors, onnxruntime; onnxruntime.get_available_providers()"], check=True)
