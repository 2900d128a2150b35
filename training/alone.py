"""One run of an occasional command at a time, in a folder of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from training.errors import TrainingRunning


@contextmanager
def alone(work: Path, command: str) -> Iterator[None]:
    """Give `evershelf COMMAND` its folder, without what one that was killed left; it is removed when all went well.

    Raises:
        TrainingRunning: another process has it.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_suffix(".lock"), timeout=0)  # a redaction takes work whose lock is free for left behind
    try:
        lock.acquire()
    except Timeout:
        raise TrainingRunning(f"`evershelf {command}` runs in another process. Nothing was started; wait for it.") from None
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield
        shutil.rmtree(work)
    finally:
        lock.release()
