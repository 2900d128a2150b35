"""A snapshot is whole or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evershelf import snapshot
from evershelf.contracts.rungs import RUNGS
from evershelf.contracts.snapshot import MANIFEST
from evershelf.errors import SnapshotDamaged


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    content = tmp_path / "content"
    (content / "model").mkdir(parents=True)
    (content / "model" / "saved_model.pb").write_bytes(b"model" * 1000)
    (content / "store.lmdb").write_bytes(bytes(range(256)) * 100)
    about = {"created_at": "2026-01-02T00:00:00+00:00", "shop": "s", "model_id": "m", "lineage": {"tables": {"events": 3}}, "model_card": {}}
    name = snapshot.seal(content, tmp_path / "snapshots", data_as_of="2026-01-01", rung_quality=dict.fromkeys(RUNGS, 1.0), **about)
    return tmp_path / "snapshots" / name


def test_a_sealed_snapshot_verifies_and_can_be_copied(sealed: Path, tmp_path: Path) -> None:
    assert sealed.name.startswith("2026-01-01-")
    copied = snapshot.copy(sealed, tmp_path / "local" / sealed.name)
    assert copied == snapshot.verify(sealed)
    assert snapshot.stored_snapshots(tmp_path / "snapshots") == [sealed.name]


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "store.lmdb").read_bytes())
    content[777] ^= 1
    (folder / "store.lmdb").write_bytes(content)


def _edit_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes().replace(b'"shop":"s"', b'"shop":"t"'))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit": (_flip_a_bit, "store.lmdb has changed"),
    "missing": (lambda folder: (folder / "model" / "saved_model.pb").unlink(), "saved_model.pb is missing"),
    "extra": (lambda folder: (folder / "extra").write_text("x"), "extra does not belong"),
    "truncated": (lambda folder: (folder / "store.lmdb").write_bytes(b""), "store.lmdb has changed"),
    "manifest": (_edit_the_manifest, "checksum is not the one in its name"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no readable manifest"),
    "broken manifest": (lambda folder: (folder / MANIFEST).write_text("{"), "broken"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_named_and_refused(sealed: Path, tmp_path: Path, damage: str) -> None:
    harm, said = DAMAGES[damage]
    harm(sealed)
    with pytest.raises(SnapshotDamaged, match=said):
        snapshot.verify(sealed)
    with pytest.raises(SnapshotDamaged):
        snapshot.copy(sealed, tmp_path / "local" / sealed.name)
    assert not (tmp_path / "local" / sealed.name).exists()


def test_a_damaged_copy_is_replaced_from_the_whole_source(sealed: Path, tmp_path: Path) -> None:
    local = tmp_path / "local" / sealed.name
    snapshot.copy(sealed, local)
    _flip_a_bit(local)
    snapshot.copy(sealed, local)
    snapshot.verify(local)


def test_a_renamed_snapshot_is_refused(sealed: Path) -> None:
    shutil.move(sealed, sealed.with_name("2026-01-01-00000000"))
    with pytest.raises(SnapshotDamaged, match="checksum"):
        snapshot.verify(sealed.with_name("2026-01-01-00000000"))
