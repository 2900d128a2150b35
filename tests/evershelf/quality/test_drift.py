"""A day that differs from the weeks before it is told with numbers; one that does not is left alone."""

import random
from collections import Counter
from datetime import date, timedelta
from typing import Any

import pytest

from evershelf.quality.drift import drift, stability_index
from evershelf.settings import LakeSettings

DAY = date(2026, 11, 30)  # a Monday
LIMITS = LakeSettings()


def measures(rng: random.Random, *, rows: int = 1000, price: float = 10.0, empty: float = 0.1, types: str = "vvvvvvcccp") -> dict[str, Any]:
    nulls = round(rows * empty)
    prices = [price * rng.uniform(0.5, 1.5) for _ in range(rows - nulls)]
    return {
        "rows": rows,
        "nulls": {"price": nulls, "type": 0},
        "sums": {"price": sum(prices)},
        "spread": {"type": Counter(rng.choices(types, k=rows)), "price": Counter(f"{round(one / 2)}" for one in prices)},
    }


def weeks(today: dict[str, Any], rows: int = 1000) -> dict[date, dict[str, dict[str, Any]]]:
    rng = random.Random(7)
    days = {DAY - timedelta(days=back): {"events": measures(rng, rows=rows)} for back in range(1, 29)}
    return {**days, DAY: {"events": today}}


def found(today: dict[str, Any]) -> dict[tuple[str, str | None], Any]:
    return {(one.kind, one.column): (one.value, one.usual) for one in drift(DAY, weeks(today), LIMITS)}


def test_a_day_like_the_weeks_before_it_has_no_warning() -> None:
    for seed in range(20):
        assert found(measures(random.Random(seed))) == {}


def test_each_kind_of_change_is_told_with_its_numbers() -> None:
    rng = random.Random(1)
    assert found(measures(rng, rows=300))["volume", None] == (300, 1000)
    assert found(measures(rng, empty=0.5))["nulls", "price"] == pytest.approx((0.5, 0.1))
    dear = found(measures(rng, price=20.0))
    assert dear["mean", "price"] == pytest.approx((20.0, 10.0), rel=0.05)
    assert dear["psi", "price"][0] > 0.25
    other = found(measures(rng, types="vvvvvvxxxx"))
    assert other["new", "type"] == (pytest.approx(0.4, abs=0.05), 0.0)
    assert {("gone", "type"), ("psi", "type")} <= set(other)


def test_a_sunday_is_compared_with_sundays() -> None:
    days = weeks(measures(random.Random(1)))
    sunday = DAY - timedelta(days=1)
    for back in range(1, 29, 7):
        days[DAY - timedelta(days=back)]["events"] = measures(random.Random(back), rows=100)
    days[sunday]["events"] = measures(random.Random(2), rows=110)
    earlier = {day: tables for day, tables in days.items() if day <= sunday}
    earlier[sunday - timedelta(days=28)] = {"events": measures(random.Random(3), rows=100)}
    assert not [one for one in drift(sunday, earlier, LIMITS) if one.kind == "volume"]
    assert [one.usual for one in drift(DAY, {**days, DAY: {"events": measures(random.Random(4), rows=110)}}, LIMITS) if one.kind == "volume"] == [1000]


def test_a_short_history_says_nothing() -> None:
    days = {day: tables for day, tables in weeks(measures(random.Random(1), rows=5)).items() if day > DAY - timedelta(days=7)}
    assert drift(DAY, days, LIMITS) == []


def test_stability_index_is_zero_for_the_same_shares_and_grows_with_the_change() -> None:
    same, _ = stability_index({"a": 50, "b": 50}, {"a": 5000, "b": 5000})
    little, _ = stability_index({"a": 60, "b": 40}, {"a": 5000, "b": 5000})
    much, chance = stability_index({"a": 90, "b": 10}, {"a": 5000, "b": 5000})
    assert same == pytest.approx(0, abs=1e-6)
    assert little == pytest.approx(0.0405, abs=0.002)  # (0.6 - 0.5) ln(0.6 / 0.5) + (0.4 - 0.5) ln(0.4 / 0.5)
    assert much > 0.25 > little
    assert chance == pytest.approx(1 / 100 + 1 / 10000)
