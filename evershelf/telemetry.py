"""Counters and timers over StatsD (UDP: a lost collector never slows a caller). Every name that Evershelf sends stands here."""

from functools import cache

import statsd

from evershelf.settings import load_settings

# lake
LAKE_ROWS = "lake.rows.{outcome}"  # counter; outcome: clean, quarantined, deduplicated
LAKE_DAY_SECONDS = "lake.day"  # timer
LAKE_DAYS_HELD = "lake.days_held"  # counter
# training and candidates
TRAINING_EPOCH_SECONDS = "training.epoch"  # timer
TRAINING_LOSS = "training.loss"  # gauge
CANDIDATES_SECONDS = "candidates.build"  # timer
SNAPSHOT_BUILD_SECONDS = "snapshot.build"  # timer
# serving
GATEWAY_REQUESTS = "gateway.requests.{endpoint}.{rung}.{arm}"  # counter
GATEWAY_SECONDS = "gateway.latency.{endpoint}"  # timer
GATEWAY_RUNG_SKIPPED = "gateway.skipped.{rung}"  # counter
GATEWAY_ERRORS = "gateway.errors.{status}"  # counter
GATEWAY_EVENTS = "gateway.events"  # counter
MODEL_SERVER_REQUESTS = "model_server.requests.{status}"  # counter
MODEL_SERVER_SECONDS = "model_server.latency"  # timer
PROMOTION_DECISIONS = "promotion.decisions.{kind}"  # counter


@cache
def metrics() -> statsd.StatsClient:
    """Return this process's StatsD client."""
    telemetry = load_settings().telemetry
    return statsd.StatsClient(host=telemetry.statsd_host, port=telemetry.statsd_port, prefix="evershelf")
