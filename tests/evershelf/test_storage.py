"""Files become visible whole or not at all."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evershelf import storage
from evershelf.errors import StorageError


def test_only_one_of_many_writers_creates_a_name(tmp_path: Path) -> None:
    def write(number: int) -> bool:
        try:
            storage.create(tmp_path / "one", str(number).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(write, range(64))) == 1
    assert [child.name for child in tmp_path.iterdir()] == ["one"]


def test_a_replaced_file_is_the_old_one_or_the_new_one_whatever_is_killed_when(tmp_path: Path) -> None:
    target = tmp_path / "file"
    old, size = b"o" * 5_000_000, 5_000_000
    storage.replace(target, old)
    forever = f"while True:\n for c in b'ab':\n  storage.replace(Path({str(target)!r}), bytes([c]) * {size})"
    code = f"from pathlib import Path; from evershelf import storage\n{forever}"
    for delay in (0.15, 0.2, 0.25, 0.3):
        writer = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        content = target.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1


def test_a_folder_whose_making_fails_is_never_seen(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.new_folder(tmp_path / "made") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_never_replaces_another(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError), storage.new_folder(tmp_path / "made") as folder:
        (folder / "x").write_text("x")
    assert list((tmp_path / "made").iterdir()) == []


def test_another_file_system_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match="s3://bucket"):
        storage.local_path("s3://bucket/x")


def test_a_secret_is_private_to_its_owner(tmp_path: Path) -> None:
    storage.create(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
