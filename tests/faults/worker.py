"""The commands of a case as tasks of Airflow, whose worker can be killed."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from evershelf.settings import load_settings
from evershelf.stack.airflow_api import AirflowApi
from tests.faults.driver import PATIENCE_S, Lines, kill
from tests.faults.lakes import DAY

ENDED = ("success", "failed")
# A worker that is gone is missed after 30 s, not after five minutes.
ENVIRONMENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
}


class Worker:
    """Runs a DAG for the day, as *Trigger* in the UI does; tries again by itself."""

    def __init__(self, home: Path) -> None:
        self.home, self._run_id = home, ""
        self.api = AirflowApi(f"http://127.0.0.1:{load_settings().airflow.port}")
        for dag in ("lake_daily", "maintain_lake"):
            self.api.unpause(dag)
        self._wait(lambda: bool(self.api.runs("maintain_lake")), "Airflow does not schedule maintain_lake")  # at once, for last Sunday
        self.settle("maintain_lake")

    def begin(self, dag: str) -> Lines:
        """Start a run; return the log of its task, which need not be there yet."""
        self._run_id = self.api.trigger(dag, **({"date": DAY.isoformat()} if dag == "lake_daily" else {}))
        folder = self.home / "logs" / "airflow" / f"dag_id={dag}" / f"run_id={self._run_id}"
        self._wait(lambda: any(folder.glob("**/attempt=1.log")), f"Airflow starts no task of {dag}")
        return Lines(next(folder.glob("**/attempt=1.log")))

    def kill(self, dag: str, *, alone: bool) -> None:
        """kill -9 of the process in which the executor supervises the task, and of the task itself.

        Args:
            alone: the command that the task runs goes on; else it is killed too, with its JVM.
        """
        (command,) = [one for one in psutil.process_iter(["cmdline"]) if _runs(one, dag) and self._mine(one)]
        task, supervisor = command.parents()[:2]
        kill([supervisor, task] if alone else [supervisor, task, *command.children(recursive=True), command])

    def again(self, dag: str) -> bool:
        """Wait until Airflow has missed the task and has tried it once more by itself; return whether that succeeded."""
        self._wait(lambda: self._state(dag) in ENDED, "the run does not end")
        (task,) = self.api.tasks(dag, self._run_id)
        return bool(task["state"] == "success" and task["try_number"] <= 2)

    def settle(self, dag: str) -> None:
        """Wait until nothing runs any more."""
        self._wait(lambda: all(run["state"] in ENDED for run in self.api.runs(dag)), "a run does not end")

    def _state(self, dag: str) -> str:
        (run,) = [run for run in self.api.runs(dag) if run["dag_run_id"] == self._run_id]
        return str(run["state"])

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + 2 * PATIENCE_S  # until it misses a worker and the pause before a retry is over, more than a minute passes
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} (waited {2 * PATIENCE_S:.0f} s)")
            time.sleep(0.5)

    def _mine(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get("EVERSHELF_HOME") == str(self.home))
        except psutil.Error:
            return False


def _runs(process: psutil.Process, job: str) -> bool:
    line = process.info["cmdline"] or []
    return "evershelf.cli" in line and job in line
