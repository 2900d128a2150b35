"""Counters and timers over StatsD (UDP: a lost collector never slows a caller). Every name that Evershelf sends stands here."""

import logging
import threading
import time
from functools import cache

import statsd

from evershelf.settings import load_settings

# lake
LAKE_ROWS = "lake.rows.{outcome}"  # counter; outcome: clean, quarantined, deduplicated
LAKE_DAY_SECONDS = "lake.day"  # timer
# Moments are gauges in epoch seconds: the alerts compare them with now, and need no counter that was there before.
LAKE_DAY_AT = "lake.day_at.{outcome}"  # gauge: when a day had this outcome last; published, held, closed
NEARLINE_AT = "nearline.batch_at"  # gauge: when a batch wrote its overlay last
NEARLINE_SECONDS = "nearline.batch"  # timer
# training and candidates
TRAINING_EPOCH_SECONDS = "training.epoch"  # timer
TRAINING_LOSS = "training.loss"  # gauge
CANDIDATES_SECONDS = "candidates.build"  # timer
SNAPSHOT_BUILD_SECONDS = "snapshot.build"  # timer
# Airflow
DAG_DEADLINE_MISSED_AT = "dags.deadline_missed_at.{dag}"  # gauge: when a run of this DAG missed its deadline last
# serving
GATEWAY_REQUESTS = "gateway.requests.{endpoint}.{rung}.{arm}"  # counter
GATEWAY_SECONDS = "gateway.latency.{endpoint}"  # timer
GATEWAY_RUNG_SKIPPED = "gateway.skipped.{rung}"  # counter
GATEWAY_ERRORS = "gateway.errors.{status}"  # counter
GATEWAY_EVENTS = "gateway.events"  # counter
MODEL_SERVER_REQUESTS = "model_server.requests.{status}"  # counter
MODEL_SERVER_SECONDS = "model_server.latency"  # timer
PROMOTION_DECISIONS = "promotion.decisions.{kind}"  # counter

logger = logging.getLogger(__name__)

_RETRY = 60.0  # seconds before a collector whose name could not be resolved is looked for again


class _Client(statsd.StatsClient):  # type: ignore[misc]  # statsd has no types
    """A StatsD client that never raises: until its collector's name resolves, what it is given is dropped. Safe to use from any thread."""

    def __init__(self, host: str, port: int, prefix: str, maxudpsize: int = 512) -> None:
        # Not super().__init__: it resolves the name, and raises when it cannot.
        self._host, self._port, self._prefix, self._maxudpsize = host, port, prefix, maxudpsize
        self._resolving = threading.Lock()
        self._retry_at = 0.0
        self._resolved: statsd.StatsClient | None = None

    def _send(self, data: str) -> None:
        if self._resolved is None:
            self._resolve()
        if self._resolved is not None:
            self._resolved._send(data)

    def _resolve(self) -> None:
        if time.monotonic() < self._retry_at or not self._resolving.acquire(blocking=False):
            return  # a name server may take seconds: one caller pays for all
        try:
            self._resolved = statsd.StatsClient(host=self._host, port=self._port)
        except (OSError, UnicodeError) as error:
            logger.warning("metrics are dropped: the StatsD host %s cannot be resolved (%s)", self._host, error)
            self._retry_at = time.monotonic() + _RETRY
        finally:
            self._resolving.release()

    def close(self) -> None:
        if self._resolved is not None:
            self._resolved.close()
            self._resolved = None


@cache
def metrics() -> statsd.StatsClient:
    """Return this process's StatsD client; whatever becomes of its collector, using it never raises."""
    telemetry = load_settings().telemetry
    return _Client(telemetry.statsd_host, telemetry.statsd_port, "evershelf")
