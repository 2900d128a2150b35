"""What the builder writes is what a gateway reads."""

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evershelf import lake, snapshot
from evershelf.contracts import EVENT_TYPES
from evershelf.contracts.model import RANK_INPUTS
from evershelf.contracts.rungs import RUNGS
from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from serving.build_snapshot import build_snapshot
from serving.errors import SourceUnavailable
from serving.stores import layout
from serving.stores.layout import parents
from serving.stores.snapshot_store import SnapshotStore
from tests.serving import tiny
from tests.serving.conftest import Shop
from training.labels import publish


@pytest.fixture
def store(shop: Shop) -> SnapshotStore:
    return SnapshotStore(shop.snapshots / shop.first)


def _ids(store: SnapshotStore, items: layout.ItemList | None) -> list[str]:
    assert items
    return [store.item(int(number)).item_id for number in items.numbers()]


def test_a_sealed_snapshot_verifies_also_after_it_was_opened(shop: Shop) -> None:
    SnapshotStore(shop.snapshots / shop.first)
    manifest = snapshot.verify(shop.snapshots / shop.first)
    assert manifest.data_as_of == str(tiny.DATA_AS_OF) and date.fromisoformat(manifest.data_as_of)
    assert set(manifest.rung_quality) == set(RUNGS)
    assert manifest.lineage["candidates_id"].endswith("22222222")


def test_the_same_inputs_give_the_snapshot_that_is_there(shop: Shop) -> None:
    assert build_snapshot() == shop.second  # the newest candidates
    assert build_snapshot(f"{tiny.DATA_AS_OF}-22222222") == shop.first


def test_a_damaged_snapshot_is_built_again_under_another_name(shop: Shop) -> None:
    (shop.snapshots / shop.first / "store.lmdb").write_bytes(b"no")
    again = build_snapshot(f"{tiny.DATA_AS_OF}-22222222")
    assert again != shop.first
    snapshot.verify(shop.snapshots / again)


def test_lists_keep_their_order(store: SnapshotStore) -> None:
    user = store.user(tiny.USERS[1])
    assert user
    assert _ids(store, user.candidates) == [tiny.ITEMS[(3 + step) % len(tiny.ITEMS)] for step in range(20)]
    assert np.all(np.diff(user.candidates.values()) < 0)
    assert _ids(store, store.popular("Garden"))[0] == "i02"
    number = store.number("i00")
    assert number is not None
    assert _ids(store, store.neighbours(number)) == ["i03", "i06", "i09", "i12", "i15", "i18", "i21"]
    assert _ids(store, store.list_of_query("red candle")) == list(tiny.QUERIES["red candle"])
    assert store.list_of_query("unheard of") is None and store.list_of_query("") is None


def test_history_is_kept_newest_last(store: SnapshotStore) -> None:
    user = store.user(tiny.USERS[0])
    assert user
    times = np.frombuffer(user.history_times, layout.SECONDS)
    assert np.all(np.diff(times) > 0)
    items = [store.item(int(number)).item_id for number in np.frombuffer(user.history_items, layout.NUMBER)]
    assert items == ["i12", "i09", "i06", "i03", "i00"]
    assert set(np.frombuffer(user.history_actions, layout.ACTION).tolist()) == {EVENT_TYPES.index("view")}


def test_the_newest_description_of_an_item_wins(store: SnapshotStore) -> None:
    item = store.item(5)
    assert item.title == tiny.title("i05") and item.price == 6.5 and item.category_path == tiny.category("i05")


def test_unknown_stock_sells_and_empty_stock_does_not(store: SnapshotStore) -> None:
    assert store.in_stock[store.number("i03")]
    assert not store.in_stock[store.number(tiny.SOLD_OUT)]


def test_items_have_their_place_in_the_models_vocabulary(store: SnapshotStore) -> None:
    assert store.vocabulary.tolist() == list(range(1, len(tiny.ITEMS) + 1))
    assert store.word_index("candle") == tiny.WORDS.index("candle") and store.word_index("unheard") == 0


def test_search_finds_other_forms_of_a_word_and_prefers_titles(store: SnapshotStore) -> None:
    numbers, scores = store.search("Red CANDLES!", 50)
    assert {store.item(int(number)).item_id for number in numbers[:2]} == {"i00", "i12"}
    assert np.all(np.diff(scores) <= 0)
    assert len(store.search("🕯 ((AND NOT", 50)[0]) == 0


def test_synonyms_are_released_with_a_snapshot(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = shop.home / "synonyms.txt"
    rules.write_text("lamp => lantern\n")
    monkeypatch.setenv("EVERSHELF_SEARCH__SYNONYMS", str(rules))
    load_settings.cache_clear()
    changed = build_snapshot()
    assert changed not in (shop.first, shop.second)  # the same candidates and model, but another search
    assert build_snapshot() == changed
    rules.unlink()
    assert len(SnapshotStore(shop.snapshots / changed).search("lamp", 50)[0]) == 8
    assert len(SnapshotStore(shop.snapshots / shop.second).search("lamp", 50)[0]) == 0
    with pytest.raises(CommandFailed, match=r"No such file.*what is live stays live"):
        build_snapshot()
    rules.write_text("lamp\n")
    with pytest.raises(CommandFailed, match=r"line 1 has no comma.*what is live stays live"):
        build_snapshot()


def test_the_ranker_gives_the_golden_scores(shop: Shop, store: SnapshotStore) -> None:
    for request in json.loads((shop.snapshots / shop.first / "golden.json").read_bytes())["requests"]:
        inputs = {name: np.array([value], np.float32 if name == "history_ages" else np.int32) for name, value in request["inputs"].items()}
        np.testing.assert_allclose(store.rank(inputs), request["scores"], rtol=1e-5)


@pytest.mark.parametrize("name", ["candidates", "history_items", "query_words"])
def test_a_number_outside_the_models_vocabulary_costs_the_rung_and_nothing_after_it(store: SnapshotStore, name: str) -> None:
    inputs = {name: np.zeros((1, length), kind) for name, (kind, length) in RANK_INPUTS.items()}
    inputs["candidates"][0, :2] = (1, 2)
    before = store.rank(inputs)
    wrong = {each: array.copy() for each, array in inputs.items()}
    wrong[name][0, -1] = 1_000_000
    with pytest.raises(SourceUnavailable, match="knows other items or words than the snapshot"):
        store.rank(wrong)
    np.testing.assert_array_equal(store.rank(inputs), before)


def test_an_item_that_no_product_describes_is_refused_by_name(shop: Shop) -> None:
    folder = shop.home / "candidates" / f"{tiny.DATA_AS_OF}-44444444"
    shutil.copytree(shop.home / "candidates" / f"{tiny.DATA_AS_OF}-22222222", folder)
    file = folder / "popular_items" / "part-0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "item_id", pa.array(["ghost", *table["item_id"].to_pylist()[1:]])), file)
    with pytest.raises(CommandFailed, match="'ghost'"):
        build_snapshot(folder.name)


def test_a_brand_that_is_not_given_is_the_label_s(shop: Shop) -> None:
    folder = shop.home / "candidates" / f"{tiny.DATA_AS_OF}-44444444"
    shutil.copytree(shop.home / "candidates" / f"{tiny.DATA_AS_OF}-22222222", folder)
    label = {"kind": "brand", "price": None, "currency": None, "source": "rule x v1", "confidence": 0.9, "dt": tiny.DATA_AS_OF}
    publish(tiny.DATA_AS_OF, [{**label, "item_id": "i00", "text": "Zebra"}, {**label, "item_id": "i01", "text": "Zebra"}], {})  # i01 has a brand
    lineage = json.loads((folder / "lineage.json").read_bytes())
    (folder / "lineage.json").write_text(json.dumps(lineage | {"tables": lineage.get("tables", {}) | {"labels": lake.open_table("labels").version()}}))
    store = SnapshotStore(shop.snapshots / build_snapshot(folder.name))
    numbers, _ = store.search("zebra", 5)
    assert [store.item(int(number)).item_id for number in numbers] == ["i00"]


@pytest.mark.parametrize("keep", ["", "Garden"])
def test_a_shop_without_popular_items_is_refused(shop: Shop, keep: str) -> None:
    folder = shop.home / "candidates" / f"{tiny.DATA_AS_OF}-44444444"
    shutil.copytree(shop.home / "candidates" / f"{tiny.DATA_AS_OF}-22222222", folder)
    file = folder / "popular_items" / "part-0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter(pa.array([bool(keep) and name == keep for name in table["category"].to_pylist()])), file)
    with pytest.raises(CommandFailed, match="popular"):
        build_snapshot(folder.name)
    assert len(snapshot.stored_snapshots(shop.snapshots)) == 2


def test_a_ranker_that_cannot_be_loaded_gives_no_snapshot(shop: Shop) -> None:
    (shop.home / "models" / f"{tiny.DATA_AS_OF}-11111111" / "ranker.tflite").write_bytes(b"not a model")
    tiny.make_candidates(shop.home, f"{tiny.DATA_AS_OF}-44444444", f"{tiny.DATA_AS_OF}-11111111", shift=1)
    with pytest.raises(CommandFailed, match="ranker"):
        build_snapshot(f"{tiny.DATA_AS_OF}-44444444")
    assert set(snapshot.stored_snapshots(shop.snapshots)) == {shop.first, shop.second}


def test_missing_candidates_are_named(home: Path) -> None:
    with pytest.raises(CommandFailed, match="evershelf run candidates"):
        build_snapshot()
    with pytest.raises(CommandFailed, match="nonesuch"):
        build_snapshot("nonesuch")


def test_a_key_of_any_length_fits() -> None:
    for text in ("", "a", "x" * 10_000, "🕯" * 300):
        assert 0 < len(layout.query_key(text)) <= 511
        assert 0 < len(layout.id_key(text)) <= 511
    assert layout.query_key("x" * 10_000) != layout.query_key("x" * 10_001)


def test_parents_of_a_category_end_with_the_whole_shop() -> None:
    assert parents("Home > Candles > Red") == ["Home > Candles > Red", "Home > Candles", "Home", ""]
    assert parents("") == [""]
