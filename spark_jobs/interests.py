"""`evershelf run interests`: what each shopper is interested in, as tags with their evidence, and how well yesterday's tags foretold this day.

A tag is a category or a brand of items that the shopper clicked, viewed, put into the cart or bought. An action counts by its kind and half as much after each
HALF_LIFE_DAYS. Guests have no tags: nobody could be told, or forgotten. The same versions of the tables give the same rows; a day is one Delta commit.

How right they are is measured where the truth is known: of what shoppers with tags chose on a day, the share whose category is among the TOP strongest of the
day before, beside the same for the shop's strongest categories, which need no shopper.
"""

import json
import time
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import click
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from evershelf import lake
from evershelf.contracts import INTERESTS
from evershelf.contracts.candidates import HALF_LIFE_DAYS
from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from evershelf.version import code_version
from spark_jobs.candidates import ACTION_WEIGHT, interactions
from spark_jobs.delta import create_tables, staged
from spark_jobs.session import spark_session

TAGS = 20  # of a shopper and kind
EVIDENCE = 5  # items that are named for a tag
TOP = 3
TABLES = ("events", "products")


def described(products: DataFrame) -> DataFrame:
    """Return item_id, kind and tag: the category and the brand of each item's newest description."""
    newest = Window.partitionBy("item_id").orderBy(F.desc("valid_from"), F.desc("dt"))
    kinds = F.create_map(F.lit("category"), F.col("category_path"), F.lit("brand"), F.col("brand"))
    return products.withColumn("age", F.row_number().over(newest)).where("age = 1").select("item_id", F.explode(kinds).alias("kind", "tag")).where("tag <> ''")


def interest_tags(events: DataFrame, products: DataFrame, *, day: date, as_of: datetime) -> DataFrame:
    """Return INTERESTS rows for the end of a day.

    Args:
        events: of the days that count; those at or after `as_of` (aware) are left out.
        products: all descriptions up to the day.
    """
    age_days = (F.lit(as_of.timestamp()) - F.col("event_time").cast("double")) / 86400.0
    strength = F.create_map(*(F.lit(part) for pair in ACTION_WEIGHT.items() for part in pair))[F.col("type")]
    per_item = (
        interactions(events)
        .where(F.col("user_id").isNotNull() & (F.col("event_time") < F.lit(as_of)))
        .withColumn("weight", strength * F.pow(F.lit(0.5), age_days / HALF_LIFE_DAYS))
        .groupBy("user_id", "item_id", "type")
        .agg(F.sum("weight").alias("weight"), F.count("*").alias("actions"), F.min("event_time").alias("first_at"), F.max("event_time").alias("last_at"))
        .join(described(products), "item_id")
    )
    of = ("user_id", "kind", "tag")
    types = per_item.groupBy(*of, "type").agg(F.sum("actions").alias("actions"))
    types = types.groupBy(*of).agg(F.map_from_entries(F.sort_array(F.collect_list(F.struct("type", "actions")))).alias("actions"))
    items = per_item.groupBy(*of, "item_id").agg(F.sum("weight").alias("weight"), F.min("first_at").alias("first_at"), F.max("last_at").alias("last_at"))
    strongest = F.slice(F.sort_array(F.collect_list(F.struct((-F.col("weight")).alias("order"), "item_id"))), 1, EVIDENCE)
    tags = items.groupBy(*of).agg(
        F.sum("weight").alias("weight"), strongest["item_id"].alias("items"), F.min("first_at").alias("first_at"), F.max("last_at").alias("last_at")
    )
    everything = Window.partitionBy("user_id", "kind")
    ranked = (
        tags.join(types, list(of))
        .withColumn("share", F.col("weight") / F.sum("weight").over(everything))
        .withColumn("position", F.row_number().over(everything.orderBy(F.desc("weight"), "tag")))
        .where(F.col("position") <= TAGS)
        .withColumn("dt", F.lit(day))
    )
    return ranked.select(*(F.col(name).cast(column.type) for name, column in INTERESTS.columns.items()))


def foretold(tags: DataFrame, events: DataFrame, products: DataFrame) -> dict[str, Any]:
    """Compare the tags of the evening before with what the same shoppers then chose.

    Returns:
        choices: (shopper, category) pairs that were chosen; hit_rate: the share of them among the shopper's TOP categories; popular: the share among the TOP
        categories of all tags together, the baseline. Shares are None without choices.
    """
    categories = tags.where("kind = 'category'")
    shop = [row.tag for row in categories.groupBy("tag").agg(F.sum("weight").alias("weight")).orderBy(F.desc("weight"), "tag").limit(TOP).collect()]
    mine = categories.where(F.col("position") <= TOP).groupBy("user_id").agg(F.collect_set("tag").alias("mine"))
    chosen = interactions(events).join(described(products).where("kind = 'category'"), "item_id").select("user_id", "tag").distinct()
    (row,) = (
        chosen.join(mine, "user_id")
        .agg(
            F.count("*").alias("choices"),
            F.avg(F.expr("array_contains(mine, tag)").cast("double")).alias("hit_rate"),
            F.avg(F.col("tag").isin(shop).cast("double")).alias("popular"),
        )
        .collect()
    )
    found: dict[str, Any] = row.asDict()
    return found


def run_day(spark: SparkSession, moment: date | None) -> dict[str, Any]:
    """Publish the tags of a day (default: the newest with events) and return the report.

    Raises:
        CommandFailed: the day has no published events.
    """
    started, settings = time.monotonic(), load_settings()
    with lake.turn():
        create_tables(spark)
        versions = lake.versions(TABLES)
        days = lake.days("events", versions["events"])
        day = moment or (days[-1] if days else None)
        if day not in days:
            raise CommandFailed(
                f"No events of {day or 'any day'} are published. No tags were written, those of other days stay; `evershelf run lake_daily` first."
            )
        events, products = (_table(spark, name, versions[name]).where(F.col("dt") <= F.lit(day)) for name in TABLES)
        before = _table(spark, "interests").where(F.col("dt") == F.lit(day - timedelta(days=1)))
        accuracy = foretold(before, events.where(F.col("dt") == F.lit(day)), products)
        recent = events.where(F.col("dt") > F.lit(day - timedelta(days=settings.candidates.active_days)))
        as_of = datetime.combine(day + timedelta(days=1), datetime.min.time(), settings.zone)
        tags = interest_tags(recent, products, day=day, as_of=as_of).coalesce(1)
        with staged({"interests": tags}, {"interests": [day]}) as (written,):
            written.publish({"code_version": code_version(), "tables": versions, "accuracy": accuracy})
        shoppers = lake.read("interests", ["user_id"], filters=[("dt", "=", day)])["user_id"]
    return {
        "day": day.isoformat(),
        "shoppers": len(shoppers.unique()),
        "tags": len(shoppers),
        **accuracy,
        "seconds": round(time.monotonic() - started, 1),
    }


def _table(spark: SparkSession, name: str, version: int | None = None) -> DataFrame:
    reader = spark.read.format("delta")
    return (reader if version is None else reader.option("versionAsOf", version)).load(unquote(lake.table_url(name)))


@click.command()
@click.option("--date", "moment", type=click.DateTime(["%Y-%m-%d"]), help="The day; default the newest one with events.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def main(moment: datetime | None, as_json: bool) -> None:
    """Work out the interest tags of every shopper at the end of a day."""
    spark = spark_session("interests")
    spark.sparkContext.setLogLevel("ERROR")
    try:
        report = run_day(spark, moment.date() if moment else None)
    finally:
        spark.stop()
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(f"{report['day']}: {report['tags']} tags of {report['shoppers']} shoppers in {report['seconds']:.0f} s")
    if report["choices"]:
        click.echo(
            f"The tags of the evening before foretold {report['hit_rate']:.0%} of {report['choices']} choices, the shop's strongest {report['popular']:.0%}."
        )


if __name__ == "__main__":
    main()
