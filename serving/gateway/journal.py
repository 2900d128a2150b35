"""Events on their way to landing: on this disk before they are acknowledged, in landing exactly once in effect.

<folder>/<day of receipt>/<segment>.jsonl    one open segment per day at most; a process never appends to a segment of an earlier one
<landing>/gateway/landing_dt=<day>/<segment>.jsonl.gz

Requests that wait at the same time share one fsync (group commit). A segment is shipped whole under its own name, so shipping it again changes nothing.
A torn last line was never acknowledged and is dropped.
"""

import asyncio
import gzip
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from evershelf import storage
from evershelf.errors import EvershelfError
from evershelf.storage import Place

logger = logging.getLogger(__name__)

SOURCE = "gateway"  # the landing folder
_SUFFIX = ".jsonl"


class _Line(msgspec.Struct):
    user_id: str | None = None


_decode = msgspec.json.Decoder(_Line).decode


class Journal:
    """The journal of one gateway. `append` runs on the event loop, `ship` on any other thread.

    Args:
        gone: whether the shopper of a pseudonym was forgotten; their events go no further.
    """

    def __init__(self, folder: Path, landing: Place, gateway: str, gone: Callable[[str | None], bool]) -> None:
        self._folder, self._landing, self._gateway, self._gone = folder, landing, gateway, gone
        self._open: dict[str, tuple[Path, BinaryIO]] = {}
        self._lock = threading.Lock()  # over _open and the two counters
        self._shipping = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._queue: list[tuple[str, Sequence[bytes], asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self.shipped = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.waiting = sum(len(_whole_lines(path)) for path in self._segments())

    async def append(self, day: str, lines: Sequence[bytes]) -> None:
        """Write lines durably; returns when they are on disk.

        Args:
            day: the shop's day of receipt, ISO.
            lines: without the newline.

        Raises:
            OSError: the disk did not take them; none of them may be acknowledged.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((day, lines, written))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        await written

    async def _commit(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                try:
                    await asyncio.get_running_loop().run_in_executor(self._writer, self._write, [(day, lines) for day, lines, _ in batch])
                except OSError as error:
                    for _, _, written in batch:
                        if not written.done():
                            written.set_exception(error)
                else:
                    for _, _, written in batch:
                        if not written.done():  # its client may have gone away
                            written.set_result(None)
        finally:
            self._committing = None

    def _write(self, batch: Sequence[tuple[str, Sequence[bytes]]]) -> None:
        by_day: dict[str, list[bytes]] = {}
        for day, lines in batch:
            by_day.setdefault(day, []).extend(lines)
        with self._lock:
            for day, lines in by_day.items():
                try:
                    file = self._segment(day)
                    file.write(b"".join(line + b"\n" for line in lines))
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    if day in self._open:  # what follows a half-written line would be lost with it: the next batch gets a new segment
                        with suppress(OSError):
                            self._open.pop(day)[1].close()
                    raise
                self.waiting += len(lines)

    def _segment(self, day: str) -> BinaryIO:
        if day not in self._open:
            folder = self._folder / day
            if not folder.is_dir():
                folder.mkdir()
                storage.flush(self._folder)
            path = folder / f"{self._gateway}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}{_SUFFIX}"
            file = path.open("xb")
            storage.flush(folder)
            self._open[day] = (path, file)
        return self._open[day][1]

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob(f"*/*{_SUFFIX}"))

    def ship(self) -> int:
        """Close the open segments and ship every closed one; what cannot be shipped now waits for the next time.

        Returns:
            Events shipped.
        """
        with self._shipping:
            with self._lock:
                for _, file in self._open.values():
                    file.close()
                self._open.clear()
                closed = self._segments()
            count = 0
            for segment in closed:
                try:
                    count += self._ship(segment)
                except (OSError, EvershelfError) as error:
                    logger.warning("events of %s wait: landing did not take them (%s)", segment.name, error)
            return count

    def _ship(self, segment: Path) -> int:
        whole = _whole_lines(segment)
        lines = [line for line in whole if not self._gone(_user(line))]
        if len(lines) < len(whole):  # from this disk too, however long landing is away
            storage.replace(segment, b"".join(line + b"\n" for line in lines))
            with self._lock:
                self.waiting = max(self.waiting - (len(whole) - len(lines)), 0)
        if lines:
            target = self._landing / SOURCE / f"landing_dt={segment.parent.name}" / f"{segment.name}.gz"
            with suppress(FileExistsError):  # shipped before this process died; the same segment, the same bytes
                storage.create(target, gzip.compress(b"".join(line + b"\n" for line in lines), compresslevel=6, mtime=0))
        segment.unlink()
        with self._lock:
            with suppress(OSError):
                segment.parent.rmdir()  # not empty: a newer segment of that day is there
            self.waiting = max(self.waiting - len(lines), 0)  # a write that failed may have left whole lines that were never counted
            self.shipped += len(lines)
        return len(lines)

    async def close(self) -> None:
        """Wait for what is being written, then ship."""
        while self._committing is not None:
            await asyncio.wait({self._committing})
        await asyncio.to_thread(self.ship)
        self._writer.shutdown()


def _user(line: bytes) -> str | None:
    """Return whose line it is; one that a failing disk has damaged is nobody's, and the lake names it."""
    try:
        return _decode(line).user_id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _whole_lines(segment: Path) -> list[bytes]:
    """Return the complete lines of a segment."""
    return segment.read_bytes().split(b"\n")[:-1]
