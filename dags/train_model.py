"""Train a model on the lake, evaluate it on a time split, bless or refuse it.

Runs:        daily, two hours after lake_daily; waits for a free slot of the pool `spark`.
Re-run:      safe; a new model takes a new place and replaces none. A retry goes on from the last checkpoint.
On failure:  nothing changes: build_snapshot takes the newest blessed model. A model that is refused is no failure; the log says why.
By hand:     `evershelf train`.
"""

from datetime import UTC, datetime

from airflow.sdk import CronDataIntervalTimetable, dag

from evershelf.settings import load_settings
from plugins.deadlines import run_deadline
from plugins.steps import evershelf_command

SETTINGS = load_settings()


@dag(
    schedule=CronDataIntervalTimetable(f"0 {(SETTINGS.airflow.daily_at_hour + 2) % 24} * * *", timezone=SETTINGS.shop.timezone),
    start_date=datetime(2010, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    deadline=run_deadline(),
    doc_md=__doc__,
    tags=["training"],
)
def train_model() -> None:
    evershelf_command("train", "--json", spark=True)


train_model()
