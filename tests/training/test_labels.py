"""What the catalogue leaves out is filled in by whoever was most often right where the truth is known, and by nobody who was not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf import lake, lineage
from evershelf.contracts import ORDERS, PRODUCTS
from evershelf.errors import CommandFailed
from tests.training.conftest import FIRST, Installation, Outcome, product
from training.labelling_rules import RULES, Catalogue, Guesses, Kind
from training.labels import MEASURED, Labeller, label, publish, read_catalogue, run_day, surest

Write = Callable[[Path, Any, list[dict[str, Any]]], None]
RULE = {rule.name: rule.guess for rule in RULES}


def catalogue(*rows: tuple[str, str | None, str | None]) -> Catalogue:
    """Make one from (title, category, brand)."""
    nothing = [None] * len(rows)
    title, category, brand = zip(*rows, strict=True)
    return Catalogue(
        items=[f"i{place}" for place in range(len(rows))], title=title, category=category, brand=brand, price=nothing, before=nothing, paid=nothing
    )


def test_a_title_that_others_have_too_tells_the_category_and_one_s_own_category_does_not() -> None:
    made = catalogue(
        ("Oak Lamp", "Light", None), ("oak  LAMP", None, None), ("Rug", "Floor", None), ("Tea", "A", None), ("Tea", "B", None), ("Tea", None, None)
    )
    assert RULE["same_title"](made) == [None, "Light", None, "B", "A", None]  # those two disagree, so the third gets nothing


def test_the_last_word_tells_the_category_when_enough_others_agree() -> None:
    pans = [(f"Pan no {place} pan", "Kitchen", None) for place in range(20)]
    found = RULE["last_word"](catalogue(*pans, ("Steel pan", None, None), ("Toy pan", "Toys", None), ("rare thing", None, None), ("", None, None)))
    assert found[0] == "Kitchen" and found[20:] == ["Kitchen", "Kitchen", None, None]
    assert RULE["last_word"](catalogue(*pans[:4], ("Steel pan", None, None)))[-1] is None


def test_the_longest_brand_that_begins_the_title_counts_and_only_when_another_item_has_it() -> None:
    found = RULE["title_begins_with"](
        catalogue(
            ("x", None, "Oak"),
            ("x", None, "Oak & Elm"),
            ("Oak & Elm Table", None, None),
            ("Oaken Table", None, None),
            ("Oak Table", None, "Oak"),
            ("Fir Bed", None, "Fir"),
        )
    )
    assert found == [None, None, "Oak & Elm", None, "Oak", None]


def labeller(name: str, guesses: Guesses, kind: Kind = "category") -> Labeller:
    return Labeller(name=name, kind=kind, guesses=guesses, counts=np.ones(len(guesses), np.bool_))


def test_the_most_accurate_that_has_something_to_say_fills_and_nobody_below_the_threshold() -> None:
    known: list[tuple[str, str | None, str | None]] = [("t", "A", None)] * 40
    made = catalogue(*known, ("t", None, None), ("t", None, None), ("t", "B", None))
    good, best, bad = [*["A"] * 38, "x", "x"], ["A"] * 40, [*["A"] * 20, *["x"] * 20]
    some = [
        labeller("good", [*good, "G", "G", "x"]),
        labeller("best", [*best, "H", None, "x"]),
        labeller("bad", [*bad, "x", "x", "x"]),
        labeller("hardly measured", [*[None] * (41 - MEASURED), *["A"] * (MEASURED - 1), "y", "y", None]),
    ]
    rows, accuracy = label(made, some, 0.8)
    assert [(row["item_id"], row["text"], row["source"]) for row in rows] == [("i40", "H", "best"), ("i41", "G", "good")]
    assert accuracy["best"] == {"kind": "category", "coverage": 0.97674, "accuracy": round(40 / 41, 5), "measured": 41, "filled": 1}
    assert rows[0]["confidence"] == accuracy["best"]["accuracy"]
    assert accuracy["bad"]["filled"] == accuracy["hardly measured"]["filled"] == 0
    assert label(made, [replace(one, counts=np.zeros(43, np.bool_)) for one in some], 0.8)[0] == []  # nothing measured, nothing filled


def test_the_lowest_probability_that_is_right_often_enough_is_chosen() -> None:
    sure, right = np.array([0.9, 0.2, 0.8, 0.7, 0.6]), np.array([True, False, True, False, True])
    assert surest(sure, right, 0.75) == 0.6
    assert surest(sure, right, 0.9) == 0.8
    assert surest(sure, ~np.ones(5, np.bool_), 0.5) == surest(sure[:0], right[:0], 0.5) == float("inf")


@pytest.fixture
def shop(home: Path, lake_writer: Write) -> date:
    """60 items described on three days; the last day leaves things out."""
    rows = []
    for back in (40, 1, 0):
        day = FIRST + timedelta(days=40 - back)
        for number in range(60):
            lacks = back == 0 and number >= 50
            rows.append(
                product(
                    f"i{number:02}",
                    dt=day,
                    landing_dt=day,
                    valid_from=datetime(day.year, day.month, day.day, tzinfo=UTC),
                    title=f"Acme pan no {number} pan" if number % 2 else f"Bolt rug {number} rug",
                    category_path=None if lacks else "Kitchen" if number % 2 else "Floor",
                    brand=None if lacks else "Acme" if number % 2 else "Bolt",
                    price=None if lacks else 10.0 + number - (5 if back == 40 else 0),
                )
            )
    lake_writer(home / "lake", PRODUCTS, rows)
    day = FIRST + timedelta(days=40)
    at = datetime(day.year, day.month, day.day, 9, tzinfo=UTC)
    order = {"line_id": "1", "ordered_at": at, "landing_dt": day, "dt": day, "quantity": 1, "currency": "GBP", "transaction_class": "kept"}
    lake_writer(home / "lake", ORDERS, [{"order_id": "o1", "item_id": "i55", "price": 99.0, **order}])
    return day


def test_a_day_is_filled_in_measured_and_marked_and_the_same_run_changes_nothing(shop: date) -> None:
    report = run_day(None)
    assert (report["day"], report["items"]) == (str(shop), 60)
    assert report["missing"] == report["filled"] == {"category": 10, "brand": 10, "price": 10}
    first = lake.read("labels").sort_by([("item_id", "ascending"), ("kind", "ascending")])
    found = {(row["item_id"], row["kind"]): row for row in first.to_pylist()}
    assert found["i51", "category"]["text"] == "Kitchen" and found["i51", "category"]["source"] == "rule last_word v1"
    assert found["i50", "brand"]["text"] == "Bolt"
    assert (found["i55", "price"]["price"], found["i55", "price"]["currency"], found["i55", "price"]["text"]) == (65.0, "GBP", None)
    assert found["i55", "price"]["source"] == "rule last_described v1"  # the order's price was never measured on enough items
    assert run_day(shop)["filled"] == report["filled"]
    assert lake.read("labels").sort_by([("item_id", "ascending"), ("kind", "ascending")]) == first
    (commit, *_) = lineage.commits("labels")
    assert commit["tables"] == lake.versions(["products", "orders"]) and commit["accuracy"]["rule last_word v1"]["accuracy"] == 1.0


def test_only_recent_prices_of_earlier_descriptions_count(shop: date) -> None:
    before = read_catalogue(lake.versions(["products", "orders"]), shop - timedelta(days=1))
    assert before.before == [None] * 60  # the description before is 39 days old
    assert set(read_catalogue(lake.versions(["products", "orders"]), shop).before) == {(10.0 + number, "GBP") for number in range(60)}


def test_a_label_that_was_withdrawn_holds_no_longer(shop: date) -> None:
    run_day(shop - timedelta(days=1))
    assert lake.current_labels(lake.open_table("labels").version(), shop) is None  # nothing was missing on that day
    run_day(shop)
    version = lake.open_table("labels").version()
    assert lake.current_labels(version, shop - timedelta(days=1)) is None
    assert lake.current_labels(version, shop) == lake.current_labels(version, shop + timedelta(days=6)) == shop
    assert lake.current_labels(version, shop + timedelta(days=7)) is None
    publish(shop + timedelta(days=1), [{"item_id": "i50", "kind": "brand", "text": "Bolt", "source": "x", "confidence": 1.0}], {})
    assert lake.current_labels(lake.open_table("labels").version(), shop + timedelta(days=1)) == shop + timedelta(days=1)


def test_without_a_catalogue_nothing_is_written(home: Path) -> None:
    with pytest.raises(CommandFailed, match="No products up to any day are published"):
        run_day(None)


def test_before_the_first_description_nothing_is_written(shop: date) -> None:
    with pytest.raises(CommandFailed, match="No products up to 2020-01-01 are published"):
        run_day(date(2020, 1, 1))
    assert not lake.exists("labels")


@pytest.mark.slow
def test_the_model_is_measured_on_items_that_its_head_did_not_learn_from(trained: tuple[Installation, Outcome]) -> None:
    installation, outcome = trained
    answer = installation.run("run", "labels", "--json").answer
    model = f"model {outcome.answer['model_id']}"
    assert answer["missing"] == {"category": 0, "brand": 0, "price": 0}
    if outcome.answer["blessed"]:
        assert answer["labellers"][model]["measured"] <= 3  # of 25 items every fifth is held out, and half of those choose the threshold
        assert 0 <= answer["labellers"][f"{model}, transaction class"]["accuracy"] <= 1
    assert "rule last_word v1" in installation.run("run", "labels").out
