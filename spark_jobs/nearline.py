"""`evershelf run nearline`: what landed lately, cleaned as the lake cleans it, for the answers of the next minute.

Every `nearline.interval` it reads the files that landed since, of the newest `nearline.days` landing days, and writes one overlay (evershelf/overlay.py):
prices and stock of items, what is being chosen, and what each shopper did. Gateways pick it up by themselves.

What it knows is in memory and follows from the landing alone, so it has no checkpoint: killed at any moment, the next one reads the same days again. It changes
neither landing nor lake.
"""

import csv
import gzip
import heapq
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
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
from evershelf.errors import CommandFailed, EvershelfError
from evershelf.overlay import Action, Change, Overlay
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, landing
from evershelf.shops.adapter import Adapter, Feed, Source
from evershelf.storage import Place
from evershelf.telemetry import NEARLINE_AT, NEARLINE_SECONDS, metrics
from spark_jobs.candidates import INTERACTIONS
from spark_jobs.landed_rows import families, fed_rows, judged_rows, mark_repetitions, read_rows
from spark_jobs.session import spark_session

ACTIONS_EACH = 20  # the newest of a shopper
TABLES = ("events", "products")
LOCK = ".lock"  # beside the overlays: two at once would take each other's away

PORTION = 64 << 20  # packed bytes that are read at once

File = tuple[str, date, Place]  # its source, and the day on which it landed
Version = tuple[int, float, float]  # of a file: its size, when it changed, and when its day's repairs did
_SPARK_FAILED = (PySparkException, Py4JJavaError)
_ROTTEN = (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError, csv.Error, StopIteration)  # what reading such a file's header raises


class Lately:
    """What is known of the newest days, in memory: the sum of all batches so far, in whatever order they came."""

    def __init__(self) -> None:
        self._seen: dict[date, set[int]] = {}  # numbers of events
        self._chosen: dict[date, Counter[str]] = {}
        self._shoppers: dict[str, list[tuple[int, str, int]]] = {}  # heaps: time, item, place of the type in EVENT_TYPES
        self._changes: dict[str, tuple[tuple[int, date], Change]] = {}  # with when each came into force

    def add_events(self, rows: Iterable[dict[str, Any]]) -> int:
        """Take interactions: dt, number (of the event's id), time (microseconds since 1970), type, item_id, user_id. Return how many were not known yet."""
        new = 0
        for row in rows:
            seen = self._seen.setdefault(row["dt"], set())
            if row["number"] in seen:
                continue
            seen.add(row["number"])
            new += 1
            self._chosen.setdefault(row["dt"], Counter())[row["item_id"]] += 1
            if row["user_id"]:
                actions = self._shoppers.setdefault(row["user_id"], [])
                put = heapq.heappush if len(actions) < ACTIONS_EACH else heapq.heappushpop
                put(actions, (row["time"], row["item_id"], EVENT_TYPES.index(row["type"])))
        return new

    def add_products(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take descriptions of items: dt, item_id, time (microseconds since 1970), price, currency, stock. The newest counts."""
        for row in rows:
            order = (row["time"], row["dt"])
            known = self._changes.get(row["item_id"])
            if known is None or order >= known[0]:
                self._changes[row["item_id"]] = order, Change(str(row["dt"]), row["price"], row["currency"], row["stock"])

    def drop_before(self, events: date, descriptions: date) -> None:
        """Forget events and descriptions of earlier days."""
        for by_day in (self._seen, self._chosen):
            for dt in [dt for dt in by_day if dt < events]:
                del by_day[dt]
        for item in [item for item, (_, change) in self._changes.items() if change.dt < str(descriptions)]:
            del self._changes[item]

    def overlay(self, since: float, gone: forgotten.Forgotten, most_shoppers: int) -> Overlay:
        """Return the overlay of now: of the shoppers the `most_shoppers` seen last, `since` a moment (seconds since 1970), and nobody who was forgotten."""
        last = {user: max(actions)[0] for user, actions in self._shoppers.items()}
        for user in [user for user in self._shoppers if last[user] < since * 1e6 or gone.covers(user)]:
            del self._shoppers[user], last[user]
        return Overlay(
            made_at=time.time(),
            changes={item: change for item, (_, change) in self._changes.items()},
            chosen={str(dt): dict(counts) for dt, counts in self._chosen.items()},
            shoppers={user: overlay.encoded(_actions(self._shoppers[user])) for user in heapq.nlargest(most_shoppers, last, key=last.__getitem__)},
        )


def _actions(heap: Iterable[tuple[int, str, int]]) -> list[Action]:
    return [(item, kind, at / 1e6) for at, item, kind in sorted(heap)]


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
        self._read: dict[str, Version] = {}

    def batch(self) -> Batch:
        """Read what landed since the last batch, and write an overlay.

        Raises:
            EvershelfError, OSError: landing or tombstones cannot be read, or the overlay cannot be written. The next batch does the work of this one.
        """
        started, done, nearline = time.monotonic(), Batch(), self._settings.nearline
        today = datetime.now(self._settings.zone).date()
        first, first_description = (today - timedelta(days=days - 1) for days in (nearline.days, nearline.catalogue_days))
        seen: dict[str, Version] = {}
        for name, sources in families(self._adapter).items():
            feeds = [feed for feed in self._adapter.feeds if feed.family == name and feed.table in TABLES]
            if not feeds:
                continue
            since = min(first if feed.table == "events" else first_description for feed in feeds)
            there = {file: version for source in sources for file, version in _files(source.name, since, today)}
            seen |= {str(path): version for (_, _, path), version in there.items()}
            new = [file for file, version in there.items() if self._read.get(str(file[2])) != version]
            done.files += len(new)
            if any(feed.per for feed in feeds):  # a group's figures are those of its whole day
                days = {day for _, day, _ in new}
                new = [file for file in there if file[1] in days]
            for some in _portions(new, there):
                self._take_readable(feeds, some, done)
                self._read |= {str(path): there[source, day, path] for source, day, path in some}
        self._read = {name: version for name, version in self._read.items() if name in seen}
        self._lately.drop_before(first, first_description)
        since_moment = datetime.combine(first, datetime.min.time(), self._settings.zone).timestamp()
        made = self._lately.overlay(since_moment, forgotten.read(), nearline.most_shoppers)
        overlay.write(self._place, made)
        done.items, done.shoppers, done.seconds = len(made.changes), len(made.shoppers), round(time.monotonic() - started, 3)
        metrics().gauge(NEARLINE_AT, int(time.time()))
        metrics().timing(NEARLINE_SECONDS, int(done.seconds * 1000))
        return done

    def _take_readable(self, feeds: Sequence[Feed], files: Sequence[File], done: Batch) -> None:
        """Take files, and leave out those that are shown to be rotten.

        Raises:
            CommandFailed: they cannot be read now, and it is none of the files' fault.
        """
        try:
            self._take(feeds, files, done)
        except (*_SPARK_FAILED, *_ROTTEN) as error:
            rotten = {file: why for file in files if (why := _rotten(self._adapter.source(file[0]), file[2]))}
            if not rotten:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise CommandFailed(f"{len(files)} files that landed cannot be read now ({why}). Look at the storage, and at this process's log.") from error
            for (_, _, path), reason in rotten.items():  # `lake_daily` holds its day back, or says what it lost
                done.unreadable.append(f"{path} ({reason})")
            if left := [file for file in files if file not in rotten]:
                self._take(feeds, left, done)

    def _clean(self, files: Sequence[File]) -> DataFrame:
        """Return a family's judged rows, as `lake_daily` makes them of whole days."""
        frames = []
        for source in dict.fromkeys(source for source, _, _ in files):
            of_day: dict[date, list[Place]] = {}
            for _, day, path in (file for file in files if file[0] == source):
                of_day.setdefault(day, []).append(path)
            corrections = {day: landing.corrections(source, day) for day in of_day}
            known = self._adapter.source(source)
            frames.append(judged_rows(read_rows(self._spark, known, of_day, corrections), known, self._settings))
        return mark_repetitions(reduce(DataFrame.unionByName, frames))

    def _take(self, feeds: Sequence[Feed], files: Sequence[File], done: Batch) -> None:
        rows = self._clean(files).cache()
        try:
            outcomes = rows.groupBy(F.col("reason").isNull().alias("good"), "repeated").count().collect()
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


def _files(source: str, first: date, last: date) -> Iterator[tuple[File, Version]]:
    """Yield the files of some landing days; a repair that was laid beside them makes them other files."""
    for day in (first + timedelta(days=offset) for offset in range((last - first).days + 1)):
        repaired = landing.landing_folder(source, day) / landing.CORRECTIONS
        repairs = repaired.stat().st_mtime if repaired.is_file() else 0.0
        for path in landing.landed_files(source, day):
            known = path.stat()
            yield (source, day, path), (known.st_size, known.st_mtime, repairs)


def _portions(files: Sequence[File], versions: Mapping[File, Version]) -> Iterator[list[File]]:
    """Yield the files of one day after the other, so many at once as fit into memory."""
    portion: list[File] = []
    for file in sorted(files, key=lambda file: (file[1], file[0], str(file[2]))):
        if portion and (file[1] != portion[0][1] or sum(versions[one][0] for one in [*portion, file]) > PORTION):
            yield portion
            portion = []
        portion.append(file)
    if portion:
        yield portion


def _rotten(source: Source, path: Place) -> str:
    """Say what is wrong with what a file holds; '' when it can be read.

    Raises:
        OSError, StorageError: its storage does not answer.
    """
    content = path.read_bytes()
    try:
        text = gzip.decompress(content)
        if source.format == "csv":
            next(csv.reader(text.decode().splitlines()))
    except StopIteration:
        return "it has no header"
    except _ROTTEN as error:
        return str(error) or type(error).__name__
    return ""


def _slim(rows: DataFrame, table: str) -> DataFrame:
    if table == "products":
        return rows.selectExpr("dt", "item_id", "unix_micros(valid_from) AS time", "price", "currency", "stock")
    chosen = rows.where(F.col("type").isin(*INTERACTIONS)).where("item_id IS NOT NULL AND (user_id IS NOT NULL OR session_id IS NOT NULL)")
    return chosen.selectExpr("dt", "xxhash64(event_id) AS number", "unix_micros(event_time) AS time", "type", "item_id", "user_id")


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


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
            if once or spark.sparkContext._jsc.sc().isStopped():  # a stopped driver does not come back; whoever keeps this alive starts another
                raise
            click.echo(f"This batch failed, answers go on with the overlay before it until it expires; the next one tries again: {error}", err=True)
        else:
            click.echo(msgspec.json.encode(done).decode() if as_json else _line(done))
            if once and done.unreadable:
                raise CommandFailed(f"{len(done.unreadable)} files cannot be read and were left out; the overlay has the others. Have them delivered again.")
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
    main()
