"""The two gates of a landing day, as Great Expectations suites: one on what landed, one on what is about to be published.

Both are fatal: a day that fails is held back and the tables keep what they had. Rows that are wrong one by one never come so far, they are in quarantine.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # before the import: nothing is sent anywhere

import great_expectations as gx
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
from great_expectations.expectations.expectation import Expectation

from evershelf.contracts import EVENT_TYPES, TRANSACTION_CLASSES
from evershelf.settings import Settings
from spark_jobs.delta import Staged

logging.getLogger("great_expectations").setLevel(logging.ERROR)

VALUES: dict[str, Sequence[str]] = {"type": EVENT_TYPES, "transaction_class": TRANSACTION_CLASSES}
POSITIVE = ("price", "quantity", "position")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one source delivered on a landing day. `volume` is the ratio to its usual day, None without enough history; `quarantined` a share of the rows."""

    source: str
    missing_columns: str
    rows: int
    volume: float | None
    readable_keys: float
    quarantined: float
    reasons: str


def wrong_with_landing(profile: Profile, settings: Settings) -> list[str]:
    """Return what is fatally wrong with a delivery; empty when it may pass."""
    lake = settings.lake
    suite = [
        ExpectColumnValuesToBeInSet(column="missing_columns", value_set=[""], meta={"says": "no row has the column {missing_columns}"}),
        ExpectColumnValuesToBeBetween(column="rows", min_value=1, meta={"says": "it has no rows"}),
        ExpectColumnValuesToBeBetween(
            column="volume",
            min_value=lake.min_volume_ratio,
            max_value=lake.max_volume_ratio,
            meta={"says": "it has {volume:.3g} times the rows of its usual day"},
        ),
        ExpectColumnValuesToBeBetween(
            column="readable_keys", min_value=1 - lake.max_quarantined_share, meta={"says": "only {readable_keys:.0%} of its rows have a readable key"}
        ),
        ExpectColumnValuesToBeBetween(
            column="quarantined", max_value=lake.max_quarantined_share, meta={"says": "{quarantined:.0%} of its rows would go to quarantine ({reasons})"}
        ),
    ]
    frame = pd.DataFrame([asdict(profile)]).astype({"volume": "float64"})
    return [f"{profile.source}: {says.format(**asdict(profile))}" for says in _broken("landed", frame, suite)]


def wrong_with_rows(tables: Iterable[Staged], settings: Settings) -> list[str]:
    """Return what is wrong with rows that are about to be published.

    Great Expectations would read the rows once per kind of expectation. Here one pass counts the rows that break each promise of the contract, and the suite
    judges the counts.
    """
    counts = {f"table {staged.table.name}: {says}": rows for staged in tables for says, rows in _broken_promises(staged, settings).items()}
    suite: list[Expectation] = [
        ExpectColumnValuesToBeBetween(column=says, max_value=0, meta={"says": f"{says} ({rows} rows)"}) for says, rows in counts.items()
    ]
    return _broken("clean", pd.DataFrame([counts]), suite)


def _broken_promises(staged: Staged, settings: Settings) -> dict[str, int]:
    """Count, for each promise that the contract makes of a table, the rows that break it."""
    table = staged.table
    allowed = {**VALUES, "currency": settings.shop.currencies}
    required = [name for name, column in table.columns.items() if column.required]
    rows = staged.rows(list(dict.fromkeys([*required, *(name for name in (*allowed, *POSITIVE) if name in table.columns)])))
    counts = {f"{name} is missing": rows[name].null_count for name in required}
    counts |= {
        f"{name} is not allowed": _count(pc.invert(pc.is_in(rows[name].drop_null(), pa.array(values))))
        for name, values in allowed.items()
        if name in table.columns
    }
    counts |= {f"{name} is not positive": _count(pc.less_equal(rows[name], 0)) for name in POSITIVE if name in table.columns}
    counts[f"{', '.join(table.key)} is not unique"] = rows.num_rows - rows.group_by([table.partition, *table.key]).aggregate([]).num_rows
    return counts


def _count(yes: Any) -> int:
    return pc.sum(yes).as_py() or 0


@cache
def _context() -> Any:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


@cache
def _measures(name: str) -> BatchDefinition[Any]:
    definition: BatchDefinition[Any] = _context().data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe("day")
    return definition


def _broken(name: str, measures: pd.DataFrame, expectations: Sequence[Expectation]) -> list[str]:
    """Return what the expectations that do not hold have to say."""
    suite = gx.ExpectationSuite(name=name, expectations=list(expectations))
    outcome = _measures(name).get_batch({"dataframe": measures}).validate(suite, result_format="BOOLEAN_ONLY")
    return [_says(result) for result in outcome.results if not result.success]


def _says(result: ExpectationValidationResult) -> str:
    about = result.expectation_config.meta if result.expectation_config else None
    return str(about["says"] if about else result)
