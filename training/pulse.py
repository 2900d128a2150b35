"""Which rank is alive and how far it is: a few numbers in a file that all ranks of a machine and their supervisor map into memory."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

PULSE = "pulse"
PROCESS, STEPS, SHOWN = range(3)  # columns: process id; steps done; when the process last ran at all, on the machine's monotonic clock
INTERVAL = 1.0  # seconds between two signs of life of a process whose step takes long
SILENT = 10.0  # seconds without one: the process is stopped, not only busy
STARTING = 300.0  # seconds that the ranks have until the first step, at least: they load TensorFlow, find each other, and trace the model


class Pulse:
    """What one rank writes."""

    def __init__(self, row: Any) -> None:
        self._row = row

    @classmethod
    def of_rank(cls, path: Path, rank: int) -> "Pulse":
        """Begin to show that this process lives."""
        row = np.memmap(path, np.float64, "r+").reshape(-1, 3)[rank]
        row[:] = os.getpid(), 0, time.monotonic()

        def show() -> None:
            while True:
                row[SHOWN] = time.monotonic()
                time.sleep(INTERVAL)

        threading.Thread(target=show, name="pulse", daemon=True).start()
        return cls(row)

    def beat(self) -> None:
        """Count a step."""
        self._row[STEPS] += 1


class Watch:
    """What the supervisor reads. A new one is needed for each start of the ranks."""

    def __init__(self, path: Path, ranks: int, limit: float) -> None:
        """Make the file.

        Args:
            limit: seconds without a step of any rank before they count as hanging.
        """
        np.zeros((ranks, 3)).tofile(path)
        self._rows, self._limit = np.memmap(path, np.float64, "r").reshape(-1, 3), limit
        self._steps, self._since = self._rows[:, STEPS].copy(), time.monotonic()

    def hanging(self) -> str | None:
        """Return which rank keeps the others waiting, as a sentence, when none has done a step for too long.

        All ranks wait in the next exchange for one that hangs. It is the one whose process does not run; else the one that is behind.
        """
        now, rows = time.monotonic(), self._rows.copy()
        if (rows[:, STEPS] != self._steps).any():
            self._steps, self._since = rows[:, STEPS], now
        if now - self._since < (self._limit if rows[:, STEPS].any() else max(self._limit, STARTING)):
            return None
        silent = np.flatnonzero((rows[:, PROCESS] > 0) & (now - rows[:, SHOWN] > SILENT))
        behind = np.flatnonzero(rows[:, STEPS] < rows[:, STEPS].max())
        found = silent if len(silent) else behind
        who = " and ".join(f"rank {rank} (process {int(rows[rank, PROCESS])})" for rank in found) or "some rank; which one, cannot be told"
        return f"No step was done for {now - self._since:.0f} s: {who} {'does not run' if len(silent) else 'hangs'}."
