"""A month by Airflow, with what goes wrong in a month, gives the same tables as one command over the same days.

14 days by the scheduler, day after day, as fast as they go: one driver is killed half-way, one day does not come and misses its deadline, then comes late. The
rest is one backfill over a range, as the UI creates it.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pytest

from evershelf import lake
from evershelf.settings import load_settings
from evershelf.stack import supervision
from evershelf.stack.airflow_api import AirflowApi
from evershelf.stack.ports import free_ports
from evershelf.stack.services import EVERSHELF
from tests.faults.lakes import rows

DAYS, SCHEDULED = 30, 14
END = date(2026, 3, 31)  # the clocks change within the month
KILLED, MISSING = 5, 9  # places of the day whose driver is killed, and of the one that does not come
DEADLINE = 120  # seconds


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[date]]:
    days = [END - timedelta(days=back) for back in reversed(range(DAYS))]
    chosen = {
        **free_ports(),
        "EVERSHELF_PRIVACY__USER_KEY": "the same pseudonyms in both homes",
        "EVERSHELF_AIRFLOW__FIRST_DAY": f"{days[0]}",
        "EVERSHELF_AIRFLOW__LAST_DAY": f"{days[SCHEDULED - 1]}",
        "EVERSHELF_AIRFLOW__DEADLINE": f"PT{DEADLINE}S",
    }
    for variable, value in chosen.items():
        monkeypatch.setenv(variable, value)
    settle(tmp_path / "airflow", monkeypatch)
    yield days
    supervision.stop(tmp_path / "airflow")


def settle(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in another home from here on."""
    monkeypatch.setenv("EVERSHELF_HOME", str(home))
    load_settings.cache_clear()


def evershelf(*arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([*EVERSHELF, *arguments], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode in allowed, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_month_by_the_scheduler_and_a_backfill_is_the_month_by_hand(shop: list[date], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, missing = tmp_path / "raw", shop[MISSING]
    evershelf("simulate", "--out", str(raw), "--days", f"{DAYS}", "--end", f"{END}", "--users", "150", "--items", "80", "--visits", "40")
    (raw / f"{missing}").rename(tmp_path / "held up")
    evershelf("ingest", "--data", str(raw))
    evershelf("up", "--only", "statsd,airflow")
    api = AirflowApi(f"http://127.0.0.1:{load_settings().airflow.port}")
    api.unpause("lake_daily")

    kill_driver(shop[KILLED])
    runs = wait_for(api, SCHEDULED)
    assert {day for day, run in runs.items() if run["state"] == "failed"} == {missing}
    assert all(run["run_type"] == "scheduled" for run in runs.values())
    late = datetime.fromisoformat(runs[missing]["queued_at"]).timestamp() + DEADLINE
    wait_until(lambda: deadline_missed_at() >= late - 1, DEADLINE + 60)  # the one of the missing day: that of the killed one was over before

    (tmp_path / "held up").rename(raw / f"{missing}")
    evershelf("ingest", "--data", str(raw), "--from", f"{missing}", "--to", f"{missing}")
    api.clear("lake_daily", runs[missing]["dag_run_id"])
    wait_until(lambda: wait_for(api, SCHEDULED)[missing]["state"] == "success", 600)
    api.backfill("lake_daily", shop[SCHEDULED], load_settings().zone, shop[-1])
    runs = wait_for(api, DAYS)
    assert {run["state"] for run in runs.values()} == {"success"}
    assert sorted(runs) == shop
    supervision.stop(tmp_path / "airflow")
    by_airflow = tables()

    settle(tmp_path / "by hand", monkeypatch)
    evershelf("ingest", "--data", str(raw))
    evershelf("run", "lake_daily", "--from", f"{shop[0]}", "--to", f"{shop[-1]}")
    by_hand = tables()
    for name, content in by_hand.items():
        assert content.num_rows
        assert by_airflow[name].equals(content), name


def tables() -> dict[str, pa.Table]:
    """Return the lake's content, each table in the order of its key and without the code's version."""
    return {name: rows(lake.open_table(name), name) for name in ("events", "products", "orders", "quarantine", "reconciliation")}  # what lake_daily writes


def kill_driver(day: date) -> None:
    """Kill the command that publishes a day, and its JVM, while it works."""
    deadline = time.monotonic() + 1800
    while True:
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "lake_daily" in line and f"{day}" in line and (jvm := [child for child in process.children() if child.name() == "java"]):
                time.sleep(6)  # it reads, cleans or publishes
                for one in (process, *jvm):
                    one.send_signal(signal.SIGKILL)
                return
        assert time.monotonic() < deadline, f"nobody publishes {day}"
        time.sleep(0.3)


def wait_for(api: AirflowApi, count: int) -> dict[date, dict[str, Any]]:
    """Wait until so many runs have ended; return them by landing day."""
    deadline = time.monotonic() + 3600
    while True:
        runs = api.runs("lake_daily")
        if len(runs) >= count and all(run["state"] in ("success", "failed") for run in runs):
            zone = load_settings().zone
            return {datetime.fromisoformat(run["data_interval_start"]).astimezone(zone).date(): run for run in runs}
        assert time.monotonic() < deadline, [(run["dag_run_id"], run["state"]) for run in runs]
        time.sleep(2)


def deadline_missed_at() -> float:
    """Return when a run missed its deadline last (epoch seconds), 0 for never."""
    text = httpx.get(f"http://127.0.0.1:{load_settings().telemetry.exporter_port}/metrics", trust_env=False).text
    found = re.search(r'^evershelf_dags_deadline_missed_at_seconds\{dag="lake_daily"\} (\S+)', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until(condition: Any, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)
