"""Rungs fall away one by one, in real processes, and every request is answered all the same."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evershelf import snapshot
from evershelf.settings import load_settings
from serving.errors import ModelServerError
from serving.gateway.question import Question
from serving.promotion.served_models import ServedModels
from serving.stores import redis_store
from serving.stores.snapshot_store import SnapshotStore
from serving.tf_serving.client import ModelServerAdmin
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, RedisProcess, Shop, eventually, free_port

Start = Callable[..., GatewayProcess]
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/recommend", {"user_id": tiny.RAW_USERS[0]}),
    ("/v1/recommend", {"user_id": "a guest", "recent": "i03,i06"}),
    ("/v1/search", {"q": "red candle"}),
    ("/v1/similar", {"item_id": "i03"}),
)


def _reseal(shop: Shop, change: Callable[[Path], Any]) -> str:
    """Seal a changed copy of the first snapshot."""
    content = shop.home / "changed"
    shutil.copytree(shop.snapshots / shop.first, content)
    (content / "manifest.json").unlink()
    change(content)
    manifest = snapshot.read_manifest(shop.snapshots / shop.first)
    about = {name: getattr(manifest, name) for name in ("data_as_of", "created_at", "shop", "model_id", "lineage", "rung_quality", "model_card")}
    return snapshot.seal(content, shop.snapshots, **about)


class ModelServer:
    """`evershelf model-server` with the shop's model as version 1; it may be killed and started again."""

    def __init__(self, shop: Shop, port: int) -> None:
        self.port = port
        models = ServedModels(load_settings())
        models.publish(shop.snapshots / shop.first, 1)
        models.remember([1])
        models.close()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "evershelf.cli", "model-server", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        admin = ModelServerAdmin(f"127.0.0.1:{self.port}")
        try:
            eventually(lambda: _available(admin), patience=120)
        finally:
            admin.close()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def _available(admin: ModelServerAdmin) -> bool:
    try:
        return admin.status()[1].state == "AVAILABLE"
    except (ModelServerError, KeyError):
        return False


@pytest.fixture
def model_server(shop: Shop) -> Iterator[ModelServer]:
    server = ModelServer(shop, free_port())
    yield server
    server.kill()


def _served_by(running: GatewayProcess, path: str, parameters: dict[str, Any], rung: str) -> dict[str, Any]:
    """Ask until a rung answers; whatever rung answers before must give a full answer too."""

    def ask() -> dict[str, Any] | None:
        answer = running.get(path, **parameters)
        assert answer["items"]
        return answer if answer["served_by"] == rung else None

    answer: dict[str, Any] = eventually(ask)
    return answer


def _ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@pytest.mark.slow
def test_answers_go_down_when_the_model_server_dies_and_up_when_it_is_back(shop: Shop, gateway: Start, model_server: ModelServer) -> None:
    shop.promote(shop.first)
    assert shop.log.state().registrations[shop.first] == 1
    model_server.start()
    running = gateway(MODEL_SERVER__PORT=str(model_server.port), GATEWAY__DEADLINE="PT5S")
    model_server.wait()
    live = {}
    for path, parameters in QUESTIONS:
        answer = _served_by(running, path, parameters, "live")
        assert answer["expected_quality"] == 1.0 and answer["skipped"] == []
        live[str(parameters)] = _ids(answer)
    model_server.kill()
    for path, parameters in QUESTIONS:
        answer = running.get(path, **parameters)
        assert answer["served_by"] == "local_model"
        assert [skip["rung"] for skip in answer["skipped"]] == ["live"]
        assert _ids(answer) == live[str(parameters)]  # the same ranker in another place
    model_server.start()
    model_server.wait()
    _served_by(running, *QUESTIONS[0], "live")


@pytest.mark.slow
def test_an_answer_of_another_model_version_is_not_used(shop: Shop, gateway: Start, model_server: ModelServer) -> None:
    shop.promote(shop.second)  # registered as 1: what the server has
    shop.promote(shop.first)  # registered as 3: what it has not
    model_server.start()
    running = gateway(MODEL_SERVER__PORT=str(model_server.port), GATEWAY__DEADLINE="PT5S")
    model_server.wait()
    for _ in range(3):
        assert running.recommend(tiny.RAW_USERS[0])["served_by"] == "local_model"


def test_without_a_ranker_the_store_answers_and_without_the_store_the_disk(shop: Shop, gateway: Start, redis_server: RedisProcess) -> None:
    broken = _reseal(shop, lambda content: (content / "ranker.tflite").write_bytes(b"not a model"))
    shop.promote(broken)
    redis_store.write(shop.snapshots / broken, redis_server.settings)
    running = gateway(REDIS__SENTINELS="[]", REDIS__PORT=str(redis_server.settings.port), REDIS__TIMEOUT="PT1S", GATEWAY__DEADLINE="PT5S")
    stored = []
    for path, parameters in QUESTIONS:
        answer = _served_by(running, path, parameters, "stored")
        assert answer["expected_quality"] == 0.8
        stored.append(_ids(answer))
    redis_server.kill()
    for (path, parameters), before in zip(QUESTIONS, stored, strict=True):
        answer = running.get(path, **parameters)
        assert answer["served_by"] == "snapshot"
        assert _ids(answer) == before
        assert [skip["rung"] for skip in answer["skipped"]] == ["live", "local_model", "stored"]


def test_nothing_waits_for_a_model_server_that_hangs(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        running = gateway(MODEL_SERVER__PORT=str(silent.getsockname()[1]))
        for _ in range(8):
            started = time.monotonic()
            assert running.get("/v1/similar", item_id="i03")["served_by"] == "local_model"
            assert time.monotonic() - started < 0.5
        assert running.status()["rungs"]["live"]["state"] == "open"


def test_an_unknown_shopper_gets_what_is_popular(served: GatewayProcess) -> None:
    answer = served.recommend("never seen", k=5)
    assert answer["served_by"] == "popular" and answer["matched"]
    assert _ids(answer) == ["i00", "i01", "i02", "i03", "i04"]
    assert answer["snapshot_id"] == served.shop.first and answer["arm"] == "stable" and answer["overlay_age_s"] is None
    assert {item["category_path"] for item in served.recommend("never seen", category="Home")["items"]} == {"Home > Candles", "Home > Mugs"}


def test_a_shopper_gets_more_of_what_was_touched_last(served: GatewayProcess) -> None:
    answer = served.recommend(tiny.RAW_USERS[1], k=3)  # a history of mugs
    assert answer["served_by"] == "local_model"
    assert {item["category_path"] for item in answer["items"]} == {"Home > Mugs"}
    event = {"event_id": "e1", "event_time": "2026-03-02T10:00:00Z", "type": "cart", "user_id": tiny.RAW_USERS[1], "item_id": "i02"}
    assert served.client.post("/v1/events", json=[event] * 20).json() == {"accepted": 20}
    assert {item["category_path"] for item in served.recommend(tiny.RAW_USERS[1], k=3)["items"]} == {"Garden"}
    assert {item["category_path"] for item in served.recommend("a guest", recent="i01,i01", k=3)["items"]} == {"Home > Mugs"}


def test_what_is_sold_out_or_just_chosen_is_not_recommended(served: GatewayProcess) -> None:
    for user in (*tiny.RAW_USERS, "never seen"):
        shown = _ids(served.recommend(user, k=100))
        assert tiny.SOLD_OUT not in shown and len(shown) == len(set(shown)) >= len(tiny.ITEMS) - 2
    assert tiny.SOLD_OUT not in _ids(served.get("/v1/similar", item_id="i04", k=100))
    assert "i09" not in _ids(served.recommend("a guest", recent="i09", k=100))


def test_a_search_stays_a_search_on_every_rung(served: GatewayProcess) -> None:
    for user in ("", *tiny.RAW_USERS):
        answer = served.get("/v1/search", q="Red Candles", user_id=user, k=2)
        assert set(_ids(answer)) == {"i00", "i12"}, user
    nothing = served.get("/v1/search", q="🕯🕯", k=3)
    assert nothing["served_by"] == "popular" and not nothing["matched"] and len(nothing["items"]) == 3
    assert not served.get("/v1/search", q="zeppelin")["matched"]


def test_an_unknown_item_or_category_still_gets_an_answer_that_says_so(served: GatewayProcess) -> None:
    for answer in (served.get("/v1/similar", item_id="ghost"), served.recommend(tiny.RAW_USERS[0], category="Ghosts")):
        assert answer["served_by"] == "popular" and answer["items"] and not answer["matched"]


def test_exploration_has_the_propensities_that_it_says(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway(GATEWAY__EXPLORED_SHARE="0.2")
    usual = _ids(running.recommend("never seen", k=1)) + [f"i{number:02d}" for number in (1, 2, 3, 4)]
    rounds, explored = 300, 0
    for _ in range(rounds):
        items = running.recommend("never seen", k=5)["items"]
        changed = [item for item, expected in zip(items, usual, strict=True) if item["item_id"] != expected]
        assert items[0]["item_id"] == usual[0] and items[0]["propensity"] == 1.0
        assert len(changed) <= 1
        explored += len(changed)
        for item in items[1:]:
            assert item["propensity"] == pytest.approx(0.2 / 4 / 18 if item in changed else 1 - 0.2 / 4)  # 23 items to sell, 5 shown, 18 spare
    assert 0.1 < explored / rounds < 0.3


def test_a_price_in_a_query_is_a_filter_and_the_answer_says_how_the_query_was_read(served: GatewayProcess) -> None:
    answer = served.get("/v1/search", q="candle between £5 and £12", k=50)
    assert {item["item_id"] for item in answer["items"]} == {item for item in tiny.ITEMS if "Candle" in tiny.category(item) and 5 <= tiny.price(item) <= 12}
    assert answer["matched"]
    assert answer["understood"] == {
        "text": "candle", "corrected": {}, "price_from": 5, "price_to": 12, "currency": "GBP", "filter_dropped": False, "category": "Home > Candles"
    }  # fmt: skip
    assert served.recommend(tiny.RAW_USERS[0])["understood"] is None


@pytest.mark.parametrize(("typed", "stored"), [("Mug under £19", "mug under 19"), ("mug under 10", "mug"), ("under 19", ""), ("Mug", "mug")])
def test_what_was_chosen_after_the_whole_query_counts_before_what_was_after_it_without_the_price(shop: Shop, typed: str, stored: str) -> None:
    question = Question(SnapshotStore(shop.snapshots / shop.first), "search", 5, time.time(), text=typed)
    assert question.normalized == stored
    lists = [question.store.item(int(number)).item_id for found in question.retrieved() if found.origin == "query_list" for number in found.numbers]
    assert lists == list(tiny.QUERIES.get(stored, ()))


@pytest.mark.parametrize("query", ["mug under 1", "mug under 20 €"])
def test_what_nothing_costs_is_answered_without_the_price_and_says_so(served: GatewayProcess, query: str) -> None:
    answer, without = served.get("/v1/search", q=query), served.get("/v1/search", q="mug")
    assert answer["understood"]["filter_dropped"] and answer["matched"]
    assert _ids(answer) == _ids(without)


def test_a_price_alone_gives_popular_items_that_cost_it(served: GatewayProcess) -> None:
    answer = served.get("/v1/search", q="under 6", k=50)
    assert answer["served_by"] == "popular" and answer["matched"] and not answer["understood"]["filter_dropped"]
    assert {item["item_id"] for item in answer["items"]} == {item for item in tiny.ITEMS if tiny.price(item) <= 6}


def test_a_word_with_a_typo_finds_what_was_meant(served: GatewayProcess) -> None:
    answer, meant = served.get("/v1/search", q="red cnadle", user_id=tiny.RAW_USERS[0]), served.get("/v1/search", q="red candle", user_id=tiny.RAW_USERS[0])
    assert answer["understood"]["corrected"] == {"cnadle": "candle"}
    assert (answer["served_by"], _ids(answer)[:2]) == ("local_model", _ids(meant)[:2])
