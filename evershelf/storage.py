"""Files that several processes share, at an address such as file:///var/evershelf/snapshots or hdfs://10.0.0.7:8020/evershelf/snapshots.

Everything becomes visible in one step or not at all: content is written aside, flushed to disk, and put in place by an operation that the file system
makes atomic. The functions below take a `pathlib.Path` or an `HdfsPath`, and do the same with both.
"""

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from evershelf.errors import StorageError
from evershelf.hdfs import ASIDE as ASIDE
from evershelf.hdfs import HdfsPath as HdfsPath
from evershelf.hdfs import hdfs_path

Place = Path | HdfsPath
AnyPlace = TypeVar("AnyPlace", bound=Path | HdfsPath)

_held = threading.local()  # the locks on HDFS that a thread holds
LEASE_S = 60.0  # a lock on HDFS whose holder has not shown itself for so long is free


def at(url: str, *, patient: bool = True) -> Place:
    """Return the file or folder at an address; nothing is read yet.

    Args:
        patient: whether operations wait for an HDFS that is not ready, as jobs do; what must answer at once does not.

    Raises:
        StorageError: it is no address that this version reads.
    """
    return hdfs_path(url, patient=patient) if url.startswith("hdfs://") else local_path(url)


def local_path(url: str) -> Path:
    """Return the path of a file:// address."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc:
        raise StorageError(f"{url} is not a file:///absolute/path address. Nothing was read or written; correct the setting.")
    return Path(unquote(parts.path))


def flush(place: Place) -> None:
    """Force a file or a folder's directory entries to disk; HDFS does so by itself."""
    if isinstance(place, HdfsPath):
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Place) -> None:
    if isinstance(folder, Path):
        for path in folder.rglob("*"):
            flush(path)
    flush(folder)


def create(place: Place, content: bytes, *, mode: int = 0o666) -> None:
    """Create a file that nobody has created before, on a local disk with permissions `mode` less the umask.

    Raises:
        FileExistsError: the name is taken; what it holds is untouched.
    """
    if isinstance(place, HdfsPath):
        place.put(content, replace=False)
        return
    with _written_aside(place, content, mode) as aside:
        place.hardlink_to(aside)
    flush(place.parent)


def replace(place: Place, content: bytes) -> None:
    """Create or replace a file; a reader sees the old content or the new, never a mixture."""
    if isinstance(place, HdfsPath):
        place.put(content, replace=True)
        return
    with _written_aside(place, content, 0o666) as aside:
        aside.replace(place)
    flush(place.parent)


@contextmanager
def _written_aside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: AnyPlace) -> Iterator[AnyPlace]:
    """Yield a folder to fill; it takes its name, whole and flushed, only when the block ends without an error.

    Raises:
        FileExistsError: the name is taken by then; what it holds is untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    aside.mkdir()
    try:
        yield cast("AnyPlace", aside)
        flush_tree(aside)
        if folder.exists():  # a local rename() would replace an empty folder
            raise FileExistsError(folder)
        rename(aside, folder)
        flush(folder.parent)
    finally:
        if isinstance(aside, HdfsPath):
            aside.remove_quietly()
        else:
            shutil.rmtree(aside, ignore_errors=True)


def publish(folder: Path, place: Place) -> None:
    """Put a finished local folder in place under a new name; what it held is moved away.

    Raises:
        FileExistsError: the name is taken; what it holds is untouched.
    """
    if isinstance(place, Path):
        with new_folder(place) as local:
            for child in folder.iterdir():
                shutil.move(child, local / child.name)
        return
    with new_folder(place) as aside:
        for path in sorted(folder.rglob("*")):
            target = aside / path.relative_to(folder).as_posix()
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                target.write(path)


def fetch(place: Place, folder: Path) -> None:
    """Copy what a folder holds into a local one."""
    if isinstance(place, Path):
        shutil.copytree(place, folder, dirs_exist_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for child in place.iterdir():
        if child.is_dir():
            fetch(child, folder / child.name)
        else:
            with child.open() as source, (folder / child.name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


@contextmanager
def at_hand(folder: Place) -> Iterator[Path]:
    """Yield a folder on this machine with what a shared one holds: itself when it is here, else a copy for the time of the block. It is only read."""
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="evershelf-") as temporary:
        copy = Path(temporary, folder.name)
        fetch(folder, copy)
        yield copy


def files_below(folder: Place) -> list[tuple[str, Place]]:
    """Return every file below a folder with its relative name, in order of names."""
    if isinstance(folder, Path):
        return sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    start = len(folder.path) + 1
    return sorted((path.path[start:], path) for path in folder.walk_files())


def glob(folder: Place, pattern: str) -> list[Place]:
    """Return what matches a pattern of names and wildcards, such as `dt=*/*.parquet`, in order; nothing when the folder does not exist."""
    found: list[Place] = []
    found.extend(folder.glob(pattern))
    return sorted(found, key=str)


def rename(place: Place, target: Place) -> None:
    """Give a file or folder another name in the same storage; on HDFS, one that is taken is refused."""
    place.rename(target)  # type: ignore[arg-type]  # both are of one kind


def remove(place: Place) -> None:
    """Delete a folder with all it holds, if it is there.

    Raises:
        OSError, StorageError: something of it is left.
    """
    if isinstance(place, HdfsPath):
        place.remove()
    elif place.exists():
        shutil.rmtree(place)


@contextmanager
def turn(place: Place, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that all who share a storage respect; its holder may ask for it again. When the holder dies it is free, on HDFS after `LEASE_S` seconds.

    On HDFS nothing can stop a holder that slept for longer than that and then goes on, so what is done meanwhile must bear another one beside it.

    Args:
        waiting: called once if another holds it.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place, is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
        return
    held: set[str] = _held.__dict__.setdefault("places", set())
    if str(place) in held:
        yield
        return
    mine = _take_turn(place, waiting)
    held.add(str(place))
    ended = threading.Event()
    showing = threading.Thread(target=_show, args=(mine, ended), name="lock", daemon=True)
    showing.start()
    try:
        yield
    finally:
        held.remove(str(place))
        ended.set()
        showing.join()
        mine.remove_quietly()


def _take_turn(place: HdfsPath, waiting: Callable[[], None]) -> HdfsPath:
    """Write one's mark and look whether one is alone: of two who come together, the later writer sees the other. A mark that stands still is dead."""
    told, seen = False, dict[str, tuple[float, float]]()  # mark -> its last change, and when that was first seen here
    while True:
        if not (held := _living(place, seen)):
            mine = place / secrets.token_hex(8)
            mine.put(b"", replace=False)
            if _living(place, seen) == {mine.name}:
                for dead in place.iterdir():
                    if dead.name != mine.name and not dead.name.startswith(ASIDE):  # somebody writes that one this moment
                        dead.remove()
                return mine
            mine.remove()
        elif not told:
            told = True
            waiting()
        time.sleep((1.0 if held else secrets.randbelow(1000) / 1000) * min(1.0, LEASE_S / 10))


def _living(place: HdfsPath, seen: dict[str, tuple[float, float]]) -> set[str]:
    """Return the marks that have changed within a lease, by this process's own clock."""
    now = time.monotonic()
    found = {mark.name: mark.stat().st_mtime for mark in place.iterdir() if not mark.name.startswith(ASIDE)} if place.is_dir() else {}
    for name, changed in found.items():
        if name not in seen or seen[name][0] != changed:
            seen[name] = changed, now
    return {name for name in found if now - seen[name][1] <= LEASE_S}


def _show(mine: HdfsPath, ended: threading.Event) -> None:
    while not ended.wait(LEASE_S / 6):
        with suppress(StorageError, OSError):
            mine.touch()


def free_space(path: Path) -> int:
    """Return the bytes that can still be written at a path that may not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
