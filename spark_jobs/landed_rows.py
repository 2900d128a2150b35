"""From landed files to judged rows: what an adapter declares, done by Spark. Every function is DataFrame -> DataFrame, but for the reading."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from evershelf.contracts.tables import Table
from evershelf.settings import Settings
from evershelf.shops.adapter import NO_LINE, Adapter, Feed, Source
from evershelf.storage import Place

NOT_JSON = "_not_json"
TRAVELS = ("landing_dt", "source", "raw_hash", "seen")  # what goes with a row besides its typed columns
KEYS = ("dt", "key", "same", "reason", "landing_dt", "source", "raw_hash")  # what tells whether a row repeats another
PER_TASK = 1 << 20  # packed bytes: a file that cannot be split is read by one task, and its lines are judged by one for each so many bytes


def filled(sql: str, settings: Settings) -> str:
    """Put the settings into an adapter's SQL."""
    shop = settings.shop
    values = {
        "{timezone}": shop.timezone,
        "{bulk_quantity}": str(shop.bulk_quantity),
        "{currencies}": ", ".join(f"'{code}'" for code in shop.currencies),
        "{currency}": f"'{shop.currencies[0]}'",
    }
    for name, value in values.items():
        sql = sql.replace(name, value)
    return sql


Corrections = Mapping[date, Mapping[str, Mapping[str, Any]]]  # landing day -> raw_hash -> column -> value


def read_rows(spark: SparkSession, source: Source, files: Mapping[date, Sequence[Place]], corrections: Corrections | None = None) -> DataFrame:
    """Read a source's files of some landing days.

    Args:
        corrections: repairs of quarantined rows; the row keeps its `raw` and `raw_hash`.

    Returns:
        the raw columns, NO_LINE, `landing_dt`, `source`, `raw` (the row as JSON), `raw_hash` and `seen`, a bit mask of the columns that have a value.
    """
    read = _read_csv if source.format == "csv" else _read_json
    days = [read(spark, source, paths).withColumn("landing_dt", F.lit(day)) for day, paths in files.items() if paths]
    seen = [F.when(F.col(name).isNotNull(), F.lit(1 << place)).otherwise(F.lit(0)) for place, name in enumerate(source.columns)]
    rows = reduce(DataFrame.unionByName, days).withColumn("source", F.lit(source.name)).withColumn("raw_hash", F.sha2("raw", 256))
    return _corrected(spark, rows, source, corrections or {}).withColumn("seen", reduce(Column.bitwiseOR, seen).cast("bigint"))


def _corrected(spark: SparkSession, rows: DataFrame, source: Source, corrections: Corrections) -> DataFrame:
    repairs = [(day, row, json.dumps(values), list(values)) for day, repaired in corrections.items() for row, values in repaired.items()]
    if not repairs:
        return rows
    schema = ", ".join(f"`{name}` {kind}" for name, kind in source.columns.items())
    repaired = spark.createDataFrame(repairs, "landing_dt date, raw_hash string, repair string, named array<string>").withColumn(
        "repair", F.from_json("repair", schema)
    )
    columns = {name: F.when(F.array_contains("named", name), F.col("repair")[name]).otherwise(F.col(f"`{name}`")) for name in source.columns}
    return (
        rows.join(F.broadcast(repaired), ["landing_dt", "raw_hash"], "left")
        .withColumns({**columns, NO_LINE: F.when(F.col("repair").isNull(), F.col(NO_LINE))})  # a repaired line counts as read
        .drop("repair", "named")
    )


def _read_json(spark: SparkSession, source: Source, paths: Sequence[Place]) -> DataFrame:
    schema = ", ".join(f"`{name}` {kind}" for name, kind in {**source.columns, NO_LINE: "string", NOT_JSON: "string"}.items())
    lines = spark.read.text([str(path) for path in paths]).where("trim(value) <> ''")
    tasks = min(sum(path.stat().st_size for path in paths) // PER_TASK, spark.sparkContext.defaultParallelism)
    return (
        (lines.repartition(tasks, "value") if tasks > 1 else lines)
        .select(F.col("value").alias("raw"), F.from_json("value", schema, {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": NOT_JSON}).alias("row"))
        .select("raw", "row.*")
        .withColumn(NO_LINE, F.coalesce(NO_LINE, F.when(F.col(NOT_JSON).isNotNull(), F.lit("not the JSON that the contract describes"))))
        .drop(NOT_JSON)
    )


def _read_csv(spark: SparkSession, source: Source, paths: Sequence[Place]) -> DataFrame:
    headers: dict[tuple[str, ...], list[str]] = {}
    for path in paths:  # each by its own header: an inferred one would cost a job, a fixed one would mistake a missing column for the next
        with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as file:
            headers.setdefault(tuple(next(csv.reader(file))), []).append(str(path))
    files = []
    for header, same in headers.items():
        schema = ", ".join(f"`{name}` string" for name in header)
        frame = spark.read.csv(same, schema=schema, header=True, multiLine=True, escape='"')
        files.append(frame.select(*(F.col(f"`{name}`") if name in header else F.lit(None).cast("string").alias(name) for name in [*source.columns, NO_LINE])))
    return reduce(DataFrame.unionByName, files).withColumn("raw", F.to_json(F.struct(*source.columns, NO_LINE)))


def judged_rows(rows: DataFrame, source: Source, settings: Settings) -> DataFrame:
    """Give rows their typed columns, `reason`, the name of the first rule that a row breaks or null, `mistyped`, a bit mask of the raw columns whose value
    is not of the typed column's type, and `same`, a number that rows with the same key have in common. Only a row with a reason keeps its `raw`.
    """
    counted = [(place, name) for place, name in enumerate(source.columns) if "try_cast" in source.typed.get(name, "")]
    wrong = " | ".join(f"if(`{name}` IS NOT NULL AND ({filled(source.typed[name], settings)}) IS NULL, {1 << place}L, 0L)" for place, name in counted) or "0L"
    late = f"dt < date_sub(landing_dt, {settings.lake.restated_days})"
    rules = {**source.rules, "no calendar day": "dt IS NULL", "too late": late, "in the future": "dt > landing_dt"}
    cases = " ".join(f"WHEN {filled(sql, settings)} THEN '{name}'" for name, sql in rules.items())
    # rules see the raw column where a typed one has the same name
    beside = rows.selectExpr("*", *(f"{filled(sql, settings)} AS `{name}`" for name, sql in source.typed.items() if name not in source.columns))
    typed = (f"{filled(sql, settings)} AS `{name}`" if name in source.columns else f"`{name}`" for name, sql in source.typed.items())
    judged = beside.selectExpr(*TRAVELS, "raw", f"CASE {cases} END AS reason", f"{wrong} AS mistyped", *typed)
    return judged.withColumns({"raw": F.when(F.col("reason").isNotNull(), F.col("raw")), "same": F.xxhash64(F.coalesce("key", "raw_hash"))})


def several(rows: DataFrame) -> DataFrame:
    """Return `same` of the keys that occur more than once on a `dt` among good rows. As two keys may have a number in common, it may be a few too many."""
    return rows.where(F.col("reason").isNull()).groupBy("dt", "same").count().where("count > 1").select("same").distinct()


def mark_repetitions(rows: DataFrame) -> DataFrame:
    """Add `repeated`: the key came already, on the same `dt`, in an earlier landing or in the same one.

    The order within a landing is that of `raw_hash`, so the same row stays whatever the order of files and lines.
    """
    same = Window.partitionBy("dt", F.coalesce("key", "raw_hash")).orderBy(F.col("reason").isNotNull(), "landing_dt", "source", "raw_hash")
    return rows.withColumn("repeated", F.col("reason").isNull() & (F.row_number().over(same) > 1))


def fed_rows(family: DataFrame, feed: Feed, table: Table, settings: Settings) -> DataFrame:
    """Turn a family's accepted rows into rows of a table."""
    values = {name: f"CAST({filled(feed.columns.get(name, 'NULL'), settings)} AS {column.type}) AS `{name}`" for name, column in table.columns.items()}
    rows = family.where(f"reason IS NULL AND NOT repeated AND ({filled(feed.where, settings)})")
    if feed.per:
        columns = [F.expr(values[name]) for name in feed.columns]
        rows = rows.groupBy("dt", *feed.per).agg(F.max("landing_dt").alias("landing_dt"), *columns)
        values |= {name: f"`{name}`" for name in feed.columns}
    return rows.selectExpr(*({**values, "dt": "dt", "landing_dt": "landing_dt"}[name] for name in table.columns))


def quarantined_rows(family: DataFrame) -> DataFrame:
    """Return rows for the quarantine table. Equal raw rows are told apart by their number."""
    equal = Window.partitionBy("landing_dt", "source", "raw_hash").orderBy("reason")
    place = F.row_number().over(equal)
    return family.where("reason IS NOT NULL").select("landing_dt", "source", F.concat_ws("-", "raw_hash", place).alias("row_id"), "reason", "raw")


def families(adapter: Adapter) -> dict[str, tuple[Source, ...]]:
    names = dict.fromkeys(source.family for source in adapter.sources)
    return {name: tuple(source for source in adapter.sources if source.family == name) for name in names}
