"""Files become visible whole or not at all, on a local disk and on HDFS alike."""

import gzip
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from evershelf import lake, storage
from evershelf.errors import StorageError
from evershelf.hdfs import HdfsPath
from evershelf.settings import load_settings
from evershelf.stack import supervision
from evershelf.storage import Place


def names(folder: Place) -> list[str]:
    return sorted(child.name for child in folder.iterdir())


def test_only_one_of_many_writers_creates_a_name(shared: Place) -> None:
    def write(number: int) -> bool:
        try:
            storage.create(shared / "one", str(number).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(64 if isinstance(shared, Path) else 12)))
    assert sum(won) == 1
    assert (shared / "one").read_bytes() == str(won.index(True)).encode()
    assert names(shared) == ["one"]


def test_a_replaced_file_is_the_old_one_or_the_new_one_whatever_is_killed_when(shared: Place) -> None:
    target, size = shared / "file", 5_000_000
    url = target.as_uri() if isinstance(target, Path) else str(target)
    forever = f"while True:\n for c in b'ab':\n  storage.replace(storage.at({url!r}), bytes([c]) * {size})"
    for delay in (0.0, 0.05, 0.1, 0.25) if isinstance(shared, Path) else (0.1, 0.25):
        storage.replace(target, b"o" * size)
        writer = subprocess.Popen([sys.executable, "-c", f"from evershelf import storage\n{forever}"])
        while target.open("rb").read(1) == b"o":
            time.sleep(0.02)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        content = target.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1


def test_a_folder_whose_making_fails_is_never_seen(shared: Place) -> None:
    with pytest.raises(RuntimeError), storage.new_folder(shared / "made") as folder:
        storage.create(folder / "half", b"half")
        raise RuntimeError
    assert names(shared) == []


def test_a_folder_never_replaces_another_nor_lands_inside_it(shared: Place, tmp_path: Path) -> None:
    (shared / "made").mkdir(parents=True)
    with pytest.raises(FileExistsError), storage.new_folder(shared / "made") as folder:
        storage.create(folder / "x", b"x")
    (tmp_path / "local").mkdir()
    with pytest.raises(FileExistsError):
        storage.publish(tmp_path / "local", shared / "made")
    assert names(shared / "made") == []
    assert names(shared) == ["made"]


def test_a_folder_comes_back_as_it_was_published(shared: Place, tmp_path: Path) -> None:
    files = {"a b+c%41": b"x" * 3_000_000, "dt=2026-01-01/ü#?.txt": b"deep", "dt=2026-01-01/empty": b""}
    for name, content in files.items():
        (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / name).write_bytes(content)
    storage.publish(tmp_path / "local", shared / "made")
    assert {name: path.read_bytes() for name, path in storage.files_below(shared / "made")} == files
    assert [path.name for path in storage.glob(shared / "made", "dt=*/e*")] == ["empty"]
    assert storage.glob(shared / "nothing", "*/x") == []
    with storage.at_hand(shared / "made") as folder:
        assert {name: path.read_bytes() for name, path in storage.files_below(folder)} == files
        assert folder.name == "made"
    storage.remove(shared / "made")
    storage.remove(shared / "made")
    assert not (shared / "made").exists()


def test_what_is_absent_is_absent_and_no_failure(shared: Place) -> None:
    absent = shared / "absent"
    assert (absent.exists(), absent.is_file(), absent.is_dir()) == (False, False, False)
    absent.unlink(missing_ok=True)
    for act in (absent.read_bytes, absent.stat, absent.unlink, lambda: list(absent.iterdir())):
        with pytest.raises(FileNotFoundError):
            act()


def test_an_open_file_can_be_read_from_any_place(shared: Place) -> None:
    content = bytes(range(256)) * 12_000
    storage.create(shared / "numbers", content)
    storage.create(shared / "packed.gz", gzip.compress(b"line\n" * 1000, mtime=0))
    with (shared / "numbers").open("rb") as file:
        file.seek(-10, 2)
        assert file.read() == content[-10:]
        file.seek(2_000_001)
        assert file.read(1_000_000) == content[2_000_001:3_000_001]
        assert file.tell() == 3_000_001
        file.seek(5)
        assert file.read() == content[5:]
    with (shared / "packed.gz").open("rb") as packed, gzip.open(packed, "rt") as lines:
        assert sum(1 for _ in lines) == 1000
    assert (shared / "numbers").stat().st_size == len(content)


def test_turns_are_taken_one_after_the_other(shared: Place) -> None:
    order: list[str] = []
    waited = threading.Event()

    def second() -> None:
        with storage.turn(shared / "lock", waited.set):
            order.append("second")

    with storage.turn(shared / "lock", lambda: order.append("nobody is there to wait for")):
        other = threading.Thread(target=second)
        other.start()
        assert waited.wait(20)
        order.append("first")
    other.join(20)
    assert order == ["first", "second"]


def test_the_turn_of_one_who_died_on_another_machine_passes_when_its_lease_ends(hdfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEASE_S", 1.2)
    lock = storage.at(f"{hdfs}/lock")
    storage.create(lock / "0123456789abcdef", b"")
    started = time.monotonic()
    with storage.turn(lock, lambda: None):
        assert time.monotonic() - started > 1.2
        assert "0123456789abcdef" not in names(lock)
        mine = storage.glob(lock, "*")[0]
        time.sleep(1.0)
        assert (lock / mine.name).stat().st_mtime > mine.stat().st_mtime  # it goes on showing that it lives


def test_a_dead_namenode_is_named_at_once_and_a_job_goes_on_when_it_is_back(
    hdfs: str, hdfs_server: supervision.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = storage.at(f"{hdfs}/file")
    storage.create(target, b"before")
    psutil.Process(supervision.program_pid(hdfs_server, "hdfs-namenode")).kill()
    started = time.monotonic()
    with pytest.raises(StorageError, match="HDFS is not ready at http://") as raised:
        storage.at(f"{hdfs}/file", patient=False).read_bytes()
    monkeypatch.setenv("EVERSHELF_LAKE_URL", "hdfs://127.0.0.1:9/lake")
    load_settings.cache_clear()
    with pytest.raises(StorageError, match="cannot be looked at"):
        lake.open_table("events")
    assert time.monotonic() - started < 5
    assert "gateways go on with what they have. Look at the NameNode" in str(raised.value)
    storage.replace(target, b"after")  # it waits until supervisord has started another
    assert target.read_bytes() == b"after"


def test_another_file_system_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match="s3://bucket"):
        storage.at("s3://bucket/x")


def test_hdfs_without_a_host_is_the_one_of_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_STORAGE_URL", "hdfs:///shop")
    monkeypatch.setenv("EVERSHELF_LAKE_URL", "hdfs://other:9000/lake")
    monkeypatch.setenv("EVERSHELF_HDFS__PORT", "8123")
    load_settings.cache_clear()
    assert load_settings().url("models") == "hdfs://127.0.0.1:8123/shop/models"
    assert load_settings().url("lake") == "hdfs://other:9000/lake"
    there = storage.at(load_settings().url("lake"))
    assert isinstance(there, HdfsPath)
    assert there.files.urls == ("http://other:9870",)


def test_a_secret_is_private_to_its_owner(tmp_path: Path) -> None:
    storage.create(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
