"""Where landed files lie: `<landing>/<source>/landing_dt=YYYY-MM-DD/<file>`. The door and the gateways write them, the lake reads them."""

import csv
import gzip
import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import msgspec
import numpy as np

from evershelf import storage
from evershelf.settings import load_settings
from evershelf.shops.adapter import Source
from evershelf.storage import Place, at, glob

REJECTED = "_REJECTED.json"
CORRECTIONS = "_CORRECTIONS.json"
PREFIX = "landing_dt="
BLOCK = 1 << 20  # bytes
NEW_LINE, SPACE = ord("\n"), ord(" ")
LINE_END = re.compile(rb"[\r\n]")  # \r\n leaves a blank line between, which does not count


class Rejection(msgspec.Struct, frozen=True):
    """A delivery that the door could not read."""

    file: str
    reason: str


def landing_folder(source: str, day: date) -> Place:
    return at(load_settings().url("landing")) / source / f"{PREFIX}{day.isoformat()}"


def landed_files(source: str, day: date) -> list[Place]:
    """Return the whole files of a landing day, by name; unfinished and special ones are left out."""
    folder = landing_folder(source, day)
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_"))) if folder.is_dir() else []


def count_rows(source: Source, day: date) -> int:
    """Count the rows of a landing day's files, by another reader than Spark's."""
    return sum(_count_csv(path) if source.format == "csv" else _count_lines(path) for path in landed_files(source.name, day))


def _count_csv(path: Place) -> int:
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", errors="replace", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def _count_lines(path: Place) -> int:
    """Count the lines that are not blank, a block at a time: line ends alone where there is nothing else to be told apart."""
    rows, rest = 0, b""
    with path.open("rb") as packed, gzip.open(packed, "rb") as file:
        while block := file.read(BLOCK):
            whole, end, rest = (rest + block).rpartition(b"\n")
            rows += _lines(whole + end)
    return rows + _lines(rest)


def _lines(text: bytes) -> int:
    letters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(letters == NEW_LINE)
    first = letters[np.concatenate(([0], ends[:-1] + 1))] if ends.size else letters[:1]  # of each line
    odd = not text.endswith(b"\n") or b"\r" in text or bool(np.isin(first, (NEW_LINE, SPACE)).any())
    return sum(1 for line in LINE_END.split(text) if line.strip(b" ")) if odd else int(ends.size)


def fingerprints(landings: Iterable[tuple[date, str]]) -> dict[str, str]:
    """Return the files of some (landing day, source), repairs too, and the SHA-256 of what they hold, 16 hex digits: the inputs' versions, for the lineage."""
    files = {
        f"{source}/{PREFIX}{day.isoformat()}/{path.name}": path
        for day, source in sorted(landings)
        for path in (*landed_files(source, day), *glob(landing_folder(source, day), CORRECTIONS))
    }
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}


def rejection(source: str, day: date) -> Rejection | None:
    """Return why the door refused the day's file, if it did."""
    path = landing_folder(source, day) / REJECTED
    return msgspec.json.decode(path.read_bytes(), type=Rejection) if path.is_file() else None


def reject(source: str, day: date, rejected: Rejection) -> None:
    storage.replace(landing_folder(source, day) / REJECTED, msgspec.json.encode(rejected))


def corrections(source: str, day: date) -> dict[str, dict[str, Any]]:
    """Return what was repaired of a landing day's rows: hash of the raw row -> column -> the value that counts instead."""
    path = landing_folder(source, day) / CORRECTIONS
    return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]]) if path.is_file() else {}


def correct(source: str, day: date, repaired: Mapping[str, Mapping[str, Any]]) -> None:
    """Add repairs to a landing day's, beside its files, which stay as they were delivered; the newest value of a column counts."""
    known = corrections(source, day)
    merged = {**known, **{row: {**known.get(row, {}), **values} for row, values in repaired.items()}}
    if merged != known:
        storage.replace(landing_folder(source, day) / CORRECTIONS, msgspec.json.encode(merged, order="sorted"))


def land(source: str, day: date, name: str, content: bytes) -> None:
    """Put a file in place whole, instead of what was delivered or refused before."""
    folder = landing_folder(source, day)
    storage.replace(folder / name, content)
    (folder / REJECTED).unlink(missing_ok=True)


def landing_days(sources: tuple[str, ...]) -> list[date]:
    """Return every day on which anything landed, or was refused."""
    root = at(load_settings().url("landing"))
    return sorted({date.fromisoformat(folder.name.removeprefix(PREFIX)) for source in sources for folder in glob(root / source, f"{PREFIX}*")})
