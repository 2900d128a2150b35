"""Hundreds of generated landing files, broken in every way that hypothesis finds: none crashes the day, each refusal has a name, and no good row is lost.

All files that the door lets in are published by one run per kind of file, so a variation costs no Spark job of its own.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evershelf import lake
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door, landing
from spark_jobs.outcomes import DayReport

pytestmark = pytest.mark.slow

DAY = date(2026, 11, 16)
GOOD = 3  # rows in each file that nothing is wrong with
every_way = settings(max_examples=220, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))

text = st.text(max_size=30)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    text,
    st.sampled_from(["1e400", "NaN", "-0", "\u2028", "2026-02-30", "0001-01-01", "\x85"]),
)
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)), max_leaves=8)
COLUMNS = ("event_id", "event_time", "received_at", "user_id", "session_id", "type", "item_id", "query", "position", "price", "currency", "slate", "new column")
broken_rows = st.dictionaries(st.sampled_from(COLUMNS), values, max_size=6).map(lambda row: json.dumps(row).encode())
odd_lines = st.sampled_from(
    [
        b"", b"   ", b"{", b"[]", b"null", b"17", b'"text"', b"{}", b'{"event_id": 1e999}', b'{"event_id": "\\ud800"}', b'{"a": 1, "a": 2}', b"[" * 3000,
        b"\xff\xfe\xfa", b'{"event_id": "caf\xe9"}', b'{"slate": "not a list", "event_id": "x"}', b'{"event_id": ' + b"9" * 400 + b"}",
        b'{"event_id": "' + b"x" * 5000 + b'"}', b"a,b,c", b"\x1b[0m",
    ]
)  # fmt: skip
bad_lines = st.one_of(broken_rows, odd_lines, st.binary(min_size=1, max_size=40).map(lambda line: line.replace(b"\0", b"").replace(b"\n", b"")))
cells = st.one_of(text, st.sampled_from(['"', '""', "\\", ",", "\r", "\n", "\r\n", "#", "'", "1,5", "\ufeff", "9" * 400, "NaN", " "])).map(
    lambda cell: cell.replace("\0", "")
)
bad_csv = st.one_of(
    st.lists(cells, max_size=10).map(lambda row: _csv([row])), st.sampled_from(['1,"never closed', '"', '1,2,"3"4,5', ",,,,,,,", "\r", "x" * 3000])
)

# what happens to a whole file: bytes in, bytes out; of WHOLE ones no good row may be lost
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda content: content,
    "BOM": lambda content: b"\xef\xbb\xbf" + content,
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "no last line end": lambda content: content.rstrip(b"\n"),
    "blank lines": lambda content: content.replace(b"\n", b"\n\n"),
}
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut gzip": lambda content: gzip.compress(content)[:-9],
    "half a gzip": lambda content: gzip.compress(content)[: len(gzip.compress(content)) // 2],
    "gzip with a wrong byte": lambda content: _flipped(gzip.compress(content)),
    "not gzip": lambda content: content,
    "zlib": zlib.compress,
    "gzip twice": lambda content: gzip.compress(gzip.compress(content)),
    "UTF-16": lambda content: gzip.compress(content.decode("utf-8", "replace").encode("utf-16")),
    "empty": lambda content: b"",
    "gzip of nothing": lambda content: gzip.compress(b""),
    "blanks": lambda content: gzip.compress(b" \n \n"),
    "binary": lambda content: gzip.compress(bytes(range(256)) * 9),
}


def _csv(rows: list[list[str]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue().rstrip("\n")


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


class Taken:
    """What the door made of the files so far: the good rows behind it, and why the others were refused."""

    def __init__(self, adapter: str, source: str, folder: Path) -> None:
        self.adapter, self.source, self.folder = ADAPTERS[adapter], source, folder
        self.good: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.files = 0

    def deliver(self, name: str, content: bytes, good: set[str], *, may_be_refused: bool) -> None:
        """Take one file in; the next one lands beside it, not in its place."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files += 1
        inside = landing.landing_folder(self.source, DAY)
        (delivery,) = door.take_in(self.adapter, self.folder, DAY)
        path.unlink()
        if delivery.outcome == "rejected":
            assert may_be_refused, f"{name} was refused: {delivery.reason}"
            assert delivery.reason
            self.refused[delivery.reason.partition(" (")[0]] += 1
            (inside / landing.REJECTED).unlink(missing_ok=True)
        else:
            (landed,) = [one for one in inside.iterdir() if one.name.startswith("door.")]
            assert isinstance(landed, Path)
            landed.rename(landed.parent / f"file-{self.files}.{self.adapter.source(self.source).landed_as}.gz")
            self.good |= good


def test_no_generated_file_of_json_lines_crashes_the_day_or_loses_a_good_row(
    home: Path, tmp_path: Path, run: Callable[..., DayReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSHELF_LAKE__MAX_QUARANTINED_SHARE", "0.99")
    load_settings.cache_clear()
    taken = Taken("simulator", "events", tmp_path / "raw")

    def good_row(number: int) -> dict[str, Any]:
        return {
            "event_id": f"good-{taken.files}-{number}",
            "event_time": f"{DAY}T12:00:00Z",
            "received_at": f"{DAY}T12:00:01Z",
            "type": "view",
            "item_id": "i1",
            "position": number + 1,
            "price": 2.5,
            "currency": "GBP",
        }

    @every_way
    @given(st.lists(bad_lines, max_size=6), st.sampled_from(sorted(WHOLE)), st.booleans(), st.randoms(use_true_random=False))
    def rows_go_wrong(bad: list[bytes], way: str, packed: bool, rng: Any) -> None:
        rows = [good_row(number) for number in range(GOOD)]
        lines = [*(json.dumps(row).encode() for row in rows), *bad]
        rng.shuffle(lines)
        content = WHOLE[way](b"\n".join(lines) + b"\n")
        name = f"{DAY}/events.jsonl" + (".gz" if packed else "")
        taken.deliver(name, gzip.compress(content) if packed else content, {row["event_id"] for row in rows}, may_be_refused=False)

    rows_go_wrong()
    for way, damage in DAMAGED.items():
        whole = b"".join(json.dumps(good_row(number)).encode() + b"\n" for number in range(GOOD))
        before = len(taken.good)
        taken.deliver(f"{DAY}/events.jsonl.gz", damage(whole), set(), may_be_refused=True)
        assert len(taken.good) == before, way
    assert taken.files >= 200 + len(DAMAGED)
    assert taken.refused.total() == len(DAMAGED), taken.refused

    rows = {"orders": {"order_id": "o", "line_id": "1", "ordered_at": f"{DAY}T12:00:00Z", "item_id": "i1", "quantity": 1, "price": 2.5, "currency": "GBP"}}
    rows["products"] = {"item_id": "i1", "title": "Oak Lamp", "valid_from": f"{DAY}T00:00:00Z"}
    for source, row in rows.items():
        landing.land(source, DAY, "door.jsonl.gz", gzip.compress(json.dumps(row).encode() + b"\n"))
    report = run(DAY)
    assert report.outcome == "published", report.why
    ids = lake.read("events", columns=["event_id"])["event_id"].to_pylist()
    assert taken.good <= set(ids)
    assert len(ids) == len(set(ids))
    assert set(report.counts["events"].reasons) <= {*taken.adapter.source("events").rules, "too late", "in the future"}
    counts = report.counts["events"]
    assert counts.rows_in == counts.rows_clean + counts.rows_quarantined + counts.rows_deduplicated == landing.count_rows(taken.adapter.source("events"), DAY)


def test_no_generated_csv_file_crashes_the_day_or_loses_a_good_row(
    home: Path, tmp_path: Path, run: Callable[..., DayReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSHELF_SHOP__ADAPTER", "online_retail")
    monkeypatch.setenv("EVERSHELF_LAKE__MAX_QUARANTINED_SHARE", "0.99")
    load_settings.cache_clear()
    taken = Taken("online_retail", "lines", tmp_path / "raw")
    columns = list(ADAPTERS["online_retail"].source("lines").columns)
    orders_of_columns = [columns, columns[::-1], [*columns[3:], *columns[:3]]]

    @every_way
    @given(
        st.lists(bad_csv, max_size=5),
        st.sampled_from(sorted(set(WHOLE) - {"blank lines"})),
        st.sampled_from(orders_of_columns),
        st.randoms(use_true_random=False),
    )
    def rows_go_wrong(bad: list[str], way: str, order: list[str], rng: Any) -> None:
        number = taken.files
        good = {f"{number}-{row}" for row in range(GOOD)}
        usual = {"StockCode": "22734", "Description": 'A "RED", BAG', "Quantity": "1", "InvoiceDate": f"{DAY} 12:00:00", "UnitPrice": "2.50", "CustomerID": "7"}
        rows = [{**usual, "InvoiceNo": invoice} for invoice in sorted(good)]
        header = order if number % 2 else [*order[:4], "Colour", *order[4:]]  # a column that nobody announced
        lines = [*(_csv([[row.get(name, "") for name in header]]) for row in rows), *bad]
        rng.shuffle(lines)
        taken.deliver(f"{DAY}.csv", WHOLE[way](("\n".join([_csv([header]), *lines]) + "\n").encode()), good, may_be_refused=False)

    rows_go_wrong()
    assert taken.files >= 200
    report = run(DAY)
    assert report.outcome == "published", report.why
    orders = Counter(lake.read("orders", columns=["order_id"])["order_id"].to_pylist())
    assert taken.good <= set(orders)
    assert max(orders[one] for one in taken.good) == 1
    counts = report.counts["lines"]
    assert counts.rows_in == counts.rows_clean + counts.rows_quarantined + counts.rows_deduplicated == landing.count_rows(taken.adapter.source("lines"), DAY)
