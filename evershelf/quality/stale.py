"""What was built from a version of the lake that was restated since: models, candidates and snapshots, by their lineage."""

import json
from collections.abc import Iterator, Mapping
from datetime import date
from functools import cache
from typing import Any

import msgspec

from evershelf import lake, models, snapshot, storage
from evershelf.errors import SnapshotDamaged, StorageError
from evershelf.settings import load_settings
from evershelf.storage import ASIDE


class Stale(msgspec.Struct, frozen=True):
    """`kind`: model, candidates or snapshot. `changed`: table -> day that it was built from -> rows of that day then, and now."""

    kind: str
    id: str
    changed: dict[str, dict[str, tuple[int, int]]]


def stale() -> list[Stale]:
    """Return everything whose lineage names a table's version after which a day that it was built from has changed."""
    history = cache(_history)
    found = []
    for kind, name, data_as_of, versions in _built():
        changed = {table: _since(history(table), version, data_as_of) for table, version in versions.items()}
        if changed := {table: days for table, days in changed.items() if days}:
            found.append(Stale(kind, name, changed))
    return found


def _built() -> Iterator[tuple[str, str, date, Mapping[str, int]]]:
    """Yield kind, id, the last day of the data, and table -> Delta version of everything that is there."""
    settings = load_settings()
    for name in models.finished_models():
        yield "model", name, *_read(json.loads((models.model_folder(name) / "lineage.json").read_bytes()))
    folder = storage.at(settings.url("candidates"))
    finished = {one.parent.name: one for one in folder.glob("*/lineage.json") if not one.parent.name.startswith(ASIDE)}
    for name in sorted(finished):
        yield "candidates", name, *_read(json.loads(finished[name].read_bytes()))
    store = storage.at(settings.url("snapshots"))
    for name in snapshot.stored_snapshots(store):
        try:
            manifest = snapshot.read_manifest(store / name)
        except SnapshotDamaged:  # `evershelf snapshots --verify` tells of it
            continue
        parts = [_read(manifest.lineage[part])[1] for part in ("model", "candidates") if part in manifest.lineage]
        oldest = {table: min(part[table] for part in parts if table in part) for table in {table for part in parts for table in part}}
        yield "snapshot", name, date.fromisoformat(manifest.data_as_of), oldest


def _read(lineage: Mapping[str, Any]) -> tuple[date, Mapping[str, int]]:
    return date.fromisoformat(lineage["data_as_of"][:10]), lineage["tables"]


def _history(table: str) -> list[dict[str, Any]]:
    try:
        return lake.open_table(table).history()
    except StorageError:  # it is gone; what was built from it cannot be compared
        return []


def _since(history: list[dict[str, Any]], version: int, data_as_of: date) -> dict[str, tuple[int, int]]:
    """Return the days up to data_as_of that a commit after a version has changed: rows then and now."""
    days: dict[str, tuple[int, int]] = {}
    for commit in sorted((one for one in history if one["version"] > version and "userMetadata" in one), key=lambda one: one["version"]):
        for day, (before, after) in json.loads(commit["userMetadata"]).get("changed", {}).items():
            if date.fromisoformat(day) <= data_as_of:
                days[day] = (days.get(day, (before, after))[0], after)
    return dict(sorted(days.items()))
