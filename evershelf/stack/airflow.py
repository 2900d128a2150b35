"""Airflow in the local stack: LocalExecutor on SQLite, everybody an admin, reachable from this machine only."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from evershelf.errors import CommandFailed
from evershelf.settings import Settings
from evershelf.stack.services import AIRFLOW, CHECKOUT

SPARK_POOL_SLOTS = 1  # backfills have a `max_active_runs` of their own: only a pool keeps Spark drivers from piling up


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that configure Airflow."""
    home, url = settings.home / "airflow", f"http://127.0.0.1:{settings.airflow.port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(CHECKOUT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",  # does not follow the port by itself
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(settings.airflow.port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(settings.home / "logs" / "airflow"),
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": settings.telemetry.statsd_host,
        "AIRFLOW__METRICS__STATSD_PORT": str(settings.telemetry.statsd_port),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def prepare_airflow(environment: Mapping[str, str], log: Path) -> None:
    """Create or migrate Airflow's database and its pools.

    Raises:
        CommandFailed: a step failed; its output is in `log`.
    """
    steps = (("db", "migrate"), ("pools", "set", "spark", str(SPARK_POOL_SLOTS), "Spark drivers and trainings that fit beside each other"))
    with log.open("ab") as output:
        for step in steps:
            done = subprocess.run([*AIRFLOW, *step], env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False)
            if done.returncode:
                raise CommandFailed(f"`airflow {' '.join(step[:2])}` failed with exit code {done.returncode}. Airflow was not started; see {log}.")
