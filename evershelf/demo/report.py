"""The one-page report: for the terminal, as Markdown and as JSON."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from evershelf.demo.answers import Summary
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
    promises: list[Promise] = field(default_factory=list)
    landing: list[LandingDay] = field(default_factory=list)
    lists: dict[str, list[str]] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return bool(self.promises) and all(promise.kept for promise in self.promises)


def write(report: Report, home: Path) -> None:
    """Write report.json and report.md into a home."""
    (home / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(report), "kept": report.kept})))
    (home / "report.md").write_text(markdown(report))


def show(report: Report, console: Console) -> None:
    """Print the report on one page."""
    for title, columns, rows in _tables(report):
        table = Table(*columns, title=title, title_justify="left", expand=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_verdict(report), style="bold green" if report.kept else "bold red", markup=False)


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    lines = [f"# Evershelf demo: {report.shop}", "", _verdict(report), ""]
    for title, columns, rows in _tables(report):
        lines += [f"## {title}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    broken = [promise.promise for promise in report.promises if not promise.kept]
    if broken or not report.promises:
        return f"BROKEN: {'; '.join(broken) or 'the demo did not reach its end'}"
    return f"All {len(report.promises)} promises were kept; {report.seconds / 60:.1f} minutes."


def _tables(report: Report) -> list[_Table]:
    answers = report.answers
    tables: list[_Table] = [
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
        ("Look at", ("what", "where"), [*report.urls.items(), ("report", f"{report.home}/report.md"), ("logs", f"{report.home}/logs")]),
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
