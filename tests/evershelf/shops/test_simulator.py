"""The simulated shop: the same bytes for the same seed, and behaviour that something can be learnt from."""

import gzip
import json
from collections import Counter
from contextlib import suppress
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.shops.catalogue import make_catalogue
from evershelf.shops.shoppers import TRUTH, Truth, clicked, load_truth
from evershelf.shops.simulator import CLEAN, Dirt, simulate
from evershelf.text import words

END = date(2026, 3, 29)  # clocks change in London


def play(out: Path, *, seed: int = 3, dirt: Dirt = CLEAN, days: int = 2) -> None:
    for _ in simulate(out, days=days, end=END, seed=seed, users=60, items=80, visits=120, dirt=dirt):
        pass


def rows(out: Path, day: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress((out / day / f"{name}.jsonl.gz").read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shop")
    play(out)
    return out


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.gz")}


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        play(tmp_path / name, seed=seed, dirt=Dirt())
    assert content(tmp_path / "one") == content(tmp_path / "two") != content(tmp_path / "other")


def test_events_follow_the_funnel_and_positions_lose_clicks(shop: Path) -> None:
    events = rows(shop, "2026-03-28", "events") + rows(shop, "2026-03-29", "events")
    kinds = Counter(event["type"] for event in events)
    assert kinds["impression"] > kinds["click"] == kinds["view"] > kinds["cart"] > kinds["purchase"] > 0 < kinds["search"]
    assert len({event["event_id"] for event in events}) == len(events)
    clicks = Counter(event["position"] for event in events if event["type"] == "click")
    assert clicks[1] > clicks[3] > clicks[6]


def test_every_event_is_of_its_own_day_in_the_shops_calendar(shop: Path) -> None:
    times = [event["event_time"] for event in rows(shop, "2026-03-29", "events")]
    assert "2026-03-29T00:00" < min(times) <= max(times) < "2026-03-29T23:00"  # summer time began: the day ends at 23:00 UTC


def test_what_follows_an_item_is_no_accident(shop: Path) -> None:
    truth = load_truth(shop / TRUTH)
    clicks = [event for event in rows(shop, "2026-03-29", "events") if event["type"] == "click"]
    place = {item: index for index, item in enumerate(truth.item_ids.tolist())}
    pairs = [(place[a["item_id"]], place[b["item_id"]]) for a, b in pairwise(clicks) if a["session_id"] == b["session_id"]]
    linked = np.mean([after in truth.links[before] for before, after in pairs])
    assert linked > 3 * truth.links.shape[1] / len(place)


def test_dirt_repeats_breaks_and_delays_rows(tmp_path: Path) -> None:
    play(tmp_path, dirt=Dirt(repeated=0.05, missing=0.05, broken=0.05, late=0.2), days=3)
    lines = gzip.decompress((tmp_path / "2026-03-29" / "events.jsonl.gz").read_bytes()).splitlines()
    readable = []
    for line in lines:
        with suppress(json.JSONDecodeError):
            readable.append(json.loads(line))
    assert 0 < len(lines) - len(readable) < len(lines) / 10
    assert any(row["event_id"] is None for row in readable)
    assert len({json.dumps(row) for row in readable}) < len(readable)
    assert {row["event_time"][:10] for row in readable} == {"2026-03-27", "2026-03-28", "2026-03-29"}


def test_titles_are_distinct_and_searched_words_are_in_them(shop: Path) -> None:
    catalogue = make_catalogue(3, 80)
    assert len(set(catalogue.titles)) == 80
    known = {word for title, path in zip(catalogue.titles, catalogue.category_paths, strict=True) for word in words(f"{title} {path}")}
    queries = {event["query"] for event in rows(shop, "2026-03-29", "events") if event["type"] == "search"}
    assert queries
    assert all(set(words(query)) <= known for query in queries)


def test_a_live_shopper_clicks_by_taste_and_never_what_is_unknown(shop: Path) -> None:
    truth: Truth = load_truth(shop / TRUTH)
    rng = np.random.default_rng(1)
    order = np.argsort(-truth.item_vectors @ truth.shopper_vectors[0])
    loved, disliked = truth.item_ids[order[:4]].tolist(), truth.item_ids[order[-4:]].tolist()
    clicks = Counter(item for _ in range(200) for item in clicked(truth, rng, 0, [*disliked[:2], "no-such-item", *loved[:2]]))
    assert sum(clicks[item] for item in loved) > 3 * sum(clicks[item] for item in disliked)
    assert clicks["no-such-item"] == 0
    assert clicked(truth, rng, 0, []) == []
