"""How many recommendations a second one core gives from the `snapshot` rung, beside the ground it stands on.

Peer: a bare ASGI application on the same server (uvicorn, uvloop, httptools) that looks one key up in the same LMDB file and sends an answer of the same size,
made beforehand. It does nothing that a gateway is for, so it is the physical limit here, not a rival. Server on core 0, wrk on core 1, rounds in turn.
"""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.paired import paired
from benchmarks.processes import answers, running
from evershelf.errors import CommandFailed
from evershelf.settings import load_settings
from evershelf.stack.ports import free_ports
from evershelf.stack.services import EVERSHELF

ON_ONE_CORE = ("taskset", "-c", "0")
ROUNDS, SECONDS, CONNECTIONS, SHOPPERS = 5, 4, 32, 500
SCRIPT = """
local paths = {{ {paths} }}
request = function() return wrk.format("GET", paths[math.random(#paths)]) end
"""


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds"}: requests per second and core.

    Raises:
        CommandFailed: there is no demo to measure on.
    """
    home = load_settings().home / "demo-simulator"
    snapshots = sorted((home / "snapshots").glob("2*"))
    if not snapshots:
        raise CommandFailed(f"There is no snapshot in {home}. Nothing was measured; run `CI=1 make demo` first.")
    ports = free_ports()
    ours, theirs = f"http://127.0.0.1:{ports['EVERSHELF_GATEWAY__PORT']}", f"http://127.0.0.1:{ports['EVERSHELF_AIRFLOW__PORT']}"
    environment = os.environ | ports | {"EVERSHELF_HOME": str(home), "EVERSHELF_GATEWAY__NAME": "bench", "EVERSHELF_GATEWAY__RUNGS": '["snapshot", "popular"]'}
    shoppers = _shoppers(home)
    with tempfile.TemporaryDirectory() as folder, running([*ON_ONE_CORE, *EVERSHELF, "serve"], environment, answers(ours)):
        answer = httpx.get(f"{ours}/v1/recommend", params={"user_id": shoppers[0]})
        assert answer.json()["served_by"] == "snapshot", answer.text
        command = [sys.executable, "-m", "benchmarks.bare_lookup", theirs.rpartition(":")[2], str(snapshots[-1] / "store.lmdb"), str(len(answer.content))]
        script = Path(folder) / "shoppers.lua"
        script.write_text(SCRIPT.format(paths=", ".join(f'"/v1/recommend?user_id={shopper}"' for shopper in shoppers)))
        with running([*ON_ONE_CORE, *command], environment, answers(theirs)):
            rounds = [(_per_second(ours, script), _per_second(theirs, script)) for _ in range(ROUNDS)]
    return paired(bench="gateway_snapshot", peer="bare ASGI + LMDB on uvicorn", unit="requests/s per core", rounds=rounds, digits=1)


def _shoppers(home: Path) -> list[str]:
    newest = max((home / "raw").glob("2*")) / "events.jsonl.gz"
    with gzip.open(newest, "rt", errors="ignore") as file:
        found = dict.fromkeys(re.findall(r'"user_id":"([\w-]+)"', file.read()))
    return list(found)[:SHOPPERS]


def _per_second(url: str, script: Path) -> float:
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script), url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or (found := re.search(r"Requests/sec:\s+([\d.]+)", told)) is None:
        raise CommandFailed(f"The load did not run cleanly, so nothing can be said:\n{told}")
    return float(found[1])


if __name__ == "__main__":
    print(json.dumps(bench()))
