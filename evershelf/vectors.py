"""The vectors of a catalogue's texts in a file that is memory-mapped: the nearest to a vector, and the vector of each item.

Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs", TPAMI 2020.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime  # noqa: F401  # before usearch, which has a C++ library of its own inside: loaded after it, ONNX Runtime ends the process
from usearch.index import Index

from evershelf.progress import Say
from evershelf.text import words
from evershelf.text_encoder import TextEncoder

_INDEX, _TEXTS = "items.usearch", "texts.npy"
_LOOKED_AT = 512  # candidates kept while the graph is walked; of 20,000 clustered vectors 99 % of the true nearest hundred are found

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint32]


def write_vectors(folder: Path, texts: Sequence[str], vectors: Floats) -> None:
    """Write [texts, width] vectors of length 1, as float16, into a folder, and which texts they are of; an item's number is its row."""
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)  # with several, the file would be another each time
    index.save(str(folder / _INDEX))
    np.save(folder / _TEXTS, _keys(texts))


class Vectors:
    """Open vectors."""

    def __init__(self, folder: Path) -> None:
        """Open what `write_vectors` wrote.

        Raises:
            OSError, ValueError, RuntimeError: it cannot be opened.
        """
        found = Index.restore(str(folder / _INDEX), view=True)
        if found is None:
            raise ValueError(f"{folder / _INDEX} holds no vectors")
        self._index = found
        self._index.expansion_search = _LOOKED_AT  # type: ignore[misc]  # it has a setter that its types do not know

    def __len__(self) -> int:
        return len(self._index)

    def nearest(self, vector: Floats, limit: int) -> tuple[Numbers, Floats]:
        """Return the numbers of about the nearest items and their cosines, nearest first."""
        found = self._index.search(vector, limit, threads=1)
        return found.keys.astype(np.uint32), 1 - np.asarray(found.distances, np.float32)

    def of(self, numbers: npt.NDArray[np.integer]) -> Floats:
        """Return [numbers, width]."""
        return np.asarray(self._index.get(numbers.astype(np.uint64)), np.float32)


def embed(texts: Sequence[str], encoder: TextEncoder, known: Iterable[Path], say: Say) -> Floats:
    """Return [texts, width]; those that lie in one of the folders `known`, of `write_vectors`, are not worked out again. A text without a word is near nothing:
    its vector is 0.
    """
    keys = _keys(texts)
    found = np.zeros((len(texts), encoder.width), np.float32)
    missing = np.array([bool(words(text)) for text in texts], np.bool_)
    for folder in known:
        stored, vectors = np.load(folder / _TEXTS), Vectors(folder)
        order = np.argsort(stored)
        place = order[np.minimum(np.searchsorted(stored, keys, sorter=order), len(stored) - 1)]
        hit = missing & (stored[place] == keys)
        if hit.any():
            found[hit] = vectors.of(place[hit])
            missing &= ~hit
    rows = np.flatnonzero(missing).tolist()
    found[rows] = encoder.vectors([texts[row] for row in rows], lambda done: say(f"embedded {done} of {len(rows)} new texts"))
    return found


def _keys(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts], np.uint64)
