"""The replicated store of the local stack: one primary, replicas, and sentinels that put a replica in its place.

Every server keeps an append-only file: one that supervisord starts again at once has its entries back. Without it, it would come back empty, still as
the primary, and its replicas would copy that.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from evershelf.settings import RedisSettings, Settings

PATIENCE_MS = 1500  # a primary that is silent for so long is replaced


def redis_programs(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return program -> command: the servers, and the sentinels when there are any."""
    folder = settings.home / "redis"
    programs: dict[str, tuple[str, ...]] = {f"redis-{number}": ("redis-server", str(folder / f"redis-{number}.conf")) for number, _ in _servers(settings.redis)}
    for number, _ in _sentinels(settings.redis):
        programs[f"redis-sentinel-{number}"] = ("redis-server", str(folder / f"sentinel-{number}.conf"), "--sentinel")
    return programs


def redis_ports(settings: RedisSettings) -> tuple[int, ...]:
    return tuple(port for _, port in (*_servers(settings), *_sentinels(settings)))


def write_redis_config(settings: Settings) -> None:
    """Write every server's and sentinel's file anew; the primary is the one that the sentinels last agreed on."""
    folder, redis = settings.home / "redis", settings.redis
    folder.mkdir(parents=True, exist_ok=True)
    servers = dict(_servers(redis))
    primary = _last_primary(folder, redis)
    for number, port in servers.items():
        place = folder / f"redis-{number}"
        place.mkdir(exist_ok=True)
        lines = [*_common(port, place), 'save ""', "appendonly yes", "maxmemory 512mb", "repl-diskless-sync-delay 0"]
        lines += [f"replicaof 127.0.0.1 {primary}"] if port != primary else []
        (folder / f"redis-{number}.conf").write_text("\n".join(lines) + "\n")
    for number, port in _sentinels(redis):
        lines = [
            *_common(port, folder),
            f"sentinel monitor {redis.primary} 127.0.0.1 {primary} {len(redis.sentinels) // 2 + 1}",
            f"sentinel down-after-milliseconds {redis.primary} {PATIENCE_MS}",
            f"sentinel failover-timeout {redis.primary} 10000",
            f"sentinel parallel-syncs {redis.primary} {len(servers)}",
        ]
        (folder / f"sentinel-{number}.conf").write_text("\n".join(lines) + "\n")


def _common(port: int, folder: Path) -> list[str]:
    # A process title of its own would overwrite the environment, by which `down` finds it.
    return ["bind 127.0.0.1", f"port {port}", f'dir "{folder}"', "set-proc-title no"]


def _servers(redis: RedisSettings) -> Iterator[tuple[int, int]]:
    return enumerate((redis.port, *(redis.replica_ports if redis.sentinels else ())), start=1)


def _sentinels(redis: RedisSettings) -> Iterator[tuple[int, int]]:
    return enumerate((port for _, port in redis.sentinel_addresses), start=1)


def _last_primary(folder: Path, redis: RedisSettings) -> int:
    """Return the port of the primary that the newest fail-over made, if it is one of these servers. A sentinel that was down then does not know of it."""
    found = []
    for path in folder.glob("sentinel-*.conf"):
        text = path.read_text()
        monitored = re.search(rf"^sentinel monitor {redis.primary} \S+ (\d+)", text, re.MULTILINE)
        epoch = re.search(rf"^sentinel config-epoch {redis.primary} (\d+)", text, re.MULTILINE)
        if monitored and int(monitored[1]) in (redis.port, *redis.replica_ports):
            found.append((int(epoch[1]) if epoch else 0, int(monitored[1])))
    return max(found)[1] if found else redis.port


def current_primary(settings: Settings) -> str | None:
    """Return the program that the sentinels take for the primary, None when no sentinel answers."""
    import redis  # slow

    for host, port in settings.redis.sentinel_addresses:
        with suppress(redis.RedisError, OSError), redis.Redis(host=host, port=port, socket_timeout=1.0) as sentinel:
            at = sentinel.sentinel_get_master_addr_by_name(settings.redis.primary)
            return next((f"redis-{number}" for number, own in _servers(settings.redis) if at and own == int(at[1])), None)
    return None
