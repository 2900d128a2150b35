"""Interest tags say what a shopper is after now, with the evidence, and are held against the day after."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import DataFrame, SparkSession

from evershelf import lake, lineage
from evershelf.contracts.candidates import HALF_LIFE_DAYS
from evershelf.errors import CommandFailed
from spark_jobs import interests
from spark_jobs.delta import create_tables

pytestmark = pytest.mark.slow

DAY = date(2026, 1, 9)
AS_OF = datetime(2026, 1, 10, tzinfo=UTC)
EVENT = "event_id string, event_time timestamp, user_id string, session_id string, type string, item_id string"


def events(spark: SparkSession, *rows: tuple[str | None, str, str, float]) -> DataFrame:
    """Make events from (user, type, item, days before AS_OF)."""
    return spark.createDataFrame(
        [(f"{place}", AS_OF - timedelta(days=days), user, "s", kind, item) for place, (user, kind, item, days) in enumerate(rows)], EVENT
    )


@pytest.fixture
def products(spark: SparkSession) -> DataFrame:
    old, new = AS_OF - timedelta(days=5), AS_OF - timedelta(days=1)
    rows = [
        ("lamp", old, "Garden", "Oak"), ("lamp", new, "Light", "Oak"), ("torch", old, "Light", None), ("rug", old, "Floor", "Elm"), ("odd", old, None, ""),
    ]  # fmt: skip
    return spark.createDataFrame(
        [(item, DAY, at, path, brand) for item, at, path, brand in rows], "item_id string, dt date, valid_from timestamp, category_path string, brand string"
    )


def test_tags_are_decayed_ranked_and_carry_their_evidence(spark: SparkSession, products: DataFrame) -> None:
    half = HALF_LIFE_DAYS
    found = interests.interest_tags(
        events(
            spark,
            ("u", "purchase", "lamp", half),
            ("u", "click", "torch", 0.5),
            ("u", "click", "torch", 0.25),
            ("u", "view", "rug", 2 * half),
            ("u", "impression", "rug", 0.1),  # was shown, not chosen
            ("u", "click", "rug", -0.1),  # after the day
            ("u", "click", "odd", 0.1),  # nothing is known of it
            (None, "click", "rug", 0.1),  # a guest
            ("v", "cart", "rug", 0.0001),
        ),
        products,
        day=DAY,
        as_of=AS_OF,
    )
    rows: dict[tuple[str, str], list[Any]] = {}
    for row in found.orderBy("user_id", "kind", "position").collect():
        rows.setdefault((row.user_id, row.kind), []).append(row)
    assert {who: [row.tag for row in tags] for who, tags in rows.items()} == {
        ("u", "category"): ["Light", "Floor"], ("u", "brand"): ["Oak", "Elm"], ("v", "category"): ["Floor"], ("v", "brand"): ["Elm"],
    }  # fmt: skip
    light, floor = rows["u", "category"]
    assert light.weight == pytest.approx(1.5 + 0.5 ** (0.5 / half) + 0.5 ** (0.25 / half))
    assert floor.weight == pytest.approx(0.25)
    assert (light.share + floor.share, light.dt) == (pytest.approx(1.0), DAY)
    assert (light.actions, light["items"]) == ({"click": 2, "purchase": 1}, ["torch", "lamp"])
    assert light.last_at - light.first_at == timedelta(days=half - 0.25)


def test_tags_are_held_against_what_the_shoppers_then_chose(spark: SparkSession, products: DataFrame) -> None:
    tags = spark.createDataFrame(
        [("u", "category", "Light", 1, 1.0), ("v", "category", "Floor", 1, 5.0), ("v", "brand", "Oak", 1, 5.0)],
        "user_id string, kind string, tag string, position int, weight double",
    )
    then = events(
        spark, ("u", "click", "lamp", 0.0), ("u", "click", "torch", 0.0), ("u", "click", "rug", 0.0), ("v", "click", "odd", 0.0), ("w", "click", "rug", 0.0)
    )
    assert interests.foretold(tags, then, products) == {"choices": 2, "hit_rate": 0.5, "popular": 1.0}
    assert interests.foretold(tags.where("false"), then, products) == {"choices": 0, "hit_rate": None, "popular": None}


def publish(name: str, *rows: dict[str, Any]) -> None:
    table = lake.open_table(name)
    content = pa.Table.from_pylist([{"dt": DAY, **row} for row in rows], schema=pa.schema(table.schema().to_arrow()))
    write_deltalake(table, content, mode="append")


def test_a_day_of_tags_is_one_commit_with_its_lineage(home: Path, spark: SparkSession) -> None:
    create_tables(spark)
    with pytest.raises(CommandFailed, match="No events of any day"):
        interests.run_day(spark, None)
    eve, noon = DAY - timedelta(days=1), datetime.combine(DAY, datetime.min.time(), UTC) + timedelta(hours=12)
    publish("products", {"item_id": "lamp", "title": "Lamp", "category_path": "Light"}, {"item_id": "rug", "title": "Rug", "category_path": "Floor"})
    publish("events", *({"event_id": item, "event_time": noon, "user_id": "u", "type": "click", "item_id": item} for item in ("lamp", "rug")))
    publish("interests", {"dt": eve, "user_id": "u", "kind": "category", "tag": "Light", "position": 1, "weight": 1.0})
    report = interests.run_day(spark, None)
    assert (report["day"], report["shoppers"], report["tags"], report["choices"], report["hit_rate"]) == (DAY.isoformat(), 1, 2, 2, 0.5)
    assert sorted((row["dt"], row["tag"]) for row in lake.read("interests").to_pylist()) == [(eve, "Light"), (DAY, "Floor"), (DAY, "Light")]
    commit = next(lineage.commits("interests"))
    assert (commit["version"], commit["days"], commit["tables"]) == (2, [DAY.isoformat()], lake.versions(interests.TABLES))
    assert commit["accuracy"]["hit_rate"] == 0.5
