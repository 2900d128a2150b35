"""The application without a server around it: what may hold up what."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from evershelf.settings import load_settings
from serving.gateway.app import App
from serving.gateway.gateway import Gateway


def _run(test: Callable[[App], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        gateway = Gateway(load_settings())
        try:
            await test(App(gateway))
        finally:
            await gateway.stop()

    asyncio.run(run())


async def _ask(app: App, method: str, path: str, body: asyncio.Queue[bytes]) -> tuple[int, str]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await body.get(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"user_id=ann", "headers": []}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["error"] if sent[0]["status"] >= 400 else ""


def test_clients_that_send_no_body_keep_no_reader_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_GATEWAY__MAX_IN_FLIGHT", "2")

    async def test(app: App) -> None:
        body: asyncio.Queue[bytes] = asyncio.Queue()
        idle = [asyncio.create_task(_ask(app, "POST", "/v1/events", body)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await _ask(app, "GET", "/v1/recommend", body) == (503, "no_snapshot")  # answered, not shed
        assert await _ask(app, "POST", "/v1/events", body) == (503, "overloaded")  # bodies have a bound of their own
        for _ in idle:
            body.put_nowait(b"[]")
        assert await asyncio.gather(*idle) == [(200, "")] * 2
        status = app._gateway.status()
        assert (status.requests, status.shed, status.events.shed) == (1, 0, 1)  # nobody answered the reader, and that must show

    _run(test)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"])
def test_a_time_that_utc_cannot_say_is_refused(home: Path, time: str) -> None:
    async def test(app: App) -> None:
        body: asyncio.Queue[bytes] = asyncio.Queue()
        body.put_nowait(json.dumps([{"event_id": "e", "event_time": time, "type": "view", "item_id": "i01"}]).encode())
        assert await _ask(app, "POST", "/v1/events", body) == (400, "invalid_event")

    _run(test)
