"""The report's plots over time: answers by rung, by snapshot, true quality and latency, with faults as bands and decisions as lines. One inline SVG."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from evershelf.contracts.rungs import RUNGS
from evershelf.demo.answers import Answer, live_worth, quality, quantiles
from evershelf.demo.faults import Fault

_RUNG_COLOURS = {"live": "#2f7d5b", "local_model": "#6cb38f", "stored": "#e2b33c", "snapshot": "#dd7f36", "popular": "#9aa5b5"}
_SNAPSHOT_COLOURS = ("#3b6fb6", "#8a5fb0", "#4ba3a6", "#c0648f", "#7a8b3c", "#b5793a")
_FAULT, _BAD_RELEASE, _DECISION = "#d64545", "#e8912d", "#3a4656"
_BINS = 120  # along the time axis, at most
_SHORTEST = 2.0  # seconds in a bin, at least


@dataclass(frozen=True, slots=True)
class Decision:
    """One record of the promotion log: when (epoch seconds), what, and about which snapshot."""

    at: float
    what: str
    snapshot_id: str


def draw(answers: Sequence[Answer], faults: Sequence[Fault], decisions: Sequence[Decision]) -> str:
    """Return an SVG element; '' when nobody answered anything."""
    asked = sorted((answer for answer in answers if answer.endpoint != "events"), key=lambda answer: answer.at)
    if not asked:
        return ""
    began, ended = asked[0].at, asked[-1].at
    width = max(_SHORTEST, (ended - began) / _BINS)
    bins: list[list[Answer]] = [[] for _ in range(int((ended - began) / width) + 1)]
    for answer in asked:
        bins[int((answer.at - began) / width)].append(answer)
    bins = bins[:-1] or bins  # the last one is not full
    middle = [(place + 0.5) * width for place in range(len(bins))]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evershelf", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 10), layout="constrained")
        by_rung, by_snapshot, worth, latency = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2.4, 3, 2.4))
        _stack(by_rung, middle, bins, width, RUNGS, lambda answer: answer.served_by, _RUNG_COLOURS)
        names = list(dict.fromkeys(answer.snapshot_id for answer in asked if answer.snapshot_id))
        colours = {name: _SNAPSHOT_COLOURS[place % len(_SNAPSHOT_COLOURS)] for place, name in enumerate(names)}
        _stack(by_snapshot, middle, bins, width, names, lambda answer: answer.snapshot_id, colours)
        _quality(worth, middle, bins, asked)
        _latency(latency, middle, bins)
        latency.set(xlabel="seconds since the shoppers came", xlim=(0, max(ended - began, width)))
        titles = ("Answers by rung", "Answers by snapshot", "True quality of the answers", "Latency")
        for axes, title, unit in zip((by_rung, by_snapshot, worth, latency), titles, ("answers / s", "answers / s", "live = 1", "ms"), strict=True):
            axes.set_title(title, loc="left", x=-0.06, fontweight="bold", fontsize=10)
            axes.set_ylabel(unit)
            for fault in faults:
                colour, place = _colour(fault), (fault.start - began, fault.end - began)
                axes.axvspan(*place, color=colour, alpha=0.16, linewidth=0, zorder=0)
                axes.axvspan(*place, fill=False, edgecolor=colour, linewidth=1.0)  # over what is stacked
            for decision in decisions:
                axes.axvline(decision.at - began, color=_DECISION, linewidth=0.8, linestyle=(0, (4, 3)))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, reverse=axes in (by_rung, by_snapshot))
        _name(by_rung, [((fault.start + fault.end) / 2 - began, fault.name, _colour(fault)) for fault in faults])
        _name(by_snapshot, [(decision.at - began, decision.what, _DECISION) for decision in decisions])
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue()
    return text[text.index("<svg") :]


def _stack(
    axes: Any, middle: list[float], bins: list[list[Answer]], width: float, names: Sequence[str], name_of: Callable[[Answer], str], colours: dict[str, str]
) -> None:
    """Stack answers a second, those named first at the bottom; requests without an answer come on top."""
    heights = [[sum(name_of(answer) == name for answer in some) / width for some in bins] for name in names]
    lost = [sum(not answer.good for answer in some) / width for some in bins]
    shown = [(name, height, colours[name]) for name, height in zip(names, heights, strict=True) if any(height)]
    shown += [("lost", lost, "#000000")] if any(lost) else []
    axes.stackplot(middle, *(height for _, height, _ in shown), labels=[name for name, _, _ in shown], colors=[colour for _, _, colour in shown], linewidth=0)
    axes.set_ylim(bottom=0)


def _quality(axes: Any, middle: list[float], bins: list[list[Answer]], asked: Sequence[Answer]) -> None:
    """Draw what all answers, and those of the canary, were worth beside the mean of `live`."""
    live = live_worth(answer for answer in asked if answer.arm == "stable")
    arms = (("all answers", "#2f7d5b", bins), ("of the canary", _BAD_RELEASE, [[answer for answer in some if answer.arm == "canary"] for some in bins]))
    for name, colour, some in arms:
        found = [quality(answers, live) if len(answers) > 1 else None for answers in some]
        if not any(found):
            continue
        line = [pair[0] if pair else math.nan for pair in found]
        margin = [pair[1] if pair else math.nan for pair in found]
        axes.plot(middle, line, color=colour, label=name, linewidth=1.4)
        axes.fill_between(
            middle,
            [a - b for a, b in zip(line, margin, strict=True)],
            [a + b for a, b in zip(line, margin, strict=True)],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    if not live:
        axes.text(0.5, 0.5, "not known: this shop's shoppers have no truth", transform=axes.transAxes, ha="center", color="#5a6676")
    axes.axhline(1.0, color="#9aa5b5", linewidth=0.8)
    axes.set_ylim(0, 1.6)


def _latency(axes: Any, middle: list[float], bins: list[list[Answer]]) -> None:
    found = [quantiles([answer.seconds * 1000 for answer in some]) if some else [math.nan, math.nan] for some in bins]
    for place, (name, colour) in enumerate((("p50", "#3b6fb6"), ("p99", "#c0648f"))):
        axes.plot(middle, [pair[place] or math.nan for pair in found], color=colour, label=name, linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def _colour(fault: Fault) -> str:
    return _BAD_RELEASE if fault.released else _FAULT


def _name(axes: Any, marks: Sequence[tuple[float, str, str]]) -> None:
    """Write texts (seconds, text, colour) above a plot, slanted, so that neighbours do not lie on each other."""
    for at, text, colour in marks:
        axes.annotate(text, (at, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points", rotation=30, color=colour, fontsize=8)
