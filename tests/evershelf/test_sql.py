"""`evershelf sql` reads every table of the lake, never writes, and says what is wrong with a query."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from evershelf import sql
from evershelf.contracts import LAKE_TABLES
from evershelf.errors import CommandFailed


@pytest.fixture
def lake(home: Path) -> Path:
    for place, name in enumerate(LAKE_TABLES):
        rows = {"number": range(place + 1), "text": ["[red]long[/red] " + "x" * 100] * (place + 1)}
        write_deltalake((home / "lake" / name).as_uri(), pa.table({name: pa.array(column) for name, column in rows.items()}))
    return home / "lake"


def test_it_reads_every_table(lake: Path) -> None:
    counts = [sql.query(f"SELECT count(*) AS rows FROM {name};").to_pylist() for name in LAKE_TABLES]
    assert counts == [[{"rows": place + 1}] for place in range(len(LAKE_TABLES))]
    assert sql.query("show tables").column("table").to_pylist() == list(LAKE_TABLES)
    assert sql.query("describe events").num_rows == 2
    assert sql.query("explain analyze select * from events").num_rows == 1


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "drop table events",
        "select 1; copy (select 1) to '{}'",
        "with x as (select 1) insert into events select 9, 'x'",
        "explain analyze copy (select 1) to '{}'",
        "copy (select 1) to '{}'",
    ],
)
def test_it_never_writes(lake: Path, tmp_path: Path, statement: str) -> None:
    with pytest.raises(CommandFailed, match=r"Nothing was changed|not answered"):
        sql.query(statement.format(tmp_path / "written.csv"))
    assert DeltaTable((lake / "events").as_uri()).version() == 0
    assert not (tmp_path / "written.csv").exists()


@pytest.mark.parametrize(
    ("statement", "words"), [("select nope from events", "nope"), ("select * from nope", "Tables: events"), ("select 1/0", "Divide by zero")]
)
def test_it_says_what_is_wrong(lake: Path, statement: str, words: str) -> None:
    with pytest.raises(CommandFailed, match=words):
        sql.query(statement)


def test_an_empty_lake_is_said_to_be_empty(home: Path) -> None:
    with pytest.raises(CommandFailed, match="none yet: run"):
        sql.query("select * from events")


def test_it_prints_what_a_person_and_a_program_can_read(lake: Path) -> None:
    printed = CliRunner().invoke(sql.sql, ["select * from products order by number", "--limit", "1"]).output
    assert "[red]long[/red] " + "x" * 100 in printed and "2 rows, the first 1 shown" in printed
    assert json.loads(CliRunner().invoke(sql.sql, ["select * from products", "--json"]).output)["rows"][1] == {
        "number": 1,
        "text": "[red]long[/red] " + "x" * 100,
    }
