"""The door lets a day in whole, without raw ids, or refuses it by name."""

import csv
import gzip
import io
import json
import os
import re
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from evershelf.pseudonyms import pseudonym
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, REAL_SHOPS, door, landing
from evershelf.shops.commands import ingest

DAY = date(2011, 12, 1)
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
GOOD = HEADER + '1,22734,"A ""RED"", BAG",2,2011-12-01 08:32:00,1.5,17850.0,United Kingdom\n1,22735,MUG,2,2011-12-01 08:32:00,1.5,,United Kingdom\n'
RETAIL = ADAPTERS["online_retail"]
SIMULATED = ADAPTERS["simulator"]


def deliver(folder: Path, content: bytes | str, name: str = "2011-12-01.csv") -> door.Delivery:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (delivery,) = door.take_in(RETAIL, folder, DAY)
    return delivery


def landed(source: str = "lines", day: date = DAY) -> str:
    (path,) = landing.landed_files(source, day)
    return gzip.decompress(path.read_bytes()).decode()


def test_door_replaces_user_ids_and_keeps_guests_and_quoted_text(home: Path, tmp_path: Path) -> None:
    assert deliver(tmp_path / "raw", GOOD).outcome == "landed"
    lines = landed().splitlines()
    assert lines[1] == f'1,22734,"A ""RED"", BAG",2,2011-12-01 08:32:00,1.5,{pseudonym("17850")},United Kingdom,'
    assert lines[2] == "1,22735,MUG,2,2011-12-01 08:32:00,1.5,,United Kingdom,"


def test_door_never_writes_a_raw_id_under_home(home: Path, tmp_path: Path) -> None:
    broken = GOOD + "only,three,17850.0\n" + "9" * 10_000 + "\n"
    assert deliver(tmp_path / "raw", broken).broken == 2
    assert all(b"17850" not in _content(path) and b"9999" not in _content(path) for path in home.rglob("*") if path.is_file())


def test_a_refusal_names_known_columns_only_for_without_a_header_the_first_row_stands_there(home: Path, tmp_path: Path) -> None:
    headless = deliver(tmp_path / "raw", GOOD.removeprefix(HEADER))
    assert headless.reason == "the column CustomerID is missing; found are 8 unknown"
    assert b"17850" not in b"".join(_content(path) for path in home.rglob("*") if path.is_file())
    renamed = deliver(tmp_path / "raw", GOOD.replace("CustomerID", "Client"))
    assert renamed.reason is not None
    assert "InvoiceNo, " in renamed.reason
    assert renamed.reason.endswith("1 unknown")


def test_door_passes_no_second_user_column(home: Path, tmp_path: Path) -> None:
    assert deliver(tmp_path / "raw", "CustomerID," + HEADER + "17850,1,22734,BAG,2,2011-12-01 08:32:00,1.5,17850,France\n").outcome == "rejected"
    assert landing.landed_files("lines", DAY) == []


def test_door_takes_columns_that_nobody_knows_even_with_one_name(home: Path, tmp_path: Path) -> None:
    padded = "".join(f"{line},,\n" for line in GOOD.splitlines())
    assert deliver(tmp_path / "raw", padded).outcome == "landed"


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_door_masks_card_numbers_addresses_and_phone_numbers_in_free_text(home: Path, tmp_path: Path) -> None:
    assert deliver(tmp_path / "raw", GOOD.replace("MUG", "MUG for ann@shop.example 4111-1111-1111-1111")).outcome == "landed"
    assert "1,22735,MUG for *** ***,2," in landed()
    day = tmp_path / "raw" / DAY.isoformat()
    day.mkdir()
    queries = ["call 07911 123456", "ean 4006381333931", 4111111111111111, {"to": "ann@shop.example"}, None]
    (day / "events.jsonl").write_text("".join(json.dumps({"event_id": str(place), "query": query}) + "\n" for place, query in enumerate(queries)))
    door.take_in(SIMULATED, tmp_path / "raw", DAY)
    assert [json.loads(line).get("query") for line in landed("events").splitlines()] == ["call ***", queries[1], "***", '{"to":"***"}', None]


@pytest.mark.parametrize("shop", ["simulator", *REAL_SHOPS])
def test_every_adapter_names_the_columns_in_which_people_write(shop: str) -> None:
    """Raw columns that end as a query, a title or a description."""
    adapter = ADAPTERS[shop]
    for feed in adapter.feeds:
        sql = " ".join(feed.columns.get(name, "") for name in ("query", "title", "description"))
        for source in (source for source in adapter.sources if source.family == feed.family):
            ids = {"key", "at", feed.columns.get("item_id")}
            typed = " ".join(made for name, made in source.typed.items() if name not in ids and re.search(rf"\b{name}\b", sql))
            assert {name for name in source.columns if re.search(rf"\b{name}\b", typed)} <= set(source.free_text), source.name


def test_door_hashes_an_id_of_ten_kilobytes_like_any_other(home: Path, tmp_path: Path) -> None:
    long = "x" * 10_000
    assert deliver(tmp_path / "raw", GOOD.replace("17850.0", long)).outcome == "landed"
    assert pseudonym(long) in landed()


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "2011-12-01.csv", "the file is empty"),
        (HEADER, "2011-12-01.csv", "it has no rows"),
        (os.urandom(5000) + b"\0", "2011-12-01.csv", "binary"),
        (gzip.compress(GOOD.encode())[:60], "2011-12-01.csv.gz", "half-written"),
        (b"not gzip at all", "2011-12-01.csv.gz", "damaged"),
        (GOOD.replace("CustomerID", "Client"), "2011-12-01.csv", "the column CustomerID is missing"),
        (GOOD.replace("StockCode", "CustomerID"), "2011-12-01.csv", "more than one column is named CustomerID"),
        (GOOD.replace("MUG", "M\xdcG").encode("latin-1"), "2011-12-01.csv", "not UTF-8"),
        (HEADER + "a,b\nc,d\n", "2011-12-01.csv", "no line of it can be read"),
    ],
)
def test_door_refuses_what_it_cannot_read_by_name(home: Path, tmp_path: Path, content: bytes | str, name: str, reason: str) -> None:
    delivery = deliver(tmp_path / "raw", content, name)
    assert delivery.outcome == "rejected"
    refused = landing.rejection("lines", DAY)
    assert refused is not None
    assert (refused.file, reason in refused.reason) == (name, True), refused
    assert landing.landed_files("lines", DAY) == []


def test_a_good_delivery_replaces_a_refused_one_and_the_same_again_changes_nothing(home: Path, tmp_path: Path) -> None:
    deliver(tmp_path / "raw", b"")
    assert deliver(tmp_path / "raw", GOOD).outcome == "landed"
    assert landing.rejection("lines", DAY) is None
    (path,) = landing.landed_files("lines", DAY)
    before = path.stat()
    assert deliver(tmp_path / "raw", GOOD).outcome == "unchanged"
    assert path.stat() == before


def test_an_unreadable_delivery_leaves_the_good_one_that_is_inside(home: Path, tmp_path: Path) -> None:
    deliver(tmp_path / "raw", GOOD)
    inside = landed()
    assert deliver(tmp_path / "raw", b"").outcome == "rejected"
    assert (landed(), landing.rejection("lines", DAY)) == (inside, None)


def test_json_lines_that_cannot_be_read_travel_on_without_their_text(home: Path, tmp_path: Path) -> None:
    day = tmp_path / "raw" / DAY.isoformat()
    day.mkdir(parents=True)
    good = {"event_id": "1", "user_id": 17850, "type": "search", "query": "🎁 emoji", "email": "somebody@example.com"}
    (day / "events.jsonl").write_text(json.dumps(good) + '\n{"user_id": "17850", "typ\n\n[1]\n{"user_id": "\\ud800"}\n')
    (delivery,) = door.take_in(SIMULATED, tmp_path / "raw", DAY)
    assert (delivery.rows, delivery.broken) == (4, 3)
    rows = [json.loads(line) for line in landed("events").splitlines()]
    assert rows[0] == {"event_id": "1", "user_id": pseudonym("17850"), "type": "search", "query": "🎁 emoji"}
    assert [list(row) for row in rows[1:]] == [["_broken"]] * 3


def test_a_json_line_that_nests_too_deeply_is_one_broken_line(home: Path, tmp_path: Path) -> None:
    value = "[" * 100_000 + "]" * 100_000
    day = tmp_path / "raw" / DAY.isoformat()
    day.mkdir(parents=True)
    (day / "events.jsonl").write_text(f'{{"event_id": "1", "user_id": "17850"}}\n{{"user_id": "17850", "query": {value}}}\n')
    (delivery,) = door.take_in(SIMULATED, tmp_path / "raw", DAY)
    assert (delivery.outcome, delivery.rows, delivery.broken) == ("landed", 2, 1)
    assert [list(json.loads(line)) for line in landed("events").splitlines()] == [["event_id", "user_id"], ["_broken"]]


def test_ingest_takes_the_other_days_in_and_exits_with_an_error(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_SHOP__ADAPTER", "online_retail")
    load_settings.cache_clear()
    raw = tmp_path / "raw"
    raw.mkdir()
    for day, content in (("2011-11-30", GOOD), ("2011-12-01", ""), ("2011-12-02", GOOD)):
        (raw / f"{day}.csv").write_text(content)
    outcome = CliRunner().invoke(ingest, ["--data", str(raw), "--from", "2011-12-01", "--json"])
    assert outcome.exit_code == 3
    report = json.loads(outcome.stdout.splitlines()[-1])
    assert report["rejected"] == [{"day": "2011-12-01", "source": "lines", "file": "2011-12-01.csv", "reason": "the file is empty"}]
    assert landing.landing_days(("lines",)) == [date(2011, 12, 1), date(2011, 12, 2)]


def test_a_new_column_of_the_catalogue_is_kept_among_its_attributes(home: Path, tmp_path: Path) -> None:
    (tmp_path / f"{DAY}").mkdir()
    product = {"item_id": "i1", "title": "Lamp", "attributes": {"colour": "red"}, "energy class": "A"}
    (tmp_path / f"{DAY}" / "products.jsonl").write_text(json.dumps(product))
    door.take_in(ADAPTERS["simulator"], tmp_path, DAY)
    (row,) = [json.loads(line) for line in gzip.decompress(landing.landed_files("products", DAY)[0].read_bytes()).splitlines()]
    assert row["attributes"] == {"colour": "red", "energy class": "A"}


def test_an_open_quote_takes_no_good_row_along(home: Path, tmp_path: Path) -> None:
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    good = '{},22734,"A ""RED"", BAG",1,2026-03-10 12:00:00,2.50,17850,UK'
    (tmp_path / f"{DAY}.csv").write_text("\n".join([header, good.format(1), '2,"never closed', good.format(3), good.format(4), '"', good.format(5), ""]))
    (delivery,) = door.take_in(ADAPTERS["online_retail"], tmp_path, DAY)
    assert (delivery.rows, delivery.broken) == (6, 2)
    text = gzip.decompress(landing.landed_files("lines", DAY)[0].read_bytes()).decode()
    assert [row["InvoiceNo"] for row in csv.DictReader(io.StringIO(text, newline=""))] == ["1", "", "3", "4", "", "5"]


def test_a_byte_order_mark_costs_no_row(home: Path, tmp_path: Path) -> None:
    (tmp_path / f"{DAY}").mkdir()
    (tmp_path / f"{DAY}" / "products.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"item_id": "i1", "title": "Lamp"}\n')
    (delivery,) = door.take_in(ADAPTERS["simulator"], tmp_path, DAY)
    assert (delivery.rows, delivery.broken) == (1, 0)
