"""Start Horovod's ranks and follow them: when one is lost or hangs, all are ended and started again from the last checkpoint.

Also the launcher itself: `python -m training.gang HOSTS INTERFACE SSH WORK PULSE`. A rank on another host belongs to an ssh session with a terminal: when the
session ends, however that comes about, the terminal's hang-up ends the rank, a stopped one too.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from evershelf.progress import Say
from evershelf.settings import TrainingSettings
from training import errors
from training.errors import HostUnfit, RankLost
from training.pulse import Watch

RANK_LINE = re.compile(r"^\[(\d+)\]<(?:stdout|stderr)>:(.*)$")
PR_SET_PDEATHSIG = 1
PULSE = "pulse-"
UNREACHED = "could not connect to some hosts via ssh"  # says Horovod's launcher
LOOK_S = 1.0  # between two looks for a rank that hangs
# what ranks on other hosts are given of this process's environment: Horovod writes it into command lines, which everybody on both hosts can read
EXPORTED = re.compile(
    r"PATH|PYTHONPATH|LD_LIBRARY_PATH|EVERSHELF_(HOME|CONFIG|HDFS__\w+)|KERAS_BACKEND|NVIDIA_TF32_OVERRIDE|(HOROVOD|NCCL|TF|XLA|GLIBC|OMP)_\w+"
)
# a host that is cut off for 45 s is lost
SSH = "ssh -tt -o BatchMode=yes -o LogLevel=ERROR -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ForwardAgent=no -o ControlPath=none"


def run(work: Path, parameters: TrainingSettings, report: Callable[[dict[str, Any]], None], say: Say) -> None:
    """Train in `parameters.ranks` processes, on this machine or on `parameters.hosts`, until all have ended.

    Args:
        report: called with each epoch's figures.

    Raises:
        HostUnfit, LossDiverged: a rank said so.
        RankLost: ranks were lost again and again.
    """
    lost = 0
    if parameters.hosts and parameters.interface not in (known := psutil.net_if_addrs()):
        raise HostUnfit(
            f"This machine has no network interface {parameters.interface}, only {', '.join(sorted(known))}. Nothing was trained and what is live stays live. "
            "Set training.interface to one that all hosts have."
        )

    if parameters.ssh_config and not parameters.ssh_config.is_file():
        raise HostUnfit(f"There is no training.ssh_config {parameters.ssh_config}. Nothing was trained and what is live stays live. Put it there.")

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
    for left in work.glob(f"{PULSE}*"):
        shutil.rmtree(left, ignore_errors=True)  # a rank that was cut off may still write there
    pulse = Path(tempfile.mkdtemp(prefix=PULSE, dir=work))
    watch = Watch(pulse, parameters.ranks, parameters.hangs_after.total_seconds())
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", "HOROVOD_LOG_LEVEL": "error"}
    environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # logits over all items are large: with small pages a fifth of a step fetches memory
    environment.setdefault("HOROVOD_CYCLE_TIME", "3")  # ms between two looks of the ranks at each other; with Horovod's 1 these take a tenth of each core
    ssh = f"{SSH} -F {shlex.quote(str(parameters.ssh_config.absolute()))}" if parameters.ssh_config else SSH
    where = (",".join(parameters.hosts), parameters.interface) if parameters.hosts else (f"localhost:{parameters.ranks}", "lo")
    command = [sys.executable, "-m", "training.gang", *where, ssh, str(work), str(pulse)]
    latest: deque[str] = deque(maxlen=30)
    launchers: deque[str] = deque(maxlen=30)  # a long trace that comes after the ranks' own; it tells something only when no rank did
    hanging: list[str] = []
    failed: list[dict[str, str]] = []
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
                elif text.startswith('{"failed"'):
                    failed.append(json.loads(text))
                elif text:  # what comes through a terminal has empty lines
                    (latest if found else launchers).append(line.rstrip())
        finally:
            ended.set()
            watcher.join()
            if launcher.poll() is None and not launcher.stdout.closed:
                _end(launcher)
    if launcher.returncode == 0:
        return None
    if failed:
        raise getattr(errors, failed[0]["failed"])(failed[0]["message"])
    if any(UNREACHED in line for line in launchers):
        raise HostUnfit(
            f"Not every host of training.hosts, {', '.join(parameters.hosts)}, could be reached over ssh. Nothing was trained and what is live stays live. "
            "`ssh -o BatchMode=yes HOST true` must say nothing for each of them; the hosts' keys must be known."
        )
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


def _launch(hosts: str, interface: str, ssh: str, *arguments: str) -> None:
    from horovod.runner import launch
    from horovod.runner.common.util import env
    from horovod.runner.http import http_server
    from horovod.runner.util import network, remote

    def bind(server: Any) -> None:
        """The meeting point must not listen on every interface, as Horovod's own does."""
        server.server_address = (network.get_driver_ip([interface]), server.server_address[1])
        super(http_server.RendezvousHTTPServer, server).server_bind()

    http_server.RendezvousHTTPServer.server_bind = bind
    if not network.filter_local_addresses([host.split(":")[0] for host in hosts.split(",")]):
        interface = "lo"  # all are this machine
    env.is_exportable = EXPORTED.fullmatch
    remote.SSH_COMMAND_PREFIX = ssh  # Horovod's own takes any host for the one it says it is
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # whoever asked for the training is gone: end it
    sys.argv = [
        "horovodrun",
        "--gloo",
        "--disable-cache",  # of which hosts could be reached within the last hour
        "-np",
        str(sum(int(host.split(":")[1]) for host in hosts.split(","))),
        "-H",
        hosts,
        "--network-interfaces",
        interface,
        sys.executable,
        "-m",
        "training.loop",
        *arguments,
    ]
    launch.run_commandline()


if __name__ == "__main__":
    _launch(*sys.argv[1:])
