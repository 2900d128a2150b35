"""Read from the lake without Spark."""

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from evershelf import lake

FIRST = date(2026, 3, 1)


def describe(rng: random.Random, item: int, day: date) -> dict[str, Any]:
    """Describe an item on a day; a shop may deliver old descriptions late, or the same one again."""
    valid_from = datetime(day.year, day.month, rng.randint(1, day.day), tzinfo=UTC)
    title = rng.choice([None, f"{item} on {day}"])
    return {"item_id": f"i{item}", "title": title, "valid_from": valid_from, "dt": day, "landing_dt": day + timedelta(days=rng.randrange(3))}


def publish(rows: list[dict[str, Any]]) -> int:
    write_deltalake(lake.table_url("products"), pa.Table.from_pylist(rows), partition_by=["dt"])
    return lake.open_table("products").version()


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_description_of_each_item_is_found_whatever_the_order_of_days(home: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows = [describe(rng, item, FIRST + timedelta(days=day)) for item in range(30) for day in range(8) if rng.random() < 0.5]
    version = publish(rows)
    for until in (None, FIRST + timedelta(days=3)):
        newest: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["valid_from"], row["dt"])):
            if until is None or row["dt"] <= until:
                newest[row["item_id"]] = row
        assert lake.newest_products(list(rows[0]), version, until).to_pylist() == [newest[item] for item in sorted(newest)]


def test_no_description_gives_no_rows(home: Path) -> None:
    version = publish([describe(random.Random(0), 1, FIRST) | {"title": "a"}])
    found = lake.newest_products(["item_id", "title"], version, FIRST - timedelta(days=1))
    assert (found.num_rows, found.column_names) == (0, ["item_id", "title"])
