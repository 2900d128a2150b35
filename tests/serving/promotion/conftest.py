"""A shop with a model server, gateways and shoppers, and snapshots that have something wrong with them."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from evershelf import snapshot
from evershelf.contracts.model import CONFIG_FILE
from evershelf.settings import load_settings
from serving.model_server.core import ServerCore, read_config
from serving.model_server.services import listen
from serving.tf_serving.client import ModelServerAdmin
from tests.serving.conftest import GatewayProcess, Shop, free_port


@pytest.fixture
def configured(shop: Shop, gateway: Callable[..., GatewayProcess], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set settings (names without the prefix) for this process and all it starts."""

    def configure(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"EVERSHELF_{name}", value)
        load_settings.cache_clear()

    configure(
        GATEWAY__URLS="[]",
        PROMOTION__SHARES="[0.3, 0.5]",
        PROMOTION__MIN_REQUESTS="40",
        PROMOTION__MIN_STAGE="PT0S",
        PROMOTION__STAGE_TIMEOUT="PT20S",
        PROMOTION__LOAD_TIMEOUT="PT10S",
        PROMOTION__JUDGE_INTERVAL="PT0.1S",
    )
    return configure


@pytest.fixture
def model_server(shop: Shop, configured: Callable[..., None]) -> Iterator[ModelServerAdmin]:
    """A model server that reads its configuration file when it starts, as the command does."""
    core = ServerCore(retries=0, retry_s=0.1, poll_s=0.1)
    config = load_settings().served_models / CONFIG_FILE
    if config.exists():
        core.reload(read_config(config))
    server, port = listen(core, "127.0.0.1:0")
    configured(MODEL_SERVER__PORT=str(port))
    admin = ModelServerAdmin(f"127.0.0.1:{port}")
    yield admin
    admin.close()
    server.stop(grace=0).wait()
    core.close()


@pytest.fixture
def gateways(shop: Shop, gateway: Callable[..., GatewayProcess], model_server: ModelServerAdmin, configured: Callable[..., None]) -> list[GatewayProcess]:
    """Two gateways that serve `first`."""
    from serving.promotion.promoter import promote

    assert promote(shop.first, "first", print).outcome == "promoted"
    running = [gateway("one"), gateway("two")]
    configured(GATEWAY__URLS=urls(running))
    return running


def urls(gateways: list[GatewayProcess]) -> str:
    """Return the setting `gateway.urls`; a restarted gateway has another port."""
    return json.dumps([str(made.client.base_url).rstrip("/") for made in gateways])


@dataclass
class Shoppers:
    """Search at every gateway, all the time; `answers` counts (snapshot, HTTP status), with 'empty' for a snapshot that found nothing."""

    urls: list[str]
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,), daemon=True) for url in self.urls]

    def start(self) -> "Shoppers":
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        number = 0
        with httpx.Client(base_url=url, timeout=5) as client:
            while not self._stop.is_set():
                number += 1
                response = client.get("/v1/search", params={"q": "red mug", "user_id": f"shopper-{number}"})
                answer: dict[str, Any] = response.json() if response.status_code == 200 else {"snapshot_id": "", "served_by": "none", "items": []}
                self.answers[answer["snapshot_id"] if answer["items"] else "empty", response.status_code] += 1
                self.rungs[answer["served_by"]] += 1
                time.sleep(0.002)


@pytest.fixture
def shoppers(gateways: list[GatewayProcess]) -> Iterator[Shoppers]:
    made = Shoppers([str(gateway.client.base_url) for gateway in gateways]).start()
    yield made
    made.stop()


def variant(shop: Shop, change: Callable[[Path], object], of: str = "") -> str:
    """Seal another snapshot: `second`, or another one, changed."""
    manifest = snapshot.read_manifest(shop.snapshots / (of or shop.second))
    content = shop.home / "variant"
    shutil.copytree(shop.snapshots / (of or shop.second), content)
    (content / "manifest.json").unlink()
    change(content)
    about = {name: getattr(manifest, name) for name in ("data_as_of", "created_at", "shop", "model_id", "lineage", "rung_quality", "model_card")}
    return snapshot.seal(content, shop.snapshots, **{**about, "lineage": {"variant": time.time_ns()}})


@dataclass
class ModelServerProcess:
    """`evershelf model-server` in a process of its own."""

    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, port: int | None = None) -> "ModelServerProcess":
        port = port or free_port()
        command = [sys.executable, "-m", "evershelf.cli", "model-server", "--port", str(port), "--file-system-poll-wait", "0.1"]
        return cls(port, subprocess.Popen(command, env=os.environ.copy()))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
