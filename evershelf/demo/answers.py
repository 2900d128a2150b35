"""What shoppers saw: one record per answer, and what they add up to."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One valid request and its answer.

    `at` is when it was sent (epoch seconds); `seconds` counts from then. `status` is 0 when no answer came.
    `items` counts what an answer shows; for `events`, those that were acknowledged.
    """

    at: float
    seconds: float
    endpoint: str
    status: int
    items: int = 0
    served_by: str = ""
    snapshot_id: str = ""
    arm: str = ""
    error: str = ""

    @property
    def good(self) -> bool:
        return self.status in (200, 202) and self.items > 0


@dataclass(slots=True)
class Summary:
    """Many answers at a glance; latencies in milliseconds."""

    answers: int = 0
    by_rung: Counter[str] = field(default_factory=Counter)
    by_endpoint: Counter[str] = field(default_factory=Counter)
    by_snapshot: Counter[str] = field(default_factory=Counter)
    by_arm: Counter[str] = field(default_factory=Counter)
    server_errors: int = 0
    empty: int = 0
    unanswered: int = 0
    other: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    worst: list[str] = field(default_factory=list)  # the first few that were not good


class AnswerLog:
    """The growing file that shoppers write; each call to `new` gives what came since the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[Answer] = []
        self._read = 0
        self._decoder = msgspec.json.Decoder(Answer)

    def new(self) -> list[Answer]:
        """Read what was written since; a line that is not finished yet waits."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._read += len(complete)
        fresh = [self._decoder.decode(line) for line in complete.splitlines()]
        self.all += fresh
        return fresh

    def since(self, instant: float) -> Iterator[Answer]:
        """Yield the answers to requests that were sent at or after an instant."""
        self.new()
        return (answer for answer in self.all if answer.at >= instant)


def summarize(answers: Iterable[Answer]) -> Summary:
    """Add up answers."""
    summary, latencies = Summary(), []
    for answer in answers:
        summary.answers += 1
        summary.by_endpoint[answer.endpoint] += 1
        latencies.append(answer.seconds * 1000)
        if answer.served_by:
            summary.by_rung[answer.served_by] += 1
            summary.by_snapshot[answer.snapshot_id] += 1
            summary.by_arm[answer.arm] += 1
        if answer.good:
            continue
        summary.server_errors += answer.status >= 500
        summary.unanswered += answer.status == 0
        summary.empty += 200 <= answer.status < 300
        summary.other += 300 <= answer.status < 500
        if len(summary.worst) < 5:
            summary.worst.append(f"{answer.endpoint}: status {answer.status}, {answer.items} items, {answer.served_by} {answer.error}".strip())
    latencies.sort()
    if latencies:
        summary.p50_ms, summary.p99_ms = (round(latencies[min(int(len(latencies) * share), len(latencies) - 1)], 1) for share in (0.5, 0.99))
    return summary
