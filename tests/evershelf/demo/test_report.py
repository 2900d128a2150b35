"""The report says what happened, on one page, and never calls a broken promise kept."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from evershelf.demo.answers import Answer, AnswerLog, Summary, summarize
from evershelf.demo.faults import Fault
from evershelf.demo.plots import Decision, draw
from evershelf.demo.report import LandingDay, Promise, Report, page, show, write
from evershelf.demo.work import Step


def answer(at: float, *, endpoint: str = "recommend", status: int = 200, items: int = 10, served_by: str = "live", **more: Any) -> Answer:
    return Answer(at=at, seconds=0.01, endpoint=endpoint, status=status, items=items, served_by=served_by, snapshot_id="s1", **{"arm": "stable"} | more)


def published(day: str, clean: int = 97) -> LandingDay:
    return LandingDay(day, "lines", "published", rows_in=100, clean=clean, quarantined=2, deduplicated=1, reasons={"not a product": 2})


def recorded() -> Report:
    return Report(
        shop="simulator",
        home="/home",
        days="5 days",
        seconds=300.0,
        steps=[Step("train", 60.2, "m1")],
        answers=Summary(answers=10, by_rung=Counter(live=8, local_model=2)),
        promises=[Promise("not one 5xx", True, "10 answers")],
        landing=[published("2026-01-01"), LandingDay("2026-01-02", "lines", "held", 0, 0, 0, 0, why="no file landed")],
        lists={"popular": ["RED MUG", "BLUE MUG"]},
        urls={"gateway": "http://127.0.0.1:8080"},
    )


def test_report_names_steps_rungs_reasons_lists_and_addresses(tmp_path: Path) -> None:
    report = recorded()
    screen = Console(file=io.StringIO(), width=200)
    show(report, screen)
    for text in (screen.file.getvalue(), page(report, "")):  # type: ignore[attr-defined]  # the file is a StringIO
        for telling in ("train", "60.2", "live 8", "local_model 2", "not a product 2", "no file landed", "RED MUG", "http://127.0.0.1:8080", "All 1 promises"):
            assert telling in text
    write(report, tmp_path, [answer(1.0), answer(9.0)])
    assert json.loads((tmp_path / "report.json").read_text())["kept"] is True
    written = (tmp_path / "report.html").read_text()
    assert "<svg" in written
    assert "src=" not in written  # it needs no network and no other file


def test_report_says_broken_when_one_promise_is() -> None:
    report = recorded()
    report.promises.append(Promise("rows add up", False))
    assert not report.kept
    assert "BROKEN: rows add up" in page(report, "")


def test_report_without_promises_is_not_a_success() -> None:
    assert not Report(shop="simulator", home="/home", days="").kept


def test_day_that_does_not_add_up_is_shown_however_many_others_there_are() -> None:
    report = recorded()
    report.landing = [published("2026-01-01", clean=90), *(published(f"2026-02-{day:02}") for day in range(1, 29))]
    text = page(report, "")
    assert "DOES NOT ADD UP" in text
    assert "14 others" in text
    assert text.count("<td>lines</td>") == 15


def test_page_shows_foreign_text_as_text() -> None:
    report = recorded()
    report.lists = {"popular": ["<script>alert(1)</script>", "mug [/blue] [red]"]}
    assert "<script>" not in page(report, "")
    screen = Console(file=io.StringIO(), width=200)
    show(report, screen)
    assert "mug [/blue] [red]" in screen.file.getvalue()  # type: ignore[attr-defined]  # the file is a StringIO


def test_plots_name_rungs_snapshots_faults_and_decisions() -> None:
    answers = [answer(float(at), served_by="popular" if 40 < at < 50 else "live", worth=0.5, arm="canary" if at > 60 else "stable") for at in range(100)]
    svg = draw(answers, [Fault(name="it broke", start=40.0, end=50.0)], [Decision(70.0, "promoted", "s1")])
    ElementTree.fromstring(svg)
    for telling in ("live", "popular", "s1", "it broke", "promoted", "of the canary"):
        assert telling in svg
    assert draw([], [], []) == ""


def test_plots_of_a_shop_without_truth_say_that_quality_is_not_known() -> None:
    assert "not known" in draw([answer(float(at)) for at in range(20)], [], [])


def test_fault_counts_what_was_lost_and_what_it_cost_beside_live() -> None:
    answers = [answer(float(at), worth=2.0) for at in range(100)]
    answers += [answer(100.0 + at, served_by="local_model", worth=1.5) for at in range(10)]
    answers += [answer(105.5, endpoint="events", served_by="", items=3), answer(106.5, status=503, items=0, served_by="")]
    fault = Fault(name="it broke", start=100.0, end=110.0, expected="local_model")
    fault.measure(answers)
    assert (fault.requests, fault.lost, fault.by_rung) == (11, 1, {"local_model": 10})
    assert fault.quality == pytest.approx(15 / 22)  # who got no answer got nothing of worth
    assert not fault.survived
    fault.measure(answers[:-1])
    assert (fault.before, fault.quality, fault.cost) == (1.0, 0.75, 0.25)
    assert fault.survived
    fault.expected = "live"
    assert not fault.survived


def test_fault_of_a_bad_release_tells_its_own_answers_from_the_others() -> None:
    answers = [answer(float(at), worth=2.0) for at in range(10)]
    answers += [Answer(at=11.0, seconds=0.01, endpoint="recommend", status=200, items=5, served_by="live", snapshot_id="bad", arm="canary", worth=0.5)]
    fault = Fault(name="bad", start=10.5, end=12.0, released="bad")
    fault.measure([*answers, answer(11.5, worth=2.0)])
    assert (fault.requests, fault.its_requests, fault.its_quality, fault.quality) == (2, 1, 0.25, 0.625)


def test_summary_counts_every_way_to_be_bad() -> None:
    summary = summarize(
        [
            answer(1.0),
            answer(2.0, status=503, items=0, served_by=""),
            answer(3.0, items=0),
            answer(4.0, status=0, items=0, served_by=""),
            answer(5.0, status=400, items=0, served_by=""),
            answer(6.0, endpoint="events", served_by="", items=3),
        ]
    )
    assert (summary.answers, summary.server_errors, summary.empty, summary.unanswered, summary.other) == (6, 1, 1, 1, 1)
    assert summary.by_rung == {"live": 2}
    assert len(summary.worst) == 4


def test_answer_log_waits_for_a_line_that_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    log = AnswerLog(path)
    assert log.new() == []
    line = b'{"at":1.0,"seconds":0.01,"endpoint":"search","status":200,"items":3}\n'
    path.write_bytes(line + line[:20])
    assert len(log.new()) == 1
    path.write_bytes(line + line)
    assert len(log.new()) == 1
    assert len(list(log.since(1.0))) == 2
    assert list(log.since(1.5)) == []
