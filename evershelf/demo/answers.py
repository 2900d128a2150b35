"""What shoppers saw: one record per answer, and what they add up to."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from evershelf.contracts.rungs import RUNGS


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One valid request and its answer.

    `at` is when it was sent (epoch seconds); `seconds` counts from then. `status` is 0 when no answer came.
    `items` counts what an answer shows; for `events`, those that were acknowledged.
    `worth` is the true expected number of clicks on what was shown (None without a truth); `clicks` and `revenue` are what the shopper did.
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
    worth: float | None = None
    clicks: int = 0
    revenue: float = 0.0

    @property
    def good(self) -> bool:
        return self.status in (200, 202) and self.items > 0


@dataclass(slots=True)
class Got:
    """What shoppers got from one rung.

    `click_through` is clicks per shown item; `worth` the mean expected clicks per answer; `quality` that worth beside `live`'s on the same kinds of request.
    """

    answers: int
    clicks: int
    click_through: float
    worth: float | None
    quality: float | None
    revenue: float
    p50_ms: float
    p99_ms: float


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
    got: dict[str, Got] = field(default_factory=dict)  # by rung, best first

    @property
    def bad(self) -> int:
        return self.server_errors + self.empty + self.unanswered + self.other


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
    rungs: dict[str, list[Answer]] = {rung: [] for rung in RUNGS}
    for answer in answers:
        summary.answers += 1
        summary.by_endpoint[answer.endpoint] += 1
        latencies.append(answer.seconds * 1000)
        if answer.served_by:
            summary.by_rung[answer.served_by] += 1
            summary.by_snapshot[answer.snapshot_id] += 1
            summary.by_arm[answer.arm] += 1
            rungs[answer.served_by].append(answer)
        if answer.good:
            continue
        summary.server_errors += answer.status >= 500
        summary.unanswered += answer.status == 0
        summary.empty += 200 <= answer.status < 300
        summary.other += 300 <= answer.status < 500
        if len(summary.worst) < 5:
            summary.worst.append(f"{answer.endpoint}: status {answer.status}, {answer.items} items, {answer.served_by} {answer.error}".strip())
    summary.p50_ms, summary.p99_ms = quantiles(latencies)
    live = live_worth(rungs["live"])
    summary.got = {rung: _got(its, live) for rung, its in rungs.items() if its}
    return summary


RUNG_COLUMNS = ("rung", "answers", "clicks", "click-through", "expected clicks", "quality beside live", "revenue", "p50 ms", "p99 ms")


def rung_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Return a row of text per rung, under RUNG_COLUMNS."""

    def known(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.3f}"

    rows: list[tuple[str, ...]] = []
    for rung, got in summary.got.items():
        earned = (f"{got.clicks}", f"{got.click_through:.1%}", known(got.worth), known(got.quality), f"{got.revenue:.0f}")
        rows.append((rung, f"{got.answers}", *earned, f"{got.p50_ms}", f"{got.p99_ms}"))
    return rows


def quantiles(values: Sequence[float], shares: tuple[float, ...] = (0.5, 0.99)) -> list[float]:
    """Return quantiles of some values, rounded to 0.1; zeros when there are none."""
    ordered = sorted(values)
    return [round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1) if ordered else 0.0 for share in shares]


def live_worth(answers: Iterable[Answer]) -> dict[str, float]:
    """Return endpoint -> mean worth of an answer of `live`."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        if answer.served_by == "live" and answer.worth is not None:
            found.setdefault(answer.endpoint, []).append(answer.worth)
    return {endpoint: math.fsum(worths) / len(worths) for endpoint, worths in found.items()}


def quality(answers: Iterable[Answer], live: Mapping[str, float]) -> tuple[float, float] | None:
    """Return what answers were worth beside those of `live` to the same kinds of request, and half its 95 % interval; None when that is not known.

    A rung that answers more searches than another is not better or worse for that, so each answer counts beside the mean of `live` at its endpoint. A request
    without a good answer is worth nothing.
    """
    told = [(answer.worth if answer.good else 0.0, live.get(answer.endpoint)) for answer in answers]
    pairs = [(worth, mean) for worth, mean in told if worth is not None and mean is not None]
    usual = math.fsum(mean for _, mean in pairs)
    if not usual:
        return None
    ratio = math.fsum(worth for worth, _ in pairs) / usual
    spread = math.sqrt(math.fsum((worth - ratio * mean) ** 2 for worth, mean in pairs))
    return ratio, 1.96 * spread / usual


def _got(answers: Sequence[Answer], live: Mapping[str, float]) -> Got:
    worths = [answer.worth for answer in answers if answer.worth is not None]
    clicks, shown = sum(answer.clicks for answer in answers), sum(answer.items for answer in answers)
    beside_live = quality(answers, live)
    p50, p99 = quantiles([answer.seconds * 1000 for answer in answers])
    return Got(
        answers=len(answers),
        clicks=clicks,
        click_through=round(clicks / max(shown, 1), 4),
        worth=round(math.fsum(worths) / len(worths), 4) if worths else None,
        quality=round(beside_live[0], 3) if beside_live else None,
        revenue=round(math.fsum(answer.revenue for answer in answers), 2),
        p50_ms=p50,
        p99_ms=p99,
    )
