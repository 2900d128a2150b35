"""Keep the lake's tables small and quick: put small files together, delete files that nobody can need any more, keep as many copies as are wanted. No Spark.

What is kept: the current version, every file that was current within `lake.time_travel`, and every version of which a stored model, candidates or snapshot was
built, so that each of them can be looked into and reproduced for as long as it is stored. The log of a table is never cut.

May be killed at any moment and run as often as you like: putting files together is one commit, and a file that is deleted was in no version that is kept.
Takes turns with lake_daily.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import click
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileInfo, FileType

from evershelf import lake, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import CommandFailed
from evershelf.lineage import references
from evershelf.progress import step
from evershelf.settings import load_settings
from evershelf.storage import HdfsPath
from evershelf.version import code_version

SMALL = 64 << 20  # bytes; smaller files of one partition are put together
PROPERTIES = {
    "delta.enableExpiredLogCleanup": "false",  # Delta cuts its log after 30 days otherwise, and with it the way back
    **lake.NO_BOUNDS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintained:
    """What was done to a table, or would be done.

    small_files: of partitions that have more than one, put together. files, bytes: deleted. kept: versions kept for what was built from them; gone: those of
    them of which a file was gone before, such as one that held a forgotten shopper. replicated: files on HDFS of which it keeps another number of copies than
    the settings want. oldest: the oldest kept version and what needs it.
    """

    table: str
    small_files: int
    files: int
    bytes: int
    kept: list[int]
    gone: list[int]
    replicated: int
    oldest: str | None


def maintain(*, dry_run: bool = False) -> list[Maintained]:
    """Maintain every table.

    Raises:
        CommandFailed: what a stored thing was built from is not known, or the deletion would have taken what it needs. Nothing was deleted then.
    """
    with lake.turn():
        needed = references()
        return [_maintain(name, needed.get(name, {}), dry_run=dry_run) for name in LAKE_TABLES if lake.exists(name)]


def _maintain(name: str, users: dict[int, list[str]], *, dry_run: bool) -> Maintained:
    table = lake.open_table(name)
    small = _small_files(table, LAKE_TABLES[name].partition)
    if not dry_run:
        step(f"vacuum {name}")
        if not PROPERTIES.items() <= table.metadata().configuration.items():
            table.alter.set_table_properties(PROPERTIES, commit_properties=_about("properties"))
        for day in small:  # one commit per partition: a reader of another day is not disturbed, and a kill loses one day's work
            table.optimize.compact([(LAKE_TABLES[name].partition, "=", day)], target_size=SMALL, commit_properties=_about("compact"))
    look = DeltaStorageHandler.from_table(table._table).get_file_info
    files_of = {version: _files(name, version) for version in sorted(users)}
    there = _sizes(look, set[str]().union(*(files or () for files in files_of.values())))
    kept = [version for version, files in files_of.items() if files is not None and files <= there.keys()]
    # Delta names what its log says was removed, also what a vacuum took before
    doomed = _sizes(look, _vacuum(table, kept, dry_run=True))
    if taken := doomed.keys() & {path for version in kept for path in files_of[version] or ()}:
        raise CommandFailed(f"{name}: deleting would take {len(taken)} files of versions that are kept, such as {min(taken)}. Nothing was deleted of it.")
    if doomed and not dry_run:
        _vacuum(table, kept, dry_run=False)
    copies = load_settings().replication(name)
    other = _other_replication(table, copies)
    for path in other if not dry_run else ():
        path.replicate(copies)
    return Maintained(
        table=name,
        small_files=sum(small.values()),
        files=len(doomed),
        bytes=sum(doomed.values()),
        kept=kept,
        gone=[version for version in files_of if version not in kept],
        replicated=len(other),
        oldest=f"version {kept[0]} for {', '.join(users[kept[0]])}" if kept else None,
    )


def _small_files(table: DeltaTable, partition: str) -> dict[str, int]:
    """Count the small files of each partition that has more than one, day (ISO) -> files."""
    added = pa.table(table.get_add_actions(flatten=True))
    days = zip(added[f"partition.{partition}"].to_pylist(), added["size_bytes"].to_pylist(), strict=True)
    counts = Counter(day.isoformat() for day, size in days if size < SMALL)
    return {day: files for day, files in sorted(counts.items()) if files > 1}


def _other_replication(table: DeltaTable, wanted: int) -> list[HdfsPath]:
    root = storage.at(table.table_uri)
    return [path for path in root.walk_files() if path.stat().replicas != wanted] if isinstance(root, HdfsPath) else []


def _files(name: str, version: int) -> set[str] | None:
    """Return the files of a version; None when its log is gone."""
    try:
        return lake.files(lake.open_table(name, version))
    except Exception:  # of several kinds, from Rust
        return None


def _sizes(look: Callable[[list[str]], list[FileInfo]], paths: Iterable[str]) -> dict[str, int]:
    """Return the bytes of those files that are there."""
    return {info.path: info.size for info in look(list(paths)) if info.type == FileType.File}


def _vacuum(table: DeltaTable, kept: list[int], *, dry_run: bool) -> list[str]:
    hours = int(load_settings().lake.time_travel / timedelta(hours=1))
    deleted: list[str] = table.vacuum(
        hours, dry_run=dry_run, enforce_retention_duration=False, full=True, keep_versions=kept or None, commit_properties=_about("vacuum")
    )
    return deleted


def _about(what: str) -> CommitProperties:
    return lake.said({"code_version": code_version(), "maintenance": what})


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def main(dry_run: bool, as_json: bool) -> None:
    """Put small files of the lake's tables together and delete files that nobody can need any more."""
    done = maintain(dry_run=dry_run)
    would = "would be " if dry_run else ""
    for one in done:
        kept = f"{len(one.kept)} versions kept, the oldest {one.oldest}" if one.oldest else "nothing stored was built from it"
        gone = f"; {len(one.gone)} that stored things were built from are gone" if one.gone else ""
        gone += f"; {one.replicated} files {would}replicated" if one.replicated else ""
        line = f"{one.table}: {one.small_files} small files {would}put together, {one.files} files ({one.bytes / 2**20:.1f} MiB) {would}deleted; {kept}{gone}"
        click.echo(line, err=as_json)
    if as_json:
        report: dict[str, Any] = {"dry_run": dry_run, "tables": [asdict(one) for one in done]}
        click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
