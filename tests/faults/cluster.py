"""HDFS of the local stack, and what can break of it: one for all cases, made whole again after each."""

import getpass
import random
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from evershelf.settings import load_settings
from evershelf.stack import supervision
from evershelf.stack.hdfs import DATANODES, hdfs_works

_HEALING_S = 180.0  # within which HDFS must be whole again on a machine that does other things besides


class Cluster:
    """The HDFS of a running stack."""

    def __init__(self, stack: supervision.Running, home: Path) -> None:
        self.stack, self.home = stack, home
        hdfs = load_settings().hdfs
        self._web = httpx.Client(base_url=f"http://{hdfs.host}:{hdfs.web_port}", timeout=30.0, trust_env=False)
        self._lost: dict[int, set[str]] = {}  # number of a DataNode that is down -> the addresses of all before
        self._full: set[str] = set()

    def kill_namenode(self) -> None:
        """kill -9; supervisord starts it again at once."""
        psutil.Process(supervision.program_pid(self.stack, "hdfs-namenode")).kill()
        self._wait(lambda: not hdfs_works(load_settings().hdfs), "the NameNode was killed and still answers")

    def kill_datanode(self, number: int) -> None:
        """kill -9; it stays down until `heal`."""
        self._lost[number] = self._addresses()
        psutil.Process(supervision.program_pid(self.stack, f"hdfs-datanode-{number}")).kill()
        with suppress(Exception):  # supervisord had not begun to start it again
            supervision.stop_program(self.stack, f"hdfs-datanode-{number}")

    def fill(self, folder: str) -> None:
        """Let HDFS refuse every new block below a folder, as on a full disk: by a space quota that is used up."""
        self._quota(folder, 1)
        self._full.add(folder)

    def corrupt(self, folder: str, known: Collection[str], number: int, rng: random.Random) -> str:
        """Overwrite bytes of one replica of a file's block, on one DataNode.

        Args:
            known: files that are chosen only when there are no others.

        Returns:
            the file.
        """
        blocks = self.blocks(folder)
        path = rng.choice(sorted(set(blocks) - set(known)) or sorted(blocks))
        (replica,) = (self.home / "hdfs" / f"datanode-{number}" / "current").glob(f"BP-*/current/finalized/**/{blocks[path]}")
        content = bytearray(replica.read_bytes())
        start = rng.randrange(len(content))
        for place in range(start, min(start + 64, len(content))):
            content[place] ^= 0xFF
        replica.write_bytes(content)
        return path

    def blocks(self, folder: str) -> dict[str, str]:
        """Return the finished files below a folder that hold anything -> their first block."""
        report = self._fsck(folder, files="1", blocks="1")
        return dict(re.findall(r"^(/.*?) \d+ bytes, .*\n0\. \S+?:(blk_\d+)_", report, re.MULTILINE))

    def heal(self) -> None:
        """End every fault, and wait until HDFS has all its servers."""
        for number in self._lost:
            supervision.start_program(self.stack, f"hdfs-datanode-{number}")
        self._wait(lambda: hdfs_works(load_settings().hdfs), "HDFS does not come back")
        for before in self._lost.values():  # it listens elsewhere, and the NameNode does not miss a silent one at once
            self._wait(lambda before=before: len(now := self._addresses()) == DATANODES and now != before, "the DataNode does not come back")  # type: ignore[misc]
        self._lost.clear()
        for folder in self._full:
            self._quota(folder, -1)
        self._full.clear()

    def wait_until_whole(self, folder: str) -> None:
        """Wait until fsck finds a folder healthy and no block is missing anywhere.

        Raises:
            TimeoutError: it does not come to that.
        """
        self._wait(lambda: "is HEALTHY" in self._fsck(folder) and self._bean("FSNamesystem")["MissingBlocks"] == 0, f"fsck does not find {folder} healthy")

    def _fsck(self, folder: str, **options: str) -> str:
        return self._web.get("/fsck", params={"ugi": getpass.getuser(), "path": folder, **options}).raise_for_status().text

    def _quota(self, folder: str, size: int) -> None:
        question = {"op": "SETQUOTA", "storagespacequota": str(size), "user.name": getpass.getuser()}
        self._web.put(f"/webhdfs/v1{folder}", params=question).raise_for_status()

    def _addresses(self) -> set[str]:
        nodes = msgspec.json.decode(self._bean("NameNodeInfo")["LiveNodes"])
        return {node["xferaddr"] for node in nodes.values()}

    def _bean(self, name: str) -> dict[str, Any]:
        (bean,) = self._web.get("/jmx", params={"qry": f"Hadoop:service=NameNode,name={name}"}).raise_for_status().json()["beans"]
        return dict(bean)

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _HEALING_S
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} (waited {_HEALING_S:.0f} s)")
            time.sleep(0.2)

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        with suppress(httpx.HTTPError, KeyError, ValueError):
            return condition()
        return False
