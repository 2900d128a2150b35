"""Fill in the categories, brands and prices that the catalogue leaves out, as labels of their own, and measure every rule and the model on what it gives.

Runs:        daily, three hours after lake_daily and before the candidates, for the newest day of the catalogue; waits for a free slot of the pool `spark`.
Re-run:      safe; a day's labels are one atomic commit, and the same tables and the same model give the same labels.
On failure:  nothing that is live changes; candidates and snapshots go by the labels of the days before.
By hand:     `evershelf run labels --date YYYY-MM-DD`. `evershelf lineage labels` shows each day's accuracies, `evershelf sql` the labels.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(3), doc_md=__doc__, tags=["lake"])
def labels() -> None:
    evershelf_command("run", "labels", "--json", spark=True)


labels()
