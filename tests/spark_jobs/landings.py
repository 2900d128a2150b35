"""A shop's landings of a few rows, and what is in the tables."""

import gzip
import json
from collections.abc import Sequence
from datetime import date
from typing import Any

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.shops import landing

MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2026, 11, day) for day in (16, 17, 18, 19))
Row = dict[str, Any]


def event(number: int, day: date, **fields: Any) -> Row:
    return {
        "event_id": f"e{number}",
        "event_time": f"{day}T12:00:00Z",
        "received_at": f"{day}T12:00:01Z",
        "user_id": f"u{number % 3}",
        "type": "view",
        "item_id": f"i{number}",
        **fields,
    }


def order(number: int, day: date, **fields: Any) -> Row:
    return {
        "order_id": f"o{number}", "line_id": "1", "ordered_at": f"{day}T12:00:00Z", "user_id": "u1", "item_id": "i1",
        "quantity": 1, "price": 2.5, "currency": "GBP", **fields,
    }  # fmt: skip


def product(number: int, day: date, **fields: Any) -> Row:
    return {"item_id": f"i{number}", "title": f"Oak Lamp {number}", "price": 2.5, "currency": "GBP", "valid_from": f"{day}T00:00:00Z", **fields}


def land(source: str, day: date, rows: Sequence[Row | str], name: str = "door.jsonl.gz") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    landing.land(source, day, name, gzip.compress("\n".join(lines).encode() + b"\n"))


def land_day(day: date, events: Sequence[Row | str]) -> None:
    land("events", day, events)
    land("orders", day, [order(day.day, day)])
    land("products", day, [product(number, day) for number in (1, 2)])


def content() -> dict[str, list[str]]:
    """Return every row of every table, as text and in order; code_version aside."""
    tables = {}
    for name in LAKE_TABLES:
        rows = lake.read(name).to_pylist()
        tables[name] = sorted(json.dumps({key: value for key, value in row.items() if key != "code_version"}, default=str, sort_keys=True) for row in rows)
    return tables


def reconciled() -> dict[tuple[date, str], tuple[int, int, int, int]]:
    rows = lake.read("reconciliation").to_pylist()
    return {(r["landing_dt"], r["source"]): (r["rows_in"], r["rows_clean"], r["rows_quarantined"], r["rows_deduplicated"]) for r in rows}
