"""Delete days of the lake's tables and of landing that are older than `privacy.retention_days` says; by default nothing is.

Runs:        weekly, on Sunday, five hours after lake_daily; takes turns with it. No Spark.
Re-run:      safe; what is gone is gone.
On failure:  what was live is live; old days stay until the next run. It is tried twice more.
By hand:     `evershelf run retention`. The log names the days that went.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(5, days="* * 0"), doc_md=__doc__, tags=["privacy"])
def retention() -> None:
    evershelf_command("run", "retention", "--json")


retention()
