"""Golden queries: whoever ranks must give the scores that the offline model gave."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evershelf.contracts.model import GOLDEN_TOLERANCE, RANK_INPUTS
from evershelf.contracts.snapshot import GOLDEN
from evershelf.errors import SnapshotDamaged
from serving.errors import ServingError
from serving.stores.snapshot_store import SnapshotStore
from serving.tf_serving.client import ModelServerAdmin


class GoldenRequest(msgspec.Struct, frozen=True):
    inputs: dict[str, list[float]]
    scores: list[float]


class Golden(msgspec.Struct, frozen=True):
    requests: Annotated[list[GoldenRequest], msgspec.Meta(min_length=1)]
    ranker_tolerance: float = GOLDEN_TOLERANCE  # an int8 ranker rounds, and on each kind of processor otherwise


class GoldenDiffers(ServingError):
    """A ranker does not score as the offline model did; the snapshot is rejected."""


def check(folder: Path, version: int, admin: ModelServerAdmin) -> int:
    """Ask the model server and the ranker in the snapshot every golden query.

    Returns:
        How many queries were asked of each.

    Raises:
        GoldenDiffers: names the first difference.
        ModelServerError: the model server did not answer.
        SnapshotDamaged: no golden queries, or a ranker that cannot be opened.
    """
    try:
        golden = msgspec.json.decode((folder / GOLDEN).read_bytes(), type=Golden)
    except (OSError, msgspec.MsgspecError) as error:
        raise SnapshotDamaged(
            f"The golden queries of {folder.name} cannot be read ({error}). It is refused; what is live stays live. Build it again."
        ) from None
    store = SnapshotStore(folder)
    for number, request in enumerate(golden.requests, start=1):
        if missing := RANK_INPUTS.keys() - request.inputs.keys():
            raise SnapshotDamaged(f"Golden query {number} of {folder.name} lacks {', '.join(sorted(missing))}. It is refused; build it again.")
        inputs = {name: np.array([request.inputs[name]], kind) for name, (kind, _) in RANK_INPUTS.items()}
        wanted = np.array([request.scores], np.float32)
        scores, answered = admin.predict(version, inputs)
        if answered != version:
            raise GoldenDiffers(f"The model server was asked for version {version} and answered with {answered}.")
        _compare(f"the model server on golden query {number}", scores, wanted, GOLDEN_TOLERANCE)
        _compare(f"the local ranker on golden query {number}", store.rank(inputs)[None], wanted, golden.ranker_tolerance)
    return len(golden.requests)


def _compare(who: str, scores: NDArray[Any], wanted: NDArray[np.float32], tolerance: float) -> None:
    if scores.shape != wanted.shape:
        raise GoldenDiffers(f"Other scores from {who}: {scores.shape} instead of {wanted.shape}.")
    difference = np.abs(scores - wanted) - tolerance * np.abs(wanted)  # padding scores the lowest float, so the tolerance is relative too
    if not np.all(difference <= tolerance):  # NaN is a difference
        place = int(np.nanargmax(difference))
        raise GoldenDiffers(f"Other scores from {who}: {scores.flat[place]:.6g} instead of {wanted.flat[place]:.6g} at place {place}.")
