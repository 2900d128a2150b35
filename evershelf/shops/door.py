"""The door: a shop's raw file of a day comes in, pseudonyms instead of user ids, whole or not at all.

Behind the door no file holds a raw id, whatever its length, nor a column that the adapter does not know, nor a card number, an e-mail address or a phone
number in free text, nor a row of a shopper who was forgotten. A line that cannot be read may hold an id anywhere,
so its text stays outside: a row with its number and what was wrong travels on in its place, and the lake counts it. A file that cannot be read at all is
refused by name, and the lake holds that day back; where an earlier delivery of the day is already inside, that one stays as it is.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from evershelf import forgotten
from evershelf.forgotten import Forgotten
from evershelf.free_text import masked
from evershelf.pseudonyms import pseudonym
from evershelf.shops import landing
from evershelf.shops.adapter import NO_LINE, Adapter, Source

LONGEST_FIELD = 1 << 20  # characters of one CSV field


class Unreadable(Exception):
    """The file as a whole cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one raw file. `outcome` is landed, unchanged or rejected; `broken` counts lines that could not be read."""

    day: date
    source: str
    file: str
    outcome: str
    rows: int = 0
    broken: int = 0
    reason: str | None = None


def raw_days(adapter: Adapter, data: Path) -> list[date]:
    """Return the days for which a folder of raw files holds anything."""
    days = set()
    for source in adapter.sources:
        if source.file:
            shape = re.compile(re.escape(source.file).replace(re.escape("{day}"), r"(\d{4}-\d{2}-\d{2})") + r"(?:\.gz)?$")
            matches = (shape.search(path.relative_to(data).as_posix()) for path in data.glob(source.file.replace("{day}", "*") + "*"))
            days |= {date.fromisoformat(match[1]) for match in matches if match}
    return sorted(days)


def take_in(adapter: Adapter, data: Path, day: date) -> list[Delivery]:
    """Take in every raw file of a day that is there."""
    found = ((source, _raw_file(source, data, day)) for source in adapter.sources if source.file)
    gone = forgotten.read()
    return [_take_in(source, path, day, gone) for source, path in found if path]


def _raw_file(source: Source, data: Path, day: date) -> Path | None:
    plain = data / source.file.format(day=day.isoformat())
    return next((path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()), None)


def _take_in(source: Source, path: Path, day: date, gone: Forgotten) -> Delivery:
    buffer = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as packed, _opened(path) as raw:
            take = _take_csv if source.format == "csv" else _take_json
            rows, broken = take(source, _text_only(raw), cast("BinaryIO", packed), gone)
        if rows == broken:
            raise Unreadable("no line of it can be read" if rows else "it has no rows")
    except (Unreadable, EOFError, OSError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        reason = _explain(error)
        if not landing.landed_files(source.name, day):
            landing.reject(source.name, day, landing.Rejection(file=path.name, reason=reason))
        return Delivery(day, source.name, path.name, "rejected", reason=reason)
    name, content = f"door.{source.format}.gz", buffer.getvalue()
    inside = landing.landing_folder(source.name, day) / name
    if inside.is_file() and inside.read_bytes() == content and not landing.rejection(source.name, day):
        return Delivery(day, source.name, path.name, "unchanged", rows, broken)
    landing.land(source.name, day, name, content)
    return Delivery(day, source.name, path.name, "landed", rows, broken)


def _opened(path: Path) -> BinaryIO:
    if path.stat().st_size == 0:
        raise Unreadable("the file is empty")
    return cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def _explain(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the gzip file ends too early (half-written?)"
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return f"the gzip file is damaged ({error})"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    return str(error)


def _take_csv(source: Source, raw: BinaryIO, packed: BinaryIO, gone: Forgotten) -> tuple[int, int]:
    """Write the rows with one more column, NO_LINE; return how many there were, forgotten shoppers' aside, and how many of them could not be read."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline=""), strict=False)
    header = next(reader, [])
    if source.user_column not in header:
        raise Unreadable(f"the column {source.user_column} is missing; found are {_columns_found(source, header)}")
    user = header.index(source.user_column)
    texts = [header.index(name) for name in source.free_text if name in header]
    kept = [place for place, name in enumerate(header) if name in source.columns]
    if twice := sorted({header[place] for place in kept if header.count(header[place]) > 1}):
        raise Unreadable(f"more than one column is named {', '.join(twice)}")
    text = io.TextIOWrapper(packed, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(header[place] for place in kept), NO_LINE])
    rows = broken = 0
    for row in reader:
        if not row:
            continue
        rows += 1
        if len(row) != len(header):
            broken += 1
            writer.writerow([*[""] * len(kept), f"line {reader.line_num}: {len(row)} fields instead of {len(header)}"])
        else:
            row[user] = pseudonym(plain_id(row[user])) if row[user].strip() else ""
            if gone.covers(row[user]):
                rows -= 1
                continue
            for text_column in texts:
                row[text_column] = masked(row[text_column])
            writer.writerow([*(row[place] for place in kept), ""])
    text.detach()
    return rows, broken


def _columns_found(source: Source, header: list[str]) -> str:
    """Name the columns that the adapter knows and count the others: without a header line the "names" are a shopper's row."""
    known = [name for name in source.columns if name in header]
    unknown = sum(name not in source.columns for name in header)
    return ", ".join([*known, *([f"{unknown} unknown"] if unknown else [])]) or "none"


def _take_json(source: Source, raw: BinaryIO, packed: BinaryIO, gone: Forgotten) -> tuple[int, int]:
    """Write the rows, or for a line that cannot be read a row of NO_LINE alone; return the counts as `_take_csv` does."""
    decode, encode = msgspec.json.Decoder(dict[str, Any]).decode, msgspec.json.Encoder().encode
    rows = broken = 0
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            continue
        rows += 1
        try:
            delivered = decode(line)
            row = {name: delivered[name] for name in source.columns if name in delivered}
            if source.user_column and (user := row.get(source.user_column)) not in (None, ""):
                row[source.user_column] = pseudonym(plain_id(str(user)))
                if gone.covers(row[source.user_column]):
                    rows -= 1
                    continue
            for name in source.free_text:
                if written := row.get(name):
                    text = written if isinstance(written, str) else encode(written).decode()  # a number or a list is somebody's mistake, and may hold anything
                    if (safe := masked(text)) != text:
                        row[name] = safe
            inside = encode(row)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # half a surrogate pair has no bytes; a line may nest too deeply
            broken += 1
            inside = encode({NO_LINE: f"line {number}, {len(line)} bytes: {type(error).__name__}"})
        packed.write(inside + b"\n")
    return rows, broken


def _text_only(raw: BinaryIO) -> BinaryIO:
    """Return the raw file, or refuse it when its beginning is not text."""
    if b"\0" in raw.read(1 << 16):
        raise Unreadable("it is binary, not text")
    raw.seek(0)
    return raw


def plain_id(user: str) -> str:
    """Return an id as every system writes it: spreadsheets turn 17850 into 17850.0."""
    return re.sub(r"^(\d+)\.0+$", r"\1", user.strip())


def summary(deliveries: Iterable[Delivery]) -> Iterator[str]:
    """Yield one line per delivery."""
    for delivery in deliveries:
        what = f"{delivery.rows} rows" + (f", {delivery.broken} unreadable" if delivery.broken else "")
        yield f"{delivery.day} {delivery.source}: {delivery.outcome}, " + (f"{delivery.file}: {delivery.reason}" if delivery.reason else what)
