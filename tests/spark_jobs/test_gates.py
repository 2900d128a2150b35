"""The suites are in step with the contracts, and Great Expectations judges counts of one pass as it would judge the rows."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evershelf.contracts import EVENT_TYPES, EVENTS, LAKE_TABLES, TRANSACTION_CLASSES
from evershelf.contracts.suites import suite
from evershelf.quality.docs import build_docs
from evershelf.quality.store import DayQuality
from evershelf.settings import load_settings
from spark_jobs.delta import Staged
from spark_jobs.gates import Profile, judge_landing, judge_rows

DAY, NEXT = date(2026, 11, 16), date(2026, 11, 17)
JUDGED = ("events", "orders", "products", "quarantine")


def row(number: int, **fields: Any) -> dict[str, Any]:
    noon = datetime(2026, 11, 16, 12, tzinfo=UTC)
    return {
        "event_id": f"e{number}", "event_time": noon, "received_at": noon, "landing_dt": DAY, "user_id": "u", "session_id": "s", "type": "view",
        "item_id": "i", "query": None, "position": None, "quantity": 1, "price": 2.0, "currency": "GBP", "propensity": None, **fields,
    }  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    def stage(days: dict[date, list[dict[str, Any]]]) -> Staged:
        kinds = {"string": pa.string(), "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(), "int": pa.int32(), "double": pa.float64()}
        flat = {name: column.type for name, column in EVENTS.columns.items() if "<" not in column.type and name != "dt"}
        for day, rows in days.items():
            folder = tmp_path / f"dt={day}"
            folder.mkdir()
            whole = [{**dict.fromkeys(flat), **one} for one in rows]
            pq.write_table(pa.Table.from_pylist(whole, pa.schema([(name, kinds[kind]) for name, kind in flat.items()])), folder / "part.parquet")
        return Staged(EVENTS, tuple(days), tmp_path)

    return stage


def test_suites_are_of_the_version_of_their_contract_and_ask_for_what_it_requires() -> None:
    for name in JUDGED:
        content, table = suite(name), LAKE_TABLES[name]
        assert (content["name"], content["meta"]["version"]) == (name, table.version)
        named = {one["kwargs"].get("column") for one in content["expectations"]} - {None}
        assert named | set(content["meta"]["watched"]) <= set(table.columns)
        given = {one["kwargs"]["column"] for one in content["expectations"] if one["type"] == "expect_column_values_to_not_be_null"}
        assert given >= {column for column, about in table.columns.items() if about.required}
        assert [one["kwargs"]["column_list"] for one in content["expectations"] if "column_list" in one["kwargs"]] == [
            list(dict.fromkeys([table.partition, *table.key]))
        ]
    sets = {
        (name, one["kwargs"]["column"]): one["kwargs"]["value_set"] for name in JUDGED for one in suite(name)["expectations"] if "value_set" in one["kwargs"]
    }
    assert tuple(sets["events", "type"]) == EVENT_TYPES
    assert tuple(sets["orders", "transaction_class"]) == TRANSACTION_CLASSES


def test_rows_that_keep_every_promise_pass_and_are_measured(home: Path, stage: Any) -> None:
    staged = stage({DAY: [row(1), row(2, type="search", item_id=None, query="lamp", price=None), row(3, price=8.0)], NEXT: [row(1, position=3)]})
    verdict, days = judge_rows(staged, load_settings())
    assert verdict.wrong == []
    assert verdict.result["success"]
    assert (days[DAY]["rows"], days[NEXT]["rows"]) == (3, 1)
    assert (days[DAY]["nulls"]["price"], days[DAY]["sums"]["price"]) == (1, 10.0)
    assert days[DAY]["spread"]["type"] == {"view": 2, "search": 1}
    assert days[DAY]["spread"]["price"] == {"2": 1, "6": 1}  # 2 = 2 ** (2 / 2), 8 = 2 ** (6 / 2)


def test_each_broken_promise_is_named_with_its_rows(home: Path, stage: Any) -> None:
    bad = [
        row(1), row(1), row(2, type="dance"), row(3, item_id=None), row(4, price=-1.0), row(5, currency="XXX"), row(6, received_at=None),
        row(7, user_id="u" * 1001), row(8, type="search", query=None), row(9, propensity=2.0),
    ]  # fmt: skip
    verdict, _ = judge_rows(stage({DAY: bad, NEXT: [row(1)]}), load_settings())  # the same key on another day is another row
    broken = {
        "dt, event_id": "compound columns to be unique", "type": "column values to be in set", "item_id": "column values to not be null",
        "price": "column values to be between", "currency": "column values to be in set", "received_at": "column values to not be null",
        "user_id": "column value lengths to be between", "query": "column values to not be null", "propensity": "column values to be between",
    }  # fmt: skip
    assert set(verdict.wrong) == {f"table events: {column}: 1 rows break `{kind}`" for column, kind in broken.items()}
    result = next(one for one in verdict.result["results"] if one["expectation_config"]["kwargs"].get("row_condition"))
    assert (result["result"]["element_count"], result["result"]["unexpected_count"]) == (10, 1)  # searches need no item


def test_a_delivery_is_judged_by_its_profile_and_shown_as_pages(home: Path, tmp_path: Path, stage: Any) -> None:
    good = Profile(source="events", missing=(), vanished=(), retyped=(), rows=10, volume=None, readable_keys=1.0, quarantined=0.1, reasons="bad time 1")
    assert judge_landing(good, load_settings()).wrong == []
    bad = Profile(
        source="orders", missing=("price",), vanished=("brand",), retyped=("stock",), rows=0, volume=0.001, readable_keys=0.5, quarantined=0.9, reasons="x 9"
    )
    verdict = judge_landing(bad, load_settings())
    assert verdict.wrong == [
        "orders: no row has the column price",
        "orders: the column brand is gone, which every day before it had",
        "orders: most values of the column stock are of another type",
        "orders: it has no rows",
        "orders: it has 0.001 times the rows of its usual day",
        "orders: only 50% of its rows have a readable key",
        "orders: 90% of its rows would go to quarantine (x 9)",
    ]
    rows, _ = judge_rows(stage({DAY: [row(1)]}), load_settings())
    day = DayQuality(day=DAY, result={"validations": [verdict.result, judge_landing(good, load_settings()).result, rows.result]})
    page = build_docs([day], tmp_path / "docs")
    assert page.is_file()
    pages = {path.parent.parent.parent.name: path.read_text() for path in (tmp_path / "docs" / "validations").rglob("*.html") if "orders" not in path.name}
    assert set(pages) == {"delivery", "events"}
    assert "event_id" in pages["events"]
    failed = next((tmp_path / "docs" / "validations").rglob("*landing orders.html"))
    assert "quarantined" in failed.read_text()
