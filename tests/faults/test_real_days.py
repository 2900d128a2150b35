"""Real days in any order, some of them twice, give the tables that the same days give in order."""

import hashlib
import json
import os
import random
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from evershelf import lake
from evershelf.contracts import LAKE_TABLES
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door
from spark_jobs.judged_landings import JudgedLandings
from spark_jobs.lake_daily import publish_days

DATA = Path(os.environ.get("SHOP_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "online_retail"
DAYS, TWICE, SEED = 60, 0.3, 20261126


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set SHOP_DATA to the folder that holds online_retail/")
def test_sixty_real_days_in_random_order_and_a_third_of_them_twice_are_the_days_in_order(
    spark: SparkSession, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSHELF_SHOP__ADAPTER", "online_retail")
    monkeypatch.setenv("EVERSHELF_PRIVACY__USER_KEY", "the same pseudonyms in both homes")
    days = [date.fromisoformat(path.stem) for path in sorted(DATA.glob("*.csv"))[:DAYS]]
    assert len(days) == DAYS
    chance = random.Random(SEED)
    mixed = days + chance.sample(days, round(TWICE * DAYS))
    chance.shuffle(mixed)
    found = []
    for name, order in (("in order", days), ("mixed", mixed)):
        monkeypatch.setenv("EVERSHELF_HOME", str(home / name))
        load_settings.cache_clear()
        for day in days:
            door.take_in(ADAPTERS["online_retail"], DATA, day)
        with lake.turn(), JudgedLandings(spark, ADAPTERS["online_retail"]) as landings:
            reports = list(publish_days(landings, order))
        assert Counter(report.outcome for report in reports) == {"published": len(order)}
        found.append({table: checksum(table) for table in LAKE_TABLES if lake.exists(table)})
    in_order, at_random = found
    assert set(in_order) >= {"events", "orders", "products", "quarantine", "reconciliation"}
    assert at_random == in_order


def checksum(table: str) -> str:
    """Return the SHA-256 of a table's rows, whatever files they lie in; the code's version aside."""
    rows = lake.read(table, columns=[name for name in LAKE_TABLES[table].columns if name != "code_version"]).to_pylist()
    lines = sorted(json.dumps({name: sorted(value) if isinstance(value, list) else value for name, value in row.items()}, default=str) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
