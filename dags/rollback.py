"""Put last-good back, everywhere, at once. The snapshot that is stable now is never a target again.

Runs:        by hand only, from the form; it asks for the reason, which the log of promotions keeps.
Re-run:      each run goes back one snapshot further: look at `evershelf status` first.
On failure:  run `evershelf rollback --why "..."` on any host that sees the promotion log. It needs neither Airflow nor the model server.
"""

from airflow.sdk import Param, dag

from plugins.steps import evershelf_command


@dag(
    schedule=None,
    max_active_runs=1,
    params={"why": Param("", type="string", minLength=5, maxLength=500, description="What is wrong with the snapshot that is live?")},
    doc_md=__doc__,
    tags=["release"],
)
def rollback() -> None:
    evershelf_command("rollback", "--why", "{{ params.why }}", "--json", retries=0)


rollback()
