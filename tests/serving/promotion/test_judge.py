"""The judge passes what is as good, rejects what is worse, and never passes what it could not measure."""

import random
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from evershelf.contracts.rungs import RUNGS, Rung
from evershelf.settings import PromotionSettings
from serving.gateway.answers import EventCounts, Latency, RungStatus, SnapshotAnswers, Status
from serving.promotion.judge import ArmCounts, counted, fisher_p, judge, slower

SETTINGS = PromotionSettings()
STABLE = ArmCounts(requests=20_000, errors=2, empty=10, below_best=400, latency=(2000, 12_000, 5000, 900, 100), shown=100_000, clicks=5000)
CANARY = ArmCounts(requests=400, errors=0, empty=0, below_best=8, latency=(40, 240, 100, 18, 2), shown=2000, clicks=100)


@pytest.mark.parametrize(
    ("change", "outcome", "why"),
    [
        ({}, "pass", "no guardrail"),
        ({"errors": 20}, "fail", "errors"),
        ({"errors": 1}, "inconclusive", "errors"),
        ({"empty": 30}, "fail", "empty"),
        ({"below_best": 80}, "fail", "below the best rung"),
        ({"latency": (0, 0, 100, 200, 100)}, "fail", "latency"),
        ({"latency": (40, 240, 40, 18, 62)}, "fail", "slow answers"),
        ({"clicks": 10}, "fail", "without a click"),
        ({"clicks": 85}, "pass", "fewer clicks, which may be chance"),
        ({"shown": 0, "clicks": 0}, "inconclusive", "nothing of the canary"),
        ({"latency": ()}, "inconclusive", "latencies were not measured"),
        ({"requests": 199}, "inconclusive", "199 of the 200"),
    ],
)
def test_each_guardrail_speaks_for_itself(change: dict[str, Any], outcome: str, why: str) -> None:
    verdict = judge(STABLE, replace(CANARY, **change), SETTINGS)
    assert verdict.outcome == outcome, verdict
    assert why in verdict.why


def test_missing_data_never_pass() -> None:
    assert judge(None, CANARY, SETTINGS).outcome == "inconclusive"
    assert judge(STABLE, None, SETTINGS).outcome == "inconclusive"
    assert judge(ArmCounts(), CANARY, SETTINGS).outcome == "inconclusive"
    assert judge(STABLE, ArmCounts(), SETTINGS).outcome == "inconclusive"


def test_clicks_of_one_arm_alone_are_no_comparison() -> None:
    verdict = judge(replace(STABLE, shown=0, clicks=0), replace(CANARY, clicks=0), SETTINGS)
    assert (verdict.outcome, verdict.why) == ("inconclusive", "clicks: nothing of stable was reported as shown")


def test_a_canary_whose_model_never_answered_was_not_tried_where_models_answer() -> None:
    stable, canary = replace(STABLE, errors=0, below_best=STABLE.requests), replace(CANARY, below_best=CANARY.requests)
    verdict = judge(stable, canary, SETTINGS)
    assert verdict.outcome == "inconclusive"
    assert "the canary's model gave none of its 400 answers" in verdict.why
    assert judge(stable, canary, SETTINGS, ranks=False).outcome == "pass"


def test_a_small_stage_whose_newcomers_get_popular_items_in_both_arms_passes() -> None:
    small = SETTINGS.model_copy(update={"min_requests": 60})
    stable = ArmCounts(requests=62, below_best=24, latency=(10, 40, 12), shown=600, clicks=20)
    canary = ArmCounts(requests=60, below_best=24, latency=(10, 38, 12), shown=580, clicks=18)
    assert judge(stable, canary, small).outcome == "pass"


def test_a_pass_says_when_nobody_reported_clicks() -> None:
    assert "clicks were not reported" in judge(replace(STABLE, shown=0, clicks=0), replace(CANARY, shown=0, clicks=0), SETTINGS).why


@pytest.mark.parametrize("table", [(3, 200, 10, 20_000), (0, 50, 5, 50), (50, 50, 0, 50), (7, 1000, 3, 900), (400, 5000, 300, 5000)])
def test_the_exact_test_is_fishers(table: tuple[int, int, int, int]) -> None:
    hits, of, other_hits, other_of = table
    wanted = stats.fisher_exact([[hits, of - hits], [other_hits, other_of - other_hits]], alternative="greater").pvalue
    assert fisher_p(*table) == pytest.approx(wanted, rel=1e-6)


def test_the_rank_test_is_mann_whitneys() -> None:
    stable, canary = (20, 100, 60, 10, 3), (5, 40, 45, 9, 4)
    samples = [[bin_ for bin_, count in enumerate(counts) for _ in range(count)] for counts in (canary, stable)]
    wanted = stats.mannwhitneyu(*samples, alternative="greater", method="asymptotic", use_continuity=False)
    probability, p = slower(stable, canary)
    assert probability == pytest.approx(wanted.statistic / (sum(stable) * sum(canary)))
    assert p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert slower((5, 0), (9, 0)) == (0.5, 1.0)


def _status(name: str = "one", uptime: float = 10, by_rung: dict[str, int] | None = None, best: Rung = "live", **requests: int) -> Status:
    answers = {
        snapshot_id: SnapshotAnswers("stable", count, 0, 0, by_rung or {"live": count}, Latency([1.0], [count, 0]), 0, 0, best)
        for snapshot_id, count in requests.items()
    }
    rungs = {str(rung): RungStatus("closed", 0) for rung in RUNGS}
    return Status(name, 1, "a", "b", 0.1, None, None, [], {}, uptime, rungs, answers, 0, 0, EventCounts(0, 0, 0, 0))


def test_a_stage_counts_what_came_since_it_began_at_every_gateway() -> None:
    before = [_status("one", a=100), _status("two", a=50, b=5)]
    now = [_status("one", 20, a=180, b=7), _status("two", 20, a=60, b=10)]
    assert counted(before, now, "a") == ArmCounts(requests=90, latency=(90, 0))
    assert counted(before, now, "b") == ArmCounts(requests=12, latency=(12, 0))
    assert counted(before, now, "c") == ArmCounts()


@pytest.mark.parametrize(("best", "below"), [("live", 40), ("local_model", 10)])
def test_each_snapshot_is_measured_by_the_best_rung_that_it_has(best: Rung, below: int) -> None:
    now = _status(uptime=20, by_rung={"local_model": 30, "popular": 10}, best=best, own=40)
    assert counted([_status()], [now], "own") == ArmCounts(requests=40, below_best=below, latency=(40, 0))


def test_a_canary_without_the_rung_live_passes_beside_a_stable_that_has_it_and_the_other_way_round() -> None:
    answered = {"local_model": 392, "popular": 8}
    stable = replace(STABLE, latency=(20_000, 0), shown=0, clicks=0)
    cases: tuple[tuple[Rung, str], ...] = (("local_model", "pass"), ("live", "fail"))
    for best, outcome in cases:  # the same answers of one that should have been ranked live are a loss
        canary = counted([_status()], [_status(uptime=20, by_rung=answered, best=best, own=400)], "own")
        assert canary and judge(stable, canary, SETTINGS).outcome == outcome


def test_arms_whose_rankers_run_elsewhere_need_not_be_as_fast_as_each_other_but_in_time() -> None:
    quick, slow = replace(STABLE, latency=(20_000, 0, 0)), replace(CANARY, latency=(0, 400, 0))
    assert judge(quick, slow, SETTINGS).outcome == "fail"
    assert judge(quick, slow, SETTINGS, fast=2).outcome == "pass"
    late = judge(quick, replace(CANARY, latency=(0, 300, 100)), SETTINGS, fast=2)
    assert (late.outcome, "slow answers" in late.why) == ("fail", True)


@pytest.mark.parametrize(
    "now",
    [
        [],
        [_status("one", 20, a=200)],  # a gateway is away
        [_status("one", 20, a=200), _status("two", 20, a=10)],  # counters went back
        [_status("one", 20, a=200), _status("two", 3, a=500)],  # started anew, and counted on beyond
        [_status("one", 20, a=200), _status("two", 20)],  # forgot the snapshot
    ],
)
def test_counters_that_broke_off_count_for_nothing(now: list[Status]) -> None:
    assert counted([_status("one", a=100), _status("two", a=50)], now, "a") is None


def _draw(random_: random.Random, requests: int, error: float, below: float, slow: float) -> ArmCounts:
    def hits(share: float) -> int:
        return sum(random_.random() < share for _ in range(requests))

    late = hits(slow)
    return ArmCounts(requests, hits(error), 0, hits(below), (requests - late - requests // 2, requests // 2, late), 0, 0)


def _decide(random_: random.Random, **canary: float) -> str:
    """Look at 200, 400, 800, … canary answers, at most six times, as the promoter does."""
    stable, trial = ArmCounts(), ArmCounts()
    for look in range(1, 7):
        more = SETTINGS.min_requests * 2 ** (look - 1) - trial.requests
        stable = _plus(stable, _draw(random_, more, 0.0005, 0.02, 0.03))
        trial = _plus(trial, _draw(random_, more, **canary))
        verdict = judge(stable, trial, SETTINGS, look)
        if verdict.outcome != "inconclusive":
            return verdict.outcome
    return "inconclusive"


def _plus(one: ArmCounts, two: ArmCounts) -> ArmCounts:
    latency = tuple(map(sum, zip(one.latency or (0, 0, 0), two.latency, strict=True)))
    return ArmCounts(one.requests + two.requests, one.errors + two.errors, 0, one.below_best + two.below_best, latency)


def test_wrong_promotions_and_rejections_are_rare() -> None:
    seeded = random.Random(20)
    rounds = 150
    same = [_decide(seeded, error=0.0005, below=0.02, slow=0.03) for _ in range(rounds)]
    assert same.count("fail") <= 3
    assert same.count("pass") >= 0.95 * rounds
    wrong = 0
    for worse in ({"error": 0.05, "below": 0.02, "slow": 0.03}, {"error": 0.0005, "below": 0.2, "slow": 0.03}, {"error": 0.0005, "below": 0.02, "slow": 0.25}):
        wrong += [_decide(seeded, **worse) for _ in range(50)].count("pass")
    assert wrong <= 2  # of 150 for one stage; a release passes several
