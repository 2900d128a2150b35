"""Shops whose files are not one per day reach the same three contracts, and the documented example is what it says."""

import hashlib
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from evershelf import lake, lineage, sql
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door, landing
from evershelf.shops.commands import ingest
from spark_jobs.outcomes import DayReport

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHOP_DATA", CHECKOUT / ".." / "shared" / "data"))
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set SHOP_DATA to a folder with icecat/ and retailrocket/")
MONDAY = date(2026, 11, 16)


@pytest.fixture
def shop(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(adapter: str, **settings: str) -> None:
        for name, value in {"SHOP__ADAPTER": adapter, **settings}.items():
            monkeypatch.setenv(f"EVERSHELF_{name}", value)
        load_settings.cache_clear()

    return use


def zipped(path: Path, rows: list[Any]) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{path.stem}", json.dumps(rows))
    path.write_bytes(content.getvalue())


def toner(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"{number}", "title": "Toner", "supplier": "Xerox", "price": 4995, "img_high": "http://x/1.jpg", "ean": ["009"], **fields}


def test_a_dump_in_parts_becomes_products_with_their_sparse_attributes(run: Callable[..., DayReport], shop: Callable[..., None], tmp_path: Path) -> None:
    shop("icecat", LAKE__MAX_QUARANTINED_SHARE="0.9")
    zipped(tmp_path / "1.json.zip", [toner(1, attr_t_product_type="Toner", attr_b_wifi=False, attr_n_weight=6.5, attr_t_none=None), toner(2), toner(2)])
    bad = [
        toner(3, title=" "), toner(4, price=0), toner(5, price="12.5"), toner(6, price=10**30), {"title": "No id"}, [], toner(7, price=None, title="Dear me"),
        toner(8, id="8" * 2000),
    ]  # fmt: skip
    zipped(tmp_path / "2.json.zip", bad)
    (delivery,) = door.take_in(ADAPTERS["icecat"], tmp_path, MONDAY, MONDAY)
    assert (delivery.file, delivery.rows, delivery.broken) == ("2 files, 1.json.zip to 2.json.zip", 11, 1)
    report = run(MONDAY)
    assert report.outcome == "published", report.why
    assert report.counts["catalogue"].reasons == {
        "missing title": 1, "price not positive": 1, "price not in whole cents": 2, "missing key": 1, "unreadable line": 1, "field too long": 1,
    }  # fmt: skip
    assert report.counts["catalogue"].rows_deduplicated == 1
    products = {row["item_id"]: row for row in lake.read("products").to_pylist()}
    assert set(products) == {"1", "2", "7"}
    one = products["1"]
    assert dict(one["attributes"]) == {"attr_t_product_type": "Toner", "attr_b_wifi": "false", "attr_n_weight": "6.5", "ean": '["009"]'}
    assert (one["price"], one["currency"], one["brand"], one["category_path"], one["description"]) == (49.95, "GBP", "Xerox", "Toner", None)
    assert (one["dt"], one["valid_from"], one["image"]) == (MONDAY, datetime(2026, 11, 16, tzinfo=UTC), "http://x/1.jpg")
    assert (products["7"]["price"], products["7"]["currency"]) == (None, None)


def test_actions_are_split_at_the_shops_midnight_and_become_events_and_products(
    run: Callable[..., DayReport], shop: Callable[..., None], tmp_path: Path
) -> None:
    shop("retailrocket", SHOP__TIMEZONE="Asia/Tokyo", LAKE__MAX_QUARANTINED_SHARE="0.9")
    midnight = int(datetime(2026, 11, 15, 15, tzinfo=UTC).timestamp())  # in Tokyo
    rows = [
        (7, 1, "view", midnight - 1), (7, 1, "view", midnight), (7, 1, "cart", midnight + 5), (8, 1, "buy", midnight + 9), (7, 1, "view", midnight),
        (7, 2, "dance", midnight), (7, None, "view", midnight), (None, 3, "view", midnight), (7, 4, "view", 10**18), (7, 4, "view", None),
    ]  # fmt: skip
    pq.write_table(pa.table(dict(zip(("user", "item", "event", "ts"), zip(*rows, strict=True), strict=True))), tmp_path / "events.parquet")
    adapter = ADAPTERS["retailrocket"]
    sunday, monday = door.raw_days(adapter, tmp_path)
    assert (sunday.isoformat(), monday) == ("2026-11-15", MONDAY)
    taken = [door.take_in(adapter, tmp_path, day)[0] for day in (sunday, monday)]
    assert [delivery.rows for delivery in taken] == [3, 7]
    assert run(sunday).counts["actions"].reasons == {"bad time": 2}
    report = run(monday)
    assert report.counts["actions"].reasons == {"unknown type": 1, "missing item": 1, "missing user": 1}
    assert report.counts["actions"].rows_deduplicated == 1
    events = lake.read("events").to_pylist()
    assert Counter((row["type"], row["item_id"], row["dt"]) for row in events) == {
        ("view", "1", sunday): 1, ("view", "1", monday): 1, ("cart", "1", monday): 1, ("purchase", "1", monday): 1,
    }  # fmt: skip
    assert len({row["user_id"] for row in events}) == 2
    assert {(row["item_id"], row["title"], row["dt"]) for row in lake.read("products").to_pylist()} == {("1", "Item 1", day) for day in (sunday, monday)}


def test_the_documented_example_gives_what_the_page_says(
    run: Callable[..., DayReport], shop: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    page = (CHECKOUT / "docs" / "adapters.md").read_text()
    blocks = dict(re.findall(r"```(csv|python|sql)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "our_shop").mkdir()
    (tmp_path / "our_shop" / "adapter.py").write_text(blocks["python"])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "2026-11-16.csv").write_text(blocks["csv"])
    monkeypatch.syspath_prepend(tmp_path)
    shop("our_shop.adapter")
    assert CliRunner().invoke(ingest, ["--data", str(tmp_path / "raw")]).exit_code == 0
    report = run(MONDAY)
    counts = report.counts["sales"]
    assert report.outcome == "published", report.why
    assert (counts.rows_in, counts.rows_clean, dict(counts.reasons), counts.rows_deduplicated) == (5, 3, {"quantity not positive": 1}, 1)
    (commit, *_) = lineage.commits("orders")
    (file,) = landing.landed_files("sales", MONDAY)
    assert commit["days"] == ["2026-11-16"]
    assert commit["inputs"] == {f"sales/landing_dt=2026-11-16/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()[:16]}
    answer = sql.query(blocks["sql"]).to_pylist()
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page[page.index("| order_id") :].split("\n\n")[0].splitlines()]
    assert [heading, *rows] == [list(answer[0]), *([str(value) for value in row.values()] for row in answer)]


@real_data
def test_a_quarter_of_the_real_catalogue_comes_in_whole(run: Callable[..., DayReport], shop: Callable[..., None], tmp_path: Path) -> None:
    shop("icecat")
    (tmp_path / "4.json.zip").symlink_to(DATA.resolve() / "icecat" / "4.json.zip")
    door.take_in(ADAPTERS["icecat"], tmp_path, MONDAY, MONDAY)
    report = run(MONDAY)
    counts = report.counts["catalogue"]
    assert (report.outcome, counts.rows_clean, counts.rows_quarantined) == ("published", counts.rows_in, 0), report.why
    products = lake.read("products", ["title", "description", "price", "attributes"])
    assert products.num_rows == counts.rows_in > 4000
    assert len({name for row in products["attributes"].to_pylist() for name, _ in row}) > 1000
    assert products["description"].null_count > 0


@real_data
def test_a_real_day_of_actions_comes_in_whole(run: Callable[..., DayReport], shop: Callable[..., None]) -> None:
    shop("retailrocket")
    day = date(2015, 6, 3)
    (delivery,) = door.take_in(ADAPTERS["retailrocket"], DATA / "retailrocket", day)
    counts = run(day).counts["actions"]
    assert (counts.rows_in, counts.rows_clean) == (delivery.rows, delivery.rows)
    assert {row["type"] for row in lake.read("events", ["type"]).to_pylist()} == {"view", "cart", "purchase"}
