"""What a redaction has done so far, and what every part of it needs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evershelf.forgotten import Forgotten
from evershelf.progress import Say
from evershelf.settings import Settings

USER = "user_id"


@dataclass(slots=True)
class Redaction:
    """One run. `removed` counts rows, entries and files per place, `days` are the landing days to publish again, `snapshots` maps originals to their copies.

    Nothing in it names a shopper.
    """

    settings: Settings
    gone: Forgotten
    say: Say
    removed: Counter[str] = field(default_factory=Counter)
    days: list[date] = field(default_factory=list)
    snapshots: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def problem(self, what: str) -> None:
        self.problems.append(what)
        self.say(f"warning: {what}")

    def kept(self, users: pa.ChunkedArray | Iterable[str | None]) -> pa.Array:
        """Return [rows] bool: whose shopper was not forgotten. Every shopper is looked up once."""
        column = users if isinstance(users, pa.ChunkedArray | pa.Array) else pa.array(users, pa.string())
        gone = [user for user in pc.unique(column).to_pylist() if self.gone.covers(user)]
        return pc.invert(pc.is_in(column, value_set=pa.array(gone, pa.string())))

    def as_json(self) -> dict[str, Any]:
        return {
            "removed": {place: count for place, count in sorted(self.removed.items()) if count},
            "days": [str(day) for day in self.days],
            "snapshots": self.snapshots,
            "problems": self.problems,
        }
