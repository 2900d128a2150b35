"""One step of a DAG: a command of Evershelf, run as a process of its own."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from evershelf.errors import DayHeldBack, InvalidSettings
from evershelf.processes import stop_tree
from evershelf.settings import load_settings

# Trying again cannot help: the day itself, or the settings, must change first.
_FINAL = {DayHeldBack.exit_code, InvalidSettings.exit_code}


class EvershelfCommand(BaseOperator):
    """Run one `evershelf` command of this environment; its output is the task's log.

    The last line of a command's output, when it is a JSON object (`--json`), becomes the task's XCom.
    While a command runs it holds a lock, which outlives a task that was killed: a retry never starts a second driver or a second training
    beside the first.

    Args:
        arguments: the command's arguments, templated.
        lock: commands with the same lock run one at a time; '' takes none.

    Raises:
        AirflowFailException: the day is held back or the settings are wrong; not tried again.
        AirflowException: the command failed otherwise; tried again.
    """

    template_fields: Sequence[str] = ("arguments",)
    ui_color = "#dfeee4"

    def __init__(self, *, arguments: Sequence[str], lock: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self.lock = lock
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Run the command to its end."""
        locks = load_settings().home / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / (self.lock or "none")).open("a") as lock:
            if self.lock:
                self.log.info("Waiting until no other process runs %s.", self.lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
            return self._run(lock.fileno())

    def on_kill(self) -> None:
        """Stop the command and everything it started: Spark's JVM, Horovod's ranks."""
        if self._process:
            stop_tree(self._process.pid, patience=3.0)  # Airflow kills the task itself after 5 s

    def _run(self, lock: int) -> dict[str, Any] | None:
        arguments = [argument for argument in self.arguments if argument]  # a template that rendered to nothing leaves its argument out
        self.log.info("evershelf %s", " ".join(arguments))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evershelf.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            pass_fds=(lock,),  # held for as long as the command lives, whatever becomes of this task
        )
        last = ""
        assert self._process.stdout
        for line in self._process.stdout:
            if text := line.rstrip():
                self.log.info("%s", text)
                last = text
        code = self._process.wait()
        if code in _FINAL:
            raise AirflowFailException(last)
        if code:
            raise AirflowException(f"`evershelf {' '.join(arguments)}` ended with {code}: {last}")
        with suppress(ValueError):
            answer = json.loads(last)
            return answer if isinstance(answer, dict) else None
        return None


def evershelf_command(*arguments: str, task_id: str = "", spark: bool = False, **kwargs: Any) -> EvershelfCommand:
    """Return the step that runs `evershelf <arguments>`.

    Args:
        arguments: templated; one that renders to nothing is left out.
        task_id: default: the name of the command, of the job for `run`.
        spark: whether it takes a slot of the pool in which Spark drivers and trainings wait for each other.
        kwargs: what every operator of Airflow takes.
    """
    name = task_id or arguments[1 if arguments[0] == "run" else 0]
    settings: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(minutes=1), "pool": "spark" if spark else "default_pool", **kwargs}
    return EvershelfCommand(task_id=name, arguments=arguments, lock=name if spark else "", **settings)
