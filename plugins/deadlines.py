"""A scheduled DAG run that has not succeeded in time: when that was is measured, Prometheus alerts from it, and nothing else changes."""

import logging
import time
from typing import Any

from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from evershelf.settings import load_settings
from evershelf.telemetry import DAG_DEADLINE_MISSED_AT, metrics

logger = logging.getLogger(__name__)


def run_deadline() -> DeadlineAlert:
    """Return the deadline of a scheduled DAG: `airflow.deadline` after a run was queued. It also passes for a run that failed and was not cleared since."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=load_settings().airflow.deadline, callback=SyncCallback("plugins.deadlines.missed")
    )


def missed(context: dict[str, Any]) -> None:
    """Tell of a missed deadline; the executor calls it with the run's description. A backfill's runs queue for each other, so theirs mean nothing."""
    run = context["dag_run"]
    if run["run_type"] != "scheduled":
        return
    metrics().gauge(DAG_DEADLINE_MISSED_AT.format(dag=run["dag_id"]), int(time.time()))
    logger.error(
        "%s has not succeeded by %s; what was live stays live. The DAG's page says what to do.", run["dag_run_id"], context["deadline"]["deadline_time"]
    )
