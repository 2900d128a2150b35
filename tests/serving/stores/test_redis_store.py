"""A snapshot's lists in a real Redis."""

import asyncio
import os
import signal
from datetime import timedelta

import pytest
import redis

from evershelf.settings import RedisSettings
from serving.errors import ServingError, SourceUnavailable
from serving.stores import layout, redis_store
from serving.stores.redis_store import RedisReader
from serving.stores.snapshot_store import SnapshotStore
from tests.serving import tiny
from tests.serving.conftest import RedisProcess, Shop, free_port

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
    away = RedisSettings(port=free_port(), timeout=timedelta(milliseconds=50))
    with pytest.raises(SourceUnavailable):
        _read(away, "s", USER)
    stuck = RedisSettings(port=redis_server.settings.port, timeout=timedelta(milliseconds=50))
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SourceUnavailable):
            _read(stuck, "s", USER)
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)


def test_writing_without_a_store_says_what_it_means(shop: Shop) -> None:
    with pytest.raises(ServingError, match="gateways answer from their own disk"):
        redis_store.write(shop.snapshots / shop.first, RedisSettings(port=free_port()))
