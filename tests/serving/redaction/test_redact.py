"""After `forget` and `redact` a search of every byte finds nobody who was forgotten, whatever was killed when, and whatever comes back from a backup."""

import gzip
import hashlib
import json
import os
import pkgutil
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import write_deltalake

from evershelf import forgotten, lake, overlay, snapshot, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.pseudonyms import tombstone
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door, landing
from serving.forget import forget
from serving.promotion.rollback import PENDING
from serving.redaction import command
from serving.redaction.command import redact
from serving.stores.redis_store import write
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, RedisProcess, Shop, eventually, free_port

ANN, ANN_INSIDE = tiny.RAW_USERS[0], tiny.USERS[0]
DAY, NEXT = date(2026, 3, 1), date(2026, 3, 2)


def everything(path: Path) -> Iterator[bytes]:
    """Yield what a file holds, as it is and unpacked."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".gz":
        yield gzip.decompress(content)
    elif path.suffix == ".parquet":
        yield json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str).encode()
    elif path.suffix == ".lmdb":
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=8) as database, database.begin() as reading:
            yield b"".join(key + value for key, value in reading.cursor())


def holding(home: Path, *needles: str) -> set[str]:
    """Return the files of the data folders that hold one of the texts, or are named after it."""
    return {
        str(path.relative_to(home))
        for place in ("landing", "lake", "candidates", "models", "snapshots", "promotions", "training", "receipts", "gateway", "forgotten", "overlays")
        for path in (home / place).rglob("*")
        if path.is_file() and any(needle.encode() in content for needle in needles for content in (str(path).encode(), *everything(path)))
    }


def _events(day: date) -> list[dict[str, Any]]:
    return [
        {"event_id": f"{day}-{place}", "user_id": user, "type": "view", "item_id": "i01", "event_time": f"{day}T12:00:00Z", "received_at": f"{day}T12:00:00Z"}
        for place, user in enumerate((ANN, "bob", None, ANN, "cleo"))
    ]


def _table(name: str, rows: list[dict[str, Any]], day: date) -> None:
    """Publish a day as lake_daily does: one partition, in one commit."""
    table = LAKE_TABLES[name]
    kinds = {"string": pa.string(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"), "int": pa.int32(), "bigint": pa.int64()}
    kinds |= {"double": pa.float64(), "array<string>": pa.list_(pa.string()), "map<string,bigint>": pa.map_(pa.string(), pa.int64())}
    schema = pa.schema([(column, kinds[about.type]) for column, about in table.columns.items()])
    content = pa.Table.from_pylist(rows, schema=schema)
    where = f"{table.partition} = '{day}'" if lake.exists(name) else None
    write_deltalake(lake.table_url(name), content, mode="overwrite", predicate=where, partition_by=[table.partition], configuration=lake.NO_BOUNDS)


def _publish(day: date) -> None:
    """Stand in for Spark: what lake_daily makes of these landings."""
    rows = [json.loads(line) for file in landing.landed_files("events", day) for line in gzip.decompress(file.read_bytes()).splitlines()]
    bad = [row for row in rows if row["event_id"].endswith("-3")]  # of ann
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    clean = [{**row, "event_time": at, "received_at": at, "dt": day, "landing_dt": day} for row in rows if row not in bad]
    _table("events", clean, day)
    raw = [json.dumps(row) for row in bad]
    _table(
        "quarantine",
        [{"landing_dt": day, "source": "events", "row_id": hashlib.sha256(one.encode()).hexdigest(), "reason": "bad", "raw": one} for one in raw],
        day,
    )
    counts = {"rows_in": len(rows), "rows_clean": len(clean), "rows_quarantined": len(bad), "rows_deduplicated": 0, "reasons": [("bad", len(bad))]}
    _table("reconciliation", [{"landing_dt": day, "source": "events", "outcome": "published", "code_version": "x", **counts}], day)


@pytest.fixture
def used(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The tiny shop with two days of events, of ann's among them in every place; `second` is stable and `first` last-good; no Redis, no gateway."""
    for name, value in {"REDIS__SENTINELS": "[]", "REDIS__PORT": str(free_port()), "GATEWAY__URLS": '["http://127.0.0.1:9"]'}.items():
        monkeypatch.setenv(f"EVERSHELF_{name}", value)
    load_settings.cache_clear()
    for day in (DAY, NEXT):
        (tmp_path / "raw" / str(day)).mkdir(parents=True)
        (tmp_path / "raw" / str(day) / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _events(day)))
        door.take_in(ADAPTERS["simulator"], tmp_path / "raw", day)
        _publish(day)
    _publish(NEXT)  # again: the files of the version before stay on disk
    vectors = pa.table({"user_id": tiny.USERS, "vector": [[0.5]] * len(tiny.USERS)})
    (model,) = (shop.home / "models").iterdir()
    pq.write_table(vectors, model / "user_vectors.parquet")
    (shop.home / "training" / "2026-03-01-0a0a0a0a").mkdir(parents=True)
    killed = shop.home / "training" / f"{storage.ASIDE}killed"  # an `evershelf evaluate transfer`
    killed.mkdir()
    pq.write_table(vectors, killed / "user_vectors.parquet")
    os.utime(killed, (0, 0))
    for user in (ANN_INSIDE, tiny.USERS[1]):
        overlay.write(overlay.folder(), overlay.Overlay(0.0, {}, {}, {user: overlay.encoded([("i01", 2, 0.0)])}))
    shop.promote(shop.first)
    shop.promote(shop.second)
    return shop


def _no_redis(problems: list[str]) -> bool:
    return len(problems) == 1 and "Redis" in problems[0]


def _days(first: date, last: date) -> None:
    for day in (DAY, NEXT):
        if first <= day <= last:
            _publish(day)


def test_nothing_of_a_forgotten_shopper_is_left_in_any_byte(used: Shop, tmp_path: Path) -> None:
    held = holding(used.home, ANN_INSIDE)
    assert {Path(name).parts[0] for name in held} == {"landing", "lake", "candidates", "models", "training", "snapshots", "overlays"}
    forgotten.add(tombstone(ANN_INSIDE))
    before = used.log.state()
    run = redact(print, _days)
    assert _no_redis(run.problems), run.problems
    assert holding(used.home, ANN_INSIDE, f'"{ANN}"') == set()
    assert run.removed["landing: events"] == 4 and run.days == [DAY, NEXT]
    assert (run.removed["lake: events"], run.removed["lake: quarantine"]) == (2, 2)
    assert holding(used.home, tiny.USERS[1]) != set()  # nobody else went
    assert lake.read("events").num_rows == 2 * 3 and lake.read("quarantine").num_rows == 0
    assert {(row["rows_in"], row["rows_clean"], row["rows_quarantined"]) for row in lake.read("reconciliation").to_pylist()} == {(3, 3, 0)}
    assert not (used.home / "training" / "2026-03-01-0a0a0a0a").exists()
    assert run.removed["overlays"] == 1 and len(overlay.names(overlay.folder())) == 1
    state = used.log.state()
    assert {state.stable, *state.last_good} == set(run.snapshots.values()) == set(snapshot.stored_snapshots(used.snapshots))
    assert state.registrations[state.stable or ""] == before.registrations[used.second]
    assert state.current(used.second) == state.stable and used.second in state.out
    for name in run.snapshots.values():
        snapshot.verify(used.snapshots / name)
    assert ANN_INSIDE not in json.dumps(run.as_json())
    again = redact(print, lambda first, last: pytest.fail("nothing has changed"))
    assert (again.as_json()["removed"], again.snapshots, used.log.state().seq) == ({}, {}, state.seq)
    (delivery,) = door.take_in(ADAPTERS["simulator"], tmp_path / "raw", DAY)  # the shop's own file still holds the rows
    assert delivery.outcome == "unchanged"


class _Killed(BaseException):
    pass


STEPS = [  # what is called, which time it dies, and whether after it has done its work
    ("evershelf.storage.replace", 1, True),  # landing
    ("serving.redaction.tables.write_deltalake", 1, True),
    ("serving.redaction.tables.write_deltalake", 2, False),
    ("pathlib.Path.unlink", 6, True),  # the old files of the lake, the candidates
    ("evershelf.snapshot.seal", 1, True),
    ("serving.promotion.log.PromotionLog.append", 1, True),
    ("serving.promotion.log.PromotionLog.append", 2, False),
    ("serving.redaction.released._drop_redis", 1, False),  # the first original is deleted, the second is not
]


@pytest.mark.parametrize(("step", "nth", "done"), STEPS)
def test_killed_at_any_step_the_next_run_does_the_rest(used: Shop, monkeypatch: pytest.MonkeyPatch, step: str, nth: int, done: bool) -> None:
    forgotten.add(tombstone(ANN_INSIDE))
    real, calls = pkgutil.resolve_name(step), 0
    with monkeypatch.context() as patch:

        def dying(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls < nth:
                return real(*arguments, **named)
            if calls == nth and done:
                real(*arguments, **named)
            raise _Killed

        patch.setattr(step, dying)
        with pytest.raises(_Killed):
            redact(print, _days)
    run = redact(print, _days)
    assert _no_redis(run.problems), run.problems
    assert holding(used.home, ANN_INSIDE) == set()
    state = used.log.state()
    assert {state.stable, *state.last_good} == set(snapshot.stored_snapshots(used.snapshots))
    assert {row["rows_in"] for row in lake.read("reconciliation").to_pylist()} == {3}
    assert lake.read("events").num_rows == 6


def test_it_is_the_same_on_hdfs(used: Shop, hdfs: str, tmp_path: Path) -> None:
    places = ("landing", "lake", "candidates", "models", "snapshots", "promotions")
    for place in places:
        storage.publish(used.home / place, storage.at(f"{hdfs}/{place}"))
    forgotten.add(tombstone(ANN_INSIDE))
    run = redact(print, lambda first, last: None)
    assert _no_redis(run.problems), run.problems
    for place in places:
        storage.fetch(storage.at(f"{hdfs}/{place}"), tmp_path / "fetched" / place)
    assert holding(tmp_path / "fetched", ANN_INSIDE) == set() != holding(tmp_path / "fetched", tiny.USERS[1])
    assert (run.removed["lake: events"], run.removed["landing: events"], run.days) == (2, 4, [DAY, NEXT])
    for name in run.snapshots.values():
        snapshot.verify(storage.at(load_settings().url("snapshots")) / name)
    assert redact(print, lambda first, last: None).as_json()["removed"] == {}


@pytest.mark.parametrize("logs", [False, True], ids=["the log is newer", "the log is as old"])
def test_what_comes_back_from_an_older_backup_is_forgotten_again(used: Shop, tmp_path: Path, logs: bool) -> None:
    places = ["landing", "lake", "candidates", "models", "snapshots", *(["promotions"] if logs else [])]
    for place in places:
        shutil.copytree(used.home / place, tmp_path / "backup" / place)
    forgotten.add(tombstone(ANN_INSIDE))
    redact(print, _days)
    state = used.log.state()
    for place in places:
        shutil.rmtree(used.home / place)
        shutil.copytree(tmp_path / "backup" / place, used.home / place)
    assert holding(used.home, ANN_INSIDE) != set()
    run = redact(print, _days)
    assert _no_redis(run.problems), run.problems
    assert holding(used.home, ANN_INSIDE) == set()
    now = used.log.state()
    assert (now.stable, now.last_good, now.seq) == (state.stable, state.last_good, state.seq)  # the copies came out with the same names
    assert {now.stable, *now.last_good} == set(snapshot.stored_snapshots(used.snapshots))


def test_whoever_is_forgotten_later_leaves_the_copies_too(used: Shop) -> None:
    for user in tiny.USERS[:2]:
        forgotten.add(tombstone(user))
        redact(print, _days)
        assert holding(used.home, user) == set()
    state = used.log.state()
    assert state.current(used.second) == state.stable and state.registrations[state.stable or ""] == state.registrations[used.second]


def test_copies_outlive_a_log_that_is_lost(used: Shop) -> None:
    forgotten.add(tombstone(ANN_INSIDE))
    redact(print, _days)
    copies = snapshot.stored_snapshots(used.snapshots)
    shutil.rmtree(used.home / "promotions")
    redact(print, _days)
    assert snapshot.stored_snapshots(used.snapshots) == copies


def test_a_damaged_snapshot_keeps_no_other_from_being_redacted(used: Shop) -> None:
    forgotten.add(tombstone(ANN_INSIDE))
    with (used.snapshots / used.second / "golden.json").open("ab") as file:
        file.write(b" ")
    run = redact(print, _days)
    assert any(f"snapshot {used.second} holds something" in problem for problem in run.problems), run.problems
    assert used.first not in snapshot.stored_snapshots(used.snapshots)
    assert used.second in snapshot.stored_snapshots(used.snapshots)


def test_a_break_glass_hold_is_not_ended_by_a_record(used: Shop) -> None:
    forgotten.add(tombstone(ANN_INSIDE))
    (used.home / PENDING).write_text("{}")
    before = used.log.state().seq
    run = redact(print, _days)
    assert any("break-glass rollback waits" in problem for problem in run.problems)
    assert used.log.state().seq == before and {used.first, used.second} == set(snapshot.stored_snapshots(used.snapshots))
    (used.home / PENDING).unlink()
    assert _no_redis(redact(print, _days).problems) and holding(used.home, ANN_INSIDE) == set()


def test_redis_loses_a_forgotten_shopper_and_gets_the_copies(used: Shop, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    monkeypatch.setenv("EVERSHELF_REDIS__PORT", str(redis_server.settings.port))
    load_settings.cache_clear()
    for name in (used.first, used.second):
        write(used.snapshots / name, redis_server.settings)
    forgotten.add(tombstone(ANN_INSIDE))
    run = redact(print, _days)
    assert (run.problems, run.removed["redis"]) == ([], 2)
    with redis.Redis(port=redis_server.settings.port) as client:
        keys = [key.decode() for key in client.scan_iter()]
    assert not any(ANN_INSIDE in key for key in keys)
    assert {key.split(":")[1] for key in keys} == set(run.snapshots.values())


def test_gateways_go_over_to_the_copies_without_a_dark_moment(used: Shop, gateway: Callable[..., GatewayProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = gateway("one"), gateway("two")
    two.kill()  # it misses everything
    monkeypatch.setenv("EVERSHELF_GATEWAY__URLS", json.dumps([str(one.client.base_url).rstrip("/")]))
    load_settings.cache_clear()
    assert forget([ANN]).complete
    seen: list[tuple[int, str, int]] = []
    stop = threading.Event()

    def shop() -> None:
        while not stop.is_set():
            response = one.client.get("/v1/recommend", params={"user_id": tiny.RAW_USERS[1]})
            seen.append((response.status_code, response.json()["snapshot_id"], len(response.json()["items"])))

    shopper = threading.Thread(target=shop)
    shopper.start()
    run = redact(print, _days)
    eventually(lambda: seen[-1][1] == run.snapshots[used.second])
    stop.set()
    shopper.join()
    assert _no_redis(run.problems), run.problems
    assert {status for status, _, _ in seen} == {200} and all(items for _, _, items in seen)
    assert {name for _, name, _ in seen} == {used.second, run.snapshots[used.second]}
    eventually(lambda: set(snapshot.stored_snapshots(one.home / "snapshots")) == set(run.snapshots.values()))
    assert not any(name.startswith("gateway/one/") for name in holding(used.home, ANN_INSIDE))

    stranger = {"user_id": "a stranger"}
    answered = one.get("/v1/recommend", **stranger)["items"]
    for place in ("snapshots", "models", "candidates", "lake"):
        shutil.rmtree(used.home / place)
    two.start()  # with the log and the tombstones, and only the originals on its own disk
    assert two.recommend(ANN)["snapshot_id"] == used.second
    assert two.recommend(ANN)["items"] == two.get("/v1/recommend", **stranger)["items"] == answered


def test_the_command_leaves_a_receipt_that_names_nobody(used: Shop) -> None:
    forgotten.add(tombstone(ANN_INSIDE))
    for day in (DAY, NEXT):  # nothing for Spark to do
        shutil.rmtree(used.home / "landing" / "events" / f"landing_dt={day}")
    outcome = CliRunner().invoke(command.main, ["--json"])
    assert outcome.exit_code == 1  # Redis is away
    (path,) = (used.home / "receipts").iterdir()
    receipt = json.loads(path.read_bytes())
    assert receipt["removed"]["snapshots"] == 2 and receipt["tables"]["events"] > 0 and len(receipt["problems"]) == 1
    assert ANN_INSIDE not in path.read_text() and tombstone(ANN_INSIDE) not in path.read_text()
