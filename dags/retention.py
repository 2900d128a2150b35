"""Delete days of the lake's tables and of landing that are older than `privacy.retention_days` says; by default nothing is.

Runs:        weekly, on Sunday, five hours after lake_daily; takes turns with it. No Spark.
Re-run:      safe; what is gone is gone.
On failure:  what was live is live; old days stay until the next run. It is tried twice more.
By hand:     `evershelf run retention`. The log names the days that went.
"""

from datetime import UTC, datetime

from airflow.sdk import CronDataIntervalTimetable, dag

from evershelf.settings import load_settings
from plugins.deadlines import run_deadline
from plugins.steps import evershelf_command

SETTINGS = load_settings()


@dag(
    schedule=CronDataIntervalTimetable(f"0 {(SETTINGS.airflow.daily_at_hour + 5) % 24} * * 0", timezone=SETTINGS.shop.timezone),
    start_date=datetime(2010, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    deadline=run_deadline(),
    doc_md=__doc__,
    tags=["privacy"],
)
def retention() -> None:
    evershelf_command("run", "retention", "--json")


retention()
