"""One Spark session with Delta, sized for the machine at hand."""

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from evershelf.errors import CommandFailed
from evershelf.settings import Settings, load_settings

JARS = Path(__file__).parents[1] / "deploy" / "jars" / "target" / "jars"
CLASSES = Path(__file__).parents[1] / ".setup" / "spark.jsa"  # made by scripts/archive_spark.sh: to load and verify Spark's classes takes half of its start


def spark_session(job: str) -> SparkSession:
    """Start or return the session of a job.

    Raises:
        CommandFailed: the jars were never fetched.
    """
    settings = load_settings()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Python workers need this environment, not the first python3 on the PATH
    jars = sorted(JARS.glob("*.jar"))
    if not jars:
        raise CommandFailed(f"Spark's Delta jars are not in {JARS}. Nothing was read or written; run `make setup`.")
    builder = SparkSession.builder
    if options := _java_options(settings):
        builder = builder.config("spark.driver.extraJavaOptions", options)
    return (
        builder.appName(f"evershelf-{job}")
        .master(settings.lake.spark_master)
        .config("spark.driver.memory", settings.lake.spark_memory)
        .config("spark.jars", ",".join(map(str, jars)))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "4")  # the tables of one day are small; adaptive execution splits what is not
        .config("spark.sql.inMemoryColumnarStorage.compressed", "false")  # to try every encoding on every column takes about as long as to parse the rows
        .config("spark.serializer.objectStreamReset", "1")  # else a reader of what was put on disk holds the last 100 batches of 10,000 rows in memory
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")  # what Delta's protocol asks of its files
        .config("spark.hadoop.dfs.replication", settings.hdfs.replication)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )


def _java_options(settings: Settings) -> str:
    archive = f'"-XX:SharedArchiveFile={CLASSES}" -Xlog:cds=off -Xlog:cds+dynamic=off' if CLASSES.exists() else ""  # one that does not fit is left alone
    return f"{archive} {settings.lake.spark_java_options}".strip()
