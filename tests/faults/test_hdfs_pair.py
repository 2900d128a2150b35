"""The HA pair of deploy/hdfs/ha, with its hosts put in: what one NameNode acknowledged, the other one has."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from evershelf import storage
from evershelf.errors import StorageError
from evershelf.processes import stop_tree
from evershelf.settings import load_settings
from evershelf.stack.hdfs import DEPLOY
from evershelf.stack.ports import free_ports

pytestmark = pytest.mark.faults

HADOOP = str(DEPLOY / "hadoop")


class Pair:
    """Two NameNodes, one JournalNode and a DataNode on this machine."""

    def __init__(self, folder: Path) -> None:
        ports = iter(re.findall(r"\d{5}", " ".join(free_ports().values())))
        self.conf, self.logs, self.processes = folder / "conf", folder, dict[str, subprocess.Popen[bytes]]()
        hosts = {name: f"127.0.0.1:{next(ports)}" for name in ("namenode-1:8020", "namenode-2:8020", "namenode-1:9870", "namenode-2:9870")}
        self.web = [hosts["namenode-1:9870"], hosts["namenode-2:9870"]]
        journal = f"127.0.0.1:{next(ports)}"
        self.conf.mkdir()
        for site in ("core-site.xml", "hdfs-site.xml"):
            text = (DEPLOY / "ha" / site).read_text().replace("journal-1:8485;journal-2:8485;journal-3:8485", journal)
            for name, address in hosts.items():
                text = text.replace(name, address)
            (self.conf / site).write_text(text.replace("/var/lib/hdfs", str(folder)))
        self.run("journalnode", f"-Ddfs.journalnode.rpc-address={journal}", "-Ddfs.journalnode.http-address=127.0.0.1:0")
        self.do("namenode", *self.own(1), "-format", "-nonInteractive")
        self.start(1)
        self.do("namenode", *self.own(2), "-bootstrapStandby", "-nonInteractive")
        self.start(2)
        everywhere = ("-Ddfs.datanode.address=127.0.0.1:0", "-Ddfs.datanode.ipc.address=127.0.0.1:0", "-Ddfs.datanode.http.address=127.0.0.1:0")
        self.run("datanode", *everywhere, "-Ddfs.datanode.hostname=127.0.0.1")
        self.activate(1)

    def own(self, number: int) -> tuple[str, ...]:
        name = (self.logs / f"name-{number}").as_uri()
        return (f"-Ddfs.ha.namenode.id=nn{number}", f"-Ddfs.namenode.name.dir={name}", "-Ddfs.replication=1")

    def start(self, number: int) -> None:
        self.run("namenode", *self.own(number), name=f"namenode-{number}")

    def run(self, command: str, *arguments: str, name: str = "") -> None:
        name = name or command
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen([HADOOP, str(self.conf), command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def do(self, *arguments: str) -> str:
        done = subprocess.run([HADOOP, str(self.conf), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def activate(self, number: int) -> None:
        self.wait_for(number, "standby")
        self.do("haadmin", "-transitionToActive", f"nn{number}")
        self.wait_for(number, "active")

    def wait_for(self, number: int, state: str) -> None:
        deadline = time.monotonic() + 60
        while self.state(number) != state:
            assert time.monotonic() < deadline, (self.logs / f"namenode-{number}.log").read_text()[-3000:]
            time.sleep(0.3)

    def state(self, number: int) -> str:
        try:
            url = f"http://{self.web[number - 1]}/jmx?qry=Hadoop:service=NameNode,name=*"
            beans = {bean["name"].partition("name=")[2]: bean for bean in httpx.get(url, timeout=5, trust_env=False).json()["beans"]}
            return str(beans["NameNodeStatus"]["State"]) if not beans["NameNodeInfo"]["Safemode"] else "safe mode"
        except (httpx.HTTPError, KeyError, ValueError):
            return "away"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    before = set(psutil.Process().children())
    try:
        yield Pair(tmp_path)
    finally:
        for left in set(psutil.Process().children()) - before:
            stop_tree(left.pid)


def test_the_other_namenode_takes_over_with_all_that_was_acknowledged(pair: Pair, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_CONF_DIR", str(pair.conf))
    monkeypatch.setenv("EVERSHELF_STORAGE_URL", "hdfs://evershelf/shop")
    monkeypatch.setenv("EVERSHELF_HDFS__WEB_URLS", str([f"http://{address}" for address in pair.web]).replace("'", '"'))
    load_settings.cache_clear()
    assert os.environ["HADOOP_CONF_DIR"]
    folder, table = storage.at(load_settings().url("promotions")), load_settings().url("lake") + "/t"
    for number in range(5):
        storage.create(folder / f"{number}", b"acknowledged")
    write_deltalake(table, pa.table({"a": [1, 2]}))
    pair.processes["namenode-1"].kill()
    pair.processes["namenode-1"].wait()
    started = time.monotonic()
    with pytest.raises(StorageError, match="not ready"):
        (storage.at(str(folder), patient=False) / "0").read_bytes()
    assert time.monotonic() - started < 5
    pair.activate(2)
    assert [(folder / f"{number}").read_bytes() for number in range(5)] == [b"acknowledged"] * 5
    storage.replace(folder / "5", b"after")
    write_deltalake(table, pa.table({"a": [3]}), mode="append")
    assert DeltaTable(table).to_pyarrow_table().num_rows == 3
    pair.start(1)  # it comes back as the standby
    pair.wait_for(1, "standby")
    assert (folder / "5").read_bytes() == b"after"
