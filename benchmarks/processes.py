"""What a benchmark measures, as processes of their own."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import httpx

from evershelf.errors import CommandFailed


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], ready: Callable[[], bool], patience: float = 20.0) -> Iterator[None]:
    """Run a command for the time of the block, which begins when it is ready; errors of HTTP count as not yet.

    Raises:
        CommandFailed: it is not ready within `patience` seconds.
    """
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + patience
        while not _holds(ready):
            if time.monotonic() > deadline:
                raise CommandFailed(f"`{' '.join(command)}` did not become ready within {patience:.0f} s. Nothing was measured.")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> Callable[[], bool]:
    """Return the question whether a server at a URL is ready."""
    return lambda: httpx.get(f"{url}/readyz", trust_env=False).is_success


def _holds(ready: Callable[[], bool]) -> bool:
    with suppress(httpx.HTTPError):
        return ready()
    return False
