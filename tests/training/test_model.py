"""The Transformer itself."""

from pathlib import Path

import numpy as np
import pytest

from training import vocabulary
from training.sequence_file import read_sequences


@pytest.mark.slow
def test_the_newest_state_computed_alone_is_the_last_of_all_states(tmp_path: Path) -> None:
    import tensorflow as tf

    from training.model import Ranker, Shape

    (tmp_path / "file.txt").write_text("\n".join(f"u{number} a b c d e" for number in range(3)))
    words, features = vocabulary.build(read_sequences(tmp_path / "file.txt"))
    model = Ranker(Shape(width=8, blocks=2, heads=2, dropout=0.5, words=len(words.words), categories=len(words.categories)), features)
    items = tf.constant([[0, 0, 1, 2, 3], [4, 5, 1, 2, 2], [0, 0, 0, 0, 0]])
    ages = tf.constant(np.random.default_rng(1).random((3, 5)), tf.float32)
    inputs = (model.item_vectors(model.content(), training=False), items, tf.minimum(items, 1), ages, ages)
    whole, newest = (model.encode(*inputs, training=False, newest=alone).numpy() for alone in (False, True))
    assert newest.shape == (3, 1, 8)
    np.testing.assert_allclose(newest[:, 0], whole[:, -1], atol=1e-6)
