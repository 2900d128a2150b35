"""The promotion log keeps every decision, once, in order."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evershelf import storage
from evershelf.errors import StorageError
from evershelf.storage import Place
from serving.errors import PromotionRefused
from serving.promotion.log import LiveState, PromotionLog


def _append_many(url: str, author: str, count: int) -> None:
    for number in range(count):
        PromotionLog(storage.at(url)).append("registered", f"{author}-{number}", "race")


def test_two_writers_that_race_lose_no_decision(shared: Place) -> None:
    url, count = (shared.as_uri(), 40) if isinstance(shared, Path) else (str(shared), 5)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_append_many, args=(url, author, count)) for author in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = PromotionLog(shared).records()
    assert [record.seq for record in records] == list(range(1, 2 * count + 1))
    assert {record.snapshot_id for record in records} == {f"{author}-{number}" for author in "ab" for number in range(count)}


def test_a_decision_on_an_old_state_is_refused(tmp_path: Path, home: Path) -> None:
    log = PromotionLog(tmp_path)
    seen = log.state()
    log.append("registered", "a", "first")
    with pytest.raises(PromotionRefused, match="Decision 1 came first"):
        log.append("registered", "b", "second", expected=seen)
    assert [record.snapshot_id for record in log.records()] == ["a"]


def test_a_writer_killed_at_any_moment_leaves_whole_records_only(tmp_path: Path, home: Path) -> None:
    code = """
import sys
from pathlib import Path
from serving.promotion.log import PromotionLog
while True:
    PromotionLog(Path(sys.argv[1])).append("registered", "x", "w" * 5000)
"""
    for seconds in (0.01, 0.05, 0.1):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        before = len(PromotionLog(tmp_path).records())
        while len(PromotionLog(tmp_path).records()) < before + 3:
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        records = PromotionLog(tmp_path).records()  # every one decodes
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert all(len(record.why) == 5000 for record in records)


def test_state_follows_sequence_numbers_and_no_clock(tmp_path: Path, home: Path) -> None:
    log = PromotionLog(tmp_path)
    for kind, snapshot_id in (("registered", "a"), ("promoted", "a"), ("registered", "b"), ("promoted", "b")):
        log.append(kind, snapshot_id, "x")  # type: ignore[arg-type]  # literals in a tuple
    early = tmp_path / "000004.json"
    early.write_bytes(early.read_bytes().replace(b'"at": "20', b'"at": "19'))  # a clock a hundred years behind
    state = log.state()
    assert (state.stable, state.last_good, state.registrations) == ("b", ("a",), {"a": 1, "b": 3})


def test_a_rolled_back_snapshot_and_its_canary_are_never_targets_again(tmp_path: Path, home: Path) -> None:
    log = PromotionLog(tmp_path)
    for snapshot_id in "abc":
        log.append("registered", snapshot_id, "x")
        log.append("promoted", snapshot_id, "x")
    log.append("canary", "d", "x", share=0.05)
    log.append("rolled_back", "c", "it lost clicks", to="b")
    state = log.state()
    assert (state.stable, state.canary, state.last_good) == ("b", None, ("a",))
    assert state.out == {"c", "d"}


def test_pins_and_freezes_start_and_end(tmp_path: Path, home: Path) -> None:
    log = PromotionLog(tmp_path)
    log.append("pinned", "a", "sale")
    log.append("frozen", "a", "sale")
    assert (log.state().pinned, log.state().frozen) == (True, True)
    log.append("pinned", "a", "over", on=False)
    log.append("frozen", "a", "over", on=False)
    assert (log.state().pinned, log.state().frozen) == (False, False)


def test_a_log_without_its_folder_says_so(tmp_path: Path, home: Path) -> None:
    (tmp_path / "promotions").write_text("not a folder")
    with pytest.raises(StorageError, match="is no folder"):
        PromotionLog(tmp_path / "promotions").append("registered", "a", "x")
    assert PromotionLog(tmp_path / "nowhere").state() == LiveState()
