"""Look for better parameters of the model, and let the text encoder learn from search clicks; the winners are in force from the next training on.

Runs:        monthly, on the first, ten hours after lake_daily; waits for a free slot of the pool `spark`. For hours: it trains again and again.
Re-run:      safe; a search that was killed goes on with its finished trials, and trials that were running begin again.
             Learning from clicks begins anew.
On failure:  nothing changes: trainings take the parameters and the encoder that they took before.
By hand:     `evershelf tune`, with `--trials` and `--jobs`; `evershelf fine-tune`, with `--minutes`.
In force:    what `tuned.json` beside the models says; delete it to go back to the settings.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(10, days="1 * *"), doc_md=__doc__, tags=["training"])
def tune_model() -> None:
    evershelf_command("tune", "--json", spark=True)
    evershelf_command("fine-tune", "--json", spark=True)  # where there are too few clicks it says so and ends


tune_model()
