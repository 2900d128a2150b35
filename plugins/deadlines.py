"""A DAG run that has not succeeded in time: it is counted, Prometheus alerts from the counter, and nothing else changes."""

import logging
from typing import Any

from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from evershelf.settings import load_settings
from evershelf.telemetry import DAG_DEADLINES_MISSED, metrics

logger = logging.getLogger(__name__)


def run_deadline() -> DeadlineAlert:
    """Return the deadline of a scheduled DAG: `airflow.deadline` after a run was queued. It also passes for a run that failed and was not cleared since."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=load_settings().airflow.deadline, callback=SyncCallback("plugins.deadlines.missed")
    )


def missed(context: dict[str, Any]) -> None:
    """Count a missed deadline; the executor calls it with the run's description."""
    run = context["dag_run"]
    metrics().incr(DAG_DEADLINES_MISSED.format(dag=run["dag_id"]))
    logger.error(
        "%s has not succeeded by %s; what was live stays live. The DAG's page says what to do.", run["dag_run_id"], context["deadline"]["deadline_time"]
    )
