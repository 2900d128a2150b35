"""The data dictionary is what the contracts, their suites and the adapters say, and says something about everything."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evershelf import dictionary
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.tables import Column
from evershelf.shops import ADAPTERS, REAL_SHOPS

PAGE = Path(__file__).parents[2] / "docs" / "data-dictionary.md"


def column(table: str, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (one for known in dictionary.dictionary()["tables"] if known["name"] == table for one in known["columns"] if one["name"] == name)
    return found


def test_the_page_is_what_the_contracts_say() -> None:
    assert PAGE.read_text() == dictionary.page(), "docs/data-dictionary.md is not what the contracts say: `evershelf dictionary --out docs/data-dictionary.md`"


def test_a_changed_contract_changes_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed = {**LAKE_TABLES["orders"].columns, "gift": Column("string", "who gets it", unit="person")}
    monkeypatch.setitem(LAKE_TABLES, "orders", replace(LAKE_TABLES["orders"], columns=changed))
    CliRunner().invoke(dictionary.command, ["--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() != PAGE.read_text()
    assert "| `gift` | `string` | person | who gets it |" in (tmp_path / "page.md").read_text()


def test_every_column_has_a_meaning_and_every_number_and_time_a_unit() -> None:
    for table in LAKE_TABLES.values():
        assert table.meaning and table.without
        for name, one in table.columns.items():
            assert one.meaning, f"{table.name}.{name}"
            assert one.unit or not one.type.startswith(("int", "bigint", "double", "timestamp", "date")), f"{table.name}.{name} has no unit"


def test_every_required_column_of_a_table_is_checked() -> None:
    for table in dictionary.dictionary()["tables"]:
        for one in table["columns"]:
            assert not one["required"] or any(check.startswith("not null") for check in one["checks"]), f"{table['name']}.{one['name']}"


def test_every_column_that_an_adapter_feeds_names_its_raw_columns() -> None:
    for name in REAL_SHOPS:
        for feed in ADAPTERS[name].feeds:
            for fed in feed.columns:
                assert column(feed.table, fed)["sources"], f"{name}: {feed.table}.{fed}"
    assert column("orders", "price")["sources"] == {"simulator/orders": ["price"], "online_retail/lines": ["UnitPrice"]}
    assert column("events", "type")["sources"]["online_retail/lines"] == []  # made: every line is a purchase
    assert column("products", "brand")["sources"]["icecat/catalogue"] == ["supplier"]


def test_checks_name_the_reason_or_hold_the_day_back() -> None:
    assert "at least 1 (quantity not positive)" in column("orders", "quantity")["checks"]
    assert "not null where type != search (missing item)" in column("events", "item_id")["checks"]
    assert "not null" in column("orders", "transaction_class")["checks"]


def test_a_program_gets_the_same_as_json() -> None:
    printed = json.loads(CliRunner().invoke(dictionary.command, ["--json"]).output)
    assert printed == dictionary.dictionary()
    assert "not a product" in printed["shops"]["online_retail/lines"]


def test_a_suite_may_ask_for_what_the_page_has_no_words_for() -> None:
    assert dictionary._check({"type": "expect_column_values_to_match_regex", "kwargs": {"column": "x"}}) == "column values to match regex"
