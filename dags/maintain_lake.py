"""Keep the lake's tables small and quick: put small files together, delete files that nobody can need any more.

Runs:        weekly, on Sunday, eight hours after lake_daily; takes turns with it. No Spark.
Re-run:      safe, whatever was killed when; a second run finds nothing to do.
On failure:  nothing that is needed was deleted, and nothing gets worse but the space on the disk. A model, candidates or a snapshot whose lineage cannot be
             read stops it: nobody knows which versions that one needs. The log's last line names it.
By hand:     `evershelf run maintain_lake`, with `--dry-run` to see what it would do.
"""

from airflow.sdk import dag

from plugins.schedules import scheduled
from plugins.steps import evershelf_command


@dag(**scheduled(8, days="* * 0"), doc_md=__doc__, tags=["lake"])
def maintain_lake() -> None:
    evershelf_command("run", "maintain_lake", "--json")


maintain_lake()
