"""Publish one landing day to the lake: landing, audit, clean, audit, publish.

Runs:        daily, some hours after the shop's midnight (`airflow.daily_at_hour`), for the day that just ended. One Spark driver at a time.
Re-run:      safe, in any order, whatever was killed when: every partition is one atomic commit, and the same input gives the same table.
Backfill:    from the UI (Trigger > Backfill), over any days that landed.
On failure:  exit code 3 means that the day is held back: its file is missing, broken or far outside its history. It is not tried again. The log's last
             line names the reason. The tables keep what they had, and what is live stays live. Have the day delivered again, then trigger it by its `date`.
             Anything else is tried twice more. `evershelf quarantine list` counts single rows that broke a contract.
Deadline:    a run that has not succeeded `airflow.deadline` after it was queued counts as late and alerts (RunLate), also one that failed and was not cleared.
By hand:     Trigger with a `date`, or `evershelf run lake_daily --date YYYY-MM-DD`. With `partial` (`--partial`) the day is published from what there is,
             although a required file is missing: only the gateways delivered, say.
"""

from datetime import UTC, datetime, time, timedelta

from airflow.sdk import CronDataIntervalTimetable, Param, dag

from evershelf.settings import load_settings
from plugins.deadlines import run_deadline
from plugins.steps import evershelf_command

SETTINGS = load_settings()
ZONE, FIRST, LAST = SETTINGS.shop.timezone, SETTINGS.airflow.first_day, SETTINGS.airflow.last_day


@dag(
    schedule=CronDataIntervalTimetable(f"0 {SETTINGS.airflow.daily_at_hour} * * *", timezone=ZONE),
    start_date=datetime.combine(FIRST, time(), SETTINGS.zone) if FIRST else datetime(2010, 1, 1, tzinfo=UTC),
    end_date=datetime.combine(LAST + timedelta(days=1), time(), SETTINGS.zone) if LAST else None,
    catchup=FIRST is not None,
    max_active_runs=1,
    deadline=run_deadline(),
    params={
        "date": Param(None, type=["null", "string"], format="date", description="Landing day; empty: the day of the run's data interval."),
        "partial": Param(False, type="boolean", description="Publish what there is of the day although a required source delivered nothing."),
    },
    doc_md=__doc__,
    tags=["lake"],
)
def lake_daily() -> None:
    day = "{{ params.date or data_interval_start.in_timezone('" + ZONE + "').to_date_string() }}"
    evershelf_command("run", "lake_daily", "--date", day, "{{ '--partial' if params.partial else '' }}", "--json", spark=True)


lake_daily()
