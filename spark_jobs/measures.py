"""One pass over rows that are about to be published: how many break each expectation of their suite, and what the day looks like, for the drift.

Rows are read back in batches, so memory holds no more than the keys of one day.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.suites import suite
from evershelf.contracts.tables import Table
from evershelf.storage import Place
from spark_jobs.delta import Staged, nulls

NUMBERS = ("int", "bigint", "float", "double")
UNIQUE = "expect_compound_columns_to_be_unique"
OF_TYPE = "expect_column_values_to_be_of_type"  # what is about to be published has the table's types, or it could not be read back
MOST_CATEGORIES = 100  # of a column; the rest of a day counts as one
OTHER = "…"
BATCH = 1 << 17  # rows in memory at a time
STEPS = 2  # histogram bins per doubling of a number
COMPARE = {"==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}

Measures = dict[str, Any]  # what `measured` gives of one table and day


@dataclass(slots=True)
class Tally:
    """Of the rows that an expectation is about: how many there are, how many of them have no value, and how many break it."""

    rows: int = 0
    nulls: int = 0
    unexpected: int = 0


def published_expectations(table: Table, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the expectations of a table's suite that published rows are held against."""
    return [expectation for expectation in suite(table.name, parameters)["expectations"] if expectation["type"] != OF_TYPE]


def number_columns(table: Table) -> list[str]:
    return [name for name, column in table.columns.items() if column.type in NUMBERS]


def measured(staged: Staged, expectations: Sequence[Mapping[str, Any]]) -> tuple[list[Tally], dict[date, Measures]]:
    """Read staged rows once.

    Returns:
        a tally of them per expectation; and per day, with the rows that stay beside them, `rows`, `nulls` per flat column, `sums` per number column and
        `spread`: of the watched columns, value -> rows (of numbers, bin -> rows; a bin spans half a doubling).
    """
    table = staged.table
    needed = dict.fromkeys([*_looked_at(table), *(name for one in expectations for name in _columns(one["kwargs"]))])
    tallies = [Tally() for _ in expectations]
    days = {day: _nothing(table) for day in staged.days}
    keys: dict[date, list[pa.Table]] = {}
    for day, path in staged.files():
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            _add_nulls(days[day], file)
            for batch in file.iter_batches(batch_size=BATCH, columns=[name for name in needed if name != table.partition]):
                rows = pa.Table.from_batches([batch]).append_column(table.partition, pa.repeat(pa.scalar(day), batch.num_rows))
                _add_rows(days[day], rows, table)
                for tally, expectation in zip(tallies, expectations, strict=True):
                    if expectation["type"] != UNIQUE:
                        _add(tally, rows, expectation)
                keys.setdefault(day, []).append(rows.select(table.key))
    for tally, expectation in zip(tallies, expectations, strict=True):
        if expectation["type"] == UNIQUE:  # the partition is part of every key, so days are looked at one by one
            for day, parts in keys.items():
                known = pa.concat_tables(parts).group_by(list(table.key)).aggregate([])
                tally.rows += (rows_of_day := sum(part.num_rows for part in parts))
                tally.unexpected += rows_of_day - known.num_rows + sum(_common(known, one.path) for one in staged.kept if one.day == day)
    for one in staged.kept:
        _add_measures(days[one.day], _of_file(table.name, one.path))
    for found in days.values():
        found["spread"] = {name: _most(counts) for name, counts in found["spread"].items()}
    return tallies, days


def _looked_at(table: Table) -> list[str]:
    return list(dict.fromkeys([*suite(table.name)["meta"]["watched"], *number_columns(table)]))


def _nothing(table: Table) -> Measures:
    flat = [name for name, column in table.columns.items() if "<" not in column.type and name != table.partition]
    watched = suite(table.name)["meta"]["watched"]
    return {"rows": 0, "nulls": dict.fromkeys(flat, 0), "sums": dict.fromkeys(number_columns(table), 0), "spread": {name: Counter() for name in watched}}


def _add_nulls(found: Measures, file: pq.ParquetFile) -> None:
    for name, count in nulls(file).items():
        found["nulls"][name] += count


def _add_rows(found: Measures, rows: pa.Table, table: Table) -> None:
    numbers = found["sums"]
    found["rows"] += rows.num_rows
    for name in numbers:
        numbers[name] += pc.sum(rows[name]).as_py() or 0
    for name, counts in found["spread"].items():
        counts.update(_spread(rows[name], number=name in numbers))


def _add_measures(found: Measures, more: Measures) -> None:
    found["rows"] += more["rows"]
    for what in ("nulls", "sums"):
        for name, number in more[what].items():
            found[what][name] += number
    for name, counts in more["spread"].items():
        found["spread"][name].update(counts)


@lru_cache(maxsize=1024)  # a file of a table never changes
def _of_file(name: str, path: Place) -> Measures:
    """Return the measures of a file of a table, with every value of its spreads."""
    table = LAKE_TABLES[name]
    found = _nothing(table)
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened)
        _add_nulls(found, file)
        for batch in file.iter_batches(batch_size=BATCH, columns=_looked_at(table)):
            _add_rows(found, pa.Table.from_batches([batch]), table)
    return found


def _common(known: pa.Table, path: Place) -> int:
    """Count the rows of a file whose keys are known."""
    names = known.column_names
    with path.open("rb") as opened:
        rows = pq.ParquetFile(opened).read(columns=names)
    if len(names) == 1:
        return _count(pc.is_in(rows[names[0]], known[names[0]].combine_chunks()))
    return int(rows.join(known, keys=names, join_type="left semi").num_rows)


def _columns(arguments: Mapping[str, Any]) -> Iterator[str]:
    yield from [arguments["column"]] if "column" in arguments else arguments["column_list"]
    if "row_condition" in arguments:
        yield arguments["row_condition"]["column"]["name"]


def _add(tally: Tally, rows: pa.Table, expectation: Mapping[str, Any]) -> None:
    arguments = expectation["kwargs"]
    values = rows[arguments["column"]]
    if condition := arguments.get("row_condition"):
        values = values.filter(_meets(rows, condition))
    tally.rows += len(values)
    tally.nulls += values.null_count
    tally.unexpected += _unexpected(expectation["type"], arguments, values)


def _unexpected(kind: str, arguments: Mapping[str, Any], values: pa.ChunkedArray) -> int:
    match kind:
        case "expect_column_values_to_not_be_null":
            return int(values.null_count)
        case "expect_column_values_to_be_in_set":
            return _count(pc.invert(pc.is_in(values.drop_null(), pa.array(arguments["value_set"]))))
        case "expect_column_values_to_be_between":
            return _outside(values, arguments)
        case "expect_column_value_lengths_to_be_between":
            return _outside(pc.utf8_length(values), arguments)
    raise ValueError(f"{kind} is not counted of published rows; spark_jobs/measures.py has to learn it")


def _outside(values: pa.ChunkedArray, arguments: Mapping[str, Any]) -> int:
    below = _count(pc.less(values, arguments["min_value"])) if "min_value" in arguments else 0
    return below + (_count(pc.greater(values, arguments["max_value"])) if "max_value" in arguments else 0)


def _meets(rows: pa.Table, condition: Mapping[str, Any]) -> pa.ChunkedArray:
    values = rows[condition["column"]["name"]]
    if condition["type"] == "nullity":
        return pc.is_null(values) if condition["is_null"] else pc.is_valid(values)
    return COMPARE[condition["operator"]](values, condition["parameter"])


def _spread(values: pa.ChunkedArray, *, number: bool) -> Counter[str]:
    """Count values: numbers by bin, paths such as "Home > Lamps" by their first part."""
    values = values.drop_null()
    if number:
        values = pc.floor(pc.multiply(pc.log2(values.cast(pa.float64())), float(STEPS)))
    found: Counter[str] = Counter()
    for pair in values.value_counts().to_pylist():
        found[_bin(pair["values"]) if number else pair["values"].partition(" > ")[0]] += pair["counts"]
    return found


def _bin(place: float) -> str:
    return f"{place:.0f}" if math.isfinite(place) else "0 or less"


def _most(counts: Counter[str]) -> dict[str, int]:
    most = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CATEGORIES])
    rest = counts.total() - sum(most.values())
    return {**most, **({OTHER: rest} if rest else {})}


def _count(yes: Any) -> int:
    return pc.sum(yes).as_py() or 0
