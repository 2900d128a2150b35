"""`evershelf run JOB`: one data job, as a DAG task or by hand."""

import re
import runpy
import sys

import click

from evershelf.errors import CommandFailed, StorageError, in_one_line
from evershelf.settings import load_settings

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
_OF_STORAGE = re.compile(r"\bGeneric \w+ error")  # Delta's name for what is not of its own
_IN_JAVA = re.compile(r"\b(?:java\.(?:io|net)|org\.apache\.hadoop(?:\.\w+)+)\.(\w+Exception): (.+)")


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("job", type=click.Choice(sorted(JOBS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(job: str, arguments: tuple[str, ...]) -> None:
    """Run JOB with its own arguments; `evershelf run JOB --help` lists them."""
    sys.argv = [f"evershelf run {job}", *arguments]
    try:
        runpy.run_module(JOBS[job], run_name="__main__", alter_sys=True)
    except Exception as error:
        if driver_is_lost(error):
            raise CommandFailed(
                f"{job}'s Spark driver ended in the middle of its work: it was killed, or ran out of memory (then it said OutOfMemoryError above). Nothing "
                f"half-done is visible, and what is live stays live. Raise lake.spark_memory (now {load_settings().lake.spark_memory}) or run fewer days at a "
                "time, then run it again."
            ) from None
        if not (why := said_by_storage(error)):
            raise
        raise StorageError(
            f"{job} could not read or write its storage ({why}). Nothing half-done is visible, and what is live stays live. "
            "Look at its storage, then run it again."
        ) from None


def said_by_storage(error: Exception) -> str | None:
    """Return in one line what a file system said, which Delta and Spark pass on with a stack of their own; None when the error is of another kind."""
    text = str(error)
    of_delta = type(error).__name__ == "DeltaError"  # by name: only the jobs import Delta
    if (isinstance(error, OSError) or of_delta) and _OF_STORAGE.search(text):
        return in_one_line(error)
    if type(error).__module__.startswith(("py4j.", "pyspark.")) and "org.apache.hadoop." in text and (said := _IN_JAVA.search(text)):
        return f"{said[1]}: {said[2][:300]}"
    return None


def driver_is_lost(error: BaseException) -> bool:
    """Say whether Spark's driver, which runs in a JVM of its own, no longer answers; what failed after that, in cleaning up, is in the error's context."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__context__
    return any(type(one).__name__ == "Py4JNetworkError" for one in chain)
