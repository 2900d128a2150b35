"""Keep nearline alive: what landed lately reaches the answers within a minute or so, without waiting for the next snapshot.

Runs:        always, one run after the other: each goes on for six hours, then the next one begins. Paused in the beginning; one Spark driver beside the others.
Re-run:      safe: it changes neither landing nor lake. A run that begins reads the newest landing days (`nearline.days`) again.
On failure:  answers go by the newest overlay for `nearline.expires`, then by their snapshots alone; the alert NearlineLate fires after ten minutes.
             Airflow tries again, and begins the next run in any case. The log's last line names what failed.
By hand:     `evershelf run nearline`; `--once` for a single batch. A second one waits until the first has ended.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from plugins.steps import evershelf_command


@dag(
    schedule="@continuous",
    start_date=datetime(2010, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["serving"],
)
def nearline() -> None:
    # not in the pool of the Spark drivers: there is one slot on a small machine, and this would hold it for ever
    evershelf_command("run", "nearline", "--minutes", "360", retries=10, retry_delay=timedelta(seconds=30))


nearline()
