"""Try a snapshot on a share of the shoppers; promote it, or reject it and put everything back.

Runs:        when build_snapshot has made one, or by hand with its id (`evershelf snapshots` lists them).
Re-run:      safe; a snapshot that was rejected or rolled back is refused.
On failure:  what was live is live, and the log of promotions says why. Not tried again by itself: a rejection is a verdict, not an accident.
By hand:     `evershelf promote SNAPSHOT --why "..."`; undo with the DAG `rollback` or `evershelf rollback`.
"""

from airflow.sdk import Param, dag

from plugins.steps import evershelf_command


@dag(
    schedule=None,
    max_active_runs=1,
    params={
        "snapshot_id": Param("", type="string", minLength=1, description="The snapshot to try."),
        "why": Param("nightly build", type="string", minLength=1, maxLength=500),
    },
    doc_md=__doc__,
    tags=["release"],
)
def promote_snapshot() -> None:
    evershelf_command("promote", "{{ params.snapshot_id }}", "--why", "{{ params.why }}", "--json", retries=0)


promote_snapshot()
