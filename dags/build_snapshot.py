"""Build the candidates, then one snapshot, and hand it to promote_snapshot.

Runs:        daily, four hours after lake_daily, also when training failed: then with the newest blessed model and fresh candidates.
Re-run:      safe; the same inputs give the same lists, and a snapshot that exists is never changed.
On failure:  nothing is promoted; serving keeps what it has.
By hand:     `evershelf run candidates`, `evershelf run build_snapshot`.
"""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import chain, dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(4), doc_md=__doc__, tags=["snapshot"])
def build_snapshot() -> None:
    chain(
        evershelf_command("run", "candidates", "--json", spark=True),
        evershelf_command("run", "build_snapshot", "--candidates", "{{ ti.xcom_pull('candidates')['candidates_id'] }}", "--json"),
        TriggerDagRunOperator(
            task_id="promote",
            trigger_dag_id="promote_snapshot",
            conf={"snapshot_id": "{{ ti.xcom_pull('build_snapshot')['snapshot_id'] }}"},
        ),
    )


build_snapshot()
