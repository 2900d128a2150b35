"""Seconds to clean, audit and publish landed days, beside a bare Spark job over the same files.

Peer: in a session like ours, a job that only reads the same landed files, parses each line by the same schema, and writes as many columns as Delta, one commit
per landing day. Both over the same days, in turn, each round in a fresh lake and a fresh driver.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil

from benchmarks.paired import paired
from evershelf.contracts import EVENTS
from evershelf.demo.work import clean_environment
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, landing
from evershelf.stack.services import EVERSHELF

ROUNDS, DAYS, END = 3, 5, date(2026, 3, 10)
SIZE = ("--users", "50000", "--items", "2000", "--visits", "30000")  # about a million events a day


def bench(days: int = DAYS, rounds: int = ROUNDS, size: tuple[str, ...] = SIZE) -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds", "events", "peak_driver_mb"}."""
    with tempfile.TemporaryDirectory() as aside:
        environment = clean_environment({"EVERSHELF_HOME": f"{aside}/home", "EVERSHELF_SHOP__ADAPTER": "simulator"})
        raw = ("--days", f"{days}", "--end", f"{END}", *size)
        commands: list[tuple[str, ...]] = [("simulate", "--out", f"{aside}/raw", *raw), ("ingest", "--data", f"{aside}/raw")]
        for command in commands:
            subprocess.run([*EVERSHELF, *command], env=environment, check=True, capture_output=True)
        found = []
        for number in range(rounds):
            lake = {"EVERSHELF_LAKE_URL": f"file://{aside}/lake-{number}"}
            measure = [sys.executable, "-m", "benchmarks.lake_clean", f"{days}", f"{aside}/bare-{number}"]
            done = subprocess.run(measure, env=environment | lake, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds = [(one["ours"], one["theirs"]) for one in found]
    report = paired(bench="lake_clean", peer="a bare Spark job: read, parse, write as Delta", unit="s", rounds=seconds, digits=1)
    return report | {"events": found[0]["events"], "peak_driver_mb": max(one["peak_driver_mb"] for one in found)}


def _round(days: int, bare: Path) -> dict[str, Any]:
    from evershelf import lake
    from spark_jobs.judged_landings import JudgedLandings
    from spark_jobs.lake_daily import publish_days
    from spark_jobs.session import spark_session

    adapter, spark = ADAPTERS[load_settings().shop.adapter], spark_session("bench")
    spark.sparkContext.setLogLevel("ERROR")
    wanted = [END - timedelta(days=back) for back in reversed(range(days))]
    _bare(wanted[:1], Path(f"{bare}-warm"))  # the driver's first job pays for loading Spark
    started = time.perf_counter()
    _bare(wanted, bare)
    theirs = time.perf_counter() - started
    started = time.perf_counter()
    with lake.turn(), JudgedLandings(spark, adapter) as landings:  # as `evershelf run lake_daily --from --to` does
        reports = list(publish_days(landings, wanted))
    ours = time.perf_counter() - started
    assert all(report.outcome == "published" for report in reports), [report.why for report in reports]
    events = sum(one.rows_in for report in reports for one in report.counts.values())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    peak = max(_peak_mb(process.pid) for process in processes if process.name() == "java")
    spark.stop()
    return {"ours": ours, "theirs": theirs, "events": events, "peak_driver_mb": peak}


def _bare(days: list[date], folder: Path) -> None:
    """Read the landed lines of some days, parse them, and append as many columns as the events table has to a Delta table."""
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    spark = SparkSession.getActiveSession()
    assert spark
    adapter = ADAPTERS[load_settings().shop.adapter]
    for day in days:
        for source in adapter.sources:
            files = [str(path) for path in landing.landed_files(source.name, day)]
            if not files:
                continue
            schema = ", ".join(f"`{name}` {kind}" for name, kind in source.columns.items())
            rows = spark.read.text(files).select(F.from_json("value", schema).alias("row"), "value").select("row.*", "value")
            missing = [F.lit(None).cast("string").alias(f"column_{place}") for place in range(len(rows.columns), len(EVENTS.columns))]
            rows.select("*", *missing).write.format("delta").mode("append").save(str(folder / source.name))


def _peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024


if __name__ == "__main__":
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    print(json.dumps(_round(int(sys.argv[1]), Path(sys.argv[2]))))
