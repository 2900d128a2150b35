"""`evershelf dictionary`: every table and column with its meaning, unit, checks and source, made from the contracts, their suites and the adapters."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.suites import DELIVERY, suite
from evershelf.contracts.tables import Table
from evershelf.shops import ADAPTERS, REAL_SHOPS
from evershelf.shops.adapter import Adapter, Feed, Source
from evershelf.shops.contract_rows import GATEWAY

_PLACE = re.compile(r"\{[^}]*\}")  # where a figure comes in
HEADER = """# Data dictionary

*Made by `evershelf dictionary --out docs/data-dictionary.md` from `evershelf/contracts`, its suites and the adapters. Do not edit it: a test compares.*

*Checks*: in brackets stands the reason under which a row that breaks the check goes to quarantine. What breaks a check without one holds the whole day back.
*Source*: the raw columns that each shop's adapter makes the column from; a shop that is not named leaves it null, and *made* is what no raw column holds.
"""


def dictionary() -> dict[str, Any]:
    """Return {"tables": [...], "shops": {...}, "delivery": [...]}: what the page says, for programs."""
    return {
        "tables": [_table(table) for table in LAKE_TABLES.values()],
        "shops": {
            f"{adapter.name}/{source.name}": dict(source.rules)
            for adapter in _adapters()
            for source in adapter.sources
            if adapter.name in REAL_SHOPS and source is not GATEWAY
        },
        "delivery": [{"check": _check(one), "says": one["meta"]["says"]} for one in suite(DELIVERY)["expectations"]],
    }


def _adapters() -> list[Adapter]:
    return [ADAPTERS[name] for name in ("simulator", *REAL_SHOPS)]


def _table(table: Table) -> dict[str, Any]:
    try:
        expectations = suite(table.name)["expectations"]
    except FileNotFoundError:  # written by the job itself, not from rows that somebody delivered
        expectations = [
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": name}} for name, column in table.columns.items() if column.required
        ]
    return {
        "name": table.name,
        "version": table.version,
        "meaning": table.meaning,
        "without": table.without,
        "key": list(table.key),
        "partition": table.partition,
        "checks": [_check(one) for one in expectations if "column" not in one["kwargs"]],
        "columns": [
            {
                "name": name,
                "type": column.type,
                "unit": column.unit,
                "meaning": column.meaning,
                "required": column.required,
                "checks": [_check(one) for one in expectations if one["kwargs"].get("column") == name],
                "sources": _sources(table, name),
            }
            for name, column in table.columns.items()
        ],
    }


def _check(expectation: Mapping[str, Any]) -> str:
    arguments, reason = expectation["kwargs"], expectation.get("meta", {}).get("reason")
    match expectation["type"]:
        case "expect_column_values_to_not_be_null":
            text = "not null"
        case "expect_column_values_to_be_in_set":
            text = f"one of {_value(arguments['value_set'])}"
        case "expect_column_values_to_be_of_type":
            text = f"is of type {arguments['type_']}"
        case "expect_column_value_lengths_to_be_between":
            text = f"{_bounds(arguments)} characters"
        case "expect_column_values_to_be_between":
            text = _bounds(arguments)
        case "expect_column_max_to_be_between":
            text = f"{arguments['column']} {_bounds(arguments)}"
        case "expect_compound_columns_to_be_unique":
            text = f"{', '.join(arguments['column_list'])} together unique"
        case other:  # a suite may ask for more than this page has words for
            text = other.removeprefix("expect_").replace("_", " ")
    if condition := arguments.get("row_condition"):
        text += f" where {_condition(condition)}"
    return f"{text} ({reason})" if reason else text


def _bounds(arguments: Mapping[str, Any]) -> str:
    low, high = (_value(arguments[name]) if name in arguments else None for name in ("min_value", "max_value"))
    return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"the setting {value['$PARAMETER']}"
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def _condition(condition: Mapping[str, Any]) -> str:
    column = condition["column"]["name"]
    if condition["type"] == "nullity":
        return f"{column} is {'' if condition['is_null'] else 'not '}null"
    return f"{column} {condition['operator']} {condition['parameter']}"


def _sources(table: Table, column: str) -> dict[str, list[str]]:
    """Return, source (`shop/source`) -> raw columns, what a column is made from; no raw column where the adapter makes it up or takes the day of delivery."""
    found = {}
    for adapter in _adapters():
        for feed in (feed for feed in adapter.feeds if feed.table == table.name):
            for source in (source for source in adapter.sources if source.family == feed.family):
                name = source.name if source.name == GATEWAY.name else f"{adapter.name}/{source.name}"
                if (raw := _raw_columns(source, feed, column)) is not None:
                    found[name] = raw
    return found


def _raw_columns(source: Source, feed: Feed, column: str) -> list[str] | None:
    if column == "landing_dt":
        return []
    sql = source.typed["dt"] if column == "dt" else feed.columns.get(column)
    if sql is None:
        return None
    named = [name for name in _names(sql) if name in source.typed]
    named = [name for name in named if name != "key"] or named  # beside others the key only breaks ties
    used = {name for one in ([sql] if column == "dt" else [source.typed[name] for name in named]) for name in _names(one)}
    return [name for name in source.columns if name in used]


def _names(sql: str) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", "", sql))


def page() -> str:
    """Return the page, Markdown."""
    known = dictionary()
    parts = [HEADER]
    for table in known["tables"]:
        about = f"{table['meaning']}. Version {table['version']} of its contract; one row per {' + '.join(f'`{name}`' for name in table['key'])}"
        about += f"; a commit replaces whole days of `{table['partition']}`. Without it: {table['without']}."
        checks = "".join(f" Of its rows: {check}." for check in table["checks"])
        rows = [
            f"| `{one['name']}` | `{one['type']}` | {one['unit']} | {one['meaning']} | {'; '.join(one['checks'])} | {_shown(one['sources'])} |".replace(
                "  ", " "
            )
            for one in table["columns"]
        ]
        parts.append(
            "\n".join([f"## {table['name']}\n\n{about}{checks}\n", "| column | type | unit | meaning | checks | source |", "| --- " * 6 + "|", *rows, ""])
        )
    rules = [f"| {name} | {reason} | `{sql}` |" for name, reasons in known["shops"].items() for reason, sql in reasons.items()]
    about = "The rules by which a shop's adapter sends raw rows to quarantine, in their order: the first that holds names the reason."
    parts.append("\n".join([f"## Every shop\n\n{about}\n", "| source | reason | SQL over the raw and typed columns |", "| --- | --- | --- |", *rules, ""]))
    lines = [f'- {one["check"]}; else: "{_PLACE.sub("…", one["says"])}"' for one in known["delivery"]]
    parts.append(
        "\n".join(
            [
                "## Every delivery\n\nWhat one source drops on a day is checked as a whole; what breaks a check holds the day back, with these words:\n",
                *lines,
                "",
            ]
        )
    )
    return "\n".join(parts)


def _shown(sources: Mapping[str, list[str]]) -> str:
    """Name sources with the same raw columns together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, raw in sources.items():
        alike.setdefault(tuple(raw), []).append(name)
    return "; ".join(f"{', '.join(names)}: {', '.join(f'`{column}`' for column in raw) or '*made*'}" for raw, names in alike.items())


@click.command(name="dictionary")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the page to this file too.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"tables": [...], "shops": {...}, "delivery": [...]}.')
def command(out: Path | None, as_json: bool) -> None:
    """Print the data dictionary: every table and column, its meaning, unit, checks and source."""
    if out:
        out.write_text(page(), encoding="utf-8")
    click.echo(json.dumps(dictionary()) if as_json else page(), nl=as_json)
