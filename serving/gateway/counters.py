"""What this process answered, for /v1/status and for StatsD. Counters only grow."""

import asyncio
import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from evershelf.contracts.rungs import RUNGS, Rung
from evershelf.telemetry import GATEWAY_ERRORS, GATEWAY_EVENTS, GATEWAY_REQUESTS, GATEWAY_RUNG_SKIPPED, GATEWAY_SECONDS, metrics
from serving.gateway.answers import Arm, Latency, Skipped, SnapshotAnswers

BOUNDS_MS = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0)
_TIMES_SENT = 200  # latencies sent to StatsD per flush; a sample is enough for its quantiles


class _OfSnapshot:
    """Counters of one snapshot."""

    def __init__(self) -> None:
        self.arm: Arm = "stable"
        self.best: Rung = "live"
        self.requests = self.errors = self.empty = self.shown = self.clicks = 0
        self.by_rung: dict[str, int] = dict.fromkeys(RUNGS, 0)
        self.counts = [0] * (len(BOUNDS_MS) + 1)

    def status(self) -> SnapshotAnswers:
        latency = Latency(list(BOUNDS_MS), list(self.counts))
        return SnapshotAnswers(self.arm, self.requests, self.errors, self.empty, dict(self.by_rung), latency, self.shown, self.clicks, self.best)


class Counters:
    """Every counter of one gateway process; used on its event loop."""

    def __init__(self) -> None:
        self._snapshots: dict[str, _OfSnapshot] = {}
        self.rungs: Counter[str] = Counter()
        self.requests = self.shed = self.events_shed = 0
        self.events_accepted = 0
        self._unsent: Counter[str] = Counter()
        self._times: list[tuple[str, float]] = []

    def _of(self, snapshot_id: str) -> _OfSnapshot:
        return self._snapshots.setdefault(snapshot_id, _OfSnapshot())

    def answered(
        self, snapshot_id: str, arm: Arm, endpoint: str, rung: Rung, milliseconds: float, *, empty: bool, skipped: Iterable[Skipped], best: Rung
    ) -> None:
        counts = self._of(snapshot_id)
        counts.arm, counts.best = arm, best
        counts.requests += 1
        counts.empty += empty
        counts.by_rung[rung] += 1
        counts.counts[bisect.bisect_left(BOUNDS_MS, milliseconds)] += 1
        self.rungs[rung] += 1
        self._unsent[GATEWAY_REQUESTS.format(endpoint=endpoint, rung=rung, arm=arm)] += 1
        for skip in skipped:
            self._unsent[GATEWAY_RUNG_SKIPPED.format(rung=skip.rung)] += 1
        if len(self._times) < _TIMES_SENT:
            self._times.append((endpoint, milliseconds))

    def failed(self, snapshot_id: str, arm: Arm) -> None:
        """Count a request that this snapshot should have answered and did not."""
        counts = self._of(snapshot_id)
        counts.arm = arm
        counts.requests += 1
        counts.errors += 1

    def refused(self, status: int) -> None:
        self._unsent[GATEWAY_ERRORS.format(status=status)] += 1

    def reported(self, snapshot_id: str | None, event_type: str) -> None:
        """Count an event that a front end reported about an answer of a snapshot that this process served."""
        if snapshot_id and (counts := self._snapshots.get(snapshot_id)):
            counts.shown += event_type == "impression"
            counts.clicks += event_type == "click"

    def accepted(self, events: int) -> None:
        self.events_accepted += events
        self._unsent[GATEWAY_EVENTS] += events

    def status(self) -> dict[str, SnapshotAnswers]:
        return {snapshot_id: counts.status() for snapshot_id, counts in self._snapshots.items()}

    async def send(self) -> None:
        """Send what was counted since the last time, off the event loop; one packet or a few, never one per request."""
        unsent, self._unsent = self._unsent, Counter()
        times, self._times = self._times, []
        await asyncio.to_thread(_send, unsent, times)


def _send(counts: Mapping[str, int], times: Sequence[tuple[str, float]]) -> None:
    with metrics().pipeline() as pipeline:
        for name, count in counts.items():
            pipeline.incr(name, count)
        for endpoint, milliseconds in times:
            pipeline.timing(GATEWAY_SECONDS.format(endpoint=endpoint), milliseconds)
