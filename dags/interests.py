"""Work out what each shopper is interested in, as tags with their evidence.

Runs:        daily, one hour after lake_daily, for the newest day with events; waits for a free slot of the pool `spark`.
Re-run:      safe; a day's tags are one atomic commit, and the same tables give the same tags.
On failure:  nothing that is live changes; the tags of the days before stay.
By hand:     `evershelf run interests --date YYYY-MM-DD`. Look at them with `evershelf sql "select * from interests"`.
"""

from datetime import UTC, datetime

from airflow.sdk import CronDataIntervalTimetable, dag

from evershelf.settings import load_settings
from plugins.deadlines import run_deadline
from plugins.steps import evershelf_command

SETTINGS = load_settings()


@dag(
    schedule=CronDataIntervalTimetable(f"0 {(SETTINGS.airflow.daily_at_hour + 1) % 24} * * *", timezone=SETTINGS.shop.timezone),
    start_date=datetime(2010, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    deadline=run_deadline(),
    doc_md=__doc__,
    tags=["lake"],
)
def interests() -> None:
    evershelf_command("run", "interests", "--json", spark=True)


interests()
