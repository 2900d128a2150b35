"""A step runs the real command, knows a held-back day from an accident, and leaves nothing running."""

import fcntl
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import filelock
import psutil
import pytest

pytest.importorskip("airflow")

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from evershelf.stack import supervision
from plugins.steps import EvershelfCommand, evershelf_command

# Outside a scheduler Airflow warns that a task is run by hand; that is what these tests do.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_step_hands_on_the_last_line_of_a_command_that_reports(home: Path, tmp_path: Path) -> None:
    (tmp_path / "2026-01-05").mkdir()
    (tmp_path / "2026-01-05" / "events.jsonl").write_text('{"event_id": "e1", "user_id": "u1"}\n')
    step = evershelf_command("ingest", "--data", str(tmp_path), "", "--json")
    answer = step.execute({})
    assert answer is not None
    assert answer["rows"] == 1


def test_step_never_tries_a_held_back_day_again(home: Path, tmp_path: Path) -> None:
    (tmp_path / "2026-01-05").mkdir()
    (tmp_path / "2026-01-05" / "events.jsonl").write_bytes(b"\0\1\2\3")
    with pytest.raises(AirflowFailException, match="refused"):
        evershelf_command("ingest", "--data", str(tmp_path)).execute({})


def test_step_tries_an_accident_again(home: Path, tmp_path: Path) -> None:
    with pytest.raises(AirflowException) as raised:
        evershelf_command("up", "--only", "nonsense").execute({})
    assert not isinstance(raised.value, AirflowFailException)
    assert "nonsense" in str(raised.value)


def test_killed_step_leaves_none_of_its_processes_behind(home: Path) -> None:
    step = evershelf_command("up", "--only", "redis", "--free-ports", "--foreground")

    def execute() -> None:
        with suppress(AirflowException):
            step.execute({})

    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    record: supervision.Running | None = None
    while not record or not supervision.program_pid(record, "redis-1"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        record = supervision.running(home)
    pids = [record.pid, supervision.program_pid(record, "redis-1")]
    step.on_kill()
    thread.join(20)
    assert not thread.is_alive()
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    supervision.stop(home)


def test_step_waits_while_another_process_runs_the_same_job(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lock = home / "locks" / "status"
    lock.parent.mkdir(parents=True)
    ended: list[float] = []

    def run() -> None:
        EvershelfCommand(task_id="doctor", arguments=["doctor", "--help"], lock="status").execute({})
        ended.append(time.monotonic())

    thread = threading.Thread(target=run, daemon=True)
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread.start()
        time.sleep(2.0)
        assert not ended
        released = time.monotonic()
    thread.join(30)
    assert ended[0] > released


def test_retry_of_a_task_that_was_killed_waits_for_the_driver_that_lives_on(home: Path) -> None:
    def attempt() -> EvershelfCommand:
        return evershelf_command("run", "lake_daily", "--date", "2026-01-05", spark=True)

    with filelock.FileLock(_made(home / "lake") / ".lake_daily.lock"):  # so that the driver waits, before it starts Spark
        task = os.fork()
        if not task:
            with suppress(BaseException):
                attempt().execute({})
            os._exit(0)
        driver = wait_for_driver()
        os.kill(task, signal.SIGKILL)
        os.waitpid(task, 0)
        retry = attempt()
        thread = threading.Thread(target=lambda: _quietly(retry), daemon=True)
        thread.start()
        time.sleep(2.0)
        assert drivers() == [driver]  # the first one, and no second
        os.kill(driver, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not retry._process:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert driver not in drivers()
        retry.on_kill()
        thread.join(20)
        assert drivers() == []


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _quietly(step: EvershelfCommand) -> None:
    with suppress(AirflowException):
        step.execute({})


def drivers() -> list[int]:
    """Return the processes that publish the day of this test, killed and not yet reaped ones aside."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and {"lake_daily", "2026-01-05"} <= set(process.info["cmdline"] or [])
    ]


def wait_for_driver() -> int:
    deadline = time.monotonic() + 30
    while not (found := drivers()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[0]
