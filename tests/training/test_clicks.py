from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf import lake
from evershelf.contracts import EVENTS, Table
from evershelf.settings import TrainingSettings
from training import clicks, data
from training.data import Floats
from training.evaluation import _shares


def test_the_click_model_finds_how_fast_attention_falls_and_what_a_slate_is_worth() -> None:
    random = np.random.default_rng(5)
    features, place = random.normal(size=(20_000, 3)), random.integers(1, 7, 20_000).astype(np.float64)

    def true(features: Floats, place: Floats) -> Floats:
        return np.asarray(0.7 ** (place - 1) / (1 + np.exp(1.0 - 1.5 * features[:, 0] - 0.4 * features[:, 1])))

    judge = clicks.fit(features, place, random.random(20_000) < true(features, place))
    assert np.exp(-judge.decay) == pytest.approx(0.7, abs=0.03)
    good, places = random.normal(0.8, 1.0, (5000, 3)), np.tile(np.arange(1.0, 11), 500)  # better items than were shown, and further down
    assert judge.chances(good, places).sum() == pytest.approx(true(good, places).sum(), rel=0.05)


def test_pages_are_what_accounts_were_shown_without_a_search_after_the_split(
    shop_lake: Path, lake_writer: Callable[[Path, Table, list[dict[str, Any]]], None]
) -> None:
    events = lake.read("events").to_pylist()
    start = datetime(2026, 1, 8, 12, tzinfo=UTC)
    for number, (user, kind, item, query, minutes, day, place) in enumerate(
        [
            ("user-001", "impression", "item-001", None, 0, 8, 1),
            ("user-001", "impression", "item-002", None, 0, 8, 2),
            ("user-001", "click", "item-002", None, 1, 8, 2),
            ("user-001", "impression", "item-002", None, 2, 8, 2),  # shown again, not clicked again
            ("user-001", "impression", "item-003", "red thing", 2, 8, 1),  # of a search
            (None, "impression", "item-004", None, 3, 8, 1),  # a guest
            ("user-002", "impression", "item-002", None, 4, 8, 1),
            ("user-001", "impression", "item-005", None, 0, 6, 1),  # the model has learned from this day
        ]
    ):
        when = (start + timedelta(minutes=minutes)).replace(day=day)
        events.append(
            {"event_id": f"i{number}", "event_time": when, "received_at": when, "landing_dt": when.date(), "dt": when.date(), "type": kind}
            | {"user_id": user, "session_id": "visit", "item_id": item, "query": query, "position": place}
        )
    lake_writer(shop_lake, EVENTS, events)
    shop = data.read_shop(TrainingSettings(validation_days=1))
    pages, exposure = clicks.read_pages(shop, seed=1)
    shown = sorted(
        (shop.shoppers[pages.shopper[page]], shop.items[item], bool(yes)) for page, item, yes in zip(pages.page, pages.item, pages.clicked, strict=True)
    )
    assert shown == [("user-001", "item-001", False), ("user-001", "item-002", False), ("user-001", "item-002", True), ("user-002", "item-002", False)]
    assert len(pages.shopper) == len(pages.time) == 3
    shoppers, of_items = np.array([shop.shoppers.index("user-001"), shop.shoppers.index("user-002")]), np.array([shop.items.index("item-005")] * 2)
    mine, others = exposure.lift(shoppers, of_items)  # user-001 is the only one who was shown anything before
    assert mine == pytest.approx(0.0)
    assert others == pytest.approx(0.0)


def test_no_rung_is_expected_to_beat_live() -> None:
    quality = _shares({"live": 2.0, "stored": 2.1, "popular": 1.0})
    assert quality == {"live": 1.0, "local_model": 1.0, "stored": 1.0, "snapshot": 1.0, "popular": 0.5}
