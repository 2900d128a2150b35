"""From the first second on no gateway answers with a forgotten shopper's data, nor keeps any more of it."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evershelf import forgotten, storage
from evershelf.pseudonyms import shared_secret, tombstone
from evershelf.settings import load_settings
from serving.forget import forget
from serving.gateway.tombstones import Tombstones
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, Shop, eventually

Start = Callable[..., GatewayProcess]
ANN, ANN_INSIDE = tiny.RAW_USERS[0], tiny.USERS[0]


def _event(number: int, user: str = ANN, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "event_time": "2026-03-02T10:00:00Z", "type": "view", "user_id": user, "item_id": "i01"} | more


def _items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def _why(running: GatewayProcess, answer: dict[str, Any]) -> int:
    token = {"Authorization": f"Bearer {shared_secret('admin.token')}"}
    return running.client.get(f"/v1/why/{answer['request_id']}", headers=token).status_code


def _know(gateways: list[GatewayProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_GATEWAY__URLS", json.dumps([str(made.client.base_url).rstrip("/") for made in gateways]))
    load_settings.cache_clear()


def test_a_forgotten_shopper_is_a_stranger_at_every_gateway_at_once(shop: Shop, gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.promote(shop.first)
    alone = {"GATEWAY__LOG_POLL": "PT60S", "GATEWAY__SHIP_INTERVAL": "PT60S"}  # only the call can tell them
    one, two = (gateway(name, ready=False, **alone) for name in ("one", "two"))
    for running in (one, two):
        running.follow()
    _know([one, two], monkeypatch)
    one.client.post("/v1/events", json=[_event(1), _event(2, "bob")])
    answers = [one.recommend(ANN), one.recommend("bob")]
    assert _items(answers[0]) != _items(one.recommend("a stranger"))
    command = subprocess.run([sys.executable, "-m", "evershelf.cli", "forget", "-", "--json"], input=f"{ANN}\n", capture_output=True, text=True, check=True)
    report = json.loads(command.stdout)
    assert (report["added"], report["recorded"], set(report["gateways"].values())) == (1, True, {"ok"})
    for running in (one, two):
        assert _items(running.recommend(ANN)) == _items(running.recommend("a stranger"))
        assert running.status()["forgotten"] == 1
    assert [_why(one, answer) for answer in answers] == [404, 200]
    assert one.client.post("/v1/events", json=[_event(3), _event(4, "bob")]).json() == {"accepted": 2}
    one.stop()  # ships
    two.stop()
    (landed,) = (shop.home / "landing" / "gateway").rglob("*.gz")
    assert [json.loads(line)["event_id"] for line in gzip.decompress(landed.read_bytes()).splitlines()] == ["e2", "e4"]
    assert not any(ANN_INSIDE.encode() in path.read_bytes() for path in (shop.home / "gateway").glob("*/events/**/*") if path.is_file())
    again = forget([ANN])
    assert (again.added, again.complete) == (0, False)  # both gateways are away: said, and nothing else changes


def test_a_gateway_that_could_not_be_told_reads_it_and_knows_it_when_the_storage_is_gone(shop: Shop, gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.promote(shop.first)
    running = gateway()
    _know([], monkeypatch)
    forgotten.add(tombstone(ANN_INSIDE))
    eventually(lambda: running.status()["forgotten"] == 1)
    assert _items(running.recommend(ANN)) == _items(running.recommend("a stranger"))
    running.kill()
    for gone in ("promotions", "snapshots", "forgotten"):
        shutil.rmtree(shop.home / gone)
    (shop.home / "forgotten").write_text("no folder")
    again = gateway()
    assert _items(again.recommend(ANN)) == _items(again.recommend("a stranger"))


def test_a_list_that_cannot_be_written_keeps_no_gateway_from_being_told(shop: Shop, gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.promote(shop.first)
    running = gateway()
    _know([running], monkeypatch)
    (shop.home / "forgotten").write_text("in the way")
    result = forget([ANN])
    assert result.problem and not result.complete and set(result.gateways.values()) == {"ok"}
    assert _items(running.recommend(ANN)) == _items(running.recommend("a stranger"))
    (shop.home / "forgotten").unlink()
    assert forget([ANN]).complete


def test_the_call_takes_tombstones_only_and_needs_the_token(served: GatewayProcess) -> None:
    assert served.client.post("/admin/forget", json=["0" * 64]).status_code == 401
    token = {"Authorization": f"Bearer {(served.shop.home / 'admin.token').read_text().strip()}"}
    refused = served.client.post("/admin/forget", json=[ANN], headers=token)
    assert refused.status_code == 400 and "nobody was forgotten" in refused.text


def test_a_full_disk_or_an_unreadable_list_makes_nobody_remembered_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    known = Tombstones(home / "forgotten.json")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
        known.add(["a" * 64])
        assert "a" * 64 in known.known and "No space left" in next(iter(known.problems.values()))
    (home / "forgotten").mkdir()
    monkeypatch.setattr(forgotten, "read", lambda **_: (_ for _ in ()).throw(OSError("away")))
    known.start(60)
    eventually(lambda: "list of forgotten shoppers" in known.problems)
    assert "a" * 64 in known.known
    known.stop()
