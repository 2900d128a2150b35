"""What an adapter is: one file that declares a shop's raw files and, in Spark SQL, how their rows become the contracts. Standard library only.

A raw row passes in this order: `typed` gives it typed columns; the first of `rules` that holds sends it to quarantine under its name; of the rows with the
same `key` on one `dt` the first delivered stays; `feeds` turns what is left into rows of the lake's tables.

SQL may hold `{timezone}`, `{bulk_quantity}`, `{currencies}` and `{currency}` (the first of them), which the settings fill in. docs/adapters.md writes one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LONGEST_ID = 1000  # characters; longer ids and queries are somebody's mistake or attack
NO_LINE = "_broken"  # column of a landed row that says why its raw line could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One kind of raw file.

    name: its landing folder.
    file: its path in the shop's folder of raw files; empty: nothing comes through the door. With `{day}` (ISO date) each day has a file of its own; without,
        the rows are split by `day_column`; without that, too, it is a dump: the state on the day on which it is delivered. `*` stands for anything: the parts
        of one delivery (not of a CSV file). CSV and JSON lines are taken plain or with `.gz`.
    format: json.zip is a zip file of JSON arrays. All but CSV lands as JSON lines.
    columns: raw column -> Spark SQL type in which it is read; strings unless the format says better.
    user_column: holds the shopper's id, which the door replaces.
    free_text: columns in which people write; the door masks card numbers, e-mail addresses and phone numbers in them.
    family: sources of one family have the same typed columns and are deduplicated together.
    typed: typed column -> SQL over the raw columns; rules see the raw column where both have the same name (Spark ignores case). `dt` and `key` must be
        among them: the shop's own calendar day, and what names the row.
    rules: reason -> SQL over raw and typed columns; null counts as false.
    must_have: columns without which a delivery makes no sense: when no row has one, the day is held back.
    required: without a file of it the day is held back.
    day_column: of Parquet alone: the column that holds a row's time, as a timestamp or in unix seconds. Rows without one go with the file's first day.
    rest: one of `columns`, a `map<string,string>`: takes every column that is not named, for sparse ones. Only where nobody's id can be among them.
    """

    name: str
    file: str
    format: Literal["csv", "jsonl", "json.zip", "parquet"]
    columns: Mapping[str, str]
    user_column: str
    family: str
    typed: Mapping[str, str]
    rules: Mapping[str, str]
    must_have: tuple[str, ...]
    free_text: tuple[str, ...] = ()
    required: bool = True
    day_column: str = ""
    rest: str = ""

    def __post_init__(self) -> None:
        if self.rest and (self.user_column or self.rest not in self.columns):
            raise ValueError(f"{self.name}: rest must be one of the columns, and a source with a user column has none: an id could be among what it takes")
        if self.day_column and self.format != "parquet":
            raise ValueError(f"{self.name}: day_column splits Parquet files alone")

    @property
    def landed_as(self) -> Literal["csv", "jsonl"]:
        return "csv" if self.format == "csv" else "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """How a family's rows reach a table: table column -> SQL over the typed columns; `where` leaves rows out; `per` groups what is left, by typed columns
    that share no name with a column of the table, and columns are aggregates then. Columns that are not named are null; `dt` and `landing_dt` are carried over
    (a group takes its newest `landing_dt`).
    """

    family: str
    table: str
    columns: Mapping[str, str]
    where: str = "true"
    per: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    name: str
    sources: tuple[Source, ...]
    feeds: tuple[Feed, ...] = field(default_factory=tuple)

    def source(self, name: str) -> Source:
        return next(source for source in self.sources if source.name == name)
