"""The second source: how much each item of a history speaks for each item that may be chosen, by ridge regression.

Every choice is an example: its inputs are the items chosen before it (or around it), each `DECAY` times as heavy as the one nearer to it; its output is the
item chosen. For each output the regression is solved on the inputs that come with it most, so the work grows with the number of items and not with its cube.

Sources: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019; Choi et al., "Session-aware linear item-item models for session-based
recommendation", WWW 2021 (the regression from what came before to what comes next); Steck, "Markov random fields for collaborative filtering", NeurIPS 2019
(one small regression per item).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp

from training.data import Ints

DECAY = 0.8
REACH = 20  # events back: what is farther weighs less than DECAY ** 20, about .01
NEIGHBORHOOD = 100  # inputs of each regression
RIDGE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Weights [items, items] from a chosen item to another one."""

    weights: Any  # scipy.sparse.csr_matrix, float32

    def scores(self, histories: Ints, decay: float = DECAY) -> npt.NDArray[np.float32]:
        """Return [histories, items] from [histories, length] item numbers, newest last, 0 is padding; each item back counts `decay` times as much."""
        count, length = self.weights.shape[0], histories.shape[1]
        row, place = np.nonzero(histories)
        heavy = (decay ** (length - 1 - place)).astype(np.float32)
        return np.asarray((sp.csr_matrix((heavy, (row, histories[row, place])), (len(histories), count)) @ self.weights).toarray())


def fit(shopper: Ints, item: Ints, count: int, *, ridge: float = RIDGE, both_ways: bool = False, report: Callable[[int], None] = lambda done: None) -> Linear:
    """Learn from every choice.

    Args:
        shopper, item: [choices], each shopper's together and in order; item numbers below `count`.
        both_ways: the inputs are the choices around each one, not only those before it.
        report: is called now and then with how many items are done.
    """
    weights, rows, columns = [], [], []
    for back in range(1, REACH + 1):
        later = np.flatnonzero(shopper[back:] == shopper[:-back]) + back
        for output, source in ((later, later - back), (later - back, later))[: 1 + both_ways]:
            weights.append(np.full(len(output), DECAY ** (back - 1), np.float32))
            rows.append(output)
            columns.append(item[source])
    inputs = sp.csr_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), (len(item), count))
    outputs = sp.csr_matrix((np.ones(len(item), np.float32), (np.arange(len(item)), item)), (len(item), count))
    return Linear(weights=_solve((inputs.T @ inputs).tocsr(), (inputs.T @ outputs).tocsc(), ridge, report))


def _solve(gram: Any, moments: Any, ridge: float, report: Callable[[int], None]) -> Any:
    """Return the sparse weights [inputs, outputs] of one regression per output.

    Args:
        gram: [inputs, inputs] sparse rows; how much two inputs come together.
        moments: [inputs, outputs] sparse columns; how much an input comes with an output.
    """
    usual = np.sqrt(gram.diagonal() + ridge)
    inputs, outputs, values = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for output in range(moments.shape[1]):
        part = slice(moments.indptr[output], moments.indptr[output + 1])
        near, moment = moments.indices[part], moments.data[part]
        if len(near) > NEIGHBORHOOD:
            kept = np.argpartition(-moment / usual[near], NEIGHBORHOOD)[:NEIGHBORHOOD]
            near, moment = near[kept], moment[kept]
        if len(near):
            system = gram[near][:, near].toarray()
            system[np.diag_indices(len(near))] += ridge
            inputs.append(near)
            outputs.append(np.full(len(near), output))
            values.append(scipy.linalg.solve(system, moment, assume_a="pos", check_finite=False).astype(np.float32))
        if output % 1000 == 0:
            report(output)
    return sp.csr_matrix((np.concatenate(values), (np.concatenate(inputs), np.concatenate(outputs))), gram.shape)
