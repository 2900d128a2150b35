"""A tiny shop with two snapshots, built once; and real processes of everything that serves it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from evershelf import pseudonyms
from evershelf.settings import RedisSettings, load_settings
from serving.build_snapshot import build_snapshot
from serving.promotion.log import PromotionLog
from tests.serving import tiny

PATIENCE = 20.0  # seconds that a test waits for a process


@dataclass(frozen=True)
class Shop:
    """An installation of the tiny shop, of a test's own. `first` and `second` are snapshots of the same model with other lists."""

    home: Path
    first: str
    second: str

    @property
    def snapshots(self) -> Path:
        return self.home / "snapshots"

    @property
    def log(self) -> PromotionLog:
        return PromotionLog(self.home / "promotions")

    def promote(self, snapshot_id: str) -> None:
        if snapshot_id not in self.log.state().registrations:
            self.log.append("registered", snapshot_id, "test")
        self.log.append("promoted", snapshot_id, "test")


@pytest.fixture(scope="session")
def built_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop that tests get copies of."""
    home = tmp_path_factory.mktemp("tiny")
    made = tiny.make(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERSHELF_HOME", str(home))
        load_settings.cache_clear()
        first = build_snapshot(made.candidates_id)
        other = f"{tiny.DATA_AS_OF}-33333333"
        tiny.make_candidates(home, other, made.model_id, shift=9)
        second = build_snapshot(other)
    load_settings.cache_clear()
    return Shop(home, first, second)


@pytest.fixture
def shop(home: Path, built_shop: Shop) -> Shop:
    shutil.copytree(built_shop.home, home)
    return Shop(home, built_shop.first, built_shop.second)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Return the first true value of `what`; errors of a process that is not up yet count as false."""
    last: object = None
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if last := what():
                return last
        except (OSError, httpx.HTTPError, ValueError) as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {patience} s; last: {last!r}")


@dataclass
class GatewayProcess:
    """`evershelf serve` in a process of its own."""

    shop: Shop
    name: str = "gateway-1"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    client: httpx.Client = field(default_factory=httpx.Client)

    @property
    def home(self) -> Path:
        return self.shop.home / "gateway" / self.name

    def start(self, ready: bool = True) -> "GatewayProcess":
        address = self.home / "address.json"
        address.unlink(missing_ok=True)
        command = [sys.executable, "-m", "evershelf.cli", "serve", "--port", "0", "--name", self.name]
        self.process = subprocess.Popen(command, env={**os.environ, **self.environment})
        url = eventually(lambda: json.loads(address.read_bytes())["url"])
        self.client = httpx.Client(base_url=url, timeout=10)
        if ready:
            eventually(lambda: self.client.get("/readyz").status_code == 200)
        return self

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Return an answer; anything but 200 fails."""
        response = self.client.get(path, params=parameters)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def recommend(self, user: str, **parameters: Any) -> dict[str, Any]:
        return self.get("/v1/recommend", user_id=user, **parameters)

    def status(self) -> dict[str, Any]:
        return self.get("/v1/status")

    def admin(self, path: str, **body: Any) -> httpx.Response:
        token = pseudonyms.shared_secret("admin.token")
        return self.client.post(path, json=body or None, headers={"Authorization": f"Bearer {token}"})

    def follow(self) -> dict[str, Any]:
        response = self.admin("/admin/follow")
        assert response.status_code == 200, response.text
        status: dict[str, Any] = response.json()
        return status

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.client.close()
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)


@pytest.fixture
def gateway(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., GatewayProcess]]:
    """Start gateways of the shop; settings are given as environment variables without the prefix. Nothing explores unless a test says so."""
    started: list[GatewayProcess] = []
    monkeypatch.setenv("EVERSHELF_GATEWAY__LOG_POLL", "PT0.1S")
    # Somebody else's servers must not answer: ports that nobody listens on.
    monkeypatch.setenv("EVERSHELF_REDIS__SENTINELS", "[]")
    monkeypatch.setenv("EVERSHELF_REDIS__PORT", str(free_port()))
    monkeypatch.setenv("EVERSHELF_MODEL_SERVER__PORT", str(free_port()))

    def start(name: str = "gateway-1", *, ready: bool = True, **settings: str) -> GatewayProcess:
        environment = {"EVERSHELF_GATEWAY__EXPLORED_SHARE": "0"} | {f"EVERSHELF_{key}": value for key, value in settings.items()}
        made = GatewayProcess(shop, name, environment)
        started.append(made)
        return made.start(ready)

    yield start
    for made in started:
        made.stop()


@pytest.fixture(scope="module")
def served(built_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway with the first snapshot, for all tests of a module that change nothing."""
    shop = Shop(tmp_path_factory.mktemp("served") / "home", built_shop.first, built_shop.second)
    shutil.copytree(built_shop.home, shop.home)
    shop.promote(shop.first)
    settings = {
        "HOME": str(shop.home),
        "GATEWAY__EXPLORED_SHARE": "0",
        "REDIS__SENTINELS": "[]",
        "REDIS__PORT": str(free_port()),
        "MODEL_SERVER__PORT": str(free_port()),
    }
    running = GatewayProcess(shop, environment={f"EVERSHELF_{key}": value for key, value in settings.items()})
    try:
        yield running.start()
    finally:
        running.stop()


@dataclass
class RedisProcess:
    settings: RedisSettings
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """A real Redis on a free port, without persistence."""
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: _accepts(port))
        yield RedisProcess(RedisSettings(sentinels=(), port=port, timeout=timedelta(seconds=2)), process)  # patient: the machine is busy
    finally:
        process.kill()
        process.wait()


def _accepts(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
