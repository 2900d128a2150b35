"""What a file system says through Delta and Spark is told in one line; any other error keeps its stack trace."""

import pytest
from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JError  # type: ignore[import-untyped]  # ships no types

from evershelf.run import said_by_storage

FULL = """An error occurred while calling o24.parquet.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 failed 1 times
\tat org.apache.hadoop.hdfs.DFSOutputStream.addBlock(DFSOutputStream.java:1)
Caused by: org.apache.hadoop.hdfs.protocol.DSQuotaExceededException: The DiskSpace quota of /shop is exceeded: quota = 1 B
\tat org.apache.hadoop.hdfs.server.namenode.DirectoryWithQuotaFeature.verifyQuota(DirectoryWithQuotaFeature.java:212)"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Py4JError(FULL), "DSQuotaExceededException: The DiskSpace quota of /shop is exceeded: quota = 1 B"),
        (
            OSError("Generic HdfsObjectStore error\n  \x1b[31m↳\x1b[0m Connection refused (os error 111)"),
            "Generic HdfsObjectStore error Connection refused (os error 111)",
        ),
        (
            OSError(
                "Kernel error -> Generic HdfsObjectStore error\n  \x1b[31m↳\x1b[0m RPC error\n  \x1b[31m↳\x1b[0m hadoop.SafeModeException Zero blocks\n"
                "Name node is in safe mode.\n\tat org.apache.hadoop.hdfs.server.namenode.FSNamesystem.of(FSNamesystem.java:1661)\n"
                "\tat java.base/javax.security.auth.Subject.doAs(Subject.java:439)\n"
            ),
            "Kernel error -> Generic HdfsObjectStore error RPC error hadoop.SafeModeException Zero blocks Name node is in safe mode.",
        ),
        (
            DeltaError("Failed to parse parquet: External: Generic HdfsObjectStore error: RPC error: DSQuotaExceededException The DiskSpace quota is exceeded"),
            "Failed to parse parquet: External: Generic HdfsObjectStore error: RPC error: DSQuotaExceededException The DiskSpace quota is exceeded",
        ),
        (DeltaError("Invalid table version"), None),
        (Py4JError("An error occurred\n: java.lang.NullPointerException\n\tat org.apache.spark.Some.thing(Some.scala:1)"), None),
        (FileNotFoundError(2, "No such file"), None),
        (ValueError("Generic nonsense"), None),
    ],
)
def test_only_what_storage_said_is_taken_for_it(error: Exception, said: str | None) -> None:
    assert said_by_storage(error) == said
