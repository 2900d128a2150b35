"""A tombstone names nobody, stands once, and stays."""

import json
from datetime import date
from pathlib import Path

import pytest

from evershelf import forgotten, pseudonyms
from evershelf.pseudonyms import pseudonym, pseudonyms_ever, tombstone
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door, landing


def test_a_tombstone_covers_its_shopper_and_holds_neither_id_nor_pseudonym(home: Path) -> None:
    user = pseudonym("ann")
    assert not forgotten.read().covers(user)
    assert (forgotten.add(tombstone(user)), forgotten.add(tombstone(user))) == (True, False)
    known = forgotten.read()
    assert (known.covers(user), known.covers(pseudonym("bob")), known.covers(None)) == (True, False, False)
    stored = b"".join(str(path).encode() + path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert user.encode() not in stored and b"ann" not in stored


def test_whoever_had_a_hash_under_a_former_key_is_found_under_both(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pseudonym("ann")
    monkeypatch.setenv("EVERSHELF_PRIVACY__FORMER_USER_KEYS", json.dumps([(home / "user.key").read_text()]))
    monkeypatch.setenv("EVERSHELF_PRIVACY__USER_KEY", "the next key")
    load_settings.cache_clear()
    pseudonyms._key.cache_clear()
    assert pseudonyms_ever("ann") == [pseudonym("ann"), before]
    assert pseudonym("ann") != before


@pytest.mark.parametrize("adapter", ["online_retail", "simulator"])
def test_the_door_keeps_nothing_of_a_forgotten_shopper(home: Path, tmp_path: Path, adapter: str) -> None:
    day, raw = date(2011, 12, 1), tmp_path / "raw"
    (raw / str(day)).mkdir(parents=True)
    head = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    lines = [f"{place},22734,MUG,2,2011-12-01 08:32:00,1.5,{user},France\n" for place, user in enumerate(("17850.0", "12345", "", "17850"))]
    (raw / f"{day}.csv").write_text(head + "".join(lines))
    (raw / str(day) / "events.jsonl").write_text("".join(json.dumps({"event_id": str(place), "user_id": user}) + "\n" for place, user in enumerate((17850, 1))))
    forgotten.add(tombstone(pseudonym("17850")))
    (delivery,) = door.take_in(ADAPTERS[adapter], raw, day)
    (file,) = landing.landed_files(delivery.source, day)
    assert (delivery.rows, landing.count_rows(ADAPTERS[adapter].source(delivery.source), day)) == ((2, 2) if adapter == "online_retail" else (1, 1))
    assert file.is_file()
