"""The two tours share their steps; what only clicks can find is not asked of shoppers who click blindly; decisions are read from the log."""

import io
import json
from datetime import date
from pathlib import Path

from rich.console import Console

from evershelf.demo.circle import Circle, decisions
from evershelf.demo.report import Report
from evershelf.demo.work import Workshop
from evershelf.settings import load_settings


def names(home: Path, *, data: Path | None = None, full: bool = False) -> list[str]:
    workshop = Workshop(environment={}, logs=home / "logs", console=Console(file=io.StringIO()))
    days = [date(2026, 3, day) for day in range(1, 6)]
    circle = Circle(settings=load_settings(), workshop=workshop, data=data, days=days, report=Report(shop="simulator", home=str(home), days=""))
    return [name for name, _ in circle.tour(full=full)]


def test_full_tour_is_the_short_one_and_more(home: Path) -> None:
    short, full = names(home), names(home, full=True)
    assert [name for name in full if name in short] == short
    assert len(full) == len(set(full)) == len(short) + 5


def test_shop_without_a_truth_gets_no_snapshot_that_only_clicks_can_find_bad(home: Path, tmp_path: Path) -> None:
    assert any("worse ranking" in name for name in names(home, full=True))
    assert not any("released" in name for name in names(home, data=tmp_path, full=True))


def test_decisions_are_those_of_the_log_since_the_shoppers_came(home: Path) -> None:
    folder = home / "promotions"
    folder.mkdir(parents=True)
    records = [("promoted", 10, {}), ("registered", 20, {}), ("canary", 30, {"share": 0.25}), ("rejected", 40, {})]
    for number, (kind, second, more) in enumerate(records, start=1):
        about = {"seq": number, "kind": kind, "snapshot_id": "s", "at": f"1970-01-01T00:00:{second}+00:00"}
        (folder / f"{number:06d}.json").write_text(json.dumps({**about, **more}))
    assert [(decision.at, decision.what) for decision in decisions(load_settings(), since=15.0)] == [(30.0, "canary 25%"), (40.0, "rejected")]
