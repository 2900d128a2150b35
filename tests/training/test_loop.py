"""The parts of a step that are not TensorFlow's or Keras's own give what theirs give."""

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
random = np.random.default_rng(1)


def numbers(*shape: int) -> Any:
    return random.normal(size=shape).astype(np.float32)


def test_the_cross_entropy_and_its_gradient_are_tensorflows() -> None:
    import tensorflow as tf

    from training.loop import _cross_entropy

    logits, wanted, weight = tf.Variable(5 * numbers(7, 11)), tf.constant(random.integers(11, size=7), tf.int32), tf.constant(numbers(7))
    with tf.GradientTape(persistent=True) as tape:
        ours = tf.reduce_sum(weight * _cross_entropy(tf, wanted, logits))
        theirs = tf.reduce_sum(weight * tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(ours, logits), tape.gradient(theirs, logits), atol=1e-6)


def test_an_item_that_followed_and_was_drawn_too_counts_once() -> None:
    import tensorflow as tf

    from training.loop import _sampled_losses

    users, vectors, drawn, following = tf.Variable(numbers(7, 5)), tf.Variable(numbers(20, 5)), np.array([3, 9, 4, 12, 19], np.int32), [3, 1, 2, 19, 7, 5, 9]
    column = np.zeros(20, np.int32)
    column[drawn] = 1 + np.arange(5)
    with tf.GradientTape(persistent=True) as tape:
        ours = _sampled_losses(tf, users, vectors, tf.constant(following), tf.constant(np.append(np.int32(0), drawn)), tf.constant(column), 4.0)
        scores = tf.matmul(users, vectors, transpose_b=True)
        theirs = []
        for row, wanted in enumerate(following):
            others = [tf.exp(scores[row, item]) * 4.0 for item in drawn if item != wanted]
            theirs.append(tf.math.log(tf.exp(scores[row, wanted]) + tf.add_n(others)) - scores[row, wanted])
    np.testing.assert_allclose(ours, tf.stack(theirs), rtol=1e-4)
    for variable in (users, vectors):
        mine, other = (tf.convert_to_tensor(tape.gradient(losses, variable)) for losses in (ours, theirs))
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_adam_is_keras_adam_and_touches_only_the_rows_that_it_is_given() -> None:
    import keras
    import tensorflow as tf

    from training.adam import Adam

    begin = numbers(6, 3)
    whole, part, wanted = (keras.Variable(begin) for _ in range(3))
    ours, theirs = Adam([whole, part]), keras.optimizers.Adam(0.01)
    rows = [1, 4, 5]
    for _ in range(5):
        gradient = numbers(6, 3)
        ours.apply(tf.constant(0.01), [tf.constant(gradient), tf.constant(gradient[rows])], [None, tf.constant(rows)])
        theirs.apply([tf.constant(gradient)], [wanted])
    np.testing.assert_allclose(whole.numpy(), wanted.numpy(), atol=1e-6)
    np.testing.assert_allclose(part.numpy()[rows], wanted.numpy()[rows], atol=1e-6)
    np.testing.assert_array_equal(part.numpy()[[0, 2, 3]], begin[[0, 2, 3]])
