"""HDFS of the local stack: one NameNode and two DataNodes, plain Java processes from the jars that `make setup` fetched.

Blocks are forced to disk when they are closed, as the storage interface promises. DataNodes listen on ports that the kernel chooses: clients are told by the
NameNode, whose two ports are the only ones to know.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import httpx

from evershelf import storage
from evershelf.errors import CommandFailed
from evershelf.settings import HdfsSettings, Settings

DEPLOY = Path(__file__).parents[2] / "deploy" / "hdfs"
JARS = DEPLOY / "target" / "jars"
DATANODES = 2


def hdfs_programs(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return program -> command."""
    programs = {"hdfs-namenode": (*_hadoop(settings), "namenode")}
    for number in range(1, DATANODES + 1):
        data = f"-Ddfs.datanode.data.dir={_file(settings.home / 'hdfs' / f'datanode-{number}')}"
        programs[f"hdfs-datanode-{number}"] = (*_hadoop(settings), "datanode", data)
    return programs


def prepare_hdfs(settings: Settings, log: Path) -> None:
    """Write the configuration anew, and on the first start make an empty file system; killed half-way, the next start makes it.

    Raises:
        CommandFailed: the jars were never fetched, the home's path is one that Hadoop cannot take, or the file system could not be made.
    """
    if "%" in _file(settings.home):  # its DataNodes read the escaped path as a format
        raise CommandFailed(
            f"HDFS cannot keep its data in {settings.home}: its path may have only plain letters and no space. HDFS was not started; set another."
        )
    if not any(JARS.glob("hadoop-hdfs-*.jar")):
        raise CommandFailed(f"The jars of HDFS are not in {JARS}. HDFS was not started; run `make setup`.")
    folder = settings.home / "hdfs"
    (folder / "conf").mkdir(parents=True, exist_ok=True)
    _write_config(folder / "conf", _configuration(settings))
    if (folder / "name").exists():
        return
    with storage.new_folder(folder / "name") as aside, log.open("wb") as output:
        made = [*_hadoop(settings), "namenode", f"-Ddfs.namenode.name.dir={_file(aside)}", "-format", "-force", "-nonInteractive"]
        if subprocess.run(made, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode:
            raise CommandFailed(f"HDFS could not make its file system. HDFS was not started; see {log}.")


def hdfs_works(settings: HdfsSettings) -> bool:
    """Return whether the NameNode is out of safe mode and sees every DataNode."""
    try:
        answer = httpx.get(f"http://{settings.host}:{settings.web_port}/jmx", params={"qry": "Hadoop:service=NameNode,name=*"}, timeout=2.0, trust_env=False)
        beans = {bean["name"].partition("name=")[2]: bean for bean in answer.raise_for_status().json()["beans"]}
        return bool(beans["NameNodeInfo"]["Safemode"] == "" and beans["FSNamesystemState"]["NumLiveDataNodes"] == DATANODES)
    except (httpx.HTTPError, KeyError, ValueError):
        return False


def _write_config(folder: Path, sites: Mapping[str, Mapping[str, object]]) -> None:
    """Write Hadoop's XML files, site -> property -> value."""
    for site, properties in sites.items():
        lines = [f"  <property><name>{name}</name><value>{escape(str(value))}</value></property>" for name, value in properties.items()]
        (folder / f"{site}-site.xml").write_text("\n".join(["<configuration>", *lines, "</configuration>"]) + "\n")


def _configuration(settings: Settings) -> dict[str, dict[str, object]]:
    hdfs, folder = settings.hdfs, settings.home / "hdfs"
    return {
        "core": {"fs.defaultFS": f"hdfs://{hdfs.host}:{hdfs.port}", "hadoop.tmp.dir": folder / "tmp"},
        "hdfs": {
            "dfs.namenode.rpc-address": f"{hdfs.host}:{hdfs.port}",
            "dfs.namenode.http-address": f"{hdfs.host}:{hdfs.web_port}",
            "dfs.namenode.name.dir": _file(folder / "name"),
            "dfs.datanode.address": "127.0.0.1:0",
            "dfs.datanode.ipc.address": "127.0.0.1:0",
            "dfs.datanode.http.address": "127.0.0.1:0",
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.replication": hdfs.replication,
            "dfs.datanode.synconclose": "true",
            "dfs.namenode.safemode.extension": 0,  # milliseconds that it waits after the last block was reported
            "dfs.heartbeat.interval": 1,
            "dfs.namenode.heartbeat.recheck-interval": 5000,  # with the line above: a silent DataNode is dead after 20 s
            "dfs.namenode.handler.count": 4,
            "dfs.datanode.handler.count": 4,
        },
    }


def _hadoop(settings: Settings) -> tuple[str, ...]:
    return (str(DEPLOY / "hadoop"), str((settings.home / "hdfs" / "conf").absolute()))


def _file(path: Path) -> str:
    return path.absolute().as_uri()
