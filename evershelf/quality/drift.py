"""Is a day like the weeks before it? Warnings with numbers; none ever stops a day.

Works on the aggregates that were kept of each day, so the weeks are not read again.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import msgspec

from evershelf.settings import LakeSettings

WINDOW = timedelta(days=28)
SHORTEST_HISTORY = 7  # days with rows, before which nothing is compared
FEWEST_ROWS = 100  # with a value, of a day, before shares say anything
SAME_WEEKDAYS = 3  # from so many on, a Sunday is compared with Sundays
COMMON = 0.01  # share of a day's rows from which on a category is missed, or noticed as new
DEVIATIONS = 3.0  # a change within so many standard deviations of the days before is their usual noise


class Drift(msgspec.Struct, frozen=True):
    """One difference. `kind`: volume (rows), nulls (share), new or gone (share of a category), mean, or psi (population stability index)."""

    table: str
    kind: str
    column: str | None
    value: float
    usual: float
    says: str


def drift(day: date, days: Mapping[date, Mapping[str, Mapping[str, Any]]], limits: LakeSettings) -> list[Drift]:
    """Compare a day with those of the four weeks before it.

    Args:
        days: day -> table -> its measures (spark_jobs/measures.py).
    """
    before = {other: tables for other, tables in days.items() if day - WINDOW <= other < day}
    found = []
    for table, today in days.get(day, {}).items():
        history = {other: tables[table] for other, tables in before.items() if table in tables and tables[table]["rows"]}
        if today["rows"] and len(history) >= SHORTEST_HISTORY:
            found += [*_volume(table, day, today, history, limits), *_columns(table, today, list(history.values()), limits)]
    return found


def stability_index(now: Mapping[str, int], before: Mapping[str, int]) -> tuple[float, float]:
    """Return the population stability index of two counts over the same bins, and what chance alone would make of it.

    Source:
        Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation, 2020: with no change it is
        about chi-squared with (bins - 1) degrees of freedom, times (1/n + 1/m).
    """
    bins = set(now) | set(before)
    n, m = sum(now.values()), sum(before.values())
    index = 0.0
    for one in bins:
        p, q = ((counts.get(one, 0) + 0.5) / (total + 0.5 * len(bins)) for counts, total in ((now, n), (before, m)))  # half a row: no bin is empty
        index += (p - q) * math.log(p / q)
    return index, (len(bins) - 1) * (1 / n + 1 / m)


def _volume(table: str, day: date, today: Mapping[str, Any], history: Mapping[date, Mapping[str, Any]], limits: LakeSettings) -> Iterator[Drift]:
    same = [one["rows"] for other, one in history.items() if other.weekday() == day.weekday()]
    weekdays = len(same) >= SAME_WEEKDAYS
    usual = statistics.median(same if weekdays else [one["rows"] for one in history.values()])
    if not 1 / limits.drift_volume_ratio <= today["rows"] / usual <= limits.drift_volume_ratio:
        name = f"{day:%A}" if weekdays else "day"
        yield Drift(table, "volume", None, today["rows"], usual, f"{today['rows']} rows; a usual {name} has {usual:.0f}")


def _columns(table: str, today: Mapping[str, Any], history: list[Mapping[str, Any]], limits: LakeSettings) -> Iterator[Drift]:
    rows = today["rows"]
    if rows < FEWEST_ROWS:
        return
    for name, nulls in today["nulls"].items():
        usual, noise = _usual([one["nulls"].get(name, one["rows"]) / one["rows"] for one in history])
        if abs(nulls / rows - usual) > max(limits.drift_share, noise):
            yield Drift(table, "nulls", name, nulls / rows, usual, f"{nulls / rows:.1%} of {name} is empty, usually {usual:.1%}")
    for name, now in today["spread"].items():
        before: Counter[str] = Counter()
        for one in history:
            before.update(one["spread"].get(name, {}))
        filled = sum(now.values())
        if filled < FEWEST_ROWS or before.total() < FEWEST_ROWS:
            continue
        if name in today["sums"]:
            yield from _mean(table, name, today, history, limits)
        else:
            yield from _categories(table, name, now, before)
        index, chance = stability_index(now, before)
        if index > limits.drift_psi + chance:
            yield Drift(table, "psi", name, index, chance, f"{name} is spread otherwise: population stability index {index:.2f}, {chance:.2f} by chance")


def _mean(table: str, name: str, today: Mapping[str, Any], history: list[Mapping[str, Any]], limits: LakeSettings) -> Iterator[Drift]:
    means = [mean for mean in (_mean_of(one, name) for one in history) if mean is not None]
    now = _mean_of(today, name)
    if now is None or len(means) < SHORTEST_HISTORY:
        return
    usual, noise = _usual(means)
    if abs(now - usual) > max(limits.drift_mean * abs(usual), noise):
        yield Drift(table, "mean", name, now, usual, f"the mean {name} is {now:.4g}, usually {usual:.4g}")


def _mean_of(measures: Mapping[str, Any], name: str) -> float | None:
    filled = measures["rows"] - measures["nulls"].get(name, measures["rows"])
    return measures["sums"].get(name, 0) / filled if filled else None


def _categories(table: str, name: str, now: Mapping[str, int], before: Mapping[str, int]) -> Iterator[Drift]:
    total, usual_total = sum(now.values()), sum(before.values())
    for value in sorted(set(now) | set(before)):
        share, usual = now.get(value, 0) / total, before.get(value, 0) / usual_total
        if share >= COMMON and not usual:
            yield Drift(table, "new", name, share, usual, f"{share:.1%} of {name} is {value}, which no day before had")
        elif usual >= COMMON and not share:
            yield Drift(table, "gone", name, share, usual, f"{name} is never {value}, usually {usual:.1%} of it")


def _usual(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), DEVIATIONS * statistics.pstdev(values)
