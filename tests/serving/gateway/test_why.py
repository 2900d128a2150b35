"""An answer can be explained afterwards, truthfully, without a raw id, and only to who holds the admin token."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from evershelf import pseudonyms
from serving.gateway.answers import Answer, AnswerItem
from serving.gateway.memory import AnswerMemory
from serving.gateway.question import Question, RecentEvent
from serving.stores.snapshot_store import SnapshotStore
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, Shop, eventually, free_port

Start = Callable[..., GatewayProcess]


def _why(running: GatewayProcess, answer: dict[str, Any]) -> dict[str, Any]:
    token = (running.shop.home / "admin.token").read_text().strip()
    response = running.client.get(f"/v1/why/{answer['request_id']}", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200, response.text
    why: dict[str, Any] = response.json()
    assert [item["item_id"] for item in why["items"]] == [item["item_id"] for item in answer["items"][:5]]
    return why


def test_it_tells_what_was_asked_what_answered_and_how_long_it_took(served: GatewayProcess) -> None:
    answer = served.recommend(tiny.RAW_USERS[0], k=4, category="Home > Candles")
    why = _why(served, answer)
    asked = {"endpoint": "recommend", "user": tiny.USERS[0], "k": 4, "category": "Home > Candles", "query": "", "item_id": "", "gateway": "gateway-1"}
    assert asked.items() <= why.items()
    assert {name: why[name] for name in ("request_id", "snapshot_id", "arm", "served_by", "expected_quality", "matched")}.items() <= answer.items()
    assert [(rung["rung"], rung["outcome"]) for rung in why["rungs"]] == [
        *((skipped["rung"], skipped["why"]) for skipped in answer["skipped"]),
        (answer["served_by"], "answered"),
    ]
    assert 0 < why["retrieval_ms"] < why["ms"] and 0 < why["rungs"][-1]["ms"] < why["ms"]
    assert why["same_order"] is True and why["note"] == ""
    assert tiny.RAW_USERS[0] not in json.dumps(why)


def test_each_item_owes_its_place_to_what_the_shopper_looked_at(served: GatewayProcess) -> None:
    """The tiny model prefers items of the categories that were touched, so each kind must be traced to its own one."""
    why = _why(served, served.recommend("a guest", recent="i03,i04", k=10))
    traced = {"i03": "candle", "i04": "mug"}
    assert {item["moved_by"][0]["item_id"] for item in why["items"] if item["moved_by"]} == set(traced)
    for item in why["items"]:
        first = item["moved_by"][0]
        assert traced[first["item_id"]] in item["title"] and first["effect"] > 0 and first["place_without"] > item["ranked_at"] == item["position"]
        assert item["reasons"][0] == f"because you looked at {tiny.title(first['item_id'])}"
        assert f"often chosen by those who chose {tiny.title(first['item_id'])}" in item["reasons"]
        before, after = item["retrieved_at"], item["ranked_at"]
        assert item["ranked"] in (f"the ranking model moved it from place {before} to {after}", f"the ranking model left it at place {after}")
    assert {origin["origin"] for origin in why["origins"]} == {"neighbours", "popular"}
    assert max(origin["items"] for origin in why["origins"]) <= why["candidates"]


def test_a_search_names_the_words_that_match(served: GatewayProcess) -> None:
    why = _why(served, served.get("/v1/search", q="Red candles please"))
    assert (why["query"], why["user"]) == ("Red candles please", None)
    matching = {item["title"].split(" no.")[0]: reason for item in why["items"] for reason in item["reasons"] if reason.startswith("matches")}
    assert matching["Red candle"] == "matches your words 'red candles'"
    assert all(("red" in reason) == ("Red" in title) for title, reason in matching.items())
    assert all(item["retrieved_at"] and item["ranked_at"] for item in why["items"])


def test_it_tells_how_a_query_was_read(served: GatewayProcess) -> None:
    answer = served.get("/v1/search", q="red cnadle under 10")
    why = _why(served, answer)
    assert why["understood"] == answer["understood"]
    assert "often chosen after searching for 'red candle'" in [origin["words"] for origin in why["origins"]]  # the list of what was meant
    assert "matches your words 'red candle'" in why["items"][0]["reasons"]
    assert "read as   'candle' for 'cnadle'; 'red cnadle' at a price to 10\n" in _command(served, answer["request_id"]).stdout


def test_similar_items_and_popular_ones_say_what_they_are(served: GatewayProcess) -> None:
    similar = _why(served, served.get("/v1/similar", item_id="i03"))
    assert all(f"often chosen by those who chose {tiny.title('i03')}" in item["reasons"] and not item["moved_by"] for item in similar["items"])
    popular = _why(served, served.recommend("nobody", category="Garden"))
    assert popular["served_by"] == "popular" and len(popular["rungs"]) == 5
    assert all(item["reasons"] == ["popular in Garden"] for item in popular["items"])


def test_nobody_without_the_token_reads_it(served: GatewayProcess) -> None:
    path = f"/v1/why/{served.recommend(tiny.RAW_USERS[0])['request_id']}"
    assert served.client.get(path).status_code == served.client.get(path, headers={"Authorization": "Bearer guess"}).status_code == 401
    assert served.client.post(path).status_code == 405
    operation = served.get("/openapi.json")["paths"]["/v1/why/{request_id}"]["get"]
    assert operation["security"] == [{"admin": []}] and operation["parameters"][0]["in"] == "path"


def test_lists_explain_their_rung_and_an_item_on_trial_says_so(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway(GATEWAY__RUNGS='["snapshot", "popular"]', GATEWAY__EXPLORED_SHARE="0.2", GATEWAY__REMEMBERED_ANSWERS="100")
    answers = [running.recommend(tiny.RAW_USERS[0], k=4) for _ in range(100)]  # none explores once in 5e9 runs
    trials = [answer for answer in answers if any(item["propensity"] < 0.5 for item in answer["items"])]
    why = _why(running, trials[0])
    assert why["served_by"] == "snapshot" and why["same_order"]
    for item in why["items"]:
        assert ("shown on trial: now and then one place tries something else" in item["reasons"]) == (item["propensity"] < 0.5)
        assert "picked for you from what you did before" in item["reasons"]
    running.recommend(tiny.RAW_USERS[0])  # the 101st: the first is forgotten
    forgotten = _command(running, answers[0]["request_id"])
    assert forgotten.returncode == 1 and "keeps the last 100 answers" in forgotten.stderr and "It started at 20" in forgotten.stderr


def test_after_a_rollback_the_rest_is_still_told(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    shop.promote(shop.second)
    running = gateway()
    answer = running.recommend(tiny.RAW_USERS[0])
    assert answer["snapshot_id"] == shop.second
    dead = f"http://127.0.0.1:{free_port()}"
    live = _command(running, answer["request_id"], dead)
    assert live.returncode == 0 and f"local_model of snapshot {shop.second}" in live.stdout and f"1. {answer['items'][0]['title']}" in live.stdout
    shop.log.append("rolled_back", shop.second, "test", to=shop.first)
    running.follow()
    eventually(lambda: running.status()["loaded"] == [shop.first])
    why = json.loads(_command(running, answer["request_id"], dead, "--json").stdout.splitlines()[-1])
    assert why["note"].startswith(f"Snapshot {shop.second} is not loaded any more") and why["candidates"] is None and why["same_order"] is None
    assert [item["item_id"] for item in why["items"]] == [item["item_id"] for item in answer["items"][:5]]
    assert why["served_by"] == "local_model" and why["ms"] > 0
    running.stop()
    unreachable = _command(running, answer["request_id"])
    assert unreachable.returncode == 1 and "cannot be reached" in unreachable.stderr and "Traceback" not in unreachable.stderr


def _command(running: GatewayProcess, request_id: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `evershelf why`; an option that is an address is one more gateway, asked first."""
    urls = [*(option for option in options if option.startswith("http")), str(running.client.base_url).rstrip("/")]
    command = [sys.executable, "-m", "evershelf.cli", "why", request_id, *(option for option in options if option.startswith("--"))]
    environment = {"EVERSHELF_HOME": str(running.shop.home), "EVERSHELF_GATEWAY__URLS": json.dumps(urls), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_memory_is_bounded_in_answers_and_in_bytes(shop: Shop) -> None:
    store = SnapshotStore(shop.snapshots / shop.first)
    item = AnswerItem("i03", 1, "a title that is not kept", 1.0, "GBP", None, None, 1.0, 1.0)

    def add(memory: AnswerMemory, name: str, recent: list[RecentEvent]) -> None:
        question = Question(store, "recommend", 1, 0.0, pseudonyms.pseudonym("ann"), recent=recent)
        memory.add(question, Answer(name, "live", store.snapshot_id, "stable", "", None, 1.0, True, [item], []), 1.0, [])

    memory = AnswerMemory(10)
    for number in range(12):
        add(memory, str(number), [])
    assert [bool(memory.find(str(number))) for number in range(12)] == [False] * 2 + [True] * 10
    huge = [RecentEvent("x" * 256, 3, 0.0)] * 50
    for number in range(10):
        add(memory, f"huge {number}", huge)
    kept = [number for number in range(10) if memory.find(f"huge {number}")]
    assert kept == [9] and (found := memory.find("huge 9")) and found.recent == huge  # 10 answers may take 20 kB; one of these takes 13
    nothing = AnswerMemory(0)
    add(nothing, "one", [])
    assert nothing.find("one") is None
    store.close()
