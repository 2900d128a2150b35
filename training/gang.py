"""Start Horovod's ranks and follow them: when one is lost or hangs, all are ended and started again from the last checkpoint.

Also the launcher itself: `python -m training.gang RANKS WORK`.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from evershelf.progress import Say
from evershelf.settings import TrainingSettings
from training.errors import LossDiverged, RankLost
from training.loop import FAILURE
from training.pulse import PULSE, Watch

RANK_LINE = re.compile(r"^\[(\d+)\]<(?:stdout|stderr)>:(.*)$")
PR_SET_PDEATHSIG = 1
LOOK_S = 1.0  # between two looks for a rank that hangs


def run(work: Path, parameters: TrainingSettings, report: Callable[[dict[str, Any]], None], say: Say) -> None:
    """Train in `parameters.ranks` processes on this machine until all have ended.

    Args:
        report: called with each epoch's figures.

    Raises:
        LossDiverged: the training itself said so.
        RankLost: ranks were lost again and again.
    """
    lost = 0

    def progress(epoch: dict[str, Any]) -> None:
        nonlocal lost
        lost = 0
        report(epoch)

    while why := _attempt(work, parameters, progress, say):
        lost += 1
        if lost > parameters.restarts:
            raise RankLost(
                f"{why} The ranks were started again {parameters.restarts} times without finishing an epoch. Nothing was exported and what is live stays "
                "live. Find out what ends them (memory? see the lines above); the same command goes on from the last checkpoint."
            )
        say(f"{why} Starting the ranks again from the last checkpoint ({lost} of {parameters.restarts}).")


def _attempt(work: Path, parameters: TrainingSettings, report: Callable[[dict[str, Any]], None], say: Say) -> str | None:
    """Run the ranks once; return what ended them before their time, if anything did."""
    (work / FAILURE).unlink(missing_ok=True)
    watch = Watch(work / PULSE, parameters.ranks, parameters.hangs_after.total_seconds())
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", "HOROVOD_LOG_LEVEL": "error", "CUDA_VISIBLE_DEVICES": ""}
    environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # logits over all items are large: with small pages a fifth of a step fetches memory
    environment.setdefault("HOROVOD_CYCLE_TIME", "3")  # ms between two looks of the ranks at each other; with Horovod's 1 these take a tenth of each core
    command = [sys.executable, "-m", "training.gang", str(parameters.ranks), str(work)]
    latest: deque[str] = deque(maxlen=30)
    launchers: deque[str] = deque(maxlen=30)  # a long trace that comes after the ranks' own; it tells something only when no rank did
    hanging: list[str] = []
    ended = threading.Event()
    # a session of its own: one signal ends the launcher and, through it, every rank
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) as launcher:
        assert launcher.stdout is not None

        def look() -> None:
            while not ended.wait(LOOK_S):
                if found := watch.hanging():
                    hanging.append(found)
                    _kill(launcher)
                    return

        watcher = threading.Thread(target=look, name="watch")
        watcher.start()
        try:
            for line in launcher.stdout:
                found = RANK_LINE.match(line.rstrip())
                text = found.group(2) if found else line.rstrip()
                if text.startswith('{"epoch"'):
                    report(json.loads(text))
                elif text.startswith('{"say"'):
                    say(json.loads(text)["say"])
                else:
                    (latest if found else launchers).append(line.rstrip())
        finally:
            ended.set()
            watcher.join()
            if launcher.poll() is None and not launcher.stdout.closed:
                _end(launcher)
    if launcher.returncode == 0:
        return None
    if (work / FAILURE).is_file():
        raise LossDiverged(json.loads((work / FAILURE).read_text())["message"])
    if hanging:
        return hanging[0]
    return f"A training rank ended early (launcher's exit code {launcher.returncode}); the others were ended. Last lines:\n  " + "\n  ".join(
        latest or launchers
    )


def _end(launcher: subprocess.Popen[str]) -> None:
    try:
        launcher.wait(timeout=5)
    except subprocess.TimeoutExpired:
        launcher.send_signal(signal.SIGTERM)  # Horovod's launcher passes it on to the ranks
        try:
            launcher.wait(timeout=15)
        except subprocess.TimeoutExpired:
            _kill(launcher)


def _kill(launcher: subprocess.Popen[str]) -> None:
    """End the launcher and every process below it, stopped ones too."""
    try:
        processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


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
