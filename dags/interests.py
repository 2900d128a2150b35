"""Work out what each shopper is interested in, as tags with their evidence.

Runs:        daily, one hour after lake_daily, for the newest day with events; waits for a free slot of the pool `spark`.
Re-run:      safe; a day's tags are one atomic commit, and the same tables give the same tags.
On failure:  nothing that is live changes; the tags of the days before stay.
By hand:     `evershelf run interests --date YYYY-MM-DD`. Look at them with `evershelf sql "select * from interests"`.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(1), doc_md=__doc__, tags=["lake"])
def interests() -> None:
    evershelf_command("run", "interests", "--json", spark=True)


interests()
