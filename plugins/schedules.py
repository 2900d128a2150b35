"""When the scheduled DAGs around lake_daily run, and what they have in common."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import CronDataIntervalTimetable

from evershelf.settings import load_settings
from plugins.deadlines import run_deadline


def scheduled(hours: int, *, days: str = "* * *") -> dict[str, Any]:
    """Return the arguments of a DAG that runs by the shop's clock, one run at a time, with a deadline; what it missed it does not make up for.

    Args:
        hours: after lake_daily's hour; negative: before it. Past midnight it is the same day's early hour.
        days: day of the month, month and day of the week, as in cron; default: every day.
    """
    settings = load_settings()
    return {
        "schedule": CronDataIntervalTimetable(f"0 {(settings.airflow.daily_at_hour + hours) % 24} {days}", timezone=settings.shop.timezone),
        "start_date": datetime(2010, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "deadline": run_deadline(),
    }
