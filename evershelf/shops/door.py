"""The door: a shop's raw file of a day comes in, pseudonyms instead of user ids, whole or not at all.

Behind the door no file holds a raw id, whatever its length, nor a column that the adapter does not know, nor a card number, an e-mail address or a phone
number in free text, nor a row of a shopper who was forgotten. A line that cannot be read may hold an id anywhere,
so its text stays outside: a row with its number and what was wrong travels on in its place, and the lake counts it. A file that cannot be read at all is
refused by name, and the lake holds that day back; where an earlier delivery of the day is already inside, that one stays as it is.
"""

import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from evershelf import forgotten
from evershelf.errors import CommandFailed
from evershelf.forgotten import Forgotten
from evershelf.free_text import masked
from evershelf.pseudonyms import pseudonym
from evershelf.settings import load_settings
from evershelf.shops import landing
from evershelf.shops.adapter import NO_LINE, Adapter, Source

LONGEST_FIELD = 1 << 20  # characters of one CSV field
LARGEST_UNPACKED = 1 << 30  # bytes of a zip file's JSON
LONGEST_AGO, LONGEST_AHEAD = 62_135_596_800 - 86_400, 253_402_300_800 - 86_400  # seconds from 1970 to the calendar's first and last day, less one for the zone


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


def raw_days(adapter: Adapter, data: Path, delivered: date | None = None) -> list[date]:
    """Return the days for which a folder of raw files holds anything.

    Args:
        delivered: the day of the dumps that are there; without it they are passed over.
    """
    days = set()
    for source in adapter.sources:
        if "{day}" in source.file:
            shape = re.compile(re.escape(source.file).replace(r"\{day\}", r"(\d{4}-\d{2}-\d{2})").replace(r"\*", "[^/]*") + r"(?:\.gz)?$")
            matches = (shape.search(path.relative_to(data).as_posix()) for path in data.glob(source.file.replace("{day}", "*") + "*"))
            days |= {date.fromisoformat(match[1]) for match in matches if match}
        elif source.file:
            for path in _found(source.file, data):
                days |= _split_days(source, path) or ({delivered} if delivered else set())
    return sorted(days)


def take_in(adapter: Adapter, data: Path, day: date, delivered: date | None = None) -> list[Delivery]:
    """Take in every raw file of a day that is there; of the dumps only when they are of that day."""
    found = ((source, _raw_files(source, data, day, delivered)) for source in adapter.sources if source.file)
    gone = forgotten.read()
    return [_take_in(source, paths, day, gone) for source, paths in found if paths]


def _raw_files(source: Source, data: Path, day: date, delivered: date | None) -> list[Path]:
    paths = _found(source.file.replace("{day}", day.isoformat()), data)
    if "{day}" in source.file:
        return paths
    return [path for path in paths if (day in days if (days := _split_days(source, path)) else day == delivered)]


def _found(shape: str, data: Path) -> list[Path]:
    """Return the files of a shape, by name; where one is there plain and packed, the plain one."""
    return sorted({path.with_name(path.name.removesuffix(".gz")): path for path in (*data.glob(f"{shape}.gz"), *data.glob(shape)) if path.is_file()}.values())


def _take_in(source: Source, paths: list[Path], day: date, gone: Forgotten) -> Delivery:
    buffer = io.BytesIO()
    rows = broken = 0
    path = paths[0]
    try:
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as packed:
            for path in paths:
                some, bad = _take(source, path, day, cast("BinaryIO", packed), gone)
                rows, broken = rows + some, broken + bad
        if rows == broken:
            raise Unreadable("no line of it can be read" if rows else "it has no rows")
    except (Unreadable, EOFError, OSError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        reason = _explain(error)
        # a file that nobody can split says nothing about any landing day
        if not landing.landed_files(source.name, day) and (not source.day_column or _split_days(source, path)):
            landing.reject(source.name, day, landing.Rejection(file=path.name, reason=reason))
        return Delivery(day, source.name, path.name, "rejected", reason=reason)
    file = path.name if len(paths) == 1 else f"{len(paths)} files, {paths[0].name} to {path.name}"
    name, content = f"door.{source.landed_as}.gz", buffer.getvalue()
    inside = landing.landing_folder(source.name, day) / name
    if inside.is_file() and inside.read_bytes() == content and not landing.rejection(source.name, day):
        return Delivery(day, source.name, file, "unchanged", rows, broken)
    landing.land(source.name, day, name, content)
    return Delivery(day, source.name, file, "landed", rows, broken)


def _take(source: Source, path: Path, day: date, packed: BinaryIO, gone: Forgotten) -> tuple[int, int]:
    if path.stat().st_size == 0:
        raise Unreadable("the file is empty")
    if source.format == "parquet":
        return _take_json(source, _parquet_lines(source, path, day), packed, gone)
    if source.format == "json.zip":
        return _take_json(source, _zipped_lines(path), packed, gone)
    with cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as raw:
        return (_take_csv if source.format == "csv" else _take_json)(source, _text_only(raw), packed, gone)


def _zipped_lines(path: Path) -> Iterator[bytes]:
    """Yield every element of the JSON arrays in a zip file."""
    try:
        with zipfile.ZipFile(path) as packed:
            members = [member for member in packed.infolist() if member.filename.endswith(".json")]
            if not members:
                raise Unreadable("the zip file holds no .json file")
            if sum(member.file_size for member in members) > LARGEST_UNPACKED:
                raise Unreadable(f"the zip file unpacks to more than {LARGEST_UNPACKED >> 20} MiB; have it delivered in parts")
            arrays = [_elements(member.filename, packed.read(member)) for member in members]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged; packed by a method that Python lacks; with a password
        raise Unreadable(f"the zip file cannot be unpacked ({error})") from None
    for array in arrays:
        yield from map(bytes, array)


def _elements(name: str, content: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(f"{name} in it is no JSON array ({error})") from None


def _parquet_lines(source: Source, path: Path, day: date) -> Iterator[bytes]:
    """Yield the rows as JSON: of a file that is split those of a day."""
    rows, days = _parquet(source, path)
    if days is not None:
        import pyarrow.compute as pc

        rows = rows.filter(pc.equal(days, day))
    encode = msgspec.json.Encoder(enc_hook=str).encode
    yield from map(encode, rows.to_pylist())


def _split_days(source: Source, path: Path) -> set[date]:
    """Return the days between which a file is split; none for one that is not split or cannot be."""
    try:
        return set(_parquet(source, path)[1].unique().to_pylist()) if source.day_column and path.stat().st_size else set()
    except Unreadable:
        return set()


def _parquet(source: Source, path: Path) -> tuple[Any, Any]:
    """Return the known columns of a Parquet file as an Arrow table, and the shop's calendar day of each row (None of a file that is not split)."""
    now = path.stat()
    return _parquet_as_of(path, now.st_mtime_ns, now.st_size, tuple(source.columns), source.user_column, source.day_column)


@lru_cache(maxsize=2)  # a file of a year is asked for each of its days
def _parquet_as_of(path: Path, _changed: int, _size: int, known: tuple[str, ...], user_column: str, day_column: str) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise CommandFailed(f"{path.name} is read with pyarrow, which this role did not install (README, section Roles). Nothing came in.") from None
    try:
        names = pq.read_schema(path).names
        for needed in filter(None, (user_column, day_column)):
            if needed not in names:
                raise Unreadable(f"the column {needed} is missing; found are {_columns_found(known, names)}")
        kept = [name for name in known if name in names]
        if twice := sorted({name for name in kept if names.count(name) > 1}):
            raise Unreadable(f"more than one column is named {', '.join(twice)}")
        rows = pq.read_table(path, columns=kept)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"it is no whole Parquet file ({str(error).splitlines()[0]})") from None
    if not day_column:
        return rows, None
    times = rows[day_column]
    if pa.types.is_timestamp(times.type):
        seconds = pc.cast(times, pa.timestamp("s"), safe=False).cast(pa.int64())
    elif pa.types.is_integer(times.type) or pa.types.is_floating(times.type):
        seconds = pc.cast(pc.if_else(pc.and_(pc.greater_equal(times, -LONGEST_AGO), pc.less(times, LONGEST_AHEAD)), times, None), pa.int64(), safe=False)
    else:
        raise Unreadable(f"the column {day_column} holds {times.type}, no time")
    local = pc.local_timestamp(pc.cast(seconds, pa.timestamp("s", tz=load_settings().shop.timezone)))
    days = pc.cast(local, pa.date32())
    first = pc.min(days)
    if not first.is_valid:
        raise Unreadable(f"no row of it has a time in the column {day_column}" if rows.num_rows else "it has no rows")
    return rows, pc.fill_null(days, first)


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
    lines: list[str] = []  # of the record that is being read
    reader = csv.reader(_remembered(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline=""), lines), strict=False)
    header = next(reader, [])
    lines.clear()
    if source.user_column not in header:
        raise Unreadable(f"the column {source.user_column} is missing; found are {_columns_found(tuple(source.columns), header)}")
    user = header.index(source.user_column)
    texts = [header.index(name) for name in source.free_text if name in header]
    kept = [place for place, name in enumerate(header) if name in source.columns]
    if twice := sorted({header[place] for place in kept if header.count(header[place]) > 1}):
        raise Unreadable(f"more than one column is named {', '.join(twice)}")
    text = io.TextIOWrapper(packed, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(header[place] for place in kept), NO_LINE])
    rows = broken = 0
    for row in _rows(reader, lines, len(header)):
        if not row:
            continue
        rows += 1
        if len(row) != len(header):
            broken += 1
            writer.writerow([*[""] * len(kept), f"line {reader.line_num}: {len(row)} fields instead of {len(header)}"])
        else:
            row[user] = pseudonym(row[user]) if row[user].strip() else ""
            if gone.covers(row[user]):
                rows -= 1
                continue
            for text_column in texts:
                row[text_column] = masked(row[text_column])
            writer.writerow([*(row[place] for place in kept), ""])
    text.detach()
    return rows, broken


def _remembered(text: Iterable[str], lines: list[str]) -> Iterator[str]:
    for line in text:
        lines.append(line)
        yield line


def _rows(reader: Iterable[list[str]], lines: list[str], width: int) -> Iterator[list[str]]:
    """Yield the rows of a CSV file. A quote that is never closed takes the lines after it along, good rows among them: these are read one by one."""
    for row in reader:
        taken = lines.copy()
        lines.clear()
        if len(taken) > 1 and not _is_one_row(taken, width):
            for line in taken:
                yield from csv.reader([line])
        else:
            yield row


def _is_one_row(lines: list[str], width: int) -> bool:
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        return False
    return [len(row) for row in rows] == [width]


def _columns_found(names: tuple[str, ...], header: list[str]) -> str:
    """Name the columns that the adapter knows and count the others: without a header line the "names" are a shopper's row."""
    known = [name for name in names if name in header]
    unknown = sum(name not in names for name in header)
    return ", ".join([*known, *([f"{unknown} unknown"] if unknown else [])]) or "none"


def _take_json(source: Source, raw: Iterable[bytes], packed: BinaryIO, gone: Forgotten) -> tuple[int, int]:
    """Write the rows, or for a line that cannot be read a row of NO_LINE alone; return the counts as `_take_csv` does."""
    decode, encode = msgspec.json.Decoder(dict[str, Any]).decode, msgspec.json.Encoder().encode
    rows = broken = 0
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            continue
        rows += 1
        try:
            delivered = decode(line)
            row = {name: delivered[name] for name in source.columns if name in delivered and name != source.rest}
            if source.rest:
                given = delivered.get(source.rest)
                rest = {name: value for name, value in delivered.items() if name not in source.columns}
                row[source.rest] = {**given, **rest} if isinstance(given, dict) else {**({source.rest: given} if given else {}), **rest}
            if source.user_column and (user := row.get(source.user_column)) not in (None, ""):
                row[source.user_column] = pseudonym(str(user))
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
    """Return the raw file after its byte order mark, or refuse it when its beginning is not text."""
    beginning = raw.read(1 << 16)
    if b"\0" in beginning:
        raise Unreadable("it is binary, not text")
    raw.seek(len(codecs.BOM_UTF8) if beginning.startswith(codecs.BOM_UTF8) else 0)
    return raw


def summary(deliveries: Iterable[Delivery]) -> Iterator[str]:
    """Yield one line per delivery."""
    for delivery in deliveries:
        what = f"{delivery.rows} rows" + (f", {delivery.broken} unreadable" if delivery.broken else "")
        yield f"{delivery.day} {delivery.source}: {delivery.outcome}, " + (f"{delivery.file}: {delivery.reason}" if delivery.reason else what)
