"""A snapshot's lists in a real Redis."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from evershelf.settings import RedisSettings, load_settings
from evershelf.stack import supervision
from evershelf.stack.ports import free_ports
from evershelf.stack.services import services
from evershelf.stack.supervision import Running
from serving.errors import ServingError, SourceUnavailable
from serving.stores import layout, redis_store
from serving.stores.redis_store import RedisReader
from serving.stores.snapshot_store import SnapshotStore
from tests.serving import tiny
from tests.serving.conftest import RedisProcess, Shop, eventually, free_port

USER = layout.user_key(tiny.USERS[0])


def _read(settings: RedisSettings, snapshot_id: str, *keys: bytes) -> list[bytes | None]:
    async def read() -> list[bytes | None]:
        reader = RedisReader(settings)
        await reader.connect()
        try:
            return await reader.get(snapshot_id, keys)
        finally:
            await reader.close()

    return asyncio.run(read())


def test_what_is_written_is_read_as_it_is_on_disk(shop: Shop, redis_server: RedisProcess) -> None:
    written = redis_store.write(shop.snapshots / shop.first, redis_server.settings)
    store = SnapshotStore(shop.snapshots / shop.first)
    assert written == store.entry_count()
    assert _read(redis_server.settings, shop.first, USER, b"u:nobody") == [store.get(USER), None]


def test_writing_again_changes_nothing_and_dropping_one_snapshot_keeps_the_other(shop: Shop, redis_server: RedisProcess) -> None:
    settings = redis_server.settings
    counts = {redis_store.write(shop.snapshots / name, settings) for name in (shop.first, shop.first, shop.second)}
    assert redis_store.drop(shop.first, settings) == counts.pop()
    with pytest.raises(SourceUnavailable, match="does not hold"):
        _read(settings, shop.first, USER)
    assert _read(settings, shop.second, USER)[0]


def test_nobody_reads_a_namespace_that_was_not_finished(shop: Shop, redis_server: RedisProcess) -> None:
    redis_store.write(shop.snapshots / shop.first, redis_server.settings)
    with redis.Redis(port=redis_server.settings.port) as client:
        client.delete(redis_store.namespace(shop.first) + b"complete")
    with pytest.raises(SourceUnavailable):
        _read(redis_server.settings, shop.first, USER)


def test_a_store_that_is_away_or_stuck_is_left_within_its_timeout(redis_server: RedisProcess) -> None:
    away = RedisSettings(sentinels=(), port=free_port(), timeout=timedelta(milliseconds=50))
    with pytest.raises(SourceUnavailable):
        _read(away, "s", USER)
    stuck = RedisSettings(sentinels=(), port=redis_server.settings.port, timeout=timedelta(milliseconds=50))
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SourceUnavailable):
            _read(stuck, "s", USER)
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)


@pytest.fixture
def replicated(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, RedisSettings]]:
    """A primary, two replicas and three sentinels; readers are patient, as the machine is busy."""
    for variable, value in {**free_ports(), "EVERSHELF_REDIS__TIMEOUT": "PT1S"}.items():
        monkeypatch.setenv(variable, value)
    load_settings.cache_clear()
    yield supervision.start(load_settings(), ["redis"], {}, lambda line: None), load_settings().redis
    supervision.stop(home)


def test_replicas_answer_while_the_primary_is_gone_and_one_takes_its_place(shop: Shop, replicated: tuple[Running, RedisSettings]) -> None:
    record, settings = replicated
    entries = redis_store.write(shop.snapshots / shop.first, settings)
    assert _read(settings, shop.first, USER)[0]
    supervision.stop_program(record, "redis-1")  # for good
    for _ in range(10):  # also before another one is the primary
        assert _read(settings, shop.first, USER)[0]
    deadline = time.monotonic() + 30
    while True:
        try:
            assert redis_store.write(shop.snapshots / shop.second, settings) == entries
            break
        except ServingError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert _read(settings, shop.first, USER)[0]
    assert _read(settings, shop.second, USER)[0]


def test_servers_killed_all_at_once_come_back_with_their_entries(shop: Shop, replicated: tuple[Running, RedisSettings]) -> None:
    record, settings = replicated
    redis_store.write(shop.snapshots / shop.first, settings)
    time.sleep(1.2)  # the append-only file is flushed every second
    for program in ("redis-1", "redis-2", "redis-3"):
        os.kill(supervision.program_pid(record, program), signal.SIGKILL)
    eventually(services(load_settings())["redis"].ready, 40)
    assert _read(settings, shop.first, USER)[0]


def test_writing_without_a_store_says_what_it_means(shop: Shop) -> None:
    with pytest.raises(ServingError, match="gateways answer from their own disk"):
        redis_store.write(shop.snapshots / shop.first, RedisSettings(sentinels=(), port=free_port()))
