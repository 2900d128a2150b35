"""The stack starts on free ports, heals what dies, and leaves nothing behind, whoever was killed."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from evershelf.stack import supervision
from evershelf.stack.ports import free_ports, is_free
from evershelf.stack.redis import current_primary, write_redis_config
from evershelf.stack.services import DEPLOY, EVERSHELF, find_program, services
from serving.errors import SourceUnavailable
from serving.stores.redis_store import RedisReader

LIGHT = ("redis", "statsd", "prometheus")


@pytest.fixture
def ports(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    chosen = free_ports()
    for variable, port in chosen.items():
        monkeypatch.setenv(variable, port)
    load_settings.cache_clear()
    yield chosen
    supervision.stop(home)  # of a test that failed half-way


def listening(ports: dict[str, str]) -> set[str]:
    return {variable for variable, value in ports.items() if not all(is_free(int(port)) for port in re.findall(r"\d{5}", value))}


def test_up_and_down_leave_nothing_behind(home: Path, ports: dict[str, str]) -> None:
    said: list[str] = []
    record = supervision.start(load_settings(), LIGHT, ports, said.append)
    try:
        assert {line.split()[0] for line in said} == set(LIGHT)
        assert all(service.ready() for name, service in services(load_settings()).items() if name in LIGHT)
        assert "EVERSHELF_REDIS__PORT" in listening(ports)
    finally:
        strays = supervision.stop(home)
    assert strays == []
    assert listening(ports) == set()
    assert not Path(record.socket).parent.exists()
    assert supervision.read_record(home) is None


async def read_past_a_silent_sentinel() -> str:
    """Return what a reader says whose first sentinel takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis = load_settings().redis
        sentinels = (f"127.0.0.1:{silent.getsockname()[1]}", *redis.sentinels)
        reader = RedisReader(redis.model_copy(update={"sentinels": sentinels, "timeout": timedelta(seconds=2)}))
        await reader.connect()
        try:
            with pytest.raises(SourceUnavailable) as refused:
                await reader.get("s", [])
        finally:
            await reader.close()
        return str(refused.value)


def test_replica_takes_over_from_a_primary_that_is_lost(home: Path, ports: dict[str, str]) -> None:
    record = supervision.start(load_settings(), ["redis"], ports, lambda line: None)
    try:
        assert current_primary(load_settings()) == "redis-1"
        assert asyncio.run(read_past_a_silent_sentinel()) == "the store does not hold snapshot s"  # so it answered
        supervision.stop_program(record, "redis-1")
        deadline = time.monotonic() + 30
        while current_primary(load_settings()) in ("redis-1", None):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert current_primary(load_settings()) in ("redis-2", "redis-3")
    finally:
        supervision.stop(home)
    assert current_primary(load_settings()) is None


def test_primary_is_the_one_of_the_newest_fail_over(home: Path) -> None:
    settings = load_settings()
    write_redis_config(settings)
    first, second = settings.redis.replica_ports
    name, folder = settings.redis.primary, home / "redis"
    for number, (epoch, port) in enumerate([(1, first), (2, second), (2, second)], start=1):  # the first sentinel was down at the newest one
        (folder / f"sentinel-{number}.conf").write_text(f"sentinel monitor {name} 127.0.0.1 {port} 2\nsentinel config-epoch {name} {epoch}\n")
    write_redis_config(settings)
    assert "replicaof" not in (folder / "redis-3.conf").read_text()
    assert all(f"replicaof 127.0.0.1 {second}" in (folder / f"redis-{number}.conf").read_text() for number in (1, 2))


def test_a_record_of_another_version_is_named(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / supervision.RECORD).write_text('{"pid": 1, "socket": "s", "urls": {}, "ports": {"redis": 6379}, "env": {}}')
    with pytest.raises(CommandFailed, match="another version wrote it"):
        supervision.stop(home)


def test_what_dies_comes_back_on_its_port(home: Path, ports: dict[str, str]) -> None:
    record = supervision.start(load_settings(), ["redis"], ports, lambda line: None)
    try:
        killed = supervision.program_pid(record, "redis-1")
        time.sleep(1.2)  # supervisord calls a program started after a second
        psutil.Process(killed).kill()
        deadline = time.monotonic() + 15
        while supervision.program_pid(record, "redis-1") in (killed, 0) or not services(load_settings())["redis"].ready():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        supervision.stop(home)


def test_down_stops_everything_after_the_starter_was_killed(home: Path, ports: dict[str, str]) -> None:
    starter = subprocess.Popen([*EVERSHELF, "up", "--only", "redis,statsd", "--foreground"], stdout=subprocess.DEVNULL)
    try:
        wait_until_up(home)
    finally:
        starter.kill()
        starter.wait()
    done = subprocess.run([*EVERSHELF, "down"], capture_output=True, text=True, check=True)
    assert done.stdout == "Stopped.\n"
    assert listening(ports) == set()


def test_down_stops_everything_after_the_supervisor_was_killed(home: Path, ports: dict[str, str]) -> None:
    subprocess.run([*EVERSHELF, "up", "--only", "redis,statsd"], stdout=subprocess.DEVNULL, check=True)
    record = supervision.running(home)
    assert record
    psutil.Process(record.pid).kill()
    assert listening(ports)  # orphans go on
    assert set(supervision.stop(home)) == {"redis-server", "statsd_exporter"}
    assert listening(ports) == set()


def test_ctrl_c_stops_a_stack_in_the_foreground(home: Path, ports: dict[str, str]) -> None:
    starter = subprocess.Popen([*EVERSHELF, "up", "--only", "redis", "--foreground"], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert starter.stdout
    try:
        assert any(line.startswith("Ctrl-C") for line in starter.stdout)
        os.killpg(starter.pid, signal.SIGINT)
        assert starter.wait(30) == 0
    finally:
        starter.kill()
    assert listening(ports) == set()


def test_taken_port_is_named_and_nothing_else_is_stopped(home: Path, ports: dict[str, str]) -> None:
    squatter = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", ports["EVERSHELF_REDIS__PORT"]], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 15
        while is_free(int(ports["EVERSHELF_REDIS__PORT"])):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(CommandFailed, match=ports["EVERSHELF_REDIS__PORT"]):
            supervision.start(load_settings(), ["redis"], ports, lambda line: None)
        assert squatter.poll() is None
    finally:
        squatter.kill()
        squatter.wait()
        supervision.stop(home)


def test_missing_program_is_named_before_anything_starts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(CommandFailed, match="redis-server"):
        supervision.start(load_settings(), ["redis"], {}, lambda line: None)
    assert supervision.read_record(home) is None


def test_chosen_ports_differ(home: Path) -> None:
    chosen = free_ports()
    assert len(set(chosen.values())) == len(chosen)


def test_alerts_fire_when_they_should() -> None:
    done = subprocess.run(
        [find_program("promtool"), "test", "rules", str(DEPLOY / "prometheus" / "rules_test.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration_of_the_stack(home: Path, ports: dict[str, str]) -> None:
    supervision.start(load_settings(), [], ports, lambda line: None)
    supervision.stop(home)
    done = subprocess.run(
        [find_program("promtool"), "check", "config", str(home / "prometheus" / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def wait_until_up(home: Path) -> None:
    deadline = time.monotonic() + 30
    while not (record := supervision.running(home)) or not supervision.program_pid(record, "redis-1") or not services(load_settings())["redis"].ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)
