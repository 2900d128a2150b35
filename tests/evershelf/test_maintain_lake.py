"""Maintenance takes nothing that a stored model, candidates or snapshot needs, and a second run finds nothing to do."""

import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import CommitProperties, write_deltalake

from evershelf import lake, lineage, storage
from evershelf.errors import CommandFailed
from evershelf.maintain_lake import Maintained, maintain
from evershelf.settings import load_settings
from evershelf.tables import replicas

DAY, NEXT = date(2026, 11, 16), date(2026, 11, 17)


@pytest.fixture
def events(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six versions: each rewrites DAY in two small files; NEXT stands from the first one on. Nothing is young enough to be kept for its age."""
    monkeypatch.setenv("EVERSHELF_LAKE__TIME_TRAVEL", "PT0S")
    load_settings.cache_clear()
    folder = home / "lake" / "events"
    publish(folder, NEXT, [0], "append")
    for version in range(1, 6):
        about: dict[str, object] = {
            "code_version": "1.0 abc",
            "days": [DAY.isoformat()],
            "inputs": {"events/landing_dt=2026-11-16/door.jsonl.gz": "00ff"},
            "tables": {"products": 7},
        }
        publish(folder, DAY, [version], "overwrite", about)
    publish(folder, DAY, [100], "append")
    return folder


def publish(folder: Path, day: date, values: list[int], mode: str, about: dict[str, object] | None = None) -> None:
    rows = pa.table({"dt": pa.array([day] * len(values), pa.date32()), "value": values})
    commit = CommitProperties(custom_metadata={"userMetadata": json.dumps(about)}) if about else None
    predicate = f"dt = '{day}'" if mode == "overwrite" else None
    write_deltalake(folder.as_uri(), rows, partition_by=["dt"], mode=mode, predicate=predicate, commit_properties=commit)  # type: ignore[call-overload]


def store(home: Path, place: str, name: str, file: str, lineage: object) -> None:
    (home / place / name).mkdir(parents=True)
    (home / place / name / file).write_text(json.dumps(lineage))


def values(version: int | None = None) -> list[int]:
    return sorted(lake.read("events", ["value"], version=version)["value"].to_pylist())


def work(*, dry_run: bool = False) -> Maintained:
    (events,) = maintain(dry_run=dry_run)
    return events


def _logs(folder: Path) -> list[Path]:
    return sorted((folder / "_delta_log").glob("*.json"))


def parquet(folder: Path) -> set[Path]:
    return set(folder.glob("*/*.parquet"))


def test_every_version_that_something_stored_was_built_from_still_reads(events: Path, home: Path) -> None:
    store(home, "models", "m", "lineage.json", {"tables": {"events": 2, "products": 9}, "code_version": "x"})
    store(home, "candidates", "c", "lineage.json", {"tables": {"events": 3}})
    store(home, "snapshots", "s", "manifest.json", {"lineage": {"model": {"tables": {"events": 2}}, "candidates": {"tables": {"events": 4}}}})
    before = {version: values(version) for version in (2, 3, 4)}
    newest = values()
    asked = work(dry_run=True)
    assert parquet(events) and lake.open_table("events").version() == 6  # nothing was changed
    done = work()
    assert (done.kept, done.oldest, done.gone) == ([2, 3, 4], "version 2 for models/m, snapshots/s", [])
    assert (done.small_files, asked.small_files) == (2, 2)
    assert {version: values(version) for version in (2, 3, 4)} == before
    assert values() == newest
    with pytest.raises(Exception, match=r"(?i)not found|no such file"):
        values(1)
    again = work()
    assert (again.small_files, again.files) == (0, 0)
    version, files = lake.open_table("events").version(), parquet(events)
    assert work() == again
    assert (lake.open_table("events").version(), parquet(events)) == (version, files)


def test_what_is_young_enough_stays(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_LAKE__TIME_TRAVEL", "P7D")
    load_settings.cache_clear()
    (events / f"dt={DAY}" / "of-a-killed-run.parquet").write_bytes(b"PAR1")
    assert work().files == 0
    assert values(1) == [0, 1]


def test_files_of_a_run_that_was_killed_before_its_commit_are_cleared_away(events: Path) -> None:
    orphan = events / f"dt={DAY}" / "of-a-killed-run.parquet"
    orphan.write_bytes(b"PAR1")
    os.utime(orphan, (time.time() - 3600,) * 2)
    work()
    assert not orphan.exists()
    assert values() == [0, 5, 100]


def test_a_lineage_that_cannot_be_read_stops_everything(events: Path, home: Path) -> None:
    store(home, "models", "m", "lineage.json", {})
    (home / "models" / "m" / "lineage.json").write_text('{"tables": {"events"')
    files = parquet(events)
    with pytest.raises(CommandFailed, match=r"models/m/lineage\.json cannot be read"):
        maintain()
    assert parquet(events) == files


def test_a_version_of_which_a_file_was_gone_before_is_told_and_stops_nothing(events: Path, home: Path) -> None:
    store(home, "models", "m", "lineage.json", {"tables": {"events": 1000}})
    store(home, "models", "n", "lineage.json", {"tables": {"events": 2}})
    (redacted,) = (uri for uri in lake.open_table("events", 2).file_uris() if f"dt={DAY}" in uri)
    Path(redacted.removeprefix("file://")).unlink()
    done = work()
    assert (done.kept, done.gone) == ([], [2, 1000])
    assert values() == [0, 5, 100]


def test_the_log_is_never_cut_and_names_no_value_of_a_file_that_was_put_together(events: Path) -> None:
    assert work().small_files == 2
    table = lake.open_table("events")
    assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    ((adds, *_),) = [[line for line in path.read_text().splitlines() if '"add"' in line] for path in _logs(events) if '"OPTIMIZE"' in path.read_text()]
    assert "value" not in json.loads(adds)["add"]["stats"]


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.1, 0.4])
def test_a_run_that_was_killed_leaves_what_the_next_one_ends(events: Path, home: Path, wait: float) -> None:
    store(home, "models", "m", "lineage.json", {"tables": {"events": 2}})
    wanted, newest, log = values(2), values(), len(_logs(events))
    script = "import evershelf.maintain_lake as job; print('ready', flush=True); job.maintain()"
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert run.stdout and run.stdout.readline()
    time.sleep(wait)
    run.kill()
    run.communicate()
    assert len(_logs(events)) >= log
    assert (values(2), values()) == (wanted, newest)
    work()
    assert (values(2), values(), work().files) == (wanted, newest, 0)


def test_lineage_says_what_a_day_was_made_of_and_what_was_built_from_it(events: Path, home: Path) -> None:
    store(home, "models", "m", "lineage.json", {"tables": {"events": 5}})
    work()
    result = CliRunner().invoke(lineage.lineage, ["events", "--date", DAY.isoformat(), "--json"])
    (commit,) = json.loads(result.stdout)["commits"]
    assert (commit["version"], commit["code_version"], commit["built_from_it"]) == (5, "1.0 abc", ["models/m"])
    assert commit["inputs"] == {"events/landing_dt=2026-11-16/door.jsonl.gz": "00ff"}
    printed = CliRunner().invoke(lineage.lineage, ["events"]).output
    assert "from events/landing_dt=2026-11-16/door.jsonl.gz  sha256 00ff" in printed
    assert "from products version 7" in printed
    assert "built from it: models/m" in printed
    unknown = CliRunner().invoke(lineage.lineage, ["events", "--date", "2001-01-01"])
    assert unknown.exit_code == 1
    assert "No commit of events" in str(unknown.exception)


def test_a_table_lies_where_its_setting_says(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_LAKE__TABLES", json.dumps({"events": {"url": (tmp_path / "elsewhere").as_uri()}}))
    load_settings.cache_clear()
    publish(tmp_path / "elsewhere", DAY, [1], "append")
    assert values() == [1]
    assert lake.table_url("orders") == (home / "lake" / "orders").as_uri()


def test_hdfs_keeps_as_many_copies_as_the_table_s_setting_says(hdfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"dt": pa.array([DAY], pa.date32()), "value": [1]})
    write_deltalake(lake.table_url("events"), rows, partition_by=["dt"])
    copies = load_settings().hdfs.replication - 1
    monkeypatch.setenv("EVERSHELF_LAKE__TABLES", json.dumps({"events": {"replication": copies}}))
    load_settings.cache_clear()
    assert work(dry_run=True).replicated > 1 and replicas(lake.open_table("events")) == copies + 1
    work()
    assert work().replicated == 0
    assert replicas(lake.open_table("events")) == copies


def test_what_a_killed_writer_left_open_in_a_log_on_hdfs_is_gone_before_the_next_one_writes(hdfs: str) -> None:
    rows = pa.table({"dt": pa.array([DAY], pa.date32()), "value": [1]})
    write_deltalake(lake.table_url("events"), rows, partition_by=["dt"])
    log = storage.at(lake.table_url("events")) / "_delta_log"
    storage.replace(log / ".00000000000000000001.json.tmp.1", b"half a com")
    with lake.turn():
        assert [path.name for path in storage.glob(log, "*")] == ["00000000000000000000.json"]
