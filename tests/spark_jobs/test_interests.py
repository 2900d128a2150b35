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


def publish(name: str, rows: list[dict[str, Any]]) -> None:
    table = lake.open_table(name)
    write_deltalake(table, pa.Table.from_pylist(rows, schema=pa.schema(table.schema().to_arrow())), mode="append")


def test_a_day_of_tags_is_one_commit_with_its_lineage_and_may_be_run_again(home: Path, spark: SparkSession) -> None:
    create_tables(spark)
    with pytest.raises(CommandFailed, match="No events of any day"):
        interests.run_day(spark, None)
    eve = DAY - timedelta(days=1)
    noon = {day: datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=12) for day in (eve, DAY)}
    publish(
        "products",
        [
            {"item_id": item, "dt": eve, "landing_dt": eve, "title": item, "category_path": path, "valid_from": noon[eve]}
            for item, path in (("lamp", "Light"), ("rug", "Floor"))
        ],
    )
    publish(
        "events",
        [
            {
                "event_id": f"{day}{item}",
                "event_time": noon[day],
                "received_at": noon[day],
                "dt": day,
                "landing_dt": day,
                "user_id": "u",
                "type": "click",
                "item_id": item,
            }
            for day, item in ((eve, "lamp"), (DAY, "lamp"), (DAY, "rug"))
        ],
    )
    assert interests.run_day(spark, eve)["hit_rate"] is None
    report = interests.run_day(spark, None)
    assert (report["day"], report["shoppers"], report["tags"], report["choices"], report["hit_rate"]) == (DAY.isoformat(), 1, 2, 2, 0.5)
    rows = sorted(lake.read("interests").to_pylist(), key=str)
    assert [(row["dt"], row["tag"]) for row in sorted(rows, key=lambda row: (row["dt"], row["position"]))] == [(eve, "Light"), (DAY, "Light"), (DAY, "Floor")]
    commit = next(lineage.commits("interests"))
    assert (commit["days"], commit["tables"], commit["accuracy"]["hit_rate"]) == ([DAY.isoformat()], lake.versions(interests.TABLES), 0.5)
    interests.run_day(spark, DAY)
    assert sorted(lake.read("interests").to_pylist(), key=str) == rows
    assert lake.open_table("interests").version() == 3
