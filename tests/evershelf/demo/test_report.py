"""The report says what happened, on one page, and never calls a broken promise kept."""

import io
import json
from collections import Counter
from pathlib import Path

from rich.console import Console

from evershelf.demo.answers import Answer, AnswerLog, Summary, summarize
from evershelf.demo.report import LandingDay, Promise, Report, markdown, show, write
from evershelf.demo.work import Step


def answer(at: float, *, endpoint: str = "recommend", status: int = 200, items: int = 10, served_by: str = "live") -> Answer:
    return Answer(at=at, seconds=0.01, endpoint=endpoint, status=status, items=items, served_by=served_by, snapshot_id="s1", arm="stable")


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
    for text in (screen.file.getvalue(), markdown(report)):  # type: ignore[attr-defined]  # the file is a StringIO
        for telling in ("train", "60.2", "live 8", "local_model 2", "not a product 2", "no file landed", "RED MUG", "http://127.0.0.1:8080", "All 1 promises"):
            assert telling in text
    write(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["kept"] is True


def test_report_says_broken_when_one_promise_is() -> None:
    report = recorded()
    report.promises.append(Promise("rows add up", False))
    assert not report.kept
    assert "BROKEN: rows add up" in markdown(report)


def test_report_without_promises_is_not_a_success() -> None:
    assert not Report(shop="simulator", home="/home", days="").kept


def test_day_that_does_not_add_up_is_shown_however_many_others_there_are() -> None:
    report = recorded()
    report.landing = [published("2026-01-01", clean=90), *(published(f"2026-02-{day:02}") for day in range(1, 29))]
    text = markdown(report)
    assert "DOES NOT ADD UP" in text
    assert "14 others" in text
    assert text.count("| lines |") == 15


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
