"""`evershelf run candidates`: what could be shown, worked out ahead, per shopper, item, query and category.

Reads the lake and one blessed model; writes <candidates>/<candidates_id>/<list>/*.parquet (evershelf/contracts/candidates.py) and lineage.json, whole or not
at all. Items that cannot be sold (no stock, or no product row) are in no list. The same inputs give the same id, and are not worked out twice.
"""

import hashlib
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any
from urllib.parse import unquote

import click
import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from evershelf import lake
from evershelf.contracts.candidates import (
    BACKWARD,
    BASKET,
    CANDIDATE_LISTS,
    FUSION,
    GAP,
    HALF_LIFE_DAYS,
    ITEM_CANDIDATES,
    POPULAR_ITEMS,
    QUERY_CANDIDATES,
    RECENCY,
    RECENT,
    USER_CANDIDATES,
    USER_HISTORY,
)
from evershelf.contracts.model import HISTORY_LENGTH
from evershelf.errors import CommandFailed
from evershelf.models import model_folder, newest_blessed, read_evaluation, torn
from evershelf.settings import CandidateSettings, Settings, load_settings
from evershelf.storage import Place, at, create, new_folder
from evershelf.telemetry import CANDIDATES_SECONDS, metrics
from evershelf.text import normalized_query
from evershelf.version import code_version
from spark_jobs.session import spark_session

INTERACTIONS = ("click", "view", "cart", "purchase")
ACTION_WEIGHT = {"click": 1.0, "view": 1.0, "cart": 2.0, "purchase": 3.0}  # of what was chosen for a query
SEPARATOR = " > "
TABLES = ("events", "products", "labels")


def interactions(events: DataFrame) -> DataFrame:
    """Return shopper, user_id (null for a guest), session_id, item_id, type, event_time, event_id of what was chosen; a guest is their session."""
    guest = F.concat(F.lit("session:"), "session_id")
    return (
        events.where(F.col("type").isin(*INTERACTIONS) & F.col("item_id").isNotNull())
        .withColumn("shopper", F.coalesce("user_id", guest))
        .where(F.col("shopper").isNotNull())
        .select("shopper", "user_id", "session_id", "item_id", "type", "event_time", "event_id")
    )


def sellable(products: DataFrame, labels: DataFrame | None = None) -> DataFrame:
    """Return item_id and category_path of the items whose newest description does not say that there is none left.

    Args:
        labels: of one day; they say what a description leaves out.
    """
    newest = Window.partitionBy("item_id").orderBy(F.desc("valid_from"), F.desc("dt"))
    items = products.withColumn("age", F.row_number().over(newest)).where("age = 1 AND (stock IS NULL OR stock > 0)").select("item_id", "category_path")
    if labels is None:
        return items
    said = labels.where("kind = 'category'").select("item_id", F.col("text").alias("said"))
    return items.join(said, "item_id", "left").select("item_id", F.coalesce(F.expr("nullif(category_path, '')"), "said").alias("category_path"))


def item_candidates(chosen: DataFrame, items: DataFrame, *, as_of: datetime, k: int) -> DataFrame:
    """Return each item's `k` nearest sellable items: cosine of which shoppers chose both, weighted by age, by what came between, and by which came first.

    Sources: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001; Garg et al., "Sequence and time aware neighborhood for
    session-based recommendations" (STAN), SIGIR 2019.
    """
    newest_first = Window.partitionBy("shopper").orderBy(F.desc("event_time"))
    choices = (
        chosen.groupBy("shopper", "item_id")
        .agg(F.max("event_time").alias("event_time"))
        .withColumn("instant", F.dense_rank().over(newest_first))  # lines of one order have the same
        .withColumn("place", F.row_number().over(newest_first.orderBy(F.desc("event_time"), "item_id")))
        .where(F.col("place") <= BASKET)
        .select("shopper", "item_id", "instant", _decay(as_of).alias("weight"))
    )
    alone = choices.groupBy("item_id").agg(F.sum("weight").alias("alone"))
    other = choices.select("shopper", *(F.col(name).alias(f"other_{name}") for name in ("item_id", "instant", "weight")))
    apart = F.col("other_instant") - F.col("instant")
    nearness = F.pow(F.lit(GAP), F.greatest(F.abs(apart) - 1, F.lit(0)))
    direction = F.when(apart > 0, BACKWARD).otherwise(1.0)
    together = (
        choices.join(other, "shopper")
        .where("item_id <> other_item_id")
        .groupBy("item_id", F.col("other_item_id").alias("neighbor_id"))
        .agg(F.sum(F.least("weight", "other_weight") * nearness * direction).alias("together"))
    )
    scored = (
        together.join(alone, "item_id")
        .join(alone.select(F.col("item_id").alias("neighbor_id"), F.col("alone").alias("neighbor_alone")), "neighbor_id")
        .join(items.select(F.col("item_id").alias("neighbor_id")), "neighbor_id")
        .withColumn("score", F.col("together") / F.sqrt(F.col("alone") * F.col("neighbor_alone")))
    )
    return _best(scored, ["item_id"], "neighbor_id", k, ITEM_CANDIDATES)


def popular_items(chosen: DataFrame, items: DataFrame, *, as_of: datetime, k: int) -> DataFrame:
    """Return the `k` most chosen sellable items, weighted by age, of every category at every level and of the whole shop (category '')."""
    counts = chosen.groupBy("item_id").agg(F.sum(_decay(as_of)).alias("chosen"))
    parts = F.split(F.coalesce("category_path", F.lit("")), SEPARATOR)
    levels = F.transform(F.sequence(F.lit(0), F.size(parts)), lambda level: F.array_join(F.slice(parts, F.lit(1), level), SEPARATOR))
    scored = (
        items.join(counts, "item_id", "left").withColumn("score", F.coalesce("chosen", F.lit(0.0))).withColumn("category", F.explode(F.array_distinct(levels)))
    )
    return _best(scored, ["category"], "item_id", k, POPULAR_ITEMS)


def query_candidates(events: DataFrame, items: DataFrame, *, as_of: datetime, k: int) -> DataFrame:
    """Return per normalised query the `k` sellable items that were chosen most after it in the same session, up to the next search."""
    normalize = F.udf(normalized_query, "string")
    so_far = Window.partitionBy("session_id").orderBy("event_time", "event_id").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    weight = reduce(lambda other, kind: F.when(F.col("type") == kind, ACTION_WEIGHT[kind]).otherwise(other), INTERACTIONS, F.lit(0.0))
    followed = (
        events.where(F.col("session_id").isNotNull() & F.col("type").isin("search", *INTERACTIONS))
        .withColumn("searched", F.last(F.when(F.col("type") == "search", F.col("query")), ignorenulls=True).over(so_far))
        .where(F.col("type") != "search")
        .withColumn("searched", F.coalesce("query", "searched"))
        .where(F.col("searched").isNotNull() & F.col("item_id").isNotNull())
    )
    scored = (
        followed.groupBy("searched", "item_id")
        .agg(F.sum(weight * _decay(as_of)).alias("score"))
        .withColumn("query", normalize("searched"))
        .where("query <> ''")
        .groupBy("query", "item_id")
        .agg(F.sum("score").alias("score"))
        .join(items.select("item_id"), "item_id")
    )
    return _best(scored, ["query"], "item_id", k, QUERY_CANDIDATES)


def user_history(chosen: DataFrame) -> DataFrame:
    """Return each known shopper's HISTORY_LENGTH newest interactions, position 1 the newest."""
    newest_first = Window.partitionBy("user_id").orderBy(F.desc("event_time"), F.desc("event_id"))
    return _typed(
        chosen.where("user_id IS NOT NULL").withColumn("position", F.row_number().over(newest_first)).where(F.col("position") <= HISTORY_LENGTH), USER_HISTORY
    )


def near_history(history: DataFrame, neighbors: DataFrame, *, k: int) -> DataFrame:
    """Return user_id and `near`: up to `k` item ids near the shopper's newest items, best first."""
    recent = history.where(F.col("position") <= RECENT).select("user_id", "item_id", F.pow(F.lit(RECENCY), F.col("position") - 1).alias("weight"))
    scored = (
        recent.join(neighbors.select("item_id", "neighbor_id", "score"), "item_id")
        .groupBy("user_id", "neighbor_id")
        .agg(F.sum(F.col("weight") * F.col("score")).alias("score"))
    )
    best = Window.partitionBy("user_id").orderBy(F.desc("score"), "neighbor_id")
    return (
        scored.withColumn("place", F.row_number().over(best))
        .where(F.col("place") <= k)
        .groupBy("user_id")
        .agg(F.transform(F.sort_array(F.collect_list(F.struct("place", "neighbor_id"))), lambda pair: pair["neighbor_id"]).alias("near"))
    )


def user_candidates(
    vectors: DataFrame, history: DataFrame, neighbors: DataFrame, *, item_ids: list[str], item_vectors: np.ndarray[Any, Any], mask_seen: bool, k: int
) -> DataFrame:
    """Return each shopper's `k` items: the model's nearest and those near their newest items, fused by rank; `source` says which of the two proposed it.

    Args:
        vectors: user_id, vector: shoppers that the model knows. Shoppers with a history only get what is near it.
        item_ids, item_vectors: the sellable items, [items] and [items, width] float32.
        mask_seen: leave out all of the history and not just its newest item.
    """
    seen = history.groupBy("user_id").agg(
        F.transform(F.sort_array(F.collect_list(F.struct("position", "item_id"))), lambda pair: pair["item_id"]).alias("seen")
    )
    shoppers = seen.join(vectors, "user_id", "left").join(near_history(history, neighbors, k=2 * k), "user_id", "left")
    ids = np.asarray(item_ids, dtype=object)
    number = {item: index for index, item in enumerate(item_ids)}
    shared = history.sparkSession.sparkContext.broadcast((ids, number, item_vectors))

    def fuse(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        names, numbers, matrix = shared.value
        for batch in batches:
            rows: dict[str, list[Any]] = {name: [] for name in USER_CANDIDATES}
            for user_id, vector, near, known in zip(batch["user_id"], batch["vector"], batch["near"], batch["seen"], strict=True):
                hidden = set(known if mask_seen else known[:1])
                by_model = _by_model(vector, names, matrix, k + len(hidden))
                score: dict[str, float] = {}
                source: dict[str, str] = {}
                for kind, proposed in (("model", by_model), ("neighbors", [] if near is None else near)):
                    for place, item in enumerate(item for item in proposed if item in numbers and item not in hidden):
                        score[item] = score.get(item, 0.0) + 1.0 / (FUSION + 1 + place)
                        source[item] = f"{source[item]}+{kind}" if item in source else kind
                for position, item in enumerate(sorted(score, key=lambda item: (-score[item], item))[:k], start=1):
                    for column, value in zip(USER_CANDIDATES, (user_id, item, position, score[item], source[item]), strict=True):
                        rows[column].append(value)
            yield pd.DataFrame(rows)

    schema = ", ".join(f"{name} {kind}" for name, kind in USER_CANDIDATES.items())
    # Spark's stubs want its own stand-in for a pandas frame
    return shoppers.select("user_id", "vector", "near", "seen").mapInPandas(fuse, schema)  # type: ignore[arg-type]


def _by_model(vector: Any, names: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any], most: int) -> list[str]:
    if vector is None:
        return []
    scores = matrix @ np.asarray(vector, np.float32)
    most = min(most, len(scores))
    top = np.argpartition(-scores, most - 1)[:most]
    ordered: list[str] = names[top[np.argsort(-scores[top], kind="stable")]].tolist()
    return ordered


def _decay(as_of: datetime) -> Column:
    days = (F.lit(as_of.timestamp()) - F.col("event_time").cast("double")) / 86400.0
    return F.pow(F.lit(0.5), F.greatest(days, F.lit(0.0)) / HALF_LIFE_DAYS)


def _best(scored: DataFrame, of: list[str], item: str, k: int, contract: dict[str, str]) -> DataFrame:
    best = Window.partitionBy(*of).orderBy(F.desc("score"), item)
    return _typed(scored.withColumn("position", F.row_number().over(best)).where(F.col("position") <= k), contract)


def _typed(frame: DataFrame, contract: dict[str, str]) -> DataFrame:
    return frame.select(*(F.col(name).cast(kind).alias(name) for name, kind in contract.items()))


def build(spark: SparkSession, settings: Settings, model_id: str, versions: dict[str, int], data_as_of: date, folder: Place) -> dict[str, int]:
    """Write every list into `folder`; return how many rows each has."""
    options: CandidateSettings = settings.candidates
    as_of = datetime.combine(data_as_of + timedelta(days=1), datetime.min.time(), UTC)
    first = data_as_of - timedelta(days=options.active_days - 1)
    events = _table(spark, "events", versions).where(F.col("dt") >= F.lit(first)).where(F.col("type") != "impression")
    labelled = lake.current_labels(versions["labels"], data_as_of) if "labels" in versions else None
    labels = _table(spark, "labels", versions).where(F.col("dt") == F.lit(labelled)) if labelled else None
    items = sellable(_table(spark, "products", versions), labels).cache()
    chosen = interactions(events).cache()
    history = user_history(chosen).cache()
    neighbors = item_candidates(chosen, items, as_of=as_of, k=options.per_item).cache()
    item_ids, item_vectors = _sellable_vectors(model_folder(model_id), {row["item_id"] for row in items.collect()})
    frames = {
        "item_candidates": neighbors,
        "popular_items": popular_items(chosen, items, as_of=as_of, k=options.popular),
        "query_candidates": query_candidates(events, items, as_of=as_of, k=options.per_query),
        "user_history": history,
        "user_candidates": user_candidates(
            spark.read.parquet(str(model_folder(model_id) / "user_vectors.parquet")),
            history,
            neighbors,
            item_ids=item_ids,
            item_vectors=item_vectors,
            mask_seen=bool(read_evaluation(model_id)["mask_seen"]),
            k=options.per_user,
        ),
    }
    assert frames.keys() == CANDIDATE_LISTS.keys()
    rows = {}
    for name, frame in frames.items():
        started = time.monotonic()
        frame.write.parquet(str(folder / name))
        rows[name] = spark.read.parquet(str(folder / name)).count()
        click.echo(f"{name}: {rows[name]} rows, {time.monotonic() - started:.1f} s", err=True)
    return rows


def _table(spark: SparkSession, name: str, versions: dict[str, int]) -> DataFrame:
    return spark.read.format("delta").option("versionAsOf", versions[name]).load(unquote(lake.table_url(name)))


def _sellable_vectors(folder: Place, sold: set[str]) -> tuple[list[str], np.ndarray[Any, Any]]:
    vocabulary = json.loads((folder / "vocabulary.json").read_bytes())["items"]
    vectors = np.load(io.BytesIO((folder / "item_vectors.npy").read_bytes()))
    if problem := torn(folder, len(vocabulary), len(vectors)):
        raise CommandFailed(f"{problem} No candidates were written and what is live stays live; train again, or name another model with --model.")
    rows = [index for index, item in enumerate(vocabulary) if index and item in sold]
    return [vocabulary[index] for index in rows], vectors[rows]


def _choose_model(model_id: str | None, allow_unblessed: bool) -> str:
    chosen = model_id or newest_blessed()
    if chosen is None:
        raise CommandFailed("There is no blessed model. No candidates were written and what is live stays live; `evershelf train` makes one.")
    if not read_evaluation(chosen)["blessed"] and not allow_unblessed:
        why = "; ".join(read_evaluation(chosen)["why"])
        raise CommandFailed(
            f"Model {chosen} was refused ({why}). No candidates were written and what is live stays live; choose a blessed one, or --allow-unblessed to try it."
        )
    return chosen


@click.command()
@click.option("--model", "model_id", help="Default: the newest blessed model.")
@click.option("--allow-unblessed", is_flag=True, help="Take the model even if it was refused; for trying things out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def main(model_id: str | None, allow_unblessed: bool, as_json: bool) -> None:
    """Work out the candidates of every shopper, item, query and category."""
    started = time.monotonic()
    settings = load_settings()
    model_id = _choose_model(model_id, allow_unblessed)
    versions = lake.versions(name for name in TABLES if name != "labels" or lake.exists(name))
    data_as_of = max(lake.days("events", versions["events"]))
    lineage: dict[str, Any] = {"model_id": model_id, "tables": versions, "data_as_of": str(data_as_of), "code_version": code_version()}
    made_from = json.dumps(lineage | {"settings": settings.candidates.model_dump()}, sort_keys=True)
    candidates_id = f"{data_as_of}-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    folder = at(settings.url("candidates")) / candidates_id
    rows = {}
    if not folder.is_dir():
        spark = spark_session("candidates")
        spark.sparkContext.setLogLevel("ERROR")
        try:
            with new_folder(folder) as aside:
                rows = build(spark, settings, model_id, versions, data_as_of, aside)
                create(aside / "lineage.json", json.dumps(lineage, indent=1).encode())
        finally:
            spark.stop()
    seconds = round(time.monotonic() - started, 1)
    metrics().timing(CANDIDATES_SECONDS, seconds * 1000)
    if as_json:
        click.echo(json.dumps({"candidates_id": candidates_id, "model_id": model_id, "rows": rows, "seconds": seconds}))
    else:
        click.echo(f"Candidates {candidates_id} of model {model_id} are in {folder} after {seconds:.0f} s.")


if __name__ == "__main__":
    main()
