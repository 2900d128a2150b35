"""A model folder, called through its SavedModel, and where a shop brought its own ranker, through that."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import RANKED_CANDIDATES
from evershelf.models import own_ranker, torn
from evershelf.progress import step
from evershelf.ranker import ON_CPU, ranker_in
from training.baselines import Vectors
from training.errors import RankerRefused, UnusableData
from training.vocabulary import Vocabulary

BATCH = 256
SAY_EVERY = 30  # seconds


class Exported:
    """What a model says, in batches."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf  # slow: only when a model is called

        self.vocabulary = Vocabulary.load(folder / "vocabulary.json")
        self.item_vectors: Vectors = np.load(folder / "item_vectors.npy")
        if problem := torn(folder, len(self.vocabulary.items), len(self.item_vectors)):
            raise UnusableData(f"{problem} Nothing was measured or exported and what is live stays live; train again.")
        self._signatures = tf.saved_model.load(str(folder / "saved_model")).signatures
        self._tensor = tf.constant

    def user_vectors(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        """Return [requests, width] from request inputs without candidates."""
        return self._call("user_vector", inputs)

    def catalogue(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        """Return [requests, items] how the ranker scores all items, from request inputs without candidates; item 0, which is none, has any number."""
        return self.user_vectors(inputs) @ self.item_vectors.T

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


class OwnRanked(Exported):
    """A model whose ranker a shop brought: that one scores the catalogue, `RANKED_CANDIDATES` at a time; everything else is the base's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ranker = ranker_in(folder, ON_CPU)

    def catalogue(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Vectors:
        """As above.

        Raises:
            RankerRefused: a score is no number.
        """
        requests, items = len(inputs["history_items"]), len(self.vocabulary.items)
        candidates = np.zeros((-(-(items - 1) // RANKED_CANDIDATES), 1, RANKED_CANDIDATES), np.int32)
        candidates.flat[: items - 1] = np.arange(1, items)
        scores, said = np.empty((requests, items), np.float32), time.monotonic()
        for row in range(requests):
            single = {name: array[row : row + 1] for name, array in inputs.items()}
            scores[row, 1:] = np.concatenate([self._ranker.scores(single | {"candidates": some}) for some in candidates])[: items - 1]
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                step(f"the shop's own ranker has ranked all {items - 1} items for {row + 1} of {requests} requests")
        if not np.isfinite(scores[:, 1:]).all():
            raise RankerRefused("The shop's own ranker gives items scores that are no numbers. Nothing was brought or changed, and what is live stays live.")
        scores[:, 0] = scores[:, 1:].min(axis=1)
        return scores


def opened(folder: Path) -> Exported:
    """Open a model by what ranks in it."""
    return OwnRanked(folder) if own_ranker(folder) else Exported(folder)
