"""A driver of lake_daily: what it writes when it is killed, waits, rehearses, works on HDFS, or is overtaken by new landings."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import psutil
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from evershelf import lake, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.quality import store as quality
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door, landing
from evershelf.shops.simulator import simulate
from evershelf.tables import replicas
from spark_jobs import delta, lake_daily
from spark_jobs.dry_run import Rehearsal, rehearse_day
from spark_jobs.judged_landings import JudgedLandings
from spark_jobs.lake_daily import publish_days
from spark_jobs.outcomes import DayReport
from spark_jobs.reconciliation import changed_days, due_days
from tests.spark_jobs.landings import MONDAY, TUESDAY, WEDNESDAY, Row, content, event, land, land_day

pytestmark = pytest.mark.slow


def files(home: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in home.rglob("*")}


def test_a_dry_run_tells_what_would_change_and_writes_nothing(run: Callable[..., DayReport], home: Path, spark: SparkSession, tmp_path: Path) -> None:
    def rehearse(*days: date) -> tuple[list[DayReport], dict[tuple[str, str], tuple[Row, Row]]]:
        before, rehearsal = files(home), Rehearsal(tmp_path / "aside")
        with JudgedLandings(spark, ADAPTERS["simulator"]) as landings:
            reports = [rehearse_day(landings, day, rehearsal) for day in days]
        assert files(home) == before
        return reports, {(one["table"], one["day"]): (one["before"], one["after"]) for one in rehearsal.changes()}

    land_day(MONDAY, [event(1, MONDAY, price=2.0, currency="GBP"), *(event(number, MONDAY) for number in range(10, 16)), event(2, MONDAY, quantity=0)])
    land_day(TUESDAY, [event(3, TUESDAY), event(4, MONDAY, price=3.0, currency="GBP"), event(1, MONDAY)])
    _, changes = rehearse(MONDAY, TUESDAY)
    assert set(changes) == {(name, f"{day}") for name in ("events", "orders", "products") for day in (MONDAY, TUESDAY)} | {("quarantine", f"{MONDAY}")}
    before, after = changes["events", f"{MONDAY}"]
    assert (before["rows"], after["rows"], after["sums"]["price"]) == (0, 8, 5.0)

    for day in (MONDAY, TUESDAY):
        run(day)
    for day, name in ((MONDAY, "events"), (TUESDAY, "events")):
        measured = quality.read_days(day, day)[day].measures[name]
        assert measured["rows"] == changes[name, f"{day}"][1]["rows"]  # it came as it was told
    assert rehearse(MONDAY, TUESDAY)[1] == {}

    land_day(TUESDAY, [event(3, TUESDAY), event(4, MONDAY, price=4.0, currency="GBP"), event(1, MONDAY)])
    land_day(WEDNESDAY, [event(5, WEDNESDAY)])
    (landing.landing_folder("orders", WEDNESDAY) / "door.jsonl.gz").unlink()
    reports, changes = rehearse(TUESDAY, WEDNESDAY)
    assert [(one.outcome, one.why) for one in reports] == [("published", None), ("held", "no file of orders landed")]
    assert {key: (before["sums"]["price"], after["sums"]["price"]) for key, (before, after) in changes.items()} == {("events", f"{MONDAY}"): (5.0, 6.0)}


def test_a_driver_that_waits_for_another_run_has_not_started_spark(home: Path) -> None:
    with lake.turn():
        driver = subprocess.Popen(
            [sys.executable, "-m", "evershelf.cli", "run", "lake_daily", "--date", MONDAY.isoformat()],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert driver.stderr
            assert "waiting for it to end" in driver.stderr.readline()
            assert [child.name() for child in psutil.Process(driver.pid).children(recursive=True)] == []
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


@pytest.mark.timeout(600)
def test_a_driver_killed_while_it_publishes_leaves_nothing_that_the_next_run_does_not_mend(home: Path, run: Callable[..., DayReport]) -> None:
    for day in (MONDAY, TUESDAY):
        land_day(day, [event(number, day, event_id=f"{day}{number}") for number in range(50)] + [event(number, MONDAY) for number in range(60, 70)])
        assert run(day).outcome == "published"
    wanted = content()
    extra = event(500, MONDAY)
    land_day(
        TUESDAY, [event(number, TUESDAY, event_id=f"{TUESDAY}{number}") for number in range(50)] + [event(number, MONDAY) for number in range(60, 70)] + [extra]
    )
    run(TUESDAY)
    restated = content()
    assert restated != wanted

    root = home / "lake"

    def writing() -> bool:
        return any((root / "events").glob(".aside-*/dt=*/landed=*/*.parquet"))

    def half_published() -> bool:
        """Events are in, the rest is not."""
        return (root / "events" / "_delta_log" / f"{version('events') + 1:020d}.json").exists()

    versions: dict[str, int] = {}

    def version(name: str) -> int:
        return versions[name]

    for moment, whole in ((writing, False), (writing, True), (half_published, True)):
        versions = {name: lake.open_table(name).version() for name in LAKE_TABLES}
        driver = subprocess.Popen(
            [sys.executable, "-m", "evershelf.cli", "run", "lake_daily", "--date", TUESDAY.isoformat()],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = ""
        try:
            while not (seen := moment()) and driver.poll() is None:
                time.sleep(0.02)
            if not whole:  # Spark alone, as when its memory is out
                for process in psutil.Process(driver.pid).children(recursive=True):
                    if process.name() == "java":
                        process.kill()
                said = driver.communicate(timeout=120)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
        assert whole or ("Raise lake.spark_memory" in said and "Traceback" not in said), said
        assert seen, "the driver ended before it published"
        assert lake.open_table("reconciliation").version() == versions["reconciliation"], "the driver was already done"
        for name in LAKE_TABLES:  # whole commits only: every table still reads
            lake.read(name)
        assert run(TUESDAY).outcome == "published"
        assert content() == restated


def test_a_simulated_day_comes_through_on_hdfs(hdfs: str, run: Callable[..., DayReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_LAKE__TABLES", '{"orders": {"replication": 1}}')
    load_settings.cache_clear()
    list(simulate(tmp_path / "raw", days=1, end=MONDAY, seed=7, users=30, items=30, visits=10, zone=load_settings().zone))
    taken = door.take_in(ADAPTERS["simulator"], tmp_path / "raw", MONDAY)
    assert {delivery.outcome for delivery in taken} == {"landed"}
    assert {delivery.outcome for delivery in door.take_in(ADAPTERS["simulator"], tmp_path / "raw", MONDAY)} == {"unchanged"}
    report = run(MONDAY)
    assert report.outcome == "published"
    assert lake.table_url("events").startswith(hdfs)
    assert DeltaTable(f"{hdfs}/lake/events").to_pyarrow_table(filters=[("dt", "=", MONDAY)]).num_rows == report.counts["events"].rows_clean > 100
    before = content()
    assert run(MONDAY).outcome == "published"
    assert content() == before
    assert changed_days(ADAPTERS["simulator"], TUESDAY) == []
    assert (replicas(lake.open_table("events")), replicas(lake.open_table("orders"))) == (2, 1)
    files = {path.name for name in LAKE_TABLES for path in storage.at(lake.table_url(name)).iterdir()}
    assert not any(name.startswith(storage.ASIDE) for name in files)


def test_what_lands_while_a_driver_works_is_neither_missed_nor_mixed_up(
    run: Callable[..., DayReport], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ship(number: int, day: date) -> None:
        land("gateway", day, [event(number, day, request_id="r", rung="live")], f"{number}.jsonl.gz")

    def create_tables(spark: SparkSession) -> None:
        """What a day begins with, after the days around it were looked at."""
        if late:
            ship(*late.pop())
        delta.create_tables(spark)

    late: list[tuple[int, date]] = []
    monkeypatch.setattr(lake_daily, "create_tables", create_tables)
    for number, day in enumerate((MONDAY, TUESDAY, WEDNESDAY)):
        land_day(day, [event(number, day)])
    ship(10, TUESDAY)
    with lake.turn(), JudgedLandings(spark, ADAPTERS["simulator"]) as landings:
        work = publish_days(landings, [MONDAY, TUESDAY])
        next(work)
        ship(11, MONDAY)  # its rows are kept already
        assert [report.day for report in work] == [MONDAY, TUESDAY]
    ship(12, MONDAY)
    late.append((13, TUESDAY))  # its rows are counted already
    with lake.turn(), JudgedLandings(spark, ADAPTERS["simulator"]) as landings:
        assert [report.day for report in publish_days(landings, [WEDNESDAY])] == [MONDAY, WEDNESDAY]
        assert late == []
        assert [report.day for report in publish_days(landings, [WEDNESDAY])] == [TUESDAY, WEDNESDAY]
        assert list(due_days(landings, [WEDNESDAY])) == [WEDNESDAY]
    assert {row["event_id"] for row in lake.read("events").to_pylist()} == {"e0", "e1", "e2", "e10", "e11", "e12", "e13"}
