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
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation
from pyspark.sql import DataFrame

from evershelf.contracts import EVENT_TYPES, TRANSACTION_CLASSES
from evershelf.contracts.tables import Table
from evershelf.settings import Settings

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
        gxe.ExpectColumnValuesToBeInSet(column="missing_columns", value_set=[""], meta={"says": "no row has the column {missing_columns}"}),
        gxe.ExpectColumnValuesToBeBetween(column="rows", min_value=1, meta={"says": "it has no rows"}),
        gxe.ExpectColumnValuesToBeBetween(
            column="volume", min_value=lake.min_volume_ratio, max_value=lake.max_volume_ratio, meta={"says": "it has {volume:.3g} times the rows of its usual day"}
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="readable_keys", min_value=1 - lake.max_quarantined_share, meta={"says": "only {readable_keys:.0%} of its rows have a readable key"}
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="quarantined", max_value=lake.max_quarantined_share, meta={"says": "{quarantined:.0%} of its rows would go to quarantine ({reasons})"}
        ),
    ]
    frame = pd.DataFrame([asdict(profile)]).astype({"volume": "float64"})
    return [f"{profile.source}: {says.format(**asdict(profile))}" for says in _broken(_asset("landed"), frame, suite)]


def wrong_with_rows(rows: DataFrame, table: Table, settings: Settings) -> list[str]:
    """Return what is wrong with rows that are about to be published; they are read several times, so let them be cached."""
    columns = table.columns
    suite: list[Expectation] = [
        gxe.ExpectColumnValuesToNotBeNull(column=name, meta={"says": f"{name} is missing"}) for name, column in columns.items() if column.required
    ]
    sets = {**VALUES, "currency": settings.shop.currencies}
    suite += [
        gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(values), meta={"says": f"{name} has a value that is not allowed"})
        for name, values in sets.items()
        if name in columns
    ]
    suite += [
        gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, strict_min=True, meta={"says": f"{name} is not positive"}) for name in POSITIVE if name in columns
    ]
    suite.append(gxe.ExpectCompoundColumnsToBeUnique(column_list=[table.partition, *table.key], meta={"says": f"{', '.join(table.key)} is not unique"}))
    return [f"table {table.name}: {says}" for says in _broken(_asset(table.name), rows, suite)]


@cache
def _context() -> Any:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


@cache
def _asset(name: str) -> BatchDefinition[Any]:
    source = _context().data_sources.add_pandas(name) if name == "landed" else _context().data_sources.add_spark(name, persist=False)
    definition: BatchDefinition[Any] = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("day")
    return definition


def _broken(asset: BatchDefinition[Any], rows: Any, expectations: Iterable[Expectation]) -> list[str]:
    """Return what the expectations that do not hold have to say."""
    suite = gx.ExpectationSuite(name=asset.data_asset.name, expectations=list(expectations))
    outcome = asset.get_batch({"dataframe": rows}).validate(suite, result_format="BOOLEAN_ONLY")
    return [result.expectation_config.meta["says"] if not result.exception_info.get("raised_exception") else str(result.exception_info) for result in outcome.results if not result.success]
