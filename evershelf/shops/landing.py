"""Where landed files lie: `<landing>/<source>/landing_dt=YYYY-MM-DD/<file>`. The door and the gateways write them, the lake reads them."""

import csv
import gzip
from datetime import date

import msgspec

from evershelf import storage
from evershelf.settings import load_settings
from evershelf.shops.adapter import Source
from evershelf.storage import Place, at, glob

REJECTED = "_REJECTED.json"
PREFIX = "landing_dt="


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
    """Count the rows of a landing day's files, with the standard library alone."""
    rows = 0
    for path in landed_files(source.name, day):
        with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", errors="replace", newline="") as file:
            rows += sum(1 for _ in csv.reader(file)) - 1 if source.format == "csv" else sum(1 for line in file if line.strip(" \r\n"))
    return rows


def rejection(source: str, day: date) -> Rejection | None:
    """Return why the door refused the day's file, if it did."""
    path = landing_folder(source, day) / REJECTED
    return msgspec.json.decode(path.read_bytes(), type=Rejection) if path.is_file() else None


def reject(source: str, day: date, rejected: Rejection) -> None:
    storage.replace(landing_folder(source, day) / REJECTED, msgspec.json.encode(rejected))


def land(source: str, day: date, name: str, content: bytes) -> None:
    """Put a file in place whole, instead of what was delivered or refused before."""
    folder = landing_folder(source, day)
    storage.replace(folder / name, content)
    (folder / REJECTED).unlink(missing_ok=True)


def landing_days(sources: tuple[str, ...]) -> list[date]:
    """Return every day on which anything landed, or was refused."""
    root = at(load_settings().url("landing"))
    return sorted({date.fromisoformat(folder.name.removeprefix(PREFIX)) for source in sources for folder in glob(root / source, f"{PREFIX}*")})
