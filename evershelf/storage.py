"""Files that several processes share, at an address such as file:///var/evershelf/snapshots.

Everything becomes visible in one step or not at all: content is written aside, flushed to disk, and put in place by an operation that the file system
makes atomic.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from evershelf.errors import StorageError

ASIDE = ".aside-"  # prefix of unfinished work; readers skip it


def local_path(url: str) -> Path:
    """Return the path of a file:// address."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc:
        raise StorageError(f"{url} is not a file:///absolute/path address. Nothing was read or written; correct the setting.")
    return Path(unquote(parts.path))


def flush(path: Path) -> None:
    """Force a file or a folder's directory entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def create(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Create a file that nobody has created before, with permissions `mode` less the umask.

    Raises:
        FileExistsError: the name is taken; what it holds is untouched.
    """
    with _written_aside(path, content, mode) as aside:
        path.hardlink_to(aside)
    flush(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Create or replace a file; a reader sees the old content or the new, never a mixture."""
    with _written_aside(path, content, 0o666) as aside:
        aside.replace(path)
    flush(path.parent)


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
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; it takes its name, whole and flushed, only when the block ends without an error.

    Raises:
        FileExistsError: the name is taken by then; what it holds is untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    aside.mkdir()
    try:
        yield aside
        flush_tree(aside)
        if folder.exists():  # rename() would replace an empty folder
            raise FileExistsError(folder)
        aside.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def free_space(path: Path) -> int:
    """Return the bytes that can still be written at a path that may not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
