"""The commands of a case, as processes that can be stopped, killed and watched.

What a command needs is imported once, by a server whose children (forks) run the commands. A child that no fault killed runs the next command too, with its
warm JVM: to start both anew would cost more than the day itself.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

LEASE_S = 10.0  # instead of the lake's 60, so that no re-run waits for a minute until its killed predecessor's lock is free
PATIENCE_S = 400.0  # a command that has not ended by then hangs
_POLL_S = 0.005

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["evershelf.cli", "evershelf.maintain_lake", "evershelf.shops.commands", "spark_jobs.lake_daily"])


class Lines:
    """The lines of a growing file, from a place on."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path, self._place, self._rest = path, start, ""

    def new(self) -> list[str]:
        """Return the lines that are whole since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._place)
            content = file.read()
        self._place += len(content)
        *lines, self._rest = (self._rest + content.decode(errors="replace")).split("\n")
        return lines


class Driver:
    """A process that runs one command after the other: `evershelf` with its arguments, in an environment, its output to a log."""

    def __init__(self) -> None:
        self._connection, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def begin(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._connection.send((list(arguments), dict(env), str(log)))

    def ended(self, within: float = 0.0) -> bool:
        return self._connection.poll(within)

    def end(self) -> int:
        """Wait for the command to end; return its exit code.

        Raises:
            TimeoutError: it hangs; it is killed.
        """
        if not self.ended(PATIENCE_S):
            self.kill()
            raise TimeoutError(f"the command had not ended after {PATIENCE_S:.0f} s")
        try:
            return int(self._connection.recv())
        except EOFError:
            return -signal.SIGKILL

    def run(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> int:
        self.begin(arguments, env, log)
        return self.end()

    def freeze(self) -> None:
        for process in family(self._process.pid):
            process.suspend()

    def thaw(self) -> None:
        for process in family(self._process.pid):
            process.resume()

    def kill(self) -> None:
        """kill -9, with all it started."""
        kill(family(self._process.pid))
        self._process.join()


def family(pid: int | None) -> list[psutil.Process]:
    """Return a process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def until(line: str, lines: Lines, over: Any, delay: float, steps: Sequence[str]) -> str | None:
    """Wait until a line comes, and then for `delay` seconds more or until the next step begins.

    Args:
        over: returns whether nothing can come any more.
        steps: how the lines that begin a step begin.

    Returns:
        what came last of both lines; None when the command ended without saying the first.
    """
    last, deadline = None, float("inf")
    while time.monotonic() < deadline:
        ended = over()
        for said in lines.new():
            if last is None and line in said:
                last, deadline = line, time.monotonic() + delay
            elif last is not None and (begun := [step for step in steps if step in said]):
                return f"{last}, then {begun[0]}"
        if ended:
            return last and f"{last}, then its end"
        if deadline == float("inf") or delay:
            time.sleep(_POLL_S)
    return last


def _serve(connection: Connection) -> None:
    """Run commands until nobody asks for more."""
    from evershelf import cli, pseudonyms, storage, telemetry
    from evershelf.settings import load_settings

    storage.LEASE_S = LEASE_S
    for arguments, env, log in _asked(connection):
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
        os.environ.update(env)
        load_settings.cache_clear()
        pseudonyms._key.cache_clear()
        telemetry.metrics.cache_clear()
        code = 0
        try:
            cli.main(arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())  # as a process of its own would end
            code = 1
        with suppress(Exception):  # what a process of its own would take with it
            from pyspark.sql import SparkSession

            if session := SparkSession.getActiveSession():
                session.stop()
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(code)


def _asked(connection: Connection) -> Iterator[Any]:
    with suppress(EOFError):
        while True:
            yield connection.recv()
