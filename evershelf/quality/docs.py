"""Great Expectations' own pages of stored validation results ("Data Docs"), made when somebody asks for them."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from evershelf.contracts.suites import suite
from evershelf.errors import CommandFailed
from evershelf.quality.store import DayQuality


def build_docs(days: Iterable[DayQuality], folder: Path) -> Path:
    """Write a site with one page per day and suite into a folder, and return its first page.

    Raises:
        CommandFailed: no result of these days is stored.
    """
    found = [(one.day, validation) for one in days if one.result for validation in one.result["validations"]]
    if not found:
        raise CommandFailed("No validation result of these days is stored. Nothing was written; publish them first with `evershelf run lake_daily`.")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # before the import: nothing is sent anywhere
    import great_expectations as gx
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier, ValidationResultIdentifier

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as aside:
        context = gx.get_context(mode="file", project_root_dir=aside)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        for name in sorted({validation["suite_name"] for _, validation in found}):
            context.suites.add(gx.ExpectationSuite(name=name, expectations=suite(name)["expectations"]))
        for day, validation in found:
            about = validation["meta"]["about"]
            run = RunIdentifier(run_name=f"{day} {about}", run_time=datetime(day.year, day.month, day.day, tzinfo=UTC))
            key = ValidationResultIdentifier(ExpectationSuiteIdentifier(validation["suite_name"]), run, f"{day} {about}")
            context.validation_results_store.set(key, ExpectationSuiteValidationResultSchema().load(validation))
        context.build_data_docs()
        shutil.copytree(Path(aside) / "gx" / "uncommitted" / "data_docs" / "local_site", folder, dirs_exist_ok=True)
    return folder / "index.html"
