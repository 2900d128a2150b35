"""Golden requests: what whoever ranks is asked, and the scores that it must give. They are made of item numbers, no shopper's data."""

from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evershelf.contracts.model import GOLDEN_TOLERANCE, RANK_INPUTS


class GoldenRequest(msgspec.Struct, frozen=True):
    inputs: dict[str, list[float]]
    scores: list[float]

    def arrays(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Return the inputs as in RANK_INPUTS, with a batch of 1, and the scores, [RANKED_CANDIDATES].

        Raises:
            ValueError: an input is missing.
        """
        if missing := RANK_INPUTS.keys() - self.inputs.keys():
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        return {name: np.array([self.inputs[name]], kind) for name, (kind, _) in RANK_INPUTS.items()}, np.array(self.scores, np.float32)


class Golden(msgspec.Struct, frozen=True):
    requests: Annotated[list[GoldenRequest], msgspec.Meta(min_length=1)]
    ranker_tolerance: float = GOLDEN_TOLERANCE  # an int8 ranker rounds, and on each kind of processor otherwise

    def arrays(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Return the inputs as in RANK_INPUTS and the scores, [requests, RANKED_CANDIDATES], of all requests together."""
        requests = [request.arrays() for request in self.requests]
        return {name: np.concatenate([inputs[name] for inputs, _ in requests]) for name in RANK_INPUTS}, np.stack([scores for _, scores in requests])


def read_golden(content: bytes) -> Golden:
    """Read golden.json.

    Raises:
        ValueError: it holds none, or one lacks an input.
    """
    golden = msgspec.json.decode(content, type=Golden)  # what msgspec raises is a ValueError
    for request in golden.requests:
        request.arrays()
    return golden


def difference(scores: NDArray[Any], wanted: NDArray[np.float32], tolerance: float = GOLDEN_TOLERANCE) -> str:
    """Return how scores differ from the golden ones, in words; '' when they agree."""
    if scores.shape != wanted.shape:
        return f"{scores.shape} instead of {wanted.shape}"
    beyond = np.abs(scores - wanted) - tolerance * np.abs(wanted)  # padding scores the lowest float, so the tolerance is relative too
    if np.all(beyond <= tolerance):  # NaN is a difference
        return ""
    place = int(np.argmax(np.nan_to_num(beyond, nan=np.inf)))
    return f"{scores.flat[place]:.6g} instead of {wanted.flat[place]:.6g} at place {place}"
