from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from evershelf.contracts.candidates import BACKWARD, BASKET, GAP, HALF_LIFE_DAYS
from spark_jobs import candidates
from training.baselines import neighbors
from training.data import assemble

pytestmark = pytest.mark.slow

AS_OF = datetime(2026, 1, 10, tzinfo=UTC)
EVENT = "event_id string, event_time timestamp, user_id string, session_id string, type string, item_id string, query string"
PRODUCT = "item_id string, dt date, valid_from timestamp, category_path string, stock int"


def events(spark: SparkSession, *rows: tuple[str | None, str, str, str | None, str | None]) -> DataFrame:
    """Make events from (user, session, type, item, query), one minute apart, all just before AS_OF."""
    start = AS_OF - timedelta(minutes=len(rows))
    return spark.createDataFrame(
        [(f"{index:03}", start + timedelta(minutes=index), user, session, kind, item, query) for index, (user, session, kind, item, query) in enumerate(rows)],
        EVENT,
    )


def items_of(spark: SparkSession, *rows: tuple[str, str | None]) -> DataFrame:
    return spark.createDataFrame(list(rows), "item_id string, category_path string")


def listed(frame: DataFrame, of: str, item: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in frame.orderBy(of, "position").collect():
        found.setdefault(row[of], []).append(row[item])
    return found


def test_items_out_of_stock_or_never_described_are_not_sellable(spark: SparkSession) -> None:
    day = AS_OF.date()
    products = spark.createDataFrame(
        [
            ("sold out", day, AS_OF - timedelta(days=2), "A", 5),
            ("sold out", day, AS_OF - timedelta(days=1), "A", 0),
            ("back again", day, AS_OF - timedelta(days=2), "A", 0),
            ("back again", day, AS_OF - timedelta(days=1), "B", 1),
            ("not counted", day, AS_OF, None, None),
        ],
        PRODUCT,
    )
    assert {row["item_id"]: row["category_path"] for row in candidates.sellable(products).collect()} == {"back again": "B", "not counted": None}


def test_a_category_that_is_not_given_is_the_label_s(spark: SparkSession) -> None:
    day = AS_OF.date()
    products = spark.createDataFrame(
        [("given", day, AS_OF, "A", 1), ("empty", day, AS_OF, "", 1), ("none", day, AS_OF, None, 1), ("unknown", day, AS_OF, None, 1)], PRODUCT
    )
    labels = spark.createDataFrame(
        [
            ("given", "category", "no"),
            ("empty", "category", "new"),
            ("none", "brand", "Acme"),
            ("none", "category", "B"),
        ],
        "item_id string, kind string, text string",
    )
    found = {row["item_id"]: row["category_path"] for row in candidates.sellable(products, labels).collect()}
    assert found == {"given": "A", "empty": "new", "none": "B", "unknown": None}


def test_neighbors_are_cosines_of_shared_shoppers_without_what_cannot_be_sold(spark: SparkSession) -> None:
    chosen = candidates.interactions(
        events(
            spark,
            ("u1", "s1", "click", "a", None),
            ("u1", "s1", "view", "a", None),  # the same choice again adds nothing
            ("u1", "s1", "click", "b", None),
            ("u2", "s2", "click", "a", None),
            ("u2", "s2", "purchase", "b", None),
            ("u2", "s2", "click", "gone", None),
            (None, "s3", "click", "a", None),  # a guest is their session
            (None, "s3", "click", "c", None),
            (None, "s4", "impression", "b", None),
        )
    )
    near = candidates.item_candidates(chosen, items_of(spark, ("a", "A"), ("b", "A"), ("c", "A")), as_of=AS_OF, k=5)
    assert listed(near, "item_id", "neighbor_id") == {"a": ["b", "c"], "b": ["a"], "c": ["a"], "gone": ["b", "a"]}
    score = {(row["item_id"], row["neighbor_id"]): row["score"] for row in near.collect()}
    assert score["a", "b"] == pytest.approx(2 / np.sqrt(3 * 2), rel=1e-3)
    assert score["a", "c"] == pytest.approx(1 / np.sqrt(3 * 1), rel=1e-3)


def test_neighbors_keep_only_the_best_k_and_old_choices_count_less(spark: SparkSession) -> None:
    old = AS_OF - timedelta(days=HALF_LIFE_DAYS)
    rows = [("1", old, "u1", "s1", "click", item, None) for item in ("a", "old")] + [("2", AS_OF, "u2", "s2", "click", item, None) for item in ("a", "new")]
    chosen = candidates.interactions(spark.createDataFrame(rows, EVENT))
    near = candidates.item_candidates(chosen, items_of(spark, ("a", ""), ("old", ""), ("new", "")), as_of=AS_OF, k=1)
    assert listed(near, "item_id", "neighbor_id")["a"] == ["new"]
    score = {row["item_id"]: row["score"] for row in near.collect()}
    assert score["a"] == pytest.approx(1 / np.sqrt(1.5), rel=1e-6)


def test_what_comes_next_counts_in_full_what_came_before_or_is_further_apart_less(spark: SparkSession) -> None:
    chosen = candidates.interactions(events(spark, *(("u", "s", "view", item, None) for item in ("a", "b", "c"))))
    near = candidates.item_candidates(chosen, items_of(spark, ("a", ""), ("b", ""), ("c", "")), as_of=AS_OF, k=5)
    score = {(row["item_id"], row["neighbor_id"]): row["score"] for row in near.collect()}
    expected = {("a", "b"): 1.0, ("a", "c"): GAP, ("b", "c"): 1.0, ("b", "a"): BACKWARD, ("c", "b"): BACKWARD, ("c", "a"): BACKWARD * GAP}
    assert score == pytest.approx(expected, rel=1e-3)


def test_lines_of_one_order_are_chosen_at_one_time_and_the_baseline_counts_as_the_job_does(spark: SparkSession) -> None:
    def chosen_by(user: str, *times: tuple[int, list[str]]) -> list[tuple[Any, ...]]:
        rows = [(AS_OF - timedelta(minutes=minutes), item) for minutes, items in times for item in items]
        return [(f"{user}{999 - index}", when, user, user, "purchase", item, None) for index, (when, item) in enumerate(rows)]  # ids against the items' order

    rows = chosen_by("u", (30, ["x", "y", "z"])) + chosen_by("v", (90, ["a"]), (60, ["b", "c", "d"]), (30, ["e", "b"]))
    rows += chosen_by("w", (20, [f"i{index:03}" for index in range(BASKET + 5)]))
    later = ("later", AS_OF + timedelta(minutes=1), "u", "u", "click", "x", None)
    items = sorted({row[5] for row in rows})
    near = candidates.item_candidates(
        candidates.interactions(spark.createDataFrame(rows, EVENT)), items_of(spark, *((item, "") for item in items)), as_of=AS_OF, k=1000
    )
    job = {(row["item_id"], row["neighbor_id"]): row["score"] for row in near.collect()}
    assert job["x", "z"] == job["z", "x"] == pytest.approx(1.0)
    assert (job["a", "c"], job["a", "e"], job["e", "d"]) == pytest.approx((1.0, GAP, BACKWARD), rel=1e-2)
    text, when = pa.string(), pa.timestamp("us", tz="UTC")
    columns = ["event_id", "event_time", "user_id", "session_id", "type", "item_id", "query"]
    table = pa.table(
        dict(zip(columns, map(list, zip(*rows, later, strict=True)), strict=True)),
        pa.schema([(name, when if name == "event_time" else text) for name in columns]),
    )
    products = pa.schema([("item_id", text), ("title", text), ("brand", text), ("category_path", text), ("price", pa.float64()), ("valid_from", when)])
    orders = pa.schema([("ordered_at", when), ("item_id", text), ("quantity", pa.int32()), ("price", pa.float64()), ("transaction_class", text)])
    shop = assemble(table, products.empty_table(), orders.empty_table(), split_day=AS_OF.date(), data_as_of=AS_OF.date(), versions={})
    ours = neighbors(shop, np.arange(len(items), dtype=np.int32) + 1, len(items) + 1)
    origin = np.repeat(np.arange(len(items)), np.diff(ours.start)[1:])
    pairs = zip(origin.tolist(), (ours.columns - 1).tolist(), strict=True)
    assert {(items[one], items[other]): score for (one, other), score in zip(pairs, ours.similarity, strict=True)} == pytest.approx(job, rel=1e-5)


def test_a_huge_basket_is_capped(spark: SparkSession) -> None:
    rows = [(f"{index:04}", AS_OF - timedelta(minutes=index), "u", "s", "purchase", f"i{index:04}", None) for index in range(3 * BASKET)]
    items = items_of(spark, *((row[5], "A") for row in rows))
    near = candidates.item_candidates(candidates.interactions(spark.createDataFrame(rows, EVENT)), items, as_of=AS_OF, k=1000)
    assert near.count() == BASKET * (BASKET - 1)


def test_popular_lists_exist_for_every_level_of_the_categories_and_the_whole_shop(spark: SparkSession) -> None:
    rows = [("u1", "s1", "click", item, None) for item in ("lamp", "lamp", "rug", "gone")]
    items = items_of(spark, ("lamp", "Home > Light"), ("rug", "Home > Floor"), ("torch", "Home > Light"), ("odd", None))
    popular = candidates.popular_items(candidates.interactions(events(spark, *rows)), items, as_of=AS_OF, k=3)
    assert listed(popular, "category", "item_id") == {
        "": ["lamp", "rug", "odd"],
        "Home": ["lamp", "rug", "torch"],
        "Home > Light": ["lamp", "torch"],
        "Home > Floor": ["rug"],
    }


def test_query_lists_hold_what_was_chosen_after_the_search_of_the_same_session(spark: SparkSession) -> None:
    rows: tuple[Any, ...] = (
        ("u1", "s1", "click", "before", None),
        ("u1", "s1", "search", None, "Red  LAMP"),
        ("u1", "s1", "click", "lamp", None),
        ("u1", "s1", "purchase", "lamp", None),
        ("u1", "s1", "click", "shade", None),
        ("u1", "s1", "search", None, "rug"),
        ("u1", "s1", "click", "rug", None),
        ("u2", "s2", "search", None, "red lamp!"),
        ("u2", "s2", "click", "gone", None),
        ("u3", "s3", "click", "other session", None),
    )
    items = items_of(spark, *((item, "A") for item in ("lamp", "shade", "rug", "before", "other session")))
    found = candidates.query_candidates(events(spark, *rows), items, as_of=AS_OF, k=2)
    assert listed(found, "query", "item_id") == {"red lamp": ["lamp", "shade"], "rug": ["rug"]}
    assert {row["item_id"]: row["score"] for row in found.collect()}["lamp"] == pytest.approx(4.0, rel=1e-2)


def test_histories_are_newest_first_and_of_known_shoppers_only(spark: SparkSession) -> None:
    rows = [("u1", "s1", "view", f"i{index}", None) for index in range(60)] + [(None, "s2", "view", "i1", None)]
    history = candidates.user_history(candidates.interactions(events(spark, *rows)))
    assert listed(history, "user_id", "item_id") == {"u1": [f"i{index}" for index in range(59, 9, -1)]}


@pytest.fixture(scope="module")
def shoppers(spark: SparkSession) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Two shoppers with histories, one of whom the model knows; `near` is what lies near item a."""
    vectors = spark.createDataFrame([("known", [1.0, 0.0])], "user_id string, vector array<float>")
    history = spark.createDataFrame(
        [("known", "a", "click", AS_OF, 1), ("known", "c", "click", AS_OF, 2), ("new", "a", "click", AS_OF, 1)],
        "user_id string, item_id string, type string, event_time timestamp, position int",
    )
    neighbors = spark.createDataFrame(
        [("a", "b", 1, 0.9), ("a", "gone", 2, 0.8), ("a", "d", 3, 0.1)], "item_id string, neighbor_id string, position int, score float"
    )
    return vectors, history, neighbors


def candidates_of(shoppers: tuple[DataFrame, DataFrame, DataFrame], *, mask_seen: bool, k: int) -> dict[str, list[tuple[str, str]]]:
    matrix = np.array([[0.9, 0.0], [0.5, 0.0], [0.7, 0.0], [0.1, 0.0]], np.float32)
    frame = candidates.user_candidates(*shoppers, item_ids=["a", "b", "c", "d"], item_vectors=matrix, mask_seen=mask_seen, k=k)
    found: dict[str, list[tuple[str, str]]] = {}
    for row in frame.orderBy("user_id", "position").collect():
        found.setdefault(row["user_id"], []).append((row["item_id"], row["source"]))
    return found


def test_shopper_lists_fuse_the_model_with_what_is_near_and_say_which(shoppers: tuple[DataFrame, DataFrame, DataFrame]) -> None:
    found = candidates_of(shoppers, mask_seen=False, k=3)
    # ranks: model c b d, near b d. b = 1/62 + 1/61, d = 1/63 + 1/62, c = 1/61; the item just seen and the one that cannot be sold are left out
    assert found["known"] == [("b", "model+neighbors"), ("d", "model+neighbors"), ("c", "model")]
    assert found["new"] == [("b", "neighbors"), ("d", "neighbors")]


def test_shopper_lists_leave_out_the_history_where_that_is_the_rule(shoppers: tuple[DataFrame, DataFrame, DataFrame]) -> None:
    found = candidates_of(shoppers, mask_seen=True, k=1)
    assert found["known"] == [("b", "model+neighbors")]
