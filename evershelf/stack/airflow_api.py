"""The few calls to Airflow's REST API, the one that its UI uses too."""

import time
from datetime import date, datetime
from datetime import time as clock
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from evershelf.errors import CommandFailed

_LOCKED = 120.0  # seconds that a database may be locked


class AirflowApi:
    """Airflow at an address of this machine, where everybody is an admin.

    Raises:
        CommandFailed: from every call that Airflow refuses or does not answer.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v2", timeout=30.0, trust_env=False)

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run a DAG, as soon as it is parsed."""
        self._wait_until_parsed(dag_id)
        self._call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def backfill(self, dag_id: str, first: date, zone: ZoneInfo, last: date | None = None) -> int:
        """Create a backfill over landing days, as the UI does, one of them unless `last` is given; return its id."""
        self._wait_until_parsed(dag_id)
        start, end = datetime.combine(first, clock(), zone), datetime.combine(last or first, clock(23, 59), zone)
        answer = self._call(
            "POST",
            "/backfills",
            {
                "dag_id": dag_id,
                "from_date": start.isoformat(),
                "to_date": end.isoformat(),
                "max_active_runs": 1,
                "reprocess_behavior": "completed",
            },
        )
        return int(answer["id"])

    def trigger(self, dag_id: str, **params: object) -> str:
        """Start a run by hand, as *Trigger* in the UI does; return its id."""
        return str(self._call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": params})["dag_run_id"])

    def clear(self, dag_id: str, run_id: str) -> None:
        """Let a run's tasks run again, as the UI does."""
        self._call("POST", f"/dags/{dag_id}/clearTaskInstances", {"dag_run_id": run_id, "dry_run": False, "only_failed": False})

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG: run_type is scheduled, backfill or manual; state success, failed, running or queued."""
        return list(self._call("GET", f"/dags/{dag_id}/dagRuns?limit=100")["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the tasks of a run: task_id, state and try_number among others."""
        return list(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"])

    def wait_for_runs(self, dag_id: str, kinds: set[str], timeout: float) -> list[dict[str, Any]]:
        """Wait until there are runs of all these types and every run has ended; return the runs."""
        deadline = time.monotonic() + timeout
        while True:
            runs = self.runs(dag_id)
            if kinds <= {run["run_type"] for run in runs} and all(run["state"] in ("success", "failed") for run in runs):
                return runs
            if time.monotonic() > deadline:
                states = ", ".join(f"{run['dag_run_id']}: {run['state']}" for run in runs) or "no run at all"
                raise CommandFailed(f"Airflow did not finish {dag_id} within {timeout:.0f} s ({states}). Look at its log in the Airflow UI.")
            time.sleep(1.0)

    def _wait_until_parsed(self, dag_id: str, timeout: float = 180.0) -> None:
        """Wait until the DAG processor has read a DAG; right after a start Airflow knows none."""
        deadline = time.monotonic() + timeout
        while self._send("GET", f"/dags/{dag_id}").status_code == httpx.codes.NOT_FOUND:
            if time.monotonic() > deadline:
                raise CommandFailed(f"Airflow has not read the DAG {dag_id} within {timeout:.0f} s. See *Import errors* in its UI, or the log of airflow-dags.")
            time.sleep(0.5)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        deadline = time.monotonic() + _LOCKED
        while (answer := self._send(method, path, body)).status_code == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < deadline:
            time.sleep(1.0)  # its SQLite is locked by the scheduler, and Airflow took back what it had begun
        if answer.is_error:
            raise CommandFailed(f"Airflow refused {method} {path} with {answer.status_code}: {answer.text[:300]}")
        return dict(answer.json())

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise CommandFailed(f"Airflow did not answer {method} {path}: {error}. Nothing was changed; see the logs of airflow-api.") from None
