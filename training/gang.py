"""Start Horovod's ranks, follow them, and end them all when one is lost. Also the launcher itself: `python -m training.gang RANKS WORK`."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.errors import LossDiverged, RankLost
from training.loop import FAILURE

RANK_LINE = re.compile(r"^\[(\d+)\]<(?:stdout|stderr)>:(.*)$")
PR_SET_PDEATHSIG = 1


def run(work: Path, ranks: int, report: Callable[[dict[str, Any]], None]) -> None:
    """Train in `ranks` processes on this machine until all have ended.

    Args:
        report: called with each epoch's figures.

    Raises:
        LossDiverged: the training itself said so.
        RankLost: a rank ended early, whatever ended it.
    """
    (work / FAILURE).unlink(missing_ok=True)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", "HOROVOD_LOG_LEVEL": "error", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "training.gang", str(ranks), str(work)]
    latest: deque[str] = deque(maxlen=30)
    launchers: deque[str] = deque(maxlen=30)  # a long trace that comes after the ranks' own; it tells something only when no rank did
    # a session of its own: one signal ends the launcher and, through it, every rank
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        try:
            for line in launcher.stdout:
                found = RANK_LINE.match(line.rstrip())
                text = found.group(2) if found else line.rstrip()
                if text.startswith('{"epoch"'):
                    report(json.loads(text))
                else:
                    (latest if found else launchers).append(line.rstrip())
        finally:
            if launcher.poll() is None and not launcher.stdout.closed:
                _end(launcher)
    if launcher.returncode == 0:
        return
    if (work / FAILURE).is_file():
        raise LossDiverged(json.loads((work / FAILURE).read_text())["message"])
    raise RankLost(
        f"A training rank ended early (launcher's exit code {launcher.returncode}); the others were ended. Nothing was exported and what is live stays live. "
        "Run the same command again: it resumes after the last finished epoch. Last lines:\n  " + "\n  ".join(latest or launchers)
    )


def _end(launcher: subprocess.Popen[str]) -> None:
    try:
        launcher.wait(timeout=5)
    except subprocess.TimeoutExpired:
        launcher.send_signal(signal.SIGTERM)  # Horovod's launcher passes it on to the ranks
        try:
            launcher.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(launcher.pid, signal.SIGKILL)


def _launch(ranks: int, work: str) -> None:
    from horovod.runner import launch
    from horovod.runner.http import http_server

    def bind_loopback(server: Any) -> None:
        """All ranks are on this machine: the meeting point must not listen to others, as Horovod's own does."""
        server.server_address = ("127.0.0.1", server.server_address[1])
        super(http_server.RendezvousHTTPServer, server).server_bind()

    http_server.RendezvousHTTPServer.server_bind = bind_loopback
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # whoever asked for the training is gone: end it
    sys.argv = [
        "horovodrun",
        "--gloo",
        "-np",
        str(ranks),
        "-H",
        f"localhost:{ranks}",
        "--network-interfaces",
        "lo",
        sys.executable,
        "-m",
        "training.loop",
        work,
    ]
    launch.run_commandline()


if __name__ == "__main__":
    _launch(int(sys.argv[1]), sys.argv[2])
