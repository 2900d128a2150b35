"""A snapshot's lists in Redis: the same entries as in store.lmdb, under `evershelf:<snapshot id>:`. Written to the primary, read from the replicas.

A namespace is complete when its `complete` entry stands, which is written last and says how many entries there are. Redis may lose acknowledged writes at
fail-over; a namespace can always be written again.
"""

import asyncio
import importlib
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evershelf.settings import RedisSettings
from serving.errors import ServingError, SourceUnavailable
from serving.stores.layout import USERS
from serving.stores.snapshot_store import SnapshotStore

# The client takes most of a second to import, and a gateway answers before it needs one: it is imported where it is used first.
if TYPE_CHECKING:
    import redis
    import redis.asyncio

logger = logging.getLogger(__name__)

_PIPELINE = 1000  # entries per round trip
_SAMPLED = 200  # entries read back and compared
_CONNECTIONS = 64  # of one gateway
_SENTINEL_TIMEOUT = 0.5  # seconds for one sentinel to say who the primary is
_REPLICATION_TIMEOUT = 5.0  # seconds for the replicas to catch up; what they hold is compared then
_WRITE_TIMEOUT = 30.0  # seconds for one round trip while writing; readers have a budget of their own


def namespace(snapshot_id: str) -> bytes:
    return f"evershelf:{snapshot_id}:".encode()


def _complete(snapshot_id: str) -> bytes:
    return namespace(snapshot_id) + b"complete"


def _connect(settings: RedisSettings) -> "tuple[redis.Redis, list[redis.Redis]]":
    """Return clients of the primary, and of every replica that the sentinels hold to be alive."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel

    # No retries: a Redis that is away is a warning, which must not hold up a promotion.
    patience: dict[str, Any] = {"socket_timeout": _WRITE_TIMEOUT, "socket_connect_timeout": _WRITE_TIMEOUT, "retry": Retry(NoBackoff(), 0)}
    if not settings.sentinels:
        return redis.Redis(host=settings.host, port=settings.port, **patience), []
    sentinels = Sentinel(settings.sentinel_addresses, sentinel_kwargs={"socket_timeout": _SENTINEL_TIMEOUT, "retry": Retry(NoBackoff(), 0)}, **patience)
    replicas = [redis.Redis(host=host, port=port, **patience) for host, port in sentinels.discover_slaves(settings.primary)]
    return sentinels.master_for(settings.primary), replicas


def write(folder: Path, settings: RedisSettings) -> int:
    """Write a snapshot's lists, count them and compare a sample on every replica; nothing reads them before that succeeded.

    Args:
        folder: a verified snapshot.

    Returns:
        Entries written.

    Raises:
        ServingError: Redis is away, or does not hold what was written.
    """
    import redis

    name, prefix = folder.name, namespace(folder.name)
    try:
        client, replicas = _connect(settings)
        with client, closing(SnapshotStore(folder)) as store:
            client.delete(_complete(name))
            entries = iter(store.entries())
            while batch := list(islice(entries, _PIPELINE)):
                with client.pipeline(transaction=False) as pipeline:
                    for key, value in batch:
                        pipeline.set(prefix + key, value)
                    pipeline.execute()
            client.wait(len(replicas), int(_REPLICATION_TIMEOUT * 1000))
            for reader in replicas or [client]:
                _compare(reader, store, prefix)
            count = store.entry_count()
            client.set(_complete(name), count)
    except redis.RedisError as error:
        raise ServingError(
            f"Redis ({settings.where}) did not take snapshot {name}: {error}. Nothing reads the unfinished part; gateways answer from their own disk."
        ) from error
    return count


def _compare(client: "redis.Redis", store: SnapshotStore, prefix: bytes) -> None:
    keys = [key for key, _ in store.entries()]
    present = 0
    for start in range(0, len(keys), _PIPELINE):
        present += client.exists(*(prefix + key for key in keys[start : start + _PIPELINE]))
    if present != len(keys):
        raise ServingError(f"Redis holds {present} of the {len(keys)} entries of snapshot {store.snapshot_id}. Nothing reads them; write it again.")
    sample = random.sample(keys, min(_SAMPLED, len(keys)))
    found = cast("list[bytes | None]", client.mget([prefix + key for key in sample]))
    if wrong := [key for key, value in zip(sample, found, strict=True) if value != store.get(bytes(key))]:
        raise ServingError(
            f"Redis holds other bytes than snapshot {store.snapshot_id} for {len(wrong)} of {len(sample)} entries. Nothing reads them; write it again."
        )


def drop(snapshot_id: str, settings: RedisSettings) -> int:
    """Remove a snapshot's lists; its readers go on to the next rung at once.

    Returns:
        Entries removed.
    """
    removed = 0
    client, _ = _connect(settings)
    with client:
        client.delete(_complete(snapshot_id))
        batch: list[bytes] = []
        for key in client.scan_iter(match=namespace(snapshot_id) + b"*", count=_PIPELINE):
            batch.append(key)
            if len(batch) == _PIPELINE:
                removed += client.unlink(*batch)
                batch = []
        if batch:
            removed += client.unlink(*batch)
    return removed


def forget(gone: Callable[[str], bool], settings: RedisSettings) -> int:
    """Remove the entries of shoppers from every snapshot's lists, and have the servers write their append-only files anew without them.

    Args:
        gone: whether a pseudonym's shopper goes.

    Returns:
        Entries removed.

    Raises:
        ServingError: Redis is away.
    """
    import redis

    removed = 0
    try:
        client, replicas = _connect(settings)
        with client:
            for key in client.scan_iter(match=namespace("*") + USERS + b"*", count=_PIPELINE):
                if gone(key.rpartition(b":")[2].decode(errors="replace")):
                    removed += client.unlink(key)
            if removed:
                client.wait(len(replicas), int(_REPLICATION_TIMEOUT * 1000))
                for server in (client, *replicas):
                    if cast("dict[str, str]", server.config_get("appendonly"))["appendonly"] == "yes":
                        server.bgrewriteaof()
    except redis.RedisError as error:
        raise ServingError(f"Redis ({settings.where}) was not redacted: {error}. Gateways answer nobody who was forgotten from it; run it again.") from error
    return removed


class RedisReader:
    """Reads entries of any snapshot within a timeout; used on one event loop. Nothing can be read before `connect` ended."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings, self._timeout = settings, settings.timeout.total_seconds()
        self._client: redis.asyncio.Redis | None = None
        self._failures: tuple[type[Exception], ...] = (TimeoutError, OSError)

    async def connect(self) -> None:
        """Make the client; a Redis that is away now is tried again by every read."""
        await asyncio.to_thread(importlib.import_module, "redis.asyncio")
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff

        self._failures = (redis.RedisError, TimeoutError, OSError)
        # No retries: the ladder has a next rung, and a second try would take its time.
        hasty: dict[str, Any] = {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout, "retry": Retry(NoBackoff(), 0)}
        if self._settings.sentinels:
            # One that drops packets must leave time to ask the others.
            soon = self._timeout / (len(self._settings.sentinels) + 1)
            brisk = {**hasty, "socket_timeout": soon, "socket_connect_timeout": soon}
            sentinels = Sentinel(self._settings.sentinel_addresses, sentinel_kwargs=brisk, **hasty)
            # A replica answers also while no primary does, and the next one is asked when one is away.
            self._client = sentinels.slave_for(self._settings.primary, max_connections=_CONNECTIONS)
        else:
            self._client = redis.asyncio.Redis(host=self._settings.host, port=self._settings.port, max_connections=_CONNECTIONS, **hasty)

    async def get(self, snapshot_id: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys of store.lmdb, None for absent ones.

        Raises:
            SourceUnavailable: Redis is away or slow, or does not hold this snapshot whole.
        """
        if self._client is None:
            raise SourceUnavailable("the stored lists are not connected yet")
        prefix = namespace(snapshot_id)
        try:
            async with asyncio.timeout(self._timeout):
                values = cast("list[bytes | None]", await self._client.mget([_complete(snapshot_id), *(prefix + key for key in keys)]))
        except self._failures as error:
            logger.info("Redis did not answer: %s", error or type(error).__name__)
            raise SourceUnavailable("the store did not answer") from None
        if values[0] is None:
            raise SourceUnavailable(f"the store does not hold snapshot {snapshot_id}")
        return values[1:]

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()
