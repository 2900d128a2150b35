"""Shoppers come at the rate that was asked for, act by their true taste, remember what they clicked, and say honestly what they got."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

from evershelf.demo.answers import Answer, AnswerLog, quality, summarize
from evershelf.demo.live_shoppers import shoppers
from evershelf.demo.shoppers import Plan, Tally, run
from evershelf.shops.shoppers import TRUTH, load_truth
from evershelf.shops.simulator import simulate


class Shop(ThreadingHTTPServer):
    """The other side of the wire: shows known shoppers the items that they like best or least, others always the same, and keeps what is posted."""

    daemon_threads = True

    def __init__(self, truth: Path) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.truth = load_truth(truth)
        self.rows = {str(user): row for row, user in enumerate(self.truth.user_ids)}
        self.best = True
        self.empty = False
        self.status = 200
        self.events: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def items(self, user: str) -> list[str]:
        if user not in self.rows:
            return [str(item) for item in self.truth.item_ids[:6]]
        liked = np.argsort(self.truth.item_vectors @ self.truth.shopper_vectors[self.rows[user]])
        return [str(self.truth.item_ids[place]) for place in (liked[::-1] if self.best else liked)[:6]]


class Page(BaseHTTPRequestHandler):
    server: Shop
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked.append((parts.path, given))
        ids = [] if self.server.empty else self.server.items(given["user_id"])
        items = [{"item_id": item, "position": place, "propensity": 1.0, "price": 2.5, "currency": "GBP"} for place, item in enumerate(ids, start=1)]
        self._say({"request_id": "r", "snapshot_id": "s", "served_by": "live", "arm": "stable", "items": items})

    def do_POST(self) -> None:
        events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.events += events
        self._say({"accepted": len(events)})

    def _say(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        pass


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    list(simulate(tmp_path, days=1, end=date(2026, 3, 1), users=40, items=60, visits=10))
    with Shop(tmp_path / TRUTH) as server:
        yield server
        server.shutdown()


def play(shop: Shop, tmp_path: Path, name: str = "answers", **more: Any) -> tuple[Tally, list[Answer]]:
    path = tmp_path / f"{name}.jsonl"
    given: dict[str, Any] = {"urls": (shop.url,), "answers": str(path), "rate": 150.0, "truth": str(tmp_path / TRUTH), "requests": 200} | more
    tally = asyncio.run(run(Plan(**given)))
    return tally, AnswerLog(path).new()


def test_better_list_is_worth_more_and_earns_more(shop: Shop, tmp_path: Path) -> None:
    good = summarize(answer for answer in play(shop, tmp_path)[1] if answer.endpoint != "events").got["live"]
    shop.best = False
    poor = summarize(answer for answer in play(shop, tmp_path, "poor")[1] if answer.endpoint != "events").got["live"]
    assert good.worth is not None
    assert poor.worth is not None
    assert good.worth > 2 * poor.worth
    assert good.clicks > 2 * poor.clicks
    assert good.revenue > poor.revenue


def test_clicks_and_revenue_of_the_record_are_those_that_were_posted(shop: Shop, tmp_path: Path) -> None:
    _, answers = play(shop, tmp_path)
    told = [answer for answer in answers if answer.endpoint != "events"]
    kinds = [event["type"] for event in shop.events]
    assert kinds.count("impression") == sum(answer.items for answer in told) > 0
    assert kinds.count("click") == sum(answer.clicks for answer in told) > 0
    bought = [event for event in shop.events if event["type"] == "purchase"]
    assert sum(event["price"] * event["quantity"] for event in bought) == pytest.approx(sum(answer.revenue for answer in told)) != 0
    assert len({event["event_id"] for event in shop.events}) == len(shop.events) == sum(answer.items for answer in answers if answer.endpoint == "events")


def test_shopper_remembers_what_was_clicked(shop: Shop, tmp_path: Path) -> None:
    play(shop, tmp_path, requests=400)
    clicked: dict[str, set[str]] = {}
    for event in shop.events:
        if event["type"] == "click":
            clicked.setdefault(event["user_id"], set()).add(event["item_id"])
    looked_at = [(given["user_id"], given["item_id"]) for path, given in shop.asked if path.endswith("similar")]
    assert sum(item in clicked.get(user, set()) for user, item in looked_at) > len(looked_at) / 4


def test_load_ends_by_itself_and_every_request_that_was_due_is_accounted_for(shop: Shop, tmp_path: Path) -> None:
    tally, answers = play(shop, tmp_path, requests=None, seconds=1.0, rate=60.0)
    assert 30 < tally.due < 100
    assert tally.due == tally.sent + tally.not_sent
    assert tally.sent == sum(answer.endpoint != "events" for answer in answers)


def test_rate_beyond_the_machine_is_told_as_not_sent(shop: Shop, tmp_path: Path) -> None:
    tally, answers = play(shop, tmp_path, requests=None, seconds=2.0, rate=50_000.0)
    assert tally.not_sent > tally.sent == sum(answer.endpoint != "events" for answer in answers) > 0


def test_command_says_what_shoppers_got_and_fails_on_an_empty_answer(shop: Shop, home: Path, tmp_path: Path) -> None:
    arguments = ["--truth", str(tmp_path / TRUTH), "--url", shop.url, "--rate", "100", "--requests", "30", "--json"]
    done = CliRunner().invoke(shoppers, arguments)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["answers"] == said["load"]["sent"] == 30
    assert said["got"]["live"]["quality"] == 1.0
    shop.empty = True
    done = CliRunner().invoke(shoppers, arguments)
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["empty"] == 30


def test_other_machines_get_no_load_unless_told(home: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(shoppers, ["--truth", str(tmp_path), "--url", "http://192.0.2.1:8080"])
    assert "192.0.2.1" in str(done.exception)
    assert "--remote" in str(done.exception)


def test_quality_compares_only_the_same_kind_of_request() -> None:
    def worth(endpoint: str, value: float) -> Answer:
        return Answer(at=0.0, seconds=0.0, endpoint=endpoint, status=200, items=5, worth=value, served_by="popular")

    live = {"search": 2.0, "recommend": 0.5}
    only_recommends = [worth("recommend", 0.4), worth("recommend", 0.6)]
    found = quality(only_recommends, live)
    assert found is not None
    assert found[0] == pytest.approx(1.0)
    assert found[1] > 0
    assert quality([worth("similar", 1.0)], live) is None
