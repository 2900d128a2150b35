"""What a model computes for a request, as functions that TensorFlow can trace: the SavedModel and the rankers for one request are made of them."""

from typing import Any

import tensorflow as tf

from evershelf.contracts.model import RANK_INPUTS, RANK_OUTPUT
from training.model import gaps


class Served:
    """A model and its item vectors, [items, width + 1], which are fixed: no request pays for them."""

    def __init__(self, model: Any, vectors: Any) -> None:
        self.model, self.vectors = model, vectors

    def state(self, history_items: Any, history_actions: Any, history_ages: Any) -> Any:
        since, until = gaps(history_items, history_ages)
        return self.model.encode(self.vectors, history_items, history_actions, since, until, training=False, newest=True)[:, -1]

    def user(self, history_items: Any, history_actions: Any, history_ages: Any, query_words: Any) -> Any:
        return self.model.user_vectors(self.state(history_items, history_actions, history_ages), query_words)

    def rank(self, history_items: Any, history_actions: Any, history_ages: Any, query_words: Any, candidates: Any) -> dict[str, Any]:
        users = self.user(history_items, history_actions, history_ages, query_words)
        scores = tf.reduce_sum(tf.gather(self.vectors, candidates) * users[:, None, :], axis=-1)
        return {RANK_OUTPUT: tf.where(candidates > 0, scores, tf.float32.min)}


def rank_inputs(batch: int | None) -> dict[str, Any]:
    """Return the contract's inputs as TensorFlow names them; None: of any batch."""
    return {name: tf.TensorSpec([batch, length], dtype, name) for name, (dtype, length) in RANK_INPUTS.items()}
