"""What a benchmark reports of rounds in which we and a peer took turns."""

import statistics
from collections.abc import Sequence
from typing import Any


def paired(*, bench: str, peer: str, unit: str, rounds: Sequence[tuple[float, float]], digits: int) -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds"}; the ratio is the median of ours / theirs, round by round.

    Args:
        rounds: (ours, theirs), in `unit`.
        digits: after the point, of ours and theirs.
    """
    ours, theirs = zip(*rounds, strict=True)

    def spread(values: tuple[float, ...]) -> dict[str, float]:
        return {name: round(value, digits) for name, value in (("min", min(values)), ("median", statistics.median(values)), ("max", max(values)))}

    ratio = round(statistics.median(mine / other for mine, other in rounds), 3)
    return {"bench": bench, "peer": peer, "ratio": ratio, "unit": unit, "ours": spread(ours), "theirs": spread(theirs), "rounds": len(rounds)}
