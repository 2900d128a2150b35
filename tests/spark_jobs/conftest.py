"""Publish a day in the session that all tests share."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS
from spark_jobs import lake_daily
from spark_jobs.outcomes import DayReport


@pytest.fixture
def run(home: Path, spark: SparkSession) -> Callable[..., DayReport]:
    def once(day: date, **options: Any) -> DayReport:
        return lake_daily.run_day(spark, ADAPTERS[load_settings().shop.adapter], day, **options)

    return once
