"""Read from the lake without Spark."""

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from evershelf import lake
from evershelf.contracts import LAKE_TABLES

FIRST = date(2026, 3, 1)


def describe(rng: random.Random, day: date) -> dict[str, Any]:
    at = datetime(day.year, day.month, day.day, rng.randrange(24), tzinfo=UTC)
    return {"item_id": f"i{rng.randrange(30)}", "title": f"{rng.random()}", "valid_from": at, "dt": day, "landing_dt": day + timedelta(days=rng.randrange(3))}


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_description_of_each_item_is_found_whatever_the_days(home: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows = [describe(rng, FIRST + timedelta(days=rng.randrange(8))) for _ in range(120)]
    write_deltalake(lake.table_url("products"), pa.Table.from_pylist(rows), partition_by=[LAKE_TABLES["products"].partition])
    for until in (None, FIRST + timedelta(days=3)):
        newest: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["valid_from"], row["landing_dt"])):
            if until is None or row["dt"] <= until:
                newest[row["item_id"]] = row
        found = lake.newest_products(["item_id", "title"], until=until).to_pylist()
        moments = {item: (row["valid_from"], row["landing_dt"]) for item, row in newest.items()}  # of two at one moment either will do
        assert {row["item_id"]: (row["valid_from"], row["landing_dt"]) for row in found} == moments
        assert [row["item_id"] for row in found] == sorted(newest)
        assert {row["title"] for row in found} <= {row["title"] for row in rows}


def test_no_description_gives_no_rows(home: Path) -> None:
    row = describe(random.Random(0), FIRST)
    write_deltalake(lake.table_url("products"), pa.Table.from_pylist([row]), partition_by=["dt"])
    found = lake.newest_products(["item_id", "title"], until=FIRST - timedelta(days=1))
    assert found.num_rows == 0
    assert "title" in found.column_names
