"""What was found of each day is kept, judged again when the days before it change, and shown."""

import json
import random
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("deltalake")

from evershelf.cli import cli
from evershelf.quality import store
from evershelf.settings import load_settings

MONDAY = date(2026, 11, 30)


def result(outcome: str = "published", why: str | None = None) -> dict[str, Any]:
    counts = {"rows_in": 10, "rows_clean": 9, "rows_quarantined": 1, "rows_deduplicated": 0, "reasons": {"bad time": 1}, "values": {}}
    return {"outcome": outcome, "why": why, "code_version": "1", "sources": {"events": counts}, "validations": []}


def rows(count: int) -> dict[str, Any]:
    return {"events": {"rows": count, "nulls": {}, "sums": {}, "spread": {}}}


def test_the_order_of_runs_makes_no_difference_to_the_warnings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [MONDAY - timedelta(days=back) for back in range(10)]
    kept: list[dict[date, store.DayQuality]] = []
    for order in (sorted(days), random.Random(1).sample(days, len(days))):
        monkeypatch.setenv("EVERSHELF_LAKE_URL", (tmp_path / f"lake-{len(kept)}").as_uri())
        load_settings.cache_clear()
        for day in order:
            store.record(day, result(), {day: rows(10 if day == MONDAY else 1000)})
        kept.append(store.read_days(min(days), max(days)))
    assert kept[0] == kept[1]
    assert [(one.kind, one.value, one.usual) for one in kept[0][MONDAY].warnings] == [("volume", 10, 1000)]
    assert not any(kept[0][day].warnings for day in days[1:])


def test_a_day_is_told_in_full_and_the_newest_days_in_a_line_each(home: Path) -> None:
    for back in range(9, -1, -1):
        day = MONDAY - timedelta(days=back)
        store.record(day, result(), {day: rows(1000 if back else 10)})
    store.record(MONDAY + timedelta(days=1), result("held", "no file landed"), {})
    shown = CliRunner().invoke(cli, ["quality", "--days", "3"])
    assert shown.exit_code == 0, shown.output
    assert "no file landed" in shown.output
    assert "10 rows; a usual day has 1000" in shown.output
    assert f"{MONDAY - timedelta(days=2)}" not in shown.output
    one = json.loads(CliRunner().invoke(cli, ["quality", "--date", f"{MONDAY}", "--json"]).output)["days"][0]
    assert one["result"]["sources"]["events"]["reasons"] == {"bad time": 1}
    assert one["warnings"][0]["value"] == 10


def test_nothing_known_is_said(home: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "evershelf.cli", "quality"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Nothing is known of these days" in done.stderr
