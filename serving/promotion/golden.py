"""Golden queries: whoever ranks must give the scores that the offline model gave."""

from pathlib import Path

from evershelf.contracts.snapshot import GOLDEN
from evershelf.errors import SnapshotDamaged
from evershelf.golden import difference, read_golden
from serving.errors import ServingError
from serving.stores.snapshot_store import SnapshotStore
from serving.tf_serving.client import ModelServerAdmin


class GoldenDiffers(ServingError):
    """A ranker does not score as the offline model did; the snapshot is rejected."""


def check(folder: Path, version: int | None, admin: ModelServerAdmin) -> int:
    """Ask the model server and the ranker in the snapshot every golden query.

    Args:
        version: what the snapshot's model is called in the model server; None when it is not there, and only the ranker is asked.

    Returns:
        How many queries were asked of each.

    Raises:
        GoldenDiffers: names the first difference.
        ModelServerError: the model server did not answer.
        SnapshotDamaged: no golden queries, or a ranker that cannot be opened.
    """
    try:
        golden = read_golden((folder / GOLDEN).read_bytes())
    except (OSError, ValueError) as error:
        raise SnapshotDamaged(
            f"The golden queries of {folder.name} cannot be read ({error}). It is refused; what is live stays live. Build it again."
        ) from None
    store = SnapshotStore(folder)
    for number, request in enumerate(golden.requests, start=1):
        inputs, wanted = request.arrays()
        if version is not None:
            scores, answered = admin.predict(version, inputs)
            if answered != version:
                raise GoldenDiffers(f"The model server was asked for version {version} and answered with {answered}.")
            if other := difference(scores, wanted[None]):
                raise GoldenDiffers(f"Other scores from the model server on golden query {number}: {other}.")
        if other := difference(store.rank(inputs), wanted, golden.ranker_tolerance):
            raise GoldenDiffers(f"Other scores from the local ranker on golden query {number}: {other}.")
    return len(golden.requests)
