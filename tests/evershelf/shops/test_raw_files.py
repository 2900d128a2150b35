"""Raw files that are not one per day, and adapters that are found by their name: what is wrong is named, and nothing is lost."""

import gzip
import io
import json
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evershelf.errors import InvalidSettings
from evershelf.pseudonyms import pseudonym
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, REAL_SHOPS, door, landing
from evershelf.shops.adapter import Source
from evershelf.shops.commands import ingest

DAY = date(2026, 11, 16)
ICECAT, RETAILROCKET = ADAPTERS["icecat"], ADAPTERS["retailrocket"]


def zipped(content: bytes, name: str = "1.json") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


GOOD = zipped(json.dumps([{"id": "1", "title": "Toner", "attr_n_weight": 2.0}, {"id": "2", "title": "Ink"}]).encode())
ACTION: dict[str, list[Any]] = {"user": [7], "item": [1], "event": ["view"], "ts": [int(datetime(2026, 11, 16, 12, tzinfo=UTC).timestamp())]}


def landed(source: str, day: date = DAY) -> list[dict[str, Any]]:
    (path,) = landing.landed_files(source, day)
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_a_dump_lands_on_the_day_of_its_delivery_alone_with_its_sparse_columns_as_a_map(home: Path, tmp_path: Path) -> None:
    (tmp_path / "1.json.zip").write_bytes(GOOD)
    assert door.raw_days(ICECAT, tmp_path) == []
    assert door.raw_days(ICECAT, tmp_path, DAY) == [DAY]
    assert door.take_in(ICECAT, tmp_path, DAY - timedelta(days=1), DAY) == []
    (delivery,) = door.take_in(ICECAT, tmp_path, DAY, DAY)
    assert (delivery.outcome, delivery.rows) == ("landed", 2)
    assert landed("catalogue") == [{"id": "1", "title": "Toner", "rest": {"attr_n_weight": 2.0}}, {"id": "2", "title": "Ink", "rest": {}}]
    assert door.take_in(ICECAT, tmp_path, DAY, DAY)[0].outcome == "unchanged"


def test_one_broken_part_refuses_the_whole_dump_and_leaves_the_one_before(home: Path, tmp_path: Path) -> None:
    (tmp_path / "1.json.zip").write_bytes(GOOD)
    door.take_in(ICECAT, tmp_path, DAY, DAY)
    (tmp_path / "2.json.zip").write_bytes(GOOD[:-10])
    (delivery,) = door.take_in(ICECAT, tmp_path, DAY, DAY)
    assert (delivery.outcome, delivery.file) == ("rejected", "2.json.zip")
    assert len(landed("catalogue")) == 2
    assert landing.rejection("catalogue", DAY) is None
    (later,) = door.take_in(ICECAT, tmp_path, DAY + timedelta(days=1), DAY + timedelta(days=1))
    refused = landing.rejection("catalogue", later.day)
    assert refused is not None and refused.file == "2.json.zip"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no zip at all", "the zip file cannot be unpacked (File is not a zip file)"),
        (GOOD.replace(b"Toner", b"Tuner"), "Bad CRC-32"),
        (zipped(b"[]", "readme.txt"), "the zip file holds no .json file"),
        (zipped(b'{"id": "1"}'), "1.json in it is no JSON array"),
        (zipped(b'[{"id": "1"}, {"id"'), "1.json in it is no JSON array"),
        (zipped(b"[" * 100_000), "1.json in it is no JSON array"),
        (zipped(b"[]"), "it has no rows"),
        (zipped(b"[1, null]"), "no line of it can be read"),
    ],
)
def test_a_dump_that_cannot_be_read_is_refused_by_name(home: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "1.json.zip").write_bytes(content)
    (delivery,) = door.take_in(ICECAT, tmp_path, DAY, DAY)
    refused = landing.rejection("catalogue", DAY)
    assert delivery.outcome == "rejected"
    assert refused is not None and (refused.file, refused.reason) == ("1.json.zip", delivery.reason)
    assert reason in refused.reason
    assert landing.landed_files("catalogue", DAY) == []


def test_a_zip_file_that_would_fill_the_memory_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LARGEST_UNPACKED", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.json", b"[" + b" " * (1 << 20) + b"]")
    (tmp_path / "1.json.zip").write_bytes(packed.getvalue())
    assert door.take_in(ICECAT, tmp_path, DAY, DAY)[0].reason == "the zip file unpacks to more than 1 MiB; have it delivered in parts"


def test_a_split_file_holds_no_raw_id_behind_the_door(home: Path, tmp_path: Path) -> None:
    (tmp_path / "events.parquet").write_bytes(parquet(**ACTION, email=["anna@example.com"]))
    (delivery,) = door.take_in(RETAILROCKET, tmp_path, DAY)
    assert delivery.outcome == "landed"
    assert landed("actions") == [{"user": pseudonym("7"), "item": 1, "event": "view", "ts": ACTION["ts"][0]}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"PAR1 and no more", "it is no whole Parquet file"),
        (parquet(**ACTION)[:-20], "it is no whole Parquet file"),
        (parquet(**{name: values for name, values in ACTION.items() if name != "ts"}), "the column ts is missing; found are user, item, event"),
        (parquet(**{name: values for name, values in ACTION.items() if name != "user"}), "the column user is missing; found are item, event, ts"),
        (parquet(**ACTION | {"ts": ["yesterday"]}), "the column ts holds string, no time"),
        (parquet(**ACTION | {"ts": [10**18]}), "no row of it has a time in the column ts"),
        (parquet(**{name: pa.array([], pa.int64()) for name in ACTION}), "it has no rows"),
    ],
)
def test_a_file_that_cannot_be_split_is_refused_by_name_and_holds_no_day_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.setenv("EVERSHELF_SHOP__ADAPTER", "retailrocket")
    load_settings.cache_clear()
    (tmp_path / "events.parquet").write_bytes(content)
    outcome = CliRunner().invoke(ingest, ["--data", str(tmp_path), "--json"])
    (rejected,) = json.loads(outcome.stdout.splitlines()[-1])["rejected"]
    assert outcome.exit_code == 3
    assert reason in rejected["reason"]
    assert landing.landing_days(("actions",)) == []


@pytest.mark.parametrize("kind", [pa.timestamp("us", tz="UTC"), pa.timestamp("ns"), pa.float64(), pa.int32()])
def test_times_of_every_kind_split_a_file_at_the_shops_midnight(home: Path, tmp_path: Path, kind: pa.DataType) -> None:
    seconds = [int(datetime(2026, 7, 1, 22, 59, 59, tzinfo=UTC).timestamp()) + more for more in (0, 1)]  # London is an hour ahead in July
    times = pa.array(seconds, pa.int64())
    times = times.cast(pa.timestamp("s")).cast(kind) if pa.types.is_timestamp(kind) else times.cast(kind, safe=False)
    (tmp_path / "events.parquet").write_bytes(parquet(user=[1, 2], item=[1, 1], event=["view", "view"], ts=times))
    days = door.raw_days(RETAILROCKET, tmp_path)
    assert days == [date(2026, 7, 1), date(2026, 7, 2)]
    assert [door.take_in(RETAILROCKET, tmp_path, day)[0].rows for day in days] == [1, 1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(1_400_000_000, 1_401_000_000), min_size=1, max_size=12))
def test_whatever_the_times_every_row_lands_once_or_the_file_is_refused(home: Path, tmp_path: Path, times: list[int | None]) -> None:
    count = len(times)
    rows = parquet(user=list(range(count)), item=["i"] * count, event=["view"] * count, ts=pa.array(times, pa.int64()))
    (tmp_path / "events.parquet").write_bytes(rows)
    taken = [delivery for day in door.raw_days(RETAILROCKET, tmp_path, DAY) for delivery in door.take_in(RETAILROCKET, tmp_path, day, DAY)]
    assert sum(delivery.rows for delivery in taken) == count or [delivery.outcome for delivery in taken] == ["rejected"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_zip_file_lands_its_rows_or_is_refused_with_a_reason(home: Path, tmp_path: Path, place: int, byte: int, cut: bool) -> None:
    (tmp_path / "1.json.zip").write_bytes(GOOD[:place] if cut else GOOD[:place] + bytes([byte]) + GOOD[place + 1 :])
    (delivery,) = door.take_in(ICECAT, tmp_path, DAY, DAY)
    assert delivery.reason if delivery.outcome == "rejected" else delivery.rows == 2


def test_every_shop_declares_sound_sources() -> None:
    for name in ("simulator", *REAL_SHOPS):
        adapter = ADAPTERS[name]
        assert adapter.name == name
        for source in adapter.sources:
            assert {"dt", "key"} <= source.typed.keys()
            assert set(source.must_have) <= source.columns.keys()


def test_an_id_cannot_hide_in_the_columns_that_nobody_named() -> None:
    about: dict[str, Any] = {"name": "x", "file": "x", "family": "x", "typed": {}, "rules": {}, "must_have": ()}
    with pytest.raises(ValueError, match="an id could be among what it takes"):
        Source(**about, format="jsonl", columns={"user": "string", "rest": "map<string,string>"}, user_column="user", rest="rest")
    with pytest.raises(ValueError, match="Parquet files alone"):
        Source(**about, format="csv", columns={"user": "string"}, user_column="user", day_column="at")


@pytest.mark.parametrize(("name", "said"), [("online-retail", "no adapter of evershelf/shops"), ("nosuch", "no adapter of evershelf/shops")])
def test_a_shop_that_does_not_exist_is_a_wrong_setting(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv("EVERSHELF_SHOP__ADAPTER", name)
    with pytest.raises(InvalidSettings, match=said):
        load_settings()


@pytest.mark.parametrize(
    ("name", "content", "said"), [("nowhere.adapter", "", "No module named"), ("door", "", "ADAPTER"), ("bad_shop.adapter", "ADAPTER = 1", "no evershelf")]
)
def test_a_module_that_holds_no_adapter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, said: str) -> None:
    (tmp_path / "bad_shop").mkdir()
    (tmp_path / "bad_shop" / "adapter.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidSettings, match=said):
        ADAPTERS[name]
