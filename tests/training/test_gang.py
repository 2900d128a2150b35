"""Ranks are killed, stopped and started again, here and on another host, and what comes out is what would have come out."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.settings import TrainingSettings
from evershelf.stack.ports import free_ports
from training import gang, loop, pulse, train
from training.errors import HostUnfit, RankLost
from training.pulse import Sign, Watch
from training.sequence_file import read_sequences

EPOCHS = 8
SMALL = {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8, "width": 16, "checkpoint_steps": 3, "negatives": 12, "hangs_after": timedelta(seconds=20)}


class Training:
    """One training of a small file, which may be disturbed after an epoch."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        self.work, self.said, self.epochs = folder / "work", list[str](), list[dict[str, Any]]()
        self.work.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(6)
        starts, lengths = random.integers(30, size=200), random.integers(5, 12, size=200)
        walks = [
            " ".join([f"u{number}", *(f"i{(start + step) % 30}" for step in range(length))])
            for number, (start, length) in enumerate(zip(starts, lengths, strict=True))
        ]
        (folder / "file.txt").write_text("\n".join(walks))
        self.shop = read_sequences(folder / "file.txt")
        self.parameters = TrainingSettings.model_validate(SMALL | parameters)

    def run(self, disturb: dict[int, Any] | None = None) -> None:
        """Train; when an epoch in `disturb` is reported, which is while the next one runs, send its signal to the last rank, to all, or to those of a host."""
        left = dict(disturb or {})

        def after(epoch: dict[str, Any]) -> None:
            self.epochs.append(epoch)
            if chosen := left.pop(epoch["epoch"], None):
                sent, whom = chosen
                for process in self.ranks(whom) if isinstance(whom, str) else self.ranks() if whom else self.ranks()[-1:]:
                    os.kill(process, sent)

        last = self.shop.first[1:] - 1
        train.fit("small", self.parameters, self.shop, self.work, self.said.append, after, chooses=last - 1)

    def processes(self) -> dict[int, list[str]]:
        """Return the arguments of every process that works for this training: ranks, launchers, ssh sessions and their shells."""
        found = {}
        for process in Path("/proc").iterdir():
            try:
                arguments = (process / "cmdline").read_bytes().decode()
            except (OSError, ValueError):
                continue
            if str(self.work) in arguments:
                found[int(process.name)] = arguments.split("\0")
        return found

    def ranks(self, host: str = "") -> list[int]:
        ranks = sorted(process for process, arguments in self.processes().items() if arguments[1:4] == ["-m", "training.loop", str(self.work)])
        return [process for process in ranks if f"HOROVOD_HOSTNAME={host}".encode() in Path(f"/proc/{process}/environ").read_bytes()]

    def settled(self, holds: Callable[[], bool], within: float) -> bool:
        until = time.monotonic() + within
        while not holds() and time.monotonic() < until:
            time.sleep(0.2)
        return holds()

    def outcome(self) -> list[tuple[int, float, float]]:
        return [(epoch["epoch"], epoch["loss"], epoch["selection_ndcg"]) for epoch in self.epochs]

    def best(self) -> dict[str, Any]:
        with np.load(self.work / loop.BEST) as file:
            return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_whose_ranks_are_killed_and_stopped_ends_with_the_very_weights_of_one_that_was_left_alone(tmp_path: Path) -> None:
    alone, disturbed = Training(tmp_path / "alone"), Training(tmp_path / "disturbed")
    alone.run()
    disturbed.run({2: (signal.SIGKILL, False), 4: (signal.SIGKILL, True), 6: (signal.SIGSTOP, False)})
    restarts = [line for line in disturbed.said if "Starting the ranks again" in line]
    assert len(restarts) == 3, disturbed.said
    assert "does not run" in restarts[2]  # the one that was stopped, by its number
    assert not disturbed.ranks()
    assert disturbed.outcome() == alone.outcome()
    assert [epoch["epoch"] for epoch in disturbed.epochs] == [*range(1, EPOCHS + 1)]
    ours, theirs = disturbed.best(), alone.best()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

    (alone.work / loop.CHECKPOINT).write_bytes(b"PK\3\4 not what it was")
    alone.said.clear()
    alone.epochs.clear()
    alone.run()
    assert any("is damaged" in line and "begins anew" in line for line in alone.said)
    assert alone.outcome() == disturbed.outcome()


@pytest.mark.slow
def test_ranks_that_are_lost_again_and_again_end_the_training_by_name(tmp_path: Path) -> None:
    training = Training(tmp_path, restarts=1)
    training.parameters = training.parameters.model_copy(update={"blocks": 0, "width": -1})  # no model can be made of that: each start fails
    with pytest.raises(RankLost, match="started again 1 times without finishing an epoch"):
        training.run()
    assert not (training.work / loop.BEST).exists()


def test_the_rank_that_keeps_the_others_waiting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "STARTING", 0.3)
    monkeypatch.setattr(pulse, "SILENT", 0.5)
    watch = Watch(tmp_path, ranks=2, limit=0.3)
    assert watch.hanging() is None
    pulse.write(tmp_path, 0, Sign(70, "node-1", 5, 1))
    pulse.write(tmp_path, 1, Sign(71, "node-2", 4, 1))
    assert watch.hanging() is None  # steps were done
    time.sleep(0.4)
    assert "rank 1 (process 71 on node-2) hangs" in str(watch.hanging())
    time.sleep(0.2)
    pulse.write(tmp_path, 1, Sign(71, "node-2", 4, 2))
    assert "rank 0 (process 70 on node-1) does not run" in str(watch.hanging())
    (tmp_path / "1").write_text("")  # read while it is being written
    assert "rank 0 (process 70 on node-1) does not run" in str(watch.hanging())
    pulse.write(tmp_path, 1, Sign(71, "node-2", 5, 3))
    assert watch.hanging() is None


@contextmanager
def two_networks() -> Iterator[tuple[str, str, str, list[str]]]:
    """Two addresses, the interface of both, and what goes before a command that shall run behind the second: in a network of its own, where we may have one."""
    name, net = f"ev{os.getpid()}", f"198.18.{os.getpid() % 256}"
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        yield "127.0.0.1", "127.0.0.2", "lo", []  # the second is no address of an interface: Horovod takes it for another host
        return
    try:
        subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", name], check=True)
        for command, address in (["ip"], f"{net}.1/24"), (["ip", "-n", name], f"{net}.2/24"):
            subprocess.run([*command, "addr", "add", address, "dev", name], check=True)
            subprocess.run([*command, "link", "set", name, "up"], check=True)
        yield f"{net}.1", f"{net}.2", name, ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)  # the kernel would do it too, but later
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def another_host(folder: Path, command: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Let this machine be another host too, by an ssh server with keys of its own; its address, and settings of a training on both.

    Args:
        command: what the server runs instead of what it is asked for.
    """
    if not (server := shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")):
        pytest.skip("no sshd on this machine: install openssh-server")
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_ports()["EVERSHELF_GATEWAY__PORT"]
    configured = [f"Port {port}", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/user.pub", "StrictModes no", "PidFile none"]
    (folder / "sshd_config").write_text("\n".join([*configured, f"ForceCommand {command}"] if command else configured) + "\n")
    reach = [f"Port {port}", f"IdentityFile {folder}/user", "IdentitiesOnly yes", f"UserKnownHostsFile {folder}/known_hosts"]
    (folder / "config").write_text("\n".join(reach) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the server wants it; it is made when the machine starts, which a container does not
    with two_networks() as (here, there, interface, inside):
        (folder / "known_hosts").write_text(f"[{there}]:{port} {(folder / 'host.pub').read_text()}")
        serve = [server, "-D", "-o", f"ListenAddress={there}", "-E", str(folder / "log"), "-f", str(folder / "sshd_config")]
        with subprocess.Popen([*inside, *serve]) as process:
            try:
                while socket.socket().connect_ex((there, int(port))):
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.05)
                yield there, {"hosts": (f"{here}:1", f"{there}:1"), "interface": interface, "ssh_config": folder / "config"}
            finally:
                process.terminate()


@pytest.mark.slow
def test_ranks_on_two_hosts_end_with_the_very_weights_of_two_on_one_also_when_one_is_killed(tmp_path: Path) -> None:
    few = {"epochs": 3, "patience": 3}
    alone = Training(tmp_path / "alone", **few)
    alone.run()
    with another_host(tmp_path / "ssh") as (other, hosts):
        spread = Training(tmp_path / "spread", **few, **hosts)
        spread.run({2: (signal.SIGKILL, other)})
    assert len([line for line in spread.said if "Starting the ranks again" in line]) == 1, spread.said
    assert not spread.processes()
    assert spread.outcome() == alone.outcome()
    ours, theirs = spread.best(), alone.best()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.slow
def test_ranks_on_another_host_end_with_who_asked_for_the_training_even_when_they_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_PRIVACY__USER_KEY", "not for command lines")
    asks = (
        "import sys; from pathlib import Path; from evershelf.settings import TrainingSettings; from training import gang; "
        "gang.run(Path(sys.argv[1]), TrainingSettings.model_validate_json(sys.argv[2]), print, print)"
    )
    with another_host(tmp_path / "ssh") as (other, hosts), monkeypatch.context() as preparing:
        preparing.setattr(gang, "run", lambda *_: None)
        training = Training(tmp_path / "file", epochs=10_000, **hosts)
        training.run()
        command = [sys.executable, "-u", "-c", asks, str(training.work), training.parameters.model_dump_json()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "epoch" in process.stdout.readline()
            assert not any("not for command lines" in argument for arguments in training.processes().values() for argument in arguments)
            [elsewhere] = training.ranks(other)
            os.kill(elsewhere, signal.SIGSTOP)
            process.kill()
        assert training.settled(lambda: not training.processes(), 30), training.processes()


@pytest.mark.slow
def test_a_host_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    command = f'eval "$(echo "$SSH_ORIGINAL_COMMAND" | sed s,{tmp_path}/file,/nowhere,g)"'
    with another_host(tmp_path / "ssh", command) as (other, hosts):
        training = Training(tmp_path / "file", **hosts)
        with pytest.raises(HostUnfit, match=f"{other} does not see /nowhere/work"):
            training.run()
    assert not training.processes()


def test_an_interface_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit, match="no network interface eth77, only "):
        Training(tmp_path, hosts=("127.0.0.1:1", "127.0.0.2:1"), interface="eth77").run()


@pytest.mark.slow
def test_ranks_without_a_gpu_each_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(HostUnfit, match="localhost has 2 ranks and 0 GPUs"):
        Training(tmp_path, gpus=True).run()
