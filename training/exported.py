"""A model folder, called through its SavedModel."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.baselines import Vectors
from training.vocabulary import Vocabulary

BATCH = 256


class Exported:
    """What a model says, in batches."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf  # slow: only when a model is called

        self.vocabulary = Vocabulary.load(folder / "vocabulary.json")
        self.item_vectors: Vectors = np.load(folder / "item_vectors.npy")
        self._signatures = tf.saved_model.load(str(folder / "saved_model")).signatures
        self._tensor = tf.constant

    def user_vectors(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        """Return [requests, width] from request inputs without candidates."""
        return self._call("user_vector", inputs)

    def next_actions(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        return self._call("next_action", inputs)

    def item_categories(self) -> Vectors:
        return self._call("item_category", {"items": np.arange(len(self.vocabulary.items), dtype=np.int32)})

    def transaction_classes(self, item: npt.NDArray[np.int32], quantity: npt.NDArray[np.float64], price: npt.NDArray[np.float64]) -> Vectors:
        return self._call("transaction_class", {"items": item, "quantity": quantity.astype(np.float32), "price": price.astype(np.float32)})

    def scores(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        """Return the scores of the contract's signature."""
        return self._call("serving_default", inputs)

    def _call(self, signature: str, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        parts = []
        for start in range(0, len(next(iter(inputs.values()))), BATCH):
            (result,) = self._signatures[signature](**{name: self._tensor(array[start : start + BATCH]) for name, array in inputs.items()}).values()
            parts.append(result.numpy())
        return np.concatenate(parts)
