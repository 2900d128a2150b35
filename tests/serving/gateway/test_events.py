"""An acknowledged event is on disk, and reaches landing once."""

import asyncio
import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from evershelf.contracts import EVENT_TYPES, EVENTS
from evershelf.pseudonyms import pseudonym, shared_secret
from evershelf.storage import ASIDE
from serving.gateway.answers import EventType
from serving.gateway.journal import Journal
from tests.serving.conftest import GatewayProcess, Shop, eventually

Start = Callable[..., GatewayProcess]
RAW = "ann@shop.example"  # no raw id is ever written


def _event(number: int, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "event_time": "2026-03-02T10:00:00+02:00", "type": "view", "user_id": RAW, "item_id": "i01"} | more


def _landed(shop: Shop) -> list[dict[str, Any]]:
    return [json.loads(line) for file in _files(shop) for line in gzip.decompress(file.read_bytes()).splitlines()]


def _files(shop: Shop) -> list[Path]:
    """Return what landed; work that a kill left unfinished beside it is skipped, as every reader does."""
    return sorted(file for file in (shop.home / "landing" / "gateway").glob("landing_dt=*/*") if not file.name.startswith(ASIDE))


def test_the_types_are_those_of_the_contract() -> None:
    assert set(EventType.__args__) == set(EVENT_TYPES)  # type: ignore[attr-defined]  # what a Literal is made of


def test_events_land_as_the_contract_says_and_without_the_raw_id(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway(GATEWAY__SHIP_INTERVAL="PT0.2S")
    sent = [
        _event(1),
        _event(2, type="search", item_id=None, query="mug", user_id=None),
        _event(3, type="impression", propensity=0.5, slate=["i01"], arm="stable", rung="live"),
    ]
    assert running.client.post("/v1/events", json=sent).json() == {"accepted": 3}
    eventually(lambda: running.status()["events"] == {"accepted": 3, "shipped": 3, "waiting": 0, "shed": 0})
    landed = _landed(shop)
    assert [event["event_id"] for event in landed] == ["e1", "e2", "e3"]
    assert set(landed[0]) == EVENTS.columns.keys() - {"landing_dt", "dt"}
    assert landed[0]["user_id"] == pseudonym(RAW) and landed[1]["user_id"] is None
    assert landed[0]["event_time"] == "2026-03-02T08:00:00Z"
    received = datetime.fromisoformat(landed[0]["received_at"])
    assert {file.parent.name for file in _files(shop)} == {f"landing_dt={received.astimezone(ZoneInfo('Europe/London')).date()}"}
    assert not any(RAW.encode() in path.read_bytes() for path in (shop.home / "gateway").rglob("*") if path.is_file())


def test_what_people_type_by_mistake_is_masked_before_it_is_kept(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    typed = "red mug, call ann@shop.example 4111 1111 1111 1111"
    running.client.post("/v1/events", json=[_event(1, type="search", item_id=None, query=typed)])
    (segment,) = (shop.home / "gateway" / "gateway-1" / "events").rglob("*.jsonl")
    assert json.loads(segment.read_bytes())["query"] == "red mug, call *** ***"
    answer = running.get("/v1/search", q=typed)
    assert answer["matched"]
    token = {"Authorization": f"Bearer {shared_secret('admin.token')}"}
    assert running.client.get(f"/v1/why/{answer['request_id']}", headers=token).json()["query"] == "red mug, call *** ***"


def test_shown_and_clicks_are_counted_for_the_snapshot_that_showed(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    running.recommend(RAW)
    more = {"snapshot_id": shop.first}
    shown = [_event(number, type="impression", **more) for number in (1, 2)]
    running.client.post("/v1/events", json=[*shown, _event(3, type="click", **more), _event(4)])
    counted = running.status()["answers"][shop.first]
    assert (counted["shown"], counted["clicks"]) == (2, 1)


def test_no_acknowledged_event_is_lost_and_none_lands_twice_whenever_it_is_killed(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    acknowledged: list[str] = []
    for round_ in range(2):
        running = gateway(GATEWAY__SHIP_INTERVAL="PT0.05S")
        threads = [threading.Thread(target=_send, args=(str(running.client.base_url), f"{round_}-{sender}", acknowledged)) for sender in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(acknowledged) > (round_ + 1) * 60)  # noqa: B023  # used up within the round
        running.kill()
        for thread in threads:
            thread.join()
    left = list((shop.home / "gateway" / "gateway-1" / "events").rglob("*.jsonl"))
    if left:
        with left[0].open("ab") as torn:
            torn.write(b'{"event_id": "torn')
    last = gateway()
    eventually(lambda: last.status()["events"]["waiting"] == 0)
    counted = Counter(event["event_id"] for event in _landed(shop))
    assert set(acknowledged) <= counted.keys() and "torn" not in counted
    assert max(counted.values()) == 1
    assert not list((shop.home / "gateway" / "gateway-1" / "events").rglob("*.jsonl"))


def _send(url: str, sender: str, acknowledged: list[str]) -> None:
    with httpx.Client(base_url=url, timeout=5) as client:
        for number in range(10_000):
            event_id = f"{sender}-{number}"
            try:
                if client.post("/v1/events", json=[_event(0, event_id=event_id)]).status_code == 200:
                    acknowledged.append(event_id)
            except httpx.HTTPError:
                return


def test_events_wait_on_this_disk_while_landing_is_away(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    landing = shop.home / "landing"
    landing.write_text("in the way")
    running = gateway(GATEWAY__SHIP_INTERVAL="PT0.1S")
    running.client.post("/v1/events", json=[_event(1)])
    assert running.recommend(RAW)["items"]
    assert running.status()["events"] == {"accepted": 1, "shipped": 0, "waiting": 1, "shed": 0}
    running.stop()
    landing.unlink()
    again = gateway(GATEWAY__SHIP_INTERVAL="PT0.1S")
    eventually(lambda: again.status()["events"]["shipped"] == 1)
    assert [event["event_id"] for event in _landed(shop)] == ["e1"]


def test_a_line_that_the_disk_has_damaged_keeps_no_event_from_landing(home: Path, tmp_path: Path) -> None:
    async def write() -> Journal:
        journal = Journal(tmp_path / "events", tmp_path / "landing", "one", lambda user: user == "gone")
        await journal.append("2026-03-10", [b'{"event_id":"e1","user_id":"ann"}', b"\0\0\0", b'{"event_id":"e2","user_id":"gone"}', b'{"event_id":"e3"}'])
        await journal.close()
        return journal

    assert asyncio.run(write()).shipped == 3
    (landed,) = (tmp_path / "landing").rglob("*.gz")
    assert [line[:1] for line in gzip.decompress(landed.read_bytes()).splitlines()] == [b"{", b"\0", b"{"]
