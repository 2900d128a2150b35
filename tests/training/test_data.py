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
from training.feed import Feed

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
    return assemble(events, products.empty_table(), orders.empty_table(), split_day=split, data_as_of=date(2026, 1, 6), versions={})


TOMORROW = 24 * 60


def walks(shoppers: int) -> tuple[examples.Examples, TrainingSettings]:
    """Return what ranks learn from, of shoppers who view 5 to 12 of 40 items, and parameters with sampled items."""
    random = np.random.default_rng(3)
    shop = shop_of(
        {
            f"u{number:03}": [*((step, "view", f"i{random.integers(40)}", None) for step in range(random.integers(5, 13))), (TOMORROW, "view", "i1", None)]
            for number in range(shoppers)
        }
    )
    return examples.prepare(shop, *vocabulary.build(shop), chooses(shop)), TrainingSettings(batch_size=4, negatives=8)


def test_every_example_is_dealt_to_exactly_one_rank_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, settings = walks(101)
    dealt: list[Any] = []
    original = examples.Sequences.batch

    def batch(sequences: examples.Sequences, windows: data.Windows, chosen: Any) -> examples.Batch:
        dealt.append(chosen)
        return original(sequences, windows, chosen)

    monkeypatch.setattr(examples.Sequences, "batch", batch)
    for epoch in range(2):
        ranks = [list(Feed(prepared, settings, rank=rank, ranks=3).steps(epoch)) for rank in range(3)]
        assert len({len(mine) for mine in ranks}) == 1  # a rank with fewer steps would leave the others waiting for ever
        for step, chosen in enumerate(dealt[: len(ranks[0])]):
            seen = sorted((row[0].tolist(), row[2].tolist()) for mine in ranks for row in mine[step]["integers"].swapaxes(0, 1))
            place = ranks[0][step]["items"].tolist().index
            everyone = original(prepared.sequences, prepared.train, chosen)
            wanted = sorted(([*map(place, row)], [*map(place, next_row)]) for row, next_row in zip(everyone.items, everyone.next_item, strict=True))
            assert seen == wanted  # each window of the step was shown to one rank
        assert sorted(np.concatenate(dealt[: len(ranks[0])])) == list(range(len(prepared.train)))
        dealt.clear()


def test_all_ranks_touch_the_same_part_of_the_catalogue_and_an_epoch_can_begin_anywhere() -> None:
    prepared, settings = walks(50)
    first, second = (list(Feed(prepared, settings, rank=rank, ranks=2).steps(1)) for rank in range(2))
    for mine, other in zip(first, second, strict=True):
        for name in ("items", "compared", "column", "counts"):
            np.testing.assert_array_equal(mine[name], other[name])
        choices = [np.count_nonzero(step["integers"][2]) for step in (mine, other)]
        assert sum(choices) == mine["counts"][0]
        drawn = mine["items"][mine["compared"]]
        assert drawn[0] == 0
        assert len(set(drawn.tolist())) == 1 + settings.negatives
        assert prepared.features.seen[drawn[1:]].all()
    for start in (1, len(first) - 1):
        again = list(Feed(prepared, settings, rank=0, ranks=2).steps(1, start))
        for mine, other in zip(again, first[start:], strict=True):
            for name in other:
                np.testing.assert_array_equal(mine[name], other[name])


@pytest.mark.parametrize("count", [0, 1, 2, 5, 17, 1003])
def test_a_shuffle_puts_each_example_in_one_place(count: int) -> None:
    whole = data.shuffled(slice(0, count), count, (7, 1))
    assert sorted(whole) == list(range(count))
    steps = [data.spread(count, step=step, steps=4, seed=(7, 1)) for step in range(4)]
    np.testing.assert_array_equal(np.concatenate(steps), whole)  # a piece is the same, asked for alone
    if count > 5:
        assert (whole != data.shuffled(slice(0, count), count, (7, 2))).any()


def test_batches_hold_examples_of_about_the_same_length_and_epochs_deal_them_anew() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 1003)
    windows = data.Windows(begin=np.zeros_like(lengths), target=np.zeros_like(lengths), end=lengths)
    epochs = [list(data.Deal(windows, 48, (7, epoch)).from_step(0)) for epoch in (0, 0, 1)]
    assert [len(epoch) for epoch in epochs] == [len(data.Deal(windows, 48, (7, 0)))] * 3
    assert sorted(np.concatenate(epochs[0])) == list(range(1003))
    assert (np.concatenate(epochs[0]) == np.concatenate(epochs[1])).all()
    assert (np.concatenate(epochs[0]) != np.concatenate(epochs[2])).any()
    assert max(np.ptp(lengths[batch]) for batch in epochs[0]) < 15


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


def test_a_model_learns_from_what_is_searched_for_without_the_price_as_it_is_told_when_it_ranks(shop_lake: Path) -> None:
    shop = data.read_shop(TrainingSettings(validation_days=1))
    assert set(shop.queries) == {"", *(f"{colour} thing" for colour in ("red", "green", "blue", "white"))}


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


def test_examples_come_back_from_their_files_as_they_were_and_are_not_held_in_memory(shop_lake: Path, tmp_path: Path) -> None:
    shop = data.read_shop(TrainingSettings(validation_days=1))
    prepared = examples.prepare(shop, *vocabulary.build(shop), chooses(shop))
    prepared.save(tmp_path / "examples")
    again = examples.Examples.load(tmp_path / "examples")
    assert isinstance(again.sequences.time, np.memmap)
    assert isinstance(again.train.begin, np.memmap)
    settings = TrainingSettings(batch_size=4, negatives=8)
    mapped, held = (list(Feed(source, settings, rank=0, ranks=1).steps(0)) for source in (again, prepared))  # pages are given back after each step
    for one, other in zip(mapped, held, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            for mine, wanted in zip(*(step[name] if isinstance(step[name], tuple) else (step[name],) for step in (one, other)), strict=True):
                np.testing.assert_array_equal(mine, wanted)
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


def test_a_label_changes_nothing_that_training_reads(shop_lake: Path, lake_writer: Callable[[Path, Table, list[dict[str, Any]]], None]) -> None:
    settings = TrainingSettings(validation_days=1)
    lake_writer(shop_lake, PRODUCTS, [product("item-001", category_path="Told"), product("item-002")])
    before = data.read_shop(settings)
    labels.publish(date(2026, 1, 8), [{"item_id": item, "kind": "category", "text": "Said", "source": "x"} for item in ("item-001", "item-002")], {})
    shop = data.read_shop(settings)
    assert (shop.products.category, shop.versions) == (before.products.category, before.versions)
    assert set(shop.products.category) == {"", "Told"}
