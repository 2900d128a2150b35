"""What goes wrong between a simulated shop and its door, by rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import msgspec
import numpy as np
from numpy.typing import NDArray

from evershelf.shops.visits import HOUR, MINUTE

LATE_DAYS = 2  # the most that a row arrives late


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirt:
    """Shares of rows that come repeated, with any one field null, broken off, or one or two days late; share of sessions with a wrong clock; whole days.

    skewed: half of these clocks are wrong by minutes, half by up to five hours, either way; `received_at` stays right.
    new_column_from: from this day on events have a column that nobody announced.
    doubled_days: all that was delivered on the day comes again with the next one.
    missing_days: nothing at all is delivered, late rows included; what happened on the day and is late anyway still comes.
    """

    repeated: float = 0.003
    nulls: float = 0.001
    broken: float = 0.0005
    late: float = 0.02
    skewed: float = 0.002
    new_column_from: date | None = None
    doubled_days: tuple[date, ...] = ()
    missing_days: tuple[date, ...] = ()


LEVELS = {
    "none": Dirt(repeated=0, nulls=0, broken=0, late=0, skewed=0),
    "some": Dirt(),
    "much": Dirt(repeated=0.03, nulls=0.02, broken=0.01, late=0.08, skewed=0.05),
}
CLEAN = LEVELS["none"]


class Post:
    """Carries lines from the shop to its door, some of them late, twice, or damaged. Holds what is late and at most one day more."""

    def __init__(self, dirt: Dirt) -> None:
        self._dirt = dirt
        self._late: dict[tuple[date, str], list[str]] = {}
        self._again: dict[str, list[str]] = {}

    def clocks(self, rng: np.random.Generator, sessions: int) -> NDArray[np.int64]:
        """Return [sessions] milliseconds by which each session's clock is wrong."""
        wrong = np.where(rng.random(sessions) < 0.5, rng.integers(MINUTE, HOUR, sessions), rng.integers(HOUR, 5 * HOUR, sessions))
        return np.where(rng.random(sessions) < self._dirt.skewed, wrong * rng.choice((-1, 1), sessions), 0)

    def deliver(self, day: date, name: str, lines: Sequence[str], rng: np.random.Generator, held: NDArray[np.int64] | None) -> list[str] | None:
        """Return the lines of a file as they arrive on a day, or None when nothing does.

        Args:
            held: [lines] days for which the shop itself keeps each line back; the others are late by chance. None: the whole file is always in time.
        """
        dirt = self._dirt
        by_chance = np.where(rng.random(len(lines)) < dirt.late, rng.integers(1, LATE_DAYS + 1, len(lines)), 0)
        delay = np.zeros(len(lines), dtype=np.int64) if held is None else np.where(held > 0, held, by_chance)
        for index in np.flatnonzero(delay).tolist():
            self._late.setdefault((day + timedelta(days=int(delay[index])), name), []).append(lines[index])
        arrived = [line for line, days in zip(lines, delay.tolist(), strict=True) if not days] + self._late.pop((day, name), [])
        again = self._again.pop(name, [])
        if day in dirt.missing_days:
            return None
        arrived = self._soiled(arrived, rng)
        if day in dirt.doubled_days:
            self._again[name] = arrived
        return arrived + again

    def _soiled(self, lines: list[str], rng: np.random.Generator) -> list[str]:
        repeated, nulls, broken, field = rng.random((4, len(lines)))
        for index in np.flatnonzero(nulls < self._dirt.nulls).tolist():
            row = msgspec.json.decode(lines[index])
            row[list(row)[int(field[index] * len(row))]] = None
            lines[index] = msgspec.json.encode(row).decode()
        for index in np.flatnonzero(broken < self._dirt.broken).tolist():
            lines[index] = lines[index][: len(lines[index]) // 2]
        return lines + [lines[index] for index in np.flatnonzero(repeated < self._dirt.repeated).tolist()]
