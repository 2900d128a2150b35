"""What every test shares: an installation of its own, in a temporary folder."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evershelf import pseudonyms, storage, telemetry
from evershelf.settings import HdfsSettings, Settings, load_settings
from evershelf.stack import supervision
from evershelf.stack.ports import free_ports

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

os.environ.setdefault("EVERSHELF_LAKE__SPARK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")  # tests have few rows: Java's best compiler would not pay


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point Evershelf at an empty home; settings that the test then sets in the environment need `load_settings.cache_clear()`."""
    monkeypatch.setenv("EVERSHELF_HOME", str(tmp_path / "home"))
    _forget()
    yield tmp_path / "home"
    _forget()


@pytest.fixture(scope="session")
def spark() -> "Iterator[SparkSession]":
    """One Spark session for all tests that want it."""
    from spark_jobs.session import spark_session  # slow: only those who want it pay

    logging.getLogger("py4j.clientserver").setLevel(logging.WARNING)  # it tells of its end when pytest listens no more
    session = spark_session("tests")
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def hdfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[supervision.Running]:
    """A NameNode and two DataNodes, started by the first test that wants them; nothing of them is left in the end."""
    home, ports = tmp_path_factory.mktemp("hdfs"), {name: port for name, port in free_ports().items() if "HDFS" in name}
    server = HdfsSettings(port=int(ports["EVERSHELF_HDFS__PORT"]), web_port=int(ports["EVERSHELF_HDFS__WEB_PORT"]))
    try:
        yield supervision.start(Settings(home=home, hdfs=server), ["hdfs"], ports, lambda line: None)
    finally:
        assert supervision.stop(home) == []


@pytest.fixture
def hdfs(home: Path, hdfs_server: supervision.Running, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let everything that is shared lie in a folder of its own on HDFS; its address."""
    for name, value in hdfs_server.env.items():
        if "HDFS" in name:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVERSHELF_STORAGE_URL", f"hdfs:///{home.parent.name}")
    load_settings.cache_clear()
    return load_settings().url("landing").removesuffix("/landing")


@pytest.fixture(params=["file", "hdfs"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> storage.Place:
    """An address of each kind for what is shared."""
    return storage.at(request.getfixturevalue("hdfs") if request.param == "hdfs" else tmp_path.as_uri()) / "shared"


def _forget() -> None:
    load_settings.cache_clear()
    pseudonyms._key.cache_clear()
    telemetry.metrics.cache_clear()
