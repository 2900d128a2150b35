"""What a fault cost: the answers from its start until all was well again, beside those before."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from evershelf.contracts.rungs import Rung
from evershelf.demo.answers import Answer, live_worth, quality, summarize

BEFORE = 60.0  # seconds before a fault that it is compared with
NEWEST = 2000  # answers of `live` before a fault that say what it gives: not all, because it gets better while it learns what shoppers click


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault, or the release of a bad snapshot.

    Attributes:
        start, end: epoch seconds, from the blow until all was well again.
        expected: the rung that must have answered meanwhile.
        released: the bad snapshot, '' when something else broke.
        lost: valid requests without a good answer.
        quality, before: true worth of the answers meanwhile, and before, beside that of `live` before; None when the truth is not known.
        margin, before_margin: half their 95 % intervals.
        its_requests, its_quality: what the bad snapshot answered, and how well.
    """

    name: str
    start: float = field(default_factory=time.time)
    end: float = 0.0
    expected: Rung = "live"
    released: str = ""
    outcome: str = ""
    requests: int = 0
    lost: int = 0
    by_rung: dict[str, int] = field(default_factory=dict)
    p99_ms: float = 0.0
    before: float | None = None
    quality: float | None = None
    margin: float | None = None
    before_margin: float | None = None
    its_requests: int = 0
    its_quality: float | None = None

    @property
    def survived(self) -> bool:
        """Whether nothing was lost, and the rung answered that must have."""
        return self.lost == 0 < self.by_rung.get(self.expected, 0)

    @property
    def cost(self) -> float | None:
        """The share of `live`'s quality that shoppers missed meanwhile; below 0 when the answers happened to be better."""
        return None if self.quality is None or self.before is None else self.before - self.quality

    @property
    def cost_margin(self) -> float | None:
        """Half the 95 % interval of the cost. What `live` gives is the same yardstick before and meanwhile, so its own noise changes the cost's size little."""
        return None if self.margin is None or self.before_margin is None else math.hypot(self.margin, self.before_margin)

    def measure(self, answers: Sequence[Answer]) -> None:
        """Fill in what all answers of the demo say of this fault."""
        asked = [answer for answer in answers if answer.endpoint != "events"]
        meanwhile = [answer for answer in asked if self.start <= answer.at < self.end]
        earlier = [answer for answer in asked if answer.at < self.start and answer.arm == "stable"]
        summary, live = summarize(meanwhile), live_worth([answer for answer in earlier if answer.served_by == "live"][-NEWEST:])
        self.requests, self.lost, self.by_rung, self.p99_ms = summary.answers, summary.bad, dict(summary.by_rung), summary.p99_ms
        if found := quality(meanwhile, live):
            self.quality, self.margin = found
        if found := quality([answer for answer in earlier if answer.at > self.start - BEFORE], live):
            self.before, self.before_margin = found
        its = [answer for answer in meanwhile if self.released and answer.snapshot_id == self.released]
        self.its_requests = len(its)
        if found := quality(its, live):
            self.its_quality = found[0]

    def row(self) -> tuple[str, ...]:
        """Return the fault as a row of the report."""
        rungs = ", ".join(f"{rung} {count}" for rung, count in sorted(self.by_rung.items(), key=lambda entry: -entry[1]))
        its = f"; its {self.its_requests} answers: quality {_share(self.its_quality)}" if self.released else ""
        figures = (f"{self.end - self.start:.0f}", f"{self.requests}", f"{self.lost}", f"{self.p99_ms}", rungs)
        found = f"{_share(self.quality)} ± {_share(self.margin)}" if self.quality is not None else "unknown"
        cost = "unknown" if self.cost is None or self.cost_margin is None else f"{self.cost:+.1%} ± {self.cost_margin:.1%}"
        return (self.name, *figures, found, _share(self.before), cost, self.outcome + its)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
