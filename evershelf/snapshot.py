"""Seal, verify and move snapshots. Nothing here knows what the files mean; `evershelf/contracts/snapshot.py` does."""

import hashlib
import shutil
import zlib
from pathlib import Path
from typing import Any

import msgspec

from evershelf.contracts.rungs import RUNGS
from evershelf.contracts.snapshot import MANIFEST, READS_CONTRACTS
from evershelf.errors import SnapshotDamaged
from evershelf.storage import ASIDE, new_folder


class FileEntry(msgspec.Struct, frozen=True):
    """One file: its size in bytes, sha256 (hex) and CRC-32."""

    size: int
    sha256: str
    crc32: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot holds and where it came from.

    `rung_quality` is the expected quality of each rung relative to `live` (1.0), measured offline; `contracts` the versions it was written with.
    """

    data_as_of: str
    created_at: str
    shop: str
    model_id: str
    lineage: dict[str, Any]
    rung_quality: dict[str, float]
    model_card: dict[str, Any]
    files: dict[str, FileEntry]
    contracts: dict[str, int] = msgspec.field(default_factory=lambda: dict(READS_CONTRACTS))


def seal(content: Path, snapshots: Path, **about: Any) -> str:
    """Describe a finished folder in a manifest and put it in place as a new snapshot.

    Args:
        content: the files; the folder is moved away.
        snapshots: where the snapshot takes its place.
        about: the fields of `Manifest` but `files`.

    Returns:
        The snapshot's id.
    """
    missing = set(RUNGS) - set(about["rung_quality"])
    if missing:
        raise ValueError(f"rung_quality lacks {sorted(missing)}")
    manifest = msgspec.json.encode(Manifest(files=_describe(content), **about), order="sorted")
    snapshot_id = f"{about['data_as_of']}-{hashlib.sha256(manifest).hexdigest()[:8]}"
    with new_folder(snapshots / snapshot_id) as folder:
        for child in content.iterdir():
            shutil.move(child, folder / child.name)
        (folder / MANIFEST).write_bytes(manifest)
    return snapshot_id


def verify(folder: Path) -> Manifest:
    """Read every byte of a snapshot and compare it with its manifest.

    Raises:
        SnapshotDamaged: names what is missing, changed or too much.
    """
    manifest = read_manifest(folder)
    found = _describe(folder)
    found.pop(MANIFEST, None)
    problems = [f"{name} is missing" for name in manifest.files.keys() - found.keys()]
    problems += [f"{name} does not belong to it" for name in found.keys() - manifest.files.keys()]
    problems += [f"{name} has changed" for name in found.keys() & manifest.files.keys() if found[name] != manifest.files[name]]
    if problems:
        raise SnapshotDamaged(
            f"Snapshot {folder.name} is damaged: {'; '.join(sorted(problems))}. It is refused; what is live stays live. Fetch or build it again."
        )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest alone; cheap, says nothing about the other files.

    Raises:
        SnapshotDamaged: it is missing, broken, of another snapshot, or of a version that this code does not read.
    """
    advice = "It is refused; what is live stays live. Fetch or build it again."
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(content, type=Manifest)
    except OSError as error:
        raise SnapshotDamaged(f"Snapshot {folder.name} has no readable manifest ({error.strerror}). {advice}") from None
    except msgspec.MsgspecError as error:
        raise SnapshotDamaged(f"The manifest of snapshot {folder.name} is broken ({error}). {advice}") from None
    if not folder.name.endswith(hashlib.sha256(content).hexdigest()[:8]):
        raise SnapshotDamaged(f"The manifest of snapshot {folder.name} has changed: its checksum is not the one in its name. {advice}")
    if manifest.contracts != READS_CONTRACTS:
        raise SnapshotDamaged(f"Snapshot {folder.name} has contracts {manifest.contracts}; this version reads {READS_CONTRACTS}. {advice}")
    return manifest


def copy(source: Path, destination: Path) -> Manifest:
    """Copy a snapshot, verified before and after; a copy that is already there is verified, and replaced when damaged.

    Raises:
        SnapshotDamaged: the source is damaged, or the copy came out damaged.
    """
    if destination.exists():
        try:
            return verify(destination)
        except SnapshotDamaged:
            shutil.rmtree(destination)
    verify(source)
    with new_folder(destination) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return verify(destination)


def stored_snapshots(snapshots: Path) -> list[str]:
    """Return the ids of the snapshots in a folder, newest data first."""
    if not snapshots.is_dir():
        return []
    return sorted((child.name for child in snapshots.iterdir() if child.is_dir() and not child.name.startswith(ASIDE)), reverse=True)


def _describe(folder: Path) -> dict[str, FileEntry]:
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _fingerprint(path: Path) -> FileEntry:
    digest, crc, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            crc = zlib.crc32(block, crc)
            size += len(block)
    return FileEntry(size=size, sha256=digest.hexdigest(), crc32=crc)
