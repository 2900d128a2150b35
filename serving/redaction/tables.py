"""Landing, the lake, and the Parquet files that are made from it."""

import csv
import gzip
import io
import json
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from filelock import FileLock, Timeout

from evershelf import lake, storage
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Table
from evershelf.shops import ADAPTERS, landing
from evershelf.shops.adapter import Adapter, Source
from evershelf.storage import ASIDE, Place
from serving.redaction.found import USER, Redaction

RAW = "raw"  # of the quarantine: the row as it landed, JSON
ABANDONED = timedelta(days=1)  # unfinished work that is older was left by something that died


def redact_lake(run: Redaction) -> None:
    """Take the forgotten out of landing and the lake, and note the published days whose landing has other rows than the reconciliation says."""
    adapter = ADAPTERS[run.settings.shop.adapter]
    with lake.turn(run.say):  # no day is published meanwhile
        landed = dict(_redact_landing(run, adapter))
        for name, table in LAKE_TABLES.items():
            if lake.exists(name):
                _redact_table(run, table, adapter)
        run.days = _changed_days(landed)


def delete_old_files(run: Redaction) -> None:
    """Delete the files of older versions that hold a row of the forgotten; the others stay, and with them those versions that are made of them alone."""
    adapter = ADAPTERS[run.settings.shop.adapter]
    with lake.turn(run.say):
        for name in LAKE_TABLES:
            if not lake.exists(name):
                continue
            folder, current = storage.at(lake.table_url(name)), lake.files(lake.open_table(name))
            for left in storage.glob(folder, f"{ASIDE}*"):  # of a day that was killed
                storage.remove(left)
            for within, path in storage.files_below(folder):
                if within in current or within.startswith("_delta_log/") or not within.endswith(".parquet"):
                    continue
                file = pq.ParquetFile(io.BytesIO(path.read_bytes()))
                if not all(_kept(run, file.read([column for column in (USER, "source", RAW) if column in file.schema_arrow.names]), adapter)):
                    path.unlink()
                    run.removed["lake: files of older versions"] += 1


def _redact_landing(run: Redaction, adapter: Adapter) -> Iterator[tuple[tuple[date, str], int]]:
    """Yield how many rows each landing day has now: (day, source), rows."""
    root = storage.at(run.settings.url("landing"))
    for source in (source for source in adapter.sources if source.user_column):
        for folder in storage.glob(root / source.name, f"{landing.PREFIX}*"):
            drop_abandoned(folder)
            day = date.fromisoformat(folder.name.removeprefix(landing.PREFIX))
            try:
                _redact_corrections(run, source, day)
                yield (day, source.name), sum(_redact_landed(run, source, path) for path in landing.landed_files(source.name, day))
            except (OSError, EOFError, ValueError, IndexError, zlib.error, csv.Error) as error:  # damaged on the disk: the other days are redacted all the same
                run.problem(f"{source.name} of {day} in landing cannot be read or written ({error}), so nobody knows who is in it. Deliver the day again.")


def _redact_landed(run: Redaction, source: Source, path: Place) -> int:
    """Take the rows of the forgotten out of one file; return how many are left."""
    while True:
        content = path.read_bytes()
        kept, left, removed = (_csv_without if source.landed_as == "csv" else _json_without)(run, source, gzip.decompress(content))
        if not removed:
            return left
        if path.read_bytes() == content:  # else it was delivered again this moment: look again
            buffer = io.BytesIO()
            with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as packed:  # as the door does: the same delivery is unchanged
                packed.write(kept)
            storage.replace(path, buffer.getvalue())
            run.removed[f"landing: {source.name}"] += removed
            return left


def _redact_corrections(run: Redaction, source: Source, day: date) -> None:
    """Empty what repairs say of whose a row is; the row is a guest's then."""
    repairs = landing.corrections(source.name, day)
    theirs = {row: {**values, source.user_column: None} for row, values in repairs.items() if run.gone.covers(values.get(source.user_column))}
    landing.correct(source.name, day, theirs)
    run.removed[f"landing: repairs of {source.name}"] += len(theirs)


def _json_without(run: Redaction, source: Source, content: bytes) -> tuple[bytes, int, int]:
    """Return the lines without those of the forgotten, how many are left, and how many went."""
    decode = msgspec.json.Decoder(msgspec.defstruct("Row", [(USER, Any, None)], rename={USER: source.user_column})).decode
    lines = [line for line in content.splitlines(keepends=True) if line.strip(b" \r\n")]
    kept = []
    for line in lines:
        with suppress(msgspec.MsgspecError):  # a line that is no JSON names nobody: the door saw to it
            if run.gone.covers(getattr(decode(line), USER)):
                continue
        kept.append(line)
    return b"".join(kept), len(kept), len(lines) - len(kept)


def _csv_without(run: Redaction, source: Source, content: bytes) -> tuple[bytes, int, int]:
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    user = header.index(source.user_column)
    kept = [row for row in rows if not run.gone.covers(row[user])]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *kept])
    return text.getvalue().encode(), len(kept), len(rows) - len(kept)


def _redact_table(run: Redaction, table: Table, adapter: Adapter) -> None:
    """Write the partitions anew that hold rows of the forgotten."""
    opened = lake.open_table(table.name)
    names = {field.name for field in opened.schema().fields}
    wanted = [USER] if USER in names else ["source", RAW] if RAW in names else []
    for partition in opened.partitions() if wanted else ():
        (day,) = map(str, partition.values())
        chosen = [(table.partition, "=", date.fromisoformat(day))]
        if all(_kept(run, opened.to_pyarrow_table(columns=wanted, filters=chosen), adapter)):
            continue
        rows = opened.to_pyarrow_table(filters=chosen)
        left = rows.filter(pa.array(_kept(run, rows, adapter)))
        about = lake.said({"redacted": day})
        if not lake.NO_BOUNDS.items() <= opened.metadata().configuration.items():
            opened.alter.set_table_properties(lake.NO_BOUNDS)
        write_deltalake(opened, left, mode="overwrite", predicate=f"{table.partition} = '{day}'", commit_properties=about)
        run.removed[f"lake: {table.name}"] += rows.num_rows - left.num_rows


def _kept(run: Redaction, rows: pa.Table, adapter: Adapter) -> list[bool]:
    """Return per row whether it stays."""
    if USER in rows.column_names:
        return list(run.kept(rows[USER]).to_pylist())
    if RAW in rows.column_names:
        return list(run.kept(_raw_user(adapter, *pair) for pair in zip(rows["source"].to_pylist(), rows[RAW].to_pylist(), strict=True)).to_pylist())
    return [True] * rows.num_rows


def _raw_user(adapter: Adapter, source: str, raw: str) -> str | None:
    """Return whose a quarantined row is."""
    column = next((one.user_column for one in adapter.sources if one.name == source), "")
    try:
        user = json.loads(raw).get(column)
    except (ValueError, AttributeError):  # it could not be read, which is why it is there; the door kept no text of it
        return None
    return user if isinstance(user, str) else None


def _changed_days(landed: dict[tuple[date, str], int]) -> list[date]:
    """Return the published days whose landing has other rows than the reconciliation says; days without a landing keep what is said of them."""
    if not lake.exists("reconciliation"):
        return []
    rows = lake.read("reconciliation", columns=["landing_dt", "source", "rows_in"], filters=[("outcome", "=", "published")]).to_pylist()
    return sorted({row["landing_dt"] for row in rows if landed.get((row["landing_dt"], row["source"]), row["rows_in"]) != row["rows_in"]})


def redact_files(run: Redaction) -> None:
    """Write candidates and the models' vectors of shoppers anew; remove what trainings that do not run have prepared."""
    for place, folder in {"candidates": storage.at(run.settings.url("candidates")), "models": storage.at(run.settings.url("models"))}.items():
        drop_abandoned(folder)
        for name, path in storage.files_below(folder):
            if name.startswith(ASIDE) or not name.endswith(".parquet"):
                continue
            rows = pq.ParquetFile(io.BytesIO(path.read_bytes())).read()
            if USER not in rows.column_names or all(kept := run.kept(rows[USER]).to_pylist()):
                continue
            buffer = io.BytesIO()
            pq.write_table(rows.filter(pa.array(kept)), buffer)
            storage.replace(path, buffer.getvalue())
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)  # Spark's checksum of the bytes before
            run.removed[place] += kept.count(False)
    drop_abandoned(run.settings.home)  # where snapshots are built
    drop_abandoned(run.settings.home / "training")  # what only measures trains aside
    for work in (run.settings.home / "training").glob("[!.]*/"):
        with suppress(Timeout), FileLock(work.with_suffix(".lock"), timeout=0):
            shutil.rmtree(work)
            run.removed["training: unfinished work"] += 1


def drop_abandoned(folder: Place) -> None:
    """Remove unfinished work that nobody finishes any more."""
    for left in storage.glob(folder, f"{ASIDE}*"):
        if time.time() - left.stat().st_mtime > ABANDONED.total_seconds():
            storage.remove(left) if left.is_dir() else left.unlink()


def published_again(run: Redaction) -> Iterator[tuple[date, date]]:
    """Yield the days to run again as ranges, first and last."""
    first = last = None
    for day in run.days:
        if first is None or last is None or day - last > timedelta(days=1):
            if first and last:
                yield first, last
            first = day
        last = day
    if first and last:
        yield first, last


def versions() -> dict[str, int]:
    return {name: DeltaTable(lake.table_url(name)).version() for name in LAKE_TABLES if lake.exists(name)}
