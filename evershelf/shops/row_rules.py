"""The row expectations of a table's suite as an adapter's rules: reason -> SQL over raw text columns that is true for a row that breaks one of them.

So one pass of Spark judges every row, and the suite files stay the one place where the rules are written. Standard library only.
"""

from collections.abc import Mapping
from typing import Any

from evershelf.contracts.suites import suite
from evershelf.contracts.tables import Table

OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def row_rules(table: Table) -> dict[str, str]:
    """Return the rules of a table whose raw columns have the table's names, in the order in which the suite's file has them.

    Raises:
        ValueError: the suite asks for something of single rows that has no SQL here.
    """
    broken: dict[str, list[str]] = {}
    for expectation in suite(table.name)["expectations"]:
        if reason := expectation.get("meta", {}).get("reason"):
            broken.setdefault(reason, []).append(f"({_broken(expectation['type'], expectation['kwargs'], table)})")
    return {reason: " OR ".join(parts) for reason, parts in broken.items()}


def _broken(kind: str, arguments: Mapping[str, Any], table: Table) -> str:
    column = table.columns[arguments["column"]].type
    raw = f"`{arguments['column']}`"
    value = raw if column == "string" else f"try_cast({raw} AS {column})"
    match kind:
        case "expect_column_values_to_not_be_null":
            sql = f"trim(coalesce({raw}, '')) = ''" if column == "string" else f"{value} IS NULL"
        case "expect_column_values_to_be_of_type":
            sql = f"{raw} IS NOT NULL AND {value} IS NULL"
        case "expect_column_values_to_be_in_set":
            sql = f"{value} IS NOT NULL AND {value} NOT IN ({_listed(arguments['value_set'])})"
        case "expect_column_values_to_be_between":
            bounds = [f"{value} {sign} {arguments[name]}" for name, sign in (("min_value", ">="), ("max_value", "<=")) if name in arguments]
            sql = f"{raw} IS NOT NULL AND NOT coalesce({' AND '.join(bounds)}, false)"
        case "expect_column_value_lengths_to_be_between":
            sql = f"length({raw}) > {arguments['max_value']}"
        case _:
            raise ValueError(f"{kind} of the suite {table.name} cannot be asked of single rows")
    return f"{_condition(arguments['row_condition'])} AND {sql}" if "row_condition" in arguments else sql


def _listed(values: Any) -> str:
    return f"{{{values['$PARAMETER']}}}" if isinstance(values, dict) else ", ".join(f"'{value}'" for value in values)  # {currencies}: filled in with the rest


def _condition(condition: Mapping[str, Any]) -> str:
    column = f"`{condition['column']['name']}`"
    if condition["type"] == "nullity":
        return f"{column} IS {'' if condition['is_null'] else 'NOT '}NULL"
    return f"{column} {OPERATORS[condition['operator']]} '{condition['parameter']}'"
