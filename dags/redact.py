"""Take forgotten shoppers out of landing, lake, candidates, models, Redis and snapshots.

Runs:        daily, an hour before lake_daily, so that data from a restored backup are clean before they are published. Waits for a slot of the pool `spark`.
Re-run:      safe, whatever was killed when: what is to do is read from what is there. With nobody to take out it changes nothing.
On failure:  gateways answer as before, and treat the forgotten as strangers. The log's last lines name what could not be done (Redis away, a gateway held);
             it is tried twice more, and again the next night. The receipts lie in `receipts/` of the home.
By hand:     `evershelf run redact`. Who is forgotten: `evershelf forget USER`.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(-1), doc_md=__doc__, tags=["privacy"])
def redact() -> None:
    evershelf_command("run", "redact", "--json", spark=True)


redact()
