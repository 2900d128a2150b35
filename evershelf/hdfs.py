"""Files on HDFS, over WebHDFS.

`HdfsPath` has the methods of `pathlib.Path` that shared data need, so code that is given either does not ask which. What the client library leaves open is
settled here: every answer has a deadline, a NameNode that is not ready is asked again with growing pauses and only for so long, and names are given by
HDFS's second rename, which fails when the name is taken (the first one moves into a folder of that name) or replaces a file in one step.
"""

import errno
import fnmatch
import getpass
import io
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from evershelf.errors import StorageError
from evershelf.settings import HdfsSettings, load_settings

ASIDE = ".aside-"  # prefix of unfinished work; readers skip it
_CONNECT_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0
_BLOCK = 1 << 20  # bytes that a reader asks for at once
# What trying again cannot mend. Anything else is said while servers start, stop, or lose each other, in many words.
_FINAL = (
    "AccessControlException",
    "DSQuotaExceededException",
    "HadoopIllegalArgumentException",
    "IllegalArgumentException",
    "InvalidPathException",
    "NSQuotaExceededException",
    "PathIsNotEmptyDirectoryException",
    "SecurityException",
    "UnsupportedOperationException",
)
_TAKEN = ("FileAlreadyExistsException", "ParentNotDirectoryException")

Outcome = TypeVar("Outcome")


class Status(NamedTuple):
    """What is known of a file or folder: size in bytes, time of the last change in epoch seconds, copies of each block (0 of a folder)."""

    st_size: int
    st_mtime: float
    folder: bool
    replicas: int


class Hdfs:
    """One file system.

    Args:
        root: `hdfs://host:port`, or `hdfs://name` of an HA pair.
        patience: seconds for which an operation is tried again while no NameNode is ready; 0 asks each of them once.
    """

    def __init__(self, root: str, settings: HdfsSettings, patience: float) -> None:
        import requests  # slow, and only needed here
        from hdfs import InsecureClient

        self.root, self.patience = root, patience
        self.urls = settings.web_urls or (f"http://{urlsplit(root).hostname}:{settings.web_port}",)
        session = requests.Session()
        session.trust_env = False  # a proxy for the outside world does not know this one
        session.headers["Accept-Encoding"] = "identity"
        self.client: InsecureClient = InsecureClient(
            ";".join(self.urls), user=getpass.getuser(), timeout=(_CONNECT_S, settings.timeout.total_seconds()), session=session
        )

    def ask(self, what: str, path: str, act: Callable[[], Outcome]) -> Outcome:
        """Do one thing, again when HDFS is not ready for it.

        Args:
            what: completes "could not be ...".
            act: may run more than once.

        Raises:
            FileNotFoundError, FileExistsError: as for a local file.
            StorageError: HDFS is away or refuses.
        """
        from hdfs.util import HdfsError
        from requests import RequestException

        deadline, pause = time.monotonic() + self.patience, _FIRST_PAUSE_S
        while True:
            try:
                return act()
            except HdfsError as error:
                if error.exception == "FileNotFoundException":
                    raise FileNotFoundError(errno.ENOENT, "No such file or folder", f"{self.root}{path}") from None
                if error.exception in _TAKEN:
                    raise FileExistsError(errno.EEXIST, "The name is taken", f"{self.root}{path}") from None
                said = str(error.message).partition("\n")[0]  # the rest is a Java stack
                why, final = f"{error.exception}: {said}", error.exception is None or error.exception in _FINAL
            except (RequestException, OSError) as error:  # an answer may also break off half-way
                why, final = f"{type(error).__name__}: {error}", False
            if final:
                raise StorageError(f"{self.root}{path} could not be {what}: {why}. Nothing half-done is visible, and gateways go on with what they have.")
            if time.monotonic() + pause > deadline:
                raise StorageError(
                    f"{self.root}{path} could not be {what}: HDFS is not ready at {', '.join(self.urls)} ({why[:300]}). Nothing half-done is visible, "
                    "and gateways go on with what they have. Look at the NameNode and the DataNodes, then do it again."
                )
            time.sleep(pause * random.uniform(0.5, 1.0))  # so that those who wait for the same NameNode do not come back all at once
            pause = min(pause * 2, _LONGEST_PAUSE_S)


@cache
def _hdfs(root: str, settings: str, patience: float) -> Hdfs:
    return Hdfs(root, HdfsSettings.model_validate_json(settings), patience)


def hdfs_path(url: str, *, patient: bool) -> "HdfsPath":
    """Return the file or folder at an hdfs:// address; nothing is asked of HDFS yet.

    Args:
        patient: whether its operations wait for a NameNode that is not ready.
    """
    parts, settings = urlsplit(url), load_settings().hdfs
    files = _hdfs(f"hdfs://{parts.netloc}", settings.model_dump_json(), settings.patience.total_seconds() if patient else 0.0)
    return HdfsPath(files, parts.path.rstrip("/") or "/")


class HdfsPath:
    """A file or folder on HDFS. What `iterdir` and `glob` yield answers `is_file`, `is_dir` and `stat` as it was listed, without asking again."""

    __slots__ = ("_listed", "files", "path")

    def __init__(self, files: Hdfs, path: str, listed: Status | None = None) -> None:
        self.files, self.path, self._listed = files, path, listed

    def __str__(self) -> str:
        return f"{self.files.root}{self.path}"

    def __repr__(self) -> str:
        return f"HdfsPath('{self}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HdfsPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "HdfsPath") -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str) -> "HdfsPath":
        return HdfsPath(self.files, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "HdfsPath":
        return HdfsPath(self.files, self.path.rpartition("/")[0] or "/")

    def with_name(self, name: str) -> "HdfsPath":
        return self.parent / name

    def stat(self) -> Status:
        return self._listed or _status(self._ask("looked at", lambda client: client.status(self.path)))

    def exists(self) -> bool:
        return self._known() is not None

    def is_file(self) -> bool:
        known = self._known()
        return known is not None and not known.folder

    def is_dir(self) -> bool:
        known = self._known()
        return known is not None and known.folder

    def _known(self) -> Status | None:
        try:
            return self.stat()
        except FileNotFoundError:
            return None

    def iterdir(self) -> Iterator["HdfsPath"]:
        """Yield what is in the folder, in no order."""
        for name, listed in self._ask("listed", lambda client: client.list(self.path, status=True)):
            yield HdfsPath(self.files, (self / name).path, _status(listed))

    def glob(self, pattern: str) -> Iterator["HdfsPath"]:
        """Yield what matches a pattern of names and wildcards, such as `dt=*/*.parquet`; nothing when the folder does not exist."""
        first, _, rest = pattern.partition("/")
        for child in self.iterdir() if self.is_dir() else ():
            if fnmatch.fnmatchcase(child.name, first):
                if not rest:
                    yield child
                elif child.is_dir():
                    yield from child.glob(rest)

    def walk_files(self) -> Iterator["HdfsPath"]:
        """Yield every file below the folder; nothing when it does not exist."""
        for child in self.iterdir() if self.is_dir() else ():
            if child.is_dir():
                yield from child.walk_files()
            else:
                yield child

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file for reading; it may be sought in, and its size is the one of now."""
        if mode != "rb":
            raise ValueError("a file on HDFS is written whole: storage.create or storage.replace")
        return io.BufferedReader(_Reader(self), _BLOCK)

    def mkdir(self, *, parents: bool = True, exist_ok: bool = False) -> None:
        """Make the folder and those above it.

        Raises:
            FileExistsError: it is there already, or a file of that name is.
        """
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, "The name is taken", str(self))
        self._ask("made", lambda client: client.makedirs(self.path))

    def rename(self, target: "HdfsPath", *, replace: bool = False) -> None:
        """Give a file or folder another name in one step; with `replace`, a file of that name gives way.

        Raises:
            FileExistsError: the name is taken; what it holds is untouched.
        """
        options, tries = "OVERWRITE" if replace else "NONE", 0

        def act(client: Any) -> None:
            nonlocal tries
            tries += 1
            client._rename(self.path, destination=target.path, renameoptions=options)  # the public method knows the first rename only

        try:
            self._ask("renamed", act)
        except FileNotFoundError:
            if tries == 1 or not target.exists():  # else an earlier try did it, and its answer was lost
                raise

    def unlink(self, *, missing_ok: bool = False) -> None:
        self._delete(missing_ok=missing_ok)

    def remove(self) -> None:
        """Delete a file, or a folder with all it holds, if it is there."""
        self._delete(missing_ok=True, recursive=True)

    def _delete(self, *, missing_ok: bool, recursive: bool = False) -> None:
        if not self._ask("deleted", lambda client: client.delete(self.path, recursive=recursive)) and not missing_ok:
            raise FileNotFoundError(errno.ENOENT, "No such file or folder", str(self))

    def touch(self) -> None:
        """Set the time of the last change to now."""
        self._ask("touched", lambda client: client.set_times(self.path, modification_time=int(time.time() * 1000)))

    def replicate(self, copies: int) -> None:
        """Have HDFS keep so many copies of a file's blocks; it makes or drops them afterwards, by itself."""
        self._ask("replicated", lambda client: client.set_replication(self.path, copies))

    def aside(self) -> "HdfsPath":
        """Return a name beside this one for unfinished work."""
        return self.with_name(f"{ASIDE}{secrets.token_hex(8)}")

    def put(self, content: bytes | Path, *, replace: bool) -> None:
        """Write a file aside, from bytes or from a local file, and give it its name when it is whole.

        Raises:
            FileExistsError: without `replace`, the name is taken; what it holds is untouched.
        """
        aside = self.aside()
        try:
            aside.write(content)
            aside.rename(self, replace=replace)
        except BaseException:
            aside.remove_quietly()
            raise

    def write(self, content: bytes | Path) -> None:
        """Write a file that nobody else knows; unlike `put`, half of it is there when this dies."""

        def act(client: Any) -> None:
            if isinstance(content, Path):
                with content.open("rb") as file:
                    client.write(self.path, data=file if content.stat().st_size else b"", overwrite=True)
            else:
                client.write(self.path, data=content, overwrite=True)

        self._ask("written", act)

    def remove_quietly(self) -> None:
        """Delete what was set aside; when HDFS is away it stays, and readers skip it."""
        with suppress(Exception):  # whatever it is, the error that led here says more
            self.files.client.delete(self.path, recursive=True)

    def _ask(self, what: str, act: Callable[[Any], Outcome]) -> Outcome:
        return self.files.ask(what, self.path, lambda: act(self.files.client))


def _status(listed: Any) -> Status:
    return Status(int(listed["length"]), listed["modificationTime"] / 1000, listed["type"] == "DIRECTORY", int(listed["replication"]))


class _Reader(io.RawIOBase):
    """A stream over WebHDFS that starts anew at its place when it breaks off, and never takes a short answer for the end of the file."""

    def __init__(self, source: HdfsPath) -> None:
        self._source, self._size, self._place = source, source.stat().st_size, 0
        self._answer: Any = None
        if source.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a folder", str(source))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if place != self._place:
            self._hang_up()
            self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        content = self._source._ask("read", lambda client: self._next(client, wanted))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def _next(self, client: Any, wanted: int) -> bytes:
        try:
            if self._answer is None:
                self._answer = client._open(self._source.path, offset=self._place)  # the public method closes with a `with` block
            content: bytes = self._answer.raw.read(wanted)
        except Exception as error:
            self._hang_up()
            from urllib3.exceptions import HTTPError

            if isinstance(error, HTTPError):
                raise ConnectionError(str(error)) from error
            raise
        if not content:
            self._hang_up()
            raise ConnectionError(f"it broke off at byte {self._place} of {self._size}")
        return content

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def close(self) -> None:
        self._hang_up()
        super().close()
