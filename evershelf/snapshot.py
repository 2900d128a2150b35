"""Seal, verify and move snapshots. Nothing here knows what the files mean; `evershelf/contracts/snapshot.py` does."""

import hashlib
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from evershelf import storage
from evershelf.contracts.rungs import RUNGS
from evershelf.contracts.snapshot import MANIFEST, READS_CONTRACTS
from evershelf.errors import SnapshotDamaged, SnapshotOfOtherVersion
from evershelf.storage import ASIDE, HdfsPath, Place, fetch, files_below, new_folder, publish


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

    def has(self, part: str) -> bool:
        """Return whether there is a folder of this name."""
        return any(name.startswith(f"{part}/") for name in self.files)


def seal(content: Path, snapshots: Place, **about: Any) -> str:
    """Describe a finished folder in a manifest and put it in place as a new snapshot.

    Args:
        content: the files, on this machine; they are moved away.
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
    (content / MANIFEST).write_bytes(manifest)
    publish(content, snapshots / snapshot_id)
    return snapshot_id


def verify(folder: Place) -> Manifest:
    """Read every byte of a snapshot and compare it with its manifest.

    Raises:
        SnapshotDamaged: names what is missing, changed or too much.
        StorageError: its storage does not answer, which says nothing of the snapshot.
    """
    manifest = read_manifest(folder)
    found = _describe(folder)
    found.pop(MANIFEST, None)
    _compare(folder.name, found, manifest.files)
    return manifest


def _compare(snapshot_id: str, found: dict[str, FileEntry], files: dict[str, FileEntry]) -> None:
    problems = [f"{name} is missing" for name in files.keys() - found.keys()]
    problems += [f"{name} does not belong to it" for name in found.keys() - files.keys()]
    problems += [f"{name} has changed" for name in found.keys() & files.keys() if found[name] != files[name]]
    if problems:
        raise SnapshotDamaged(
            f"Snapshot {snapshot_id} is damaged: {'; '.join(sorted(problems))}. It is refused; what is live stays live. Fetch or build it again."
        )


def read_manifest(folder: Place) -> Manifest:
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
        raise SnapshotOfOtherVersion(f"Snapshot {folder.name} has contracts {manifest.contracts}; this version reads {READS_CONTRACTS}. {advice}")
    return manifest


def copy(source: Place, destination: Path) -> Manifest:
    """Copy a snapshot to this machine, verified before and after; a copy that is already there is verified, and replaced when damaged.

    Raises:
        SnapshotDamaged: the source is damaged, or the copy came out damaged.
    """
    if destination.exists():
        try:
            return verify(destination)
        except SnapshotDamaged:
            shutil.rmtree(destination)
    (read_manifest if isinstance(source, HdfsPath) else verify)(source)  # HDFS checks what it reads, and all of it would travel twice
    with new_folder(destination) as folder:
        fetch(source, folder)
    try:
        return verify(destination)
    except SnapshotDamaged:
        shutil.rmtree(destination)
        raise


def copy_part(source: Place, part: str, folder: Path) -> None:
    """Copy one folder of a snapshot to this machine and compare every byte with the manifest.

    Raises:
        SnapshotDamaged: the copy is not what was sealed.
    """
    manifest = read_manifest(source)
    fetch(source / part, folder)
    found = {f"{part}/{name}": entry for name, entry in _describe(folder).items()}
    _compare(source.name, found, {name: entry for name, entry in manifest.files.items() if name.startswith(f"{part}/")})


@contextmanager
def at_hand(folder: Place) -> Iterator[Path]:
    """Yield a snapshot that was verified before, on this machine: itself, or for the time of the block a copy, which is verified too.

    Raises:
        SnapshotDamaged: the copy came out damaged.
    """
    with storage.at_hand(folder) as copied:
        if copied != folder:
            verify(copied)
        yield copied


def stored_snapshots(snapshots: Place) -> list[str]:
    """Return the ids of the snapshots in a folder, newest data first."""
    if not snapshots.is_dir():
        return []
    return sorted((child.name for child in snapshots.iterdir() if child.is_dir() and not child.name.startswith(ASIDE)), reverse=True)


def _describe(folder: Place) -> dict[str, FileEntry]:
    return {name: _fingerprint(path) for name, path in files_below(folder)}


def _fingerprint(path: Place) -> FileEntry:
    digest, crc, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            crc = zlib.crc32(block, crc)
            size += len(block)
    return FileEntry(size=size, sha256=digest.hexdigest(), crc32=crc)
