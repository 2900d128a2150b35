"""The two gates of a landing day, as Great Expectations suites: one on what landed, one on what is about to be published.

Both are fatal: a day that fails is held back and the tables keep what they had. Rows that are wrong one by one never come so far, they are in quarantine.

Great Expectations would read the rows once per kind of expectation. Here one pass counts what the expectations ask for (spark_jobs/measures.py), and they judge
the counts: the suites, the results and their pages are Great Expectations' own.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # before the import: nothing is sent anywhere

import great_expectations as gx
from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from evershelf.contracts.suites import DELIVERY, suite
from evershelf.settings import Settings
from spark_jobs.delta import Staged
from spark_jobs.measures import Measures, Tally, measured, published_expectations

logging.getLogger("great_expectations").setLevel(logging.ERROR)

FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0}  # counts; no values, which may be a shopper's
COLUMNS = ("missing", "vanished", "retyped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one source delivered on a landing day.

    missing, vanished, retyped: columns that no row has though it must, that are gone though every day before had them, that have another type than before.
    volume: ratio of the rows to its usual day, None without enough history. quarantined: a share of the rows.
    """

    source: str
    missing: tuple[str, ...]
    vanished: tuple[str, ...]
    retyped: tuple[str, ...]
    rows: int
    volume: float | None
    readable_keys: float
    quarantined: float
    reasons: str

    def says(self) -> dict[str, Any]:
        return {**asdict(self), **{name: ", ".join(getattr(self, name)) for name in COLUMNS}}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate found: `wrong` is fatal and empty when the day may pass; `result` is Great Expectations' validation result as JSON."""

    wrong: list[str]
    result: dict[str, Any]


def judge_landing(profile: Profile, settings: Settings) -> Verdict:
    """Judge a delivery."""
    known = profile.says()
    values = {**known, **{f"{name}_columns": len(getattr(profile, name)) for name in COLUMNS}}
    chosen = suite(DELIVERY, _parameters(settings))
    chosen["expectations"] = [one for one in chosen["expectations"] if values[one["kwargs"]["column"]] is not None]

    def observed(place: int, metric: str) -> Any:
        return values[chosen["expectations"][place]["kwargs"]["column"]]

    outcome = _validated(chosen, f"landing {profile.source}", observed)
    failed = [_config(one).meta["says"].format(**known) for one in _failed(outcome)]
    return Verdict([f"{profile.source}: {says}" for says in failed], _as_json(outcome))


def judge_rows(staged: Staged, settings: Settings) -> tuple[Verdict, dict[date, Measures]]:
    """Judge the rows of a table that are about to be published; return also what each of their days looks like."""
    parameters = _parameters(settings)
    chosen = suite(staged.table.name, parameters)
    chosen["expectations"] = published_expectations(staged.table, parameters)
    tallies, days = measured(staged, chosen["expectations"])
    outcome = _validated(chosen, f"table {staged.table.name}", lambda place, metric: _metric(tallies[place], metric))
    return Verdict([f"table {staged.table.name}: {_says(one)}" for one in _failed(outcome)], _as_json(outcome)), days


def _parameters(settings: Settings) -> dict[str, Any]:
    lake = settings.lake
    return {
        "currencies": list(settings.shop.currencies),
        "min_volume_ratio": lake.min_volume_ratio,
        "max_volume_ratio": lake.max_volume_ratio,
        "min_readable_keys": 1 - lake.max_quarantined_share,
        "max_quarantined_share": lake.max_quarantined_share,
    }


def _metric(tally: Tally, name: str) -> Any:
    """Return what an expectation asks of the rows, by the name that Great Expectations gives it."""
    if name.endswith("row_count"):
        return tally.rows
    if name == "column_values.nonnull.unexpected_count":
        return tally.nulls
    return tally.unexpected if name.endswith("unexpected_count") else []  # no examples: they may be a shopper's


def _validated(chosen: Mapping[str, Any], about: str, observed: Callable[[int, str], Any]) -> ExpectationSuiteValidationResult:
    """Let a suite's expectations judge metrics that are known already: `observed` gives the metric of a name for the expectation at a place."""
    results = []
    for place, expectation in enumerate(gx.ExpectationSuite(name=chosen["name"], expectations=chosen["expectations"]).expectations):
        asked = expectation.get_validation_dependencies(runtime_configuration={"result_format": dict(FORMAT)}).get_metric_configurations()
        metrics = {metric.id: observed(place, metric.metric_name) for metric in asked}
        results.append(expectation.metrics_validate(metrics, runtime_configuration={"result_format": dict(FORMAT)}))
    held = sum(bool(one.success) for one in results)
    return ExpectationSuiteValidationResult(
        success=held == len(results),
        results=results,
        suite_name=chosen["name"],
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": held,
            "unsuccessful_expectations": len(results) - held,
            "success_percent": 100 * held / len(results) if results else None,
        },
        meta={"about": about, "suite_version": chosen["meta"]["version"], "great_expectations_version": gx.__version__},
    )


def _failed(outcome: ExpectationSuiteValidationResult) -> list[ExpectationValidationResult]:
    return [one for one in outcome.results if not one.success]


def _config(result: ExpectationValidationResult) -> ExpectationConfiguration:
    assert result.expectation_config is not None  # metrics_validate() always sets it
    return result.expectation_config


def _as_json(outcome: ExpectationSuiteValidationResult) -> dict[str, Any]:
    content: dict[str, Any] = outcome.to_json_dict()  # type: ignore[no-untyped-call]  # without types
    return content


def _says(result: ExpectationValidationResult) -> str:
    config = _config(result)
    kind = config.type.removeprefix("expect_").replace("_", " ")
    columns = config.kwargs.get("column") or ", ".join(config.kwargs["column_list"])
    return f"{columns}: {result.result['unexpected_count']} rows break `{kind}`"
