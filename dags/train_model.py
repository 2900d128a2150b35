"""Train a model on the lake, evaluate it on a time split, bless or refuse it.

Runs:        daily, two hours after lake_daily; waits for a free slot of the pool `spark`.
Re-run:      safe; a new model takes a new place and replaces none. A retry goes on from the last checkpoint.
On failure:  nothing changes: build_snapshot takes the newest blessed model. A model that is refused is no failure; the log says why.
By hand:     `evershelf train`; with training.warm_start, `evershelf train --full` begins from nothing.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(2), doc_md=__doc__, tags=["training"])
def train_model() -> None:
    evershelf_command("train", "--json", spark=True)


train_model()
