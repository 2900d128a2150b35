from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evershelf.contracts import EVENTS, PRODUCTS, Table
from evershelf.contracts.model import HISTORY_LENGTH
from evershelf.settings import TrainingSettings
from tests.training.conftest import product
from training import data, examples, labels, vocabulary
from training.data import Shop, assemble
from training.errors import NotEnoughData

START = datetime(2026, 1, 5, 12, tzinfo=UTC)


def shop_of(walks: dict[str, list[tuple[int, str, str | None, str | None]]], split: date = date(2026, 1, 6)) -> Shop:
    """Make a shop of user -> [(minutes after START, type, item, query)]; one session per user."""
    rows: list[dict[str, Any]] = []
    for user, steps in walks.items():
        for minutes, kind, item, query in steps:
            when = START + timedelta(minutes=minutes)
            account = None if user.startswith("guest") else user
            rows.append(
                {
                    "event_id": f"{len(rows):05}",
                    "event_time": when,
                    "user_id": account,
                    "session_id": f"s-{user}",
                    "type": kind,
                    "item_id": item,
                    "query": query,
                }
            )
    text, when_type = pa.string(), pa.timestamp("us", tz="UTC")
    events = pa.Table.from_pylist(
        rows,
        pa.schema([("event_id", text), ("event_time", when_type), ("user_id", text), ("session_id", text), ("type", text), ("item_id", text), ("query", text)]),
    )
    products = pa.schema([("item_id", text), ("title", text), ("brand", text), ("category_path", text), ("price", pa.float64()), ("valid_from", when_type)])
    orders = pa.schema([("ordered_at", when_type), ("item_id", text), ("quantity", pa.int32()), ("price", pa.float64()), ("transaction_class", text)])
    return assemble(events, products.empty_table(), orders.empty_table(), {}, split_day=split, data_as_of=date(2026, 1, 6), versions={})


TOMORROW = 24 * 60


def test_every_example_is_dealt_to_exactly_one_rank_per_epoch() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 1003)
    for epoch in range(3):
        batches = [data.deal(lengths, batch=16, ranks=3, rank=rank, epoch=epoch, seed=7) for rank in range(3)]
        assert len({len(mine) for mine in batches}) == 1  # a rank with fewer batches would leave the others waiting for ever
        dealt = np.concatenate([batch for mine in batches for batch in mine])
        assert sorted(dealt) == list(range(1003))


def test_small_tables_are_spread_over_ranks_and_steps_exactly_once() -> None:
    spread = [data.spread(5, steps=4, ranks=2, rank=rank, epoch=1, seed=7) for rank in range(2)]
    assert [len(mine) for mine in spread] == [4, 4]
    assert sorted(np.concatenate([batch for mine in spread for batch in mine])) == list(range(5))


def test_epochs_deal_in_another_order_and_the_same_epoch_in_the_same() -> None:
    lengths = np.full(100, 5)
    first, again, other = (np.concatenate(data.deal(lengths, batch=8, ranks=1, rank=0, epoch=epoch, seed=7)) for epoch in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_every_event_before_the_split_is_foretold_exactly_once() -> None:
    walk = [(step, "view", f"i{step % 9}", None) for step in range(3 * HISTORY_LENGTH + 7)]
    shop = shop_of({"long": [*walk, (TOMORROW, "view", "i1", None)], "short": [(0, "click", "i1", None)]})
    windows = data.training_windows(shop, HISTORY_LENGTH)
    foretold = np.concatenate([np.arange(target, end) for target, end in zip(windows.target, windows.end, strict=True)])
    assert sorted(foretold) == [index for index in range(len(shop.item)) if shop.time[index] < shop.split]
    assert (windows.end - windows.begin <= HISTORY_LENGTH).all()


def test_a_search_gives_its_words_to_the_next_interaction_of_the_same_session_only() -> None:
    shop = shop_of(
        {
            "a": [(0, "search", None, "Red LAMP!"), (1, "click", "i1", None), (2, "view", "i2", None), (TOMORROW, "view", "i1", None)],
            "b": [(0, "click", "i1", None)],
        }
    )
    assert [shop.queries[query] for query in shop.query] == ["red lamp", "", "", ""]


def test_the_next_item_is_the_next_other_item() -> None:
    shop = shop_of(
        {"a": [(0, "click", "i1", None), (1, "view", "i1", None), (2, "cart", "i2", None), (TOMORROW, "view", "i2", None)], "b": [(0, "click", "i1", None)]}
    )
    assert data.next_different(shop).tolist() == [0, 2, 2, -1, 4]


def test_guests_are_sequences_of_their_own_session() -> None:
    shop = shop_of({"a": [(0, "view", "i1", None), (TOMORROW, "view", "i2", None)], "guest": [(0, "view", "i1", None)]})
    assert dict(zip(shop.shoppers, shop.known.tolist(), strict=True)) == {"a": True, "session:s-guest": False}


def chooses(shop: data.Shop) -> Any:
    return examples.validation_rows(shop, selection=True, most=1000, seed=1)


def test_nothing_after_the_split_is_foretold_in_training() -> None:
    shop = shop_of({"a": [(0, "view", "i1", None), (1, "view", "i2", None), (TOMORROW, "view", "i3", None)]})
    words, features = vocabulary.build(shop)
    prepared = examples.prepare(shop, words, features, chooses(shop))
    batch = prepared.sequences.batch(prepared.train, np.arange(len(prepared.train)))
    assert [words.items[item] for item in batch.next_item.ravel()] == ["i1", "i2"]
    assert features.seen[words.items.index("i3")] == 0


def test_a_batch_shows_what_was_known_before_each_event() -> None:
    shop = shop_of(
        {"a": [(0, "view", "i1", None), (60, "search", None, "lamp"), (60, "cart", "i2", None), (90, "view", "i3", None), (TOMORROW, "view", "i1", None)]}
    )
    words, features = vocabulary.build(shop)
    prepared = examples.prepare(shop, words, features, chooses(shop))
    batch = prepared.sequences.batch(prepared.train, np.array([0]))
    assert [words.items[item] for item in batch.items[0]] == ["", "i1", "i2"]
    assert [words.actions[action] for action in batch.actions[0]] == ["", "view", "cart"]
    assert [words.actions[action] for action in batch.next_action[0]] == ["view", "cart", "view"]
    np.testing.assert_allclose(batch.until[0] * 24 * 60, [0, 60, 30], atol=1e-2)
    np.testing.assert_allclose(batch.since[0] * 24 * 60, [0, 0, 60], atol=1e-2)
    assert [words.words[word] for word in batch.query_words[0, :, 0]] == ["", "lamp", ""]


def test_serving_and_training_see_the_same_history(shop_lake: Path) -> None:
    import tensorflow as tf

    from training.model import gaps

    shop = data.read_shop(TrainingSettings(validation_days=1))
    words, features = vocabulary.build(shop)
    prepared = examples.prepare(shop, words, features, chooses(shop))
    rows = prepared.selection.target
    batch = prepared.sequences.batch(prepared.selection, np.arange(len(rows)))
    served = prepared.sequences.histories(rows)
    since, until = (tensor.numpy() for tensor in gaps(tf.constant(served["history_items"]), tf.constant(served["history_ages"])))
    for row in range(len(rows)):
        length = int(prepared.selection.end[row] - prepared.selection.begin[row])
        shown = min(length - 1, HISTORY_LENGTH)
        if shown:
            assert (served["history_items"][row, -shown:] == batch.items[row, 1:length][-shown:]).all()
            np.testing.assert_allclose(until[row, -shown:], batch.until[row, 1:length], atol=1e-4)
            np.testing.assert_allclose(since[row, -shown:], batch.since[row, 1:length], atol=1e-4)


def test_examples_come_back_from_their_file_as_they_were(shop_lake: Path, tmp_path: Path) -> None:
    shop = data.read_shop(TrainingSettings(validation_days=1))
    prepared = examples.prepare(shop, *vocabulary.build(shop), chooses(shop))
    prepared.save(tmp_path / "examples.npz")
    again = examples.Examples.load(tmp_path / "examples.npz")
    assert (again.sequences.item == prepared.sequences.item).all()
    assert again.features.brands == prepared.features.brands
    assert again.words == prepared.words


def test_a_lake_without_days_after_the_split_is_refused_by_name(shop_lake: Path) -> None:
    with pytest.raises(NotEnoughData, match="a time split needs both"):
        data.read_shop(TrainingSettings(validation_days=30))


def test_vocabulary_knows_every_product_and_category_prefix(shop_lake: Path) -> None:
    shop = data.read_shop(TrainingSettings(validation_days=1))
    words, features = vocabulary.build(shop)
    assert words.items[0] == words.words[0] == words.categories[0] == words.actions[0] == ""
    assert {"Things", "Things > Red", "Things > Blue"} <= set(words.categories)
    assert len(words.items) == 26
    assert features.seen[words.items.index("item-024")] == 0  # a product that nobody has met has features all the same
    assert features.words[words.items.index("item-024")].any()
    assert {table.name for table in (EVENTS, PRODUCTS)} <= set(shop.versions)


def test_a_label_teaches_a_category_where_the_catalogue_names_none(shop_lake: Path, lake_writer: Callable[[Path, Table, list[dict[str, Any]]], None]) -> None:
    settings = TrainingSettings(validation_days=1)
    lake_writer(shop_lake, PRODUCTS, [product("item-001", category_path="Told"), product("item-002")])
    assert "labels" not in data.read_shop(settings).versions
    labels.publish(date(2026, 1, 7), [{"item_id": item, "kind": "category", "text": "Said", "source": "x"} for item in ("item-001", "item-002")], {})
    shop = data.read_shop(settings)
    said = {item: (shop.products.category[place], bool(shop.products.labelled[place])) for place, item in enumerate(shop.items)}
    assert (said["item-001"], said["item-002"], said["item-003"]) == (("Told", False), ("Said", True), ("", False))
    labels.publish(date(2026, 1, 8), [], {})
    assert data.read_shop(settings, shop.versions).products.category == shop.products.category
