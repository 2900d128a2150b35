"""Fill in the categories, brands and prices that the catalogue leaves out, as labels of their own, and measure every rule and the model on what it gives.

Runs:        daily, three hours after lake_daily and before the candidates, for the newest day of the catalogue; waits for a free slot of the pool `spark`.
Re-run:      safe; a day's labels are one atomic commit, and the same tables and the same model give the same labels.
On failure:  nothing that is live changes; candidates and snapshots go by the labels of the days before.
By hand:     `evershelf run labels --date YYYY-MM-DD`. `evershelf lineage labels` shows each day's accuracies, `evershelf sql` the labels.
"""

from datetime import UTC, datetime

from airflow.sdk import CronDataIntervalTimetable, dag

from evershelf.settings import load_settings
from plugins.deadlines import run_deadline
from plugins.steps import evershelf_command

SETTINGS = load_settings()


@dag(
    schedule=CronDataIntervalTimetable(f"0 {(SETTINGS.airflow.daily_at_hour + 3) % 24} * * *", timezone=SETTINGS.shop.timezone),
    start_date=datetime(2010, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    deadline=run_deadline(),
    doc_md=__doc__,
    tags=["lake"],
)
def labels() -> None:
    evershelf_command("run", "labels", "--json", spark=True)


labels()
