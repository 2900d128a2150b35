"""The rungs of the fallback ladder, best first."""

from typing import Literal, get_args

Rung = Literal["live", "local_model", "stored", "snapshot", "popular"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
