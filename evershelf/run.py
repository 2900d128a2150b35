"""`evershelf run JOB`: one data job, as a DAG task or by hand."""

import runpy
import sys

import click

JOBS = {
    "lake_daily": "spark_jobs.lake_daily",
    "interests": "spark_jobs.interests",
    "labels": "training.labels",
    "candidates": "spark_jobs.candidates",
    "nearline": "spark_jobs.nearline",
    "build_snapshot": "serving.build_snapshot",
    "maintain_lake": "evershelf.maintain_lake",
    "redact": "serving.redaction.command",
    "retention": "evershelf.retention",
}


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("job", type=click.Choice(sorted(JOBS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(job: str, arguments: tuple[str, ...]) -> None:
    """Run JOB with its own arguments; `evershelf run JOB --help` lists them."""
    sys.argv = [f"evershelf run {job}", *arguments]
    runpy.run_module(JOBS[job], run_name="__main__", alter_sys=True)
