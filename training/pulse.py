"""Which rank is alive and how far it is: each writes a few numbers into a file of its own, once a second, and the supervisor reads them anew.

Nothing is mapped into memory and no clocks are compared: the folder may be shared by several hosts, over NFS.
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

INTERVAL = 1.0  # seconds between two signs of life
SILENT = 10.0  # seconds without one: the process is stopped, not only busy
STARTING = 300.0  # seconds that the ranks have until the first step, at least: they load TensorFlow, find each other, and trace the model


class Sign(NamedTuple):
    process: int
    host: str
    steps: int
    number: int  # another one with each sign


def host() -> str:
    """Return the name of this rank's host, as training.hosts has it."""
    return os.environ.get("HOROVOD_HOSTNAME", "localhost")


class Pulse:
    """What one rank shows."""

    def __init__(self) -> None:
        self.steps = 0

    @classmethod
    def of_rank(cls, folder: Path, rank: int) -> "Pulse":
        """Begin to show that this process lives."""
        pulse, number = cls(), 0

        def show() -> None:
            nonlocal number
            while True:
                number += 1
                with suppress(OSError):  # the next one may do better
                    write(folder, rank, Sign(os.getpid(), host(), pulse.steps, number))
                time.sleep(INTERVAL)

        threading.Thread(target=show, name="pulse", daemon=True).start()
        return pulse

    def beat(self) -> None:
        """Count a step."""
        self.steps += 1


class Watch:
    """What the supervisor reads. A new one is needed for each start of the ranks."""

    def __init__(self, folder: Path, ranks: int, limit: float) -> None:
        """Begin to watch.

        Args:
            limit: seconds without a step of any rank before they count as hanging.
        """
        self._folder, self._limit, self._since = folder, limit, time.monotonic()
        self._signs: list[Sign | None] = [None] * ranks
        self._seen = [self._since] * ranks

    def hanging(self) -> str | None:
        """Return which rank keeps the others waiting, as a sentence, when none has done a step for too long.

        All ranks wait in the next exchange for one that hangs. It is the one whose process does not run; else the one that is behind.
        """
        now = time.monotonic()
        for rank, before in enumerate(self._signs):
            sign = _read(self._folder, rank)
            if sign is None or sign == before:
                continue
            if sign.steps != (before.steps if before else 0):
                self._since = now
            self._signs[rank], self._seen[rank] = sign, now
        known = {rank: sign for rank, sign in enumerate(self._signs) if sign}
        most = max((sign.steps for sign in known.values()), default=0)
        if now - self._since < (self._limit if most else max(self._limit, STARTING)):
            return None
        silent = [rank for rank in known if now - self._seen[rank] > SILENT]
        found = silent or [rank for rank, sign in known.items() if sign.steps < most]
        who = " and ".join(f"rank {rank} (process {known[rank].process} on {known[rank].host})" for rank in found)
        return f"No step was done for {now - self._since:.0f} s: {who or 'some rank; which one, cannot be told,'} {'does not run' if silent else 'hangs'}."


def write(folder: Path, rank: int, sign: Sign) -> None:
    (folder / str(rank)).write_text(" ".join(map(str, sign)))


def _read(folder: Path, rank: int) -> Sign | None:
    """Return a rank's newest sign; none while it is being written."""
    try:
        process, name, steps, number = (folder / str(rank)).read_text().split()
    except (OSError, ValueError):
        return None
    return Sign(int(process), name, int(steps), int(number))
