"""How much meaning counts in a shop's search is learned from what was chosen after searches."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.contracts import EVENTS, PRODUCTS
from evershelf.hybrid import PLAIN, WEIGHTS, WORDS
from evershelf.settings import TrainingSettings
from evershelf.vectors import Vectors
from training import search_clicks
from training.data import read_shop
from training.text_encoder import Encoder, converted

MEANT = {  # what is searched for, what is meant, and what only has its words
    "cup": ("Large tea mug", "Cup final football poster"),
    "sofa": ("Two seat couch", "Sofa brush"),
    "trainers": ("Running shoes", "Personal trainers handbook"),
    "phone": ("Android smartphone 128 GB", "Phone book shelf"),
    "laptop": ("Notebook computer 15 inch", "Laptop sticker"),
    "torch": ("LED flashlight", "Torch lily seeds"),
    "rug": ("Woollen carpet", "Rug glue"),
    "television": ("Smart TV 55 inch", "Television history book"),
    "bin": ("Kitchen trash can", "Bin labels"),
    "pram": ("Baby stroller", "Pram chain toy"),
    "jumper": ("Knitted sweater", "Jumper cables"),
    "hoover": ("Cordless vacuum cleaner", "Hoover dam poster"),
}
DAY = datetime(2026, 1, 5, 9, tzinfo=UTC)


def _lake(lake: Path, write: Callable[..., None], chosen: int) -> None:
    """Three dozen queries over four days; `chosen` is the place in MEANT's pairs of what shoppers click on."""
    products, events = [], list[dict[str, Any]]()
    for place, (query, pair) in enumerate(MEANT.items()):
        for which, title in enumerate(pair):
            products.append({"item_id": f"{place}-{which}", "landing_dt": DAY.date(), "dt": DAY.date(), "title": title, "valid_from": DAY})
        for day in range(4):
            for click in range(3):
                when = DAY + timedelta(days=day, minutes=10 * place + click)
                common = {"event_time": when, "received_at": when, "landing_dt": when.date(), "dt": when.date(), "session_id": f"{day}-{place}-{click}"}
                for text in (query, f"a {query}", f"buy {query}"):
                    said = {"type": "click", "item_id": f"{place}-{chosen}", "query": text, "user_id": f"u{click}"}
                    events.append(common | said | {"event_id": f"e{len(events)}"})
    write(lake, EVENTS, events)
    write(lake, PRODUCTS, products)


@pytest.mark.parametrize(("chosen", "meaning"), [(0, True), (1, False)])
def test_meaning_counts_where_shoppers_choose_by_it(home: Path, tmp_path: Path, lake_writer: Callable[..., None], chosen: int, *, meaning: bool) -> None:
    _lake(home / "lake", lake_writer, chosen)
    shop = read_shop(TrainingSettings(validation_days=1))
    folder = tmp_path / "text_encoder"
    report = search_clicks.write(shop, Encoder(converted(), None), folder, "english", seed=3, say=lambda line: None)
    assert len(MEANT) < report["queries_learned_from"] == report["queries_measured"] <= 3 * len(MEANT)  # what nothing finds is left out
    assert len(Vectors(folder)) == 2 * len(MEANT)
    weights = json.loads((folder / WEIGHTS).read_bytes())
    assert len(weights) == len(PLAIN)
    if meaning:
        assert report["better_by"][0] > 0 and report["NDCG@10"] > 0.7
        assert max(weights[1], weights[2]) > 0
    else:
        assert report["words_alone"] > 0.9  # and what meaning adds may not cost much of it
        assert tuple(weights) == WORDS or report["better_by"][2] >= 0


def test_without_searches_the_plain_sum_is_used(home: Path, tmp_path: Path, lake_writer: Callable[..., None]) -> None:
    _lake(home / "lake", lake_writer, 0)
    shop = read_shop(TrainingSettings(validation_days=1))
    shop.query[:] = 0
    report = search_clicks.write(shop, Encoder(converted(), None), tmp_path / "text_encoder", "english", seed=3, say=lambda line: None)
    assert report["queries_measured"] == 0
    np.testing.assert_allclose(json.loads((tmp_path / "text_encoder" / WEIGHTS).read_bytes()), PLAIN)
