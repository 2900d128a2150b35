"""`evershelf run nearline`: what landed lately, cleaned as the lake cleans it, for the answers of the next minute.

Every `nearline.interval` it reads the files that landed since, of the newest `nearline.days` landing days, and writes one overlay (evershelf/overlay.py):
prices and stock of items, what is being chosen, and what each shopper did. Gateways pick it up by themselves.

What it knows is in memory and follows from the landing alone, so it has no checkpoint: killed at any moment, the next one reads the same days again. It changes
neither landing nor lake.
"""

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from heapq import nlargest
from operator import itemgetter
from typing import Any

import click
import msgspec
import pyarrow as pa
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from evershelf import forgotten, overlay, storage
from evershelf.contracts import EVENT_TYPES, LAKE_TABLES
from evershelf.errors import EvershelfError
from evershelf.overlay import Action, Change, Overlay
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, landing
from evershelf.shops.adapter import Adapter, Source
from evershelf.storage import Place
from evershelf.telemetry import NEARLINE_AT, NEARLINE_SECONDS, metrics
from spark_jobs.candidates import INTERACTIONS
from spark_jobs.landed_rows import families, fed_rows, judged_rows, mark_repetitions, read_rows
from spark_jobs.session import spark_session

logger = logging.getLogger(__name__)

ACTIONS_EACH = 20  # the newest of a shopper
TABLES = ("events", "products")
LOCK = ".lock"  # beside the overlays: two at once would take each other's away

File = tuple[Source, date, Place]
_moment = itemgetter(2)  # of an Action
_SPARK_FAILED = (PySparkException, Py4JJavaError)


class Lately:
    """What is known of the newest days, in memory: the sum of all batches so far."""

    def __init__(self) -> None:
        self._seen: dict[date, set[str]] = {}  # event ids
        self._chosen: dict[date, Counter[str]] = {}
        self._shoppers: dict[str, deque[Action]] = {}
        self._changes: dict[str, tuple[tuple[int, date], Change]] = {}  # with when each came into force

    def add_events(self, rows: Iterable[dict[str, Any]]) -> int:
        """Take interactions, in order of time: dt, event_id, time (microseconds since 1970), type, item_id, user_id. Return how many were not known yet."""
        new = 0
        for row in rows:
            seen = self._seen.setdefault(row["dt"], set())
            if row["event_id"] in seen:
                continue
            seen.add(row["event_id"])
            new += 1
            self._chosen.setdefault(row["dt"], Counter())[row["item_id"]] += 1
            if row["user_id"]:
                action = (row["item_id"], EVENT_TYPES.index(row["type"]), row["time"] / 1e6)
                self._shoppers.setdefault(row["user_id"], deque(maxlen=ACTIONS_EACH)).append(action)
        return new

    def add_products(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take descriptions of items: dt, item_id, time (microseconds since 1970), price, currency, stock. The newest counts."""
        for row in rows:
            order = (row["time"], row["dt"])
            known = self._changes.get(row["item_id"])
            if known is None or order >= known[0]:
                self._changes[row["item_id"]] = order, Change(str(row["dt"]), row["price"], row["currency"], row["stock"])

    def drop_before(self, day: date) -> None:
        """Forget what belongs to earlier days."""
        for by_day in (self._seen, self._chosen):
            for dt in [dt for dt in by_day if dt < day]:
                del by_day[dt]
        for item in [item for item, (_, change) in self._changes.items() if change.dt < str(day)]:
            del self._changes[item]

    def overlay(self, since: float, gone: forgotten.Forgotten, most_shoppers: int) -> Overlay:
        """Return the overlay of now: of the shoppers the `most_shoppers` seen last, `since` a moment (seconds since 1970), and nobody who was forgotten."""
        last = {user: max(map(_moment, actions)) for user, actions in self._shoppers.items()}
        for user in [user for user in self._shoppers if last[user] < since or gone.covers(user)]:
            del self._shoppers[user], last[user]
        return Overlay(
            made_at=time.time(),
            changes={item: change for item, (_, change) in self._changes.items()},
            chosen={str(dt): dict(counts) for dt, counts in self._chosen.items()},
            shoppers={user: overlay.encoded(sorted(self._shoppers[user], key=_moment)) for user in nlargest(most_shoppers, last, key=last.__getitem__)},
        )


class Batch(msgspec.Struct, kw_only=True):
    """What one batch did. `rows` are those of the new files by outcome; `new` are the interactions among them that were not known; `unreadable` names files."""

    files: int = 0
    clean: int = 0
    quarantined: int = 0
    repeated: int = 0
    new: int = 0
    items: int = 0
    shoppers: int = 0
    unreadable: list[str] = []
    seconds: float = 0.0


class Nearline:
    """The batches of one process.

    Args:
        place: where the overlays go.
    """

    def __init__(self, spark: SparkSession, adapter: Adapter, place: Place) -> None:
        self._spark, self._adapter, self._place = spark, adapter, place
        self._settings = load_settings()
        self._lately = Lately()
        self._read: dict[str, tuple[int, float]] = {}  # file -> its size and time of change
        fed = {feed.family for feed in adapter.feeds if feed.table in TABLES}
        self._families = {name: sources for name, sources in families(adapter).items() if name in fed}

    def batch(self) -> Batch:
        """Read what landed since the last batch, and write an overlay.

        Raises:
            OSError, StorageError: landing or tombstones cannot be read, or the overlay cannot be written. The next batch does the work of this one.
        """
        started, done, nearline = time.monotonic(), Batch(), self._settings.nearline
        today = datetime.now(self._settings.zone).date()
        days = [today - timedelta(days=back) for back in reversed(range(nearline.days))]
        for sources in self._families.values():
            new = list(self._new_files(sources, days))
            done.files += len(new)
            self._take_all(new, done)
        self._lately.drop_before(days[0])
        since = datetime.combine(days[0], datetime.min.time(), self._settings.zone).timestamp()
        made = self._lately.overlay(since, forgotten.read(), nearline.most_shoppers)
        overlay.write(self._place, made)
        done.items, done.shoppers, done.seconds = len(made.changes), len(made.shoppers), round(time.monotonic() - started, 3)
        metrics().gauge(NEARLINE_AT, int(time.time()))
        metrics().timing(NEARLINE_SECONDS, int(done.seconds * 1000))
        return done

    def _new_files(self, sources: Sequence[Source], days: Sequence[date]) -> Iterator[File]:
        for source in sources:
            for day in days:
                for path in landing.landed_files(source.name, day):
                    if self._read.get(str(path)) != _version(path):
                        yield source, day, path
        known = {f"{landing.PREFIX}{day.isoformat()}" for day in days}
        self._read = {name: version for name, version in self._read.items() if name.split("/")[-2] in known}

    def _take_all(self, files: list[File], done: Batch) -> None:
        """Take the files together when they can be read together; else each that can be read alone."""
        if not files:
            return
        try:
            self._take(files, done)
        except _SPARK_FAILED:
            for file in files:
                try:
                    self._take([file], done)
                except _SPARK_FAILED as error:
                    done.unreadable.append(str(file[2]))  # `lake_daily` will hold its day back, or say what it lost
                    self._read[str(file[2])] = _version(file[2])
                    logger.warning("%s cannot be read and is left out: %s", file[2], str(error).splitlines()[0])

    def _clean(self, files: Sequence[File]) -> DataFrame:
        """Return a family's judged rows, as `lake_daily` makes them of whole days."""
        frames = []
        for source in dict.fromkeys(source.name for source, _, _ in files):
            of_day: dict[date, list[Place]] = {}
            for _, day, path in (file for file in files if file[0].name == source):
                of_day.setdefault(day, []).append(path)
            corrections = {day: landing.corrections(source, day) for day in of_day}
            known = self._adapter.source(source)
            frames.append(judged_rows(read_rows(self._spark, known, of_day, corrections), known, self._settings))
        return mark_repetitions(reduce(DataFrame.unionByName, frames))

    def _take(self, files: Sequence[File], done: Batch) -> None:
        versions = {str(path): _version(path) for _, _, path in files}
        rows = self._clean(files).cache()
        try:
            outcomes = rows.groupBy(F.col("reason").isNull().alias("good"), "repeated").count().collect()
            feeds = [feed for feed in self._adapter.feeds if feed.table in TABLES and feed.family == files[0][0].family]
            fed = [(feed.table, _slim(fed_rows(rows, feed, LAKE_TABLES[feed.table], self._settings), feed.table).toArrow()) for feed in feeds]
        finally:
            rows.unpersist()
        for row in outcomes:  # everything is read: from here on nothing can fail
            name = "quarantined" if not row.good else "repeated" if row.repeated else "clean"
            setattr(done, name, getattr(done, name) + row["count"])
        for table, content in fed:
            if table == "events":
                done.new += self._lately.add_events(_rows(content))
            else:
                self._lately.add_products(_rows(content))
        self._read |= versions


def _slim(rows: DataFrame, table: str) -> DataFrame:
    if table == "products":
        return rows.selectExpr("dt", "item_id", "unix_micros(valid_from) AS time", "price", "currency", "stock")
    chosen = rows.where(F.col("type").isin(*INTERACTIONS)).where("item_id IS NOT NULL AND (user_id IS NOT NULL OR session_id IS NOT NULL)")
    return chosen.selectExpr("dt", "event_id", "unix_micros(event_time) AS time", "type", "item_id", "user_id").orderBy("time", "event_id")


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _version(path: Place) -> tuple[int, float]:
    known = path.stat()
    return known.st_size, known.st_mtime


def run(spark: SparkSession, until: float, *, once: bool, as_json: bool) -> None:
    """Make a batch every `nearline.interval` until a moment of time.monotonic(). A batch that fails is told, and the next one does its work."""
    settings, place = load_settings(), overlay.folder()
    nearline = Nearline(spark, ADAPTERS[settings.shop.adapter], place)
    interval = settings.nearline.interval.total_seconds()
    while True:
        began = time.monotonic()
        try:
            done = nearline.batch()
        except (EvershelfError, OSError) as error:
            if once:
                raise
            click.echo(f"This batch failed, answers go on with the overlay before it until it expires; the next one tries again: {error}", err=True)
        else:
            click.echo(msgspec.json.encode(done).decode() if as_json else _line(done))
        if once or time.monotonic() + interval > until:
            return
        time.sleep(max(began + interval - time.monotonic(), 0.0))


def _line(done: Batch) -> str:
    bad = f"; cannot be read: {', '.join(done.unreadable)}" if done.unreadable else ""
    return (
        f"{datetime.now(UTC):%H:%M:%S} UTC: {done.files} new files, {done.clean} rows clean + {done.quarantined} quarantined + {done.repeated} repeated;"
        f" overlay of {done.items} items and {done.shoppers} shoppers after {done.seconds:.1f} s{bad}"
    )


@click.command()
@click.option("--once", is_flag=True, help="One batch, and no more.")
@click.option("--minutes", type=click.FloatRange(min=0), help="End after so long; default: never.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per batch.")
def main(once: bool, minutes: float | None, as_json: bool) -> None:
    """Keep the overlay fresh: what landed lately reaches the answers, without waiting for the next snapshot."""
    until = float("inf") if minutes is None else time.monotonic() + minutes * 60
    place = overlay.folder()
    place.mkdir(parents=True, exist_ok=True)
    with storage.turn(place / LOCK, lambda: click.echo("Another nearline is at work; waiting until it ends.", err=True)):
        spark = spark_session("nearline")
        spark.sparkContext.setLogLevel("ERROR")
        try:
            run(spark, until, once=once, as_json=as_json)
        finally:
            spark.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        main()
    except EvershelfError as error:
        click.echo(f"evershelf run nearline: {error}", err=True)
        sys.exit(error.exit_code)
