"""How many events a minute the simulated shop makes on one core, beside the ground it stands on.

Peer: a bare loop that encodes the very same rows with msgspec, the fastest JSON encoder at hand, and compresses them with gzip at the same level. It has
nothing to think about, so it is what simulating can be compared with, not a rival. Both on core 0 with one thread, rounds in turn.
"""

import gzip
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from subprocess import run
from typing import Any

import msgspec

from benchmarks.paired import paired
from evershelf.shops.simulator import PACKED, simulate

ROUNDS, END = 5, date(2026, 3, 10)
SIZE: dict[str, Any] = {"days": 2, "users": 20_000, "items": 600, "visits": 6000}


def bench() -> dict[str, Any]:
    """Return {"bench", "peer", "ratio", "unit", "ours", "theirs", "rounds"}: millions of events per minute and core."""
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.simulator"]
    done = run(command, env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, check=True, capture_output=True, text=True)
    rounds = json.loads(done.stdout.splitlines()[-1])
    return paired(bench="simulator", peer="the same rows through msgspec and gzip alone", unit="million events/min per core", rounds=rounds, digits=2)


def _round() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        events = sum(day.events for day in simulate(Path(folder), end=END, **SIZE))
        ours = time.perf_counter() - started
        days = [gzip.decompress(path.read_bytes()).splitlines() for path in sorted(Path(folder).glob("*/events.jsonl.gz"))]
    theirs, encode = 0.0, msgspec.json.Encoder().encode
    for lines in days:
        rows = [row for line in lines if (row := _read(line)) is not None]
        started = time.perf_counter()
        gzip.compress(b"\n".join([encode(row) for row in rows]), PACKED, mtime=0)
        theirs += time.perf_counter() - started
    return events / ours * 60 / 1e6, events / theirs * 60 / 1e6


def _read(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None


if __name__ == "__main__":
    print(json.dumps([_round() for _ in range(ROUNDS)]))
