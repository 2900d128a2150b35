"""The one-page report: for the terminal, as HTML with plots, and as JSON."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evershelf.demo.answers import RUNG_COLUMNS, Answer, Summary, rung_rows
from evershelf.demo.faults import Fault
from evershelf.demo.plots import Decision, draw
from evershelf.demo.work import Step

_Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, columns, rows


@dataclass(slots=True)
class Promise:
    """Something that the demo must show, and whether it did."""

    promise: str
    kept: bool
    detail: str = ""


@dataclass(slots=True)
class LandingDay:
    """Reconciliation of one source of one landing day; rows."""

    day: str
    source: str
    outcome: str
    rows_in: int
    clean: int
    quarantined: int
    deduplicated: int
    reasons: dict[str, int] = field(default_factory=dict)
    why: str | None = None

    @property
    def adds_up(self) -> bool:
        return self.outcome != "published" or self.rows_in == self.clean + self.quarantined + self.deduplicated


@dataclass(slots=True)
class Report:
    """All of it. `lists` maps a heading to titles, best first; `urls` a name to an address."""

    shop: str
    home: str
    days: str
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)
    answers: Summary = field(default_factory=Summary)
    not_sent: int = 0  # requests that were due, but this machine was too busy to send them
    faults: list[Fault] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    landing: list[LandingDay] = field(default_factory=list)
    lists: dict[str, list[str]] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return bool(self.promises) and all(promise.kept for promise in self.promises)


def write(report: Report, home: Path, answers: Sequence[Answer]) -> None:
    """Write report.json and report.html into a home; the answers are for the plots."""
    (home / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(report), "kept": report.kept})))
    (home / "report.html").write_text(page(report, draw(answers, report.faults, report.decisions)))


def show(report: Report, console: Console) -> None:
    """Print the report on one page."""
    for title, columns, rows in _tables(report):
        table = Table(*columns, title=title, title_justify="left", expand=False)
        for row in rows:
            table.add_row(*map(Text, row))  # titles and errors may hold what looks like markup
        console.print(table)
    console.print(_verdict(report), style="bold green" if report.kept else "bold red", markup=False)


def page(report: Report, plots: str) -> str:
    """Return the report as one HTML page that needs nothing else.

    Args:
        plots: what `draw` returned.
    """
    lines = [_HEAD, "<h1>Evershelf demo</h1>", f'<p class="{"kept" if report.kept else "broken"}">{html.escape(_verdict(report))}</p>', plots]
    for title, columns, rows in _tables(report):
        lines += [f"<h2>{html.escape(title)}</h2>", '<div class="table"><table>', _row("th", columns), *(_row("td", row) for row in rows), "</table></div>"]
    return "\n".join([*lines, "</main>", ""])


_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Evershelf demo</title>
<style>
body { margin: 0; background: #f4f5f7; color: #1c2430; font: 14px/1.5 system-ui, "DejaVu Sans", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 24px }
h1 { margin: 0 0 8px; font-size: 26px }
h2 { margin: 28px 0 6px; font-size: 16px }
.kept, .broken { padding: 10px 14px; border-radius: 6px; font-weight: 600 }
.kept { background: #dcf3e3; color: #0e5a2b }
.broken { background: #fbdcdc; color: #8d1414 }
.table { overflow-x: auto }
svg { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px }
table { border-collapse: collapse; width: 100%; background: #fff; border-radius: 6px; font-variant-numeric: tabular-nums }
th, td { padding: 5px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e8ec }
th { color: #5a6676; font-weight: 600 }
</style>
<main>"""


def _row(cell: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{_linked(text)}</{cell}>" for text in texts) + "</tr>"


def _linked(text: str) -> str:
    escaped = html.escape(text)
    return f'<a href="{escaped}">{escaped}</a>' if text.startswith("http://") else escaped


def _verdict(report: Report) -> str:
    broken = [promise.promise for promise in report.promises if not promise.kept]
    if broken or not report.promises:
        return f"BROKEN: {'; '.join(broken) or 'the demo did not reach its end'}"
    return f"All {len(report.promises)} promises were kept; {report.seconds / 60:.1f} minutes."


def _tables(report: Report) -> list[_Table]:
    answers = report.answers
    tables: list[_Table] = [
        (
            "What each fault cost: true quality beside what live gives to the same kinds of request (1.0), \u00b1 half a 95 % interval",
            ("fault", "seconds", "requests", "lost", "p99 ms", "answers by", "quality", "before", "cost", "outcome"),
            [fault.row() for fault in report.faults],
        ),
        (
            "What shoppers got",
            RUNG_COLUMNS,
            rung_rows(answers),
        ),
        (f"What ran ({report.days})", ("step", "seconds", "outcome"), [(step.name, f"{step.seconds:.1f}", step.outcome) for step in report.steps]),
        (
            f"Answers: {answers.answers}, p50 {answers.p50_ms} ms, p99 {answers.p99_ms} ms",
            ("by", "answers"),
            [
                ("rung", _counts(answers.by_rung)),
                ("request", _counts(answers.by_endpoint)),
                ("snapshot", _counts(answers.by_snapshot)),
                ("arm", _counts(answers.by_arm)),
                ("errors", f"5xx {answers.server_errors}, empty {answers.empty}, no answer {answers.unanswered}, other {answers.other}"),
                ("not sent", f"{report.not_sent}, because this machine was too busy"),
                *((f"bad answer {number}", text) for number, text in enumerate(answers.worst, start=1)),
            ],
        ),
        (
            "Landing: rows in = clean + quarantined + deduplicated",
            ("day", "source", "in", "clean", "quarantined", "deduplicated", "reasons"),
            [
                (
                    *(day.day, day.source, f"{day.rows_in}", f"{day.clean}", f"{day.quarantined}", f"{day.deduplicated}"),
                    (day.why or _counts(day.reasons)) + ("" if day.adds_up else "  DOES NOT ADD UP"),
                )
                for day in _shortened(report.landing)
            ],
        ),
        ("Lists", ("of", "items"), [(heading, " · ".join(titles)) for heading, titles in report.lists.items()]),
        ("Promises", ("promise", "kept", "seen"), [(promise.promise, "yes" if promise.kept else "NO", promise.detail) for promise in report.promises]),
        ("Look at", ("what", "where"), [*report.urls.items(), ("report", f"{report.home}/report.html"), ("logs", f"{report.home}/logs")]),
    ]
    return [table for table in tables if table[2]]


def _shortened(days: list[LandingDay], most: int = 14) -> list[LandingDay]:
    """Return the days of which there is something to say, then the newest, then one line with the sum of all others (report.json has every day)."""
    telling = [day for day in days if day.outcome != "published" or not day.adds_up]
    newest = [day for day in days if day not in telling][-most:]
    others = [day for day in days if day not in telling and day not in newest]
    if not others:
        return telling + newest
    reasons: dict[str, int] = {}
    for day in others:
        for reason, count in day.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    rest = LandingDay(
        day=f"{len(others)} others",
        source="",
        outcome="published",
        rows_in=sum(day.rows_in for day in others),
        clean=sum(day.clean for day in others),
        quarantined=sum(day.quarantined for day in others),
        deduplicated=sum(day.deduplicated for day in others),
        reasons=reasons,
    )
    return [*telling, rest, *newest]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name or '-'} {count}" for name, count in sorted(counts.items(), key=lambda entry: -entry[1]))
