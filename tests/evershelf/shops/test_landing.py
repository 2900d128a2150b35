"""What landed is counted line by line, as Spark takes lines, however the file is cut into blocks."""

import gzip
import random
from datetime import date
from pathlib import Path

import pytest

from evershelf.shops import ADAPTERS, landing

DAY = date(2026, 11, 16)
PIECES = (b"\n", b"\r", b"\r\n", b" ", b"\t", b"{}", b"\xff", b"\x85", "é".encode(), b"ab\n", b"cd\n")


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_lines_that_are_not_blank_are_counted(home: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(landing, "BLOCK", block)
    chance = random.Random(block)
    source = ADAPTERS["simulator"].source("events")
    for _ in range(200):
        text = b"".join(chance.choice(PIECES) for _ in range(chance.randrange(12)))
        landing.land("events", DAY, "door.jsonl.gz", gzip.compress(text))
        lines = text.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert landing.count_rows(source, DAY) == sum(1 for line in lines if line.strip(" ")), text
