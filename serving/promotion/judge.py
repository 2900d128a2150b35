"""Compare the canary with stable: pass, fail or inconclusive. Pure functions of what the gateways counted since the stage began.

Each guardrail has a margin that may be lost. It *fails* when the loss is above the margin and cannot be chance, is *inconclusive* while it is above the margin
and could be chance, and passes otherwise. Data that are missing, too few, or broken off by a restart are never a pass. Two exceptions, which the reason of the
pass names: a loss of clicks that could be chance does not hold a release up, or a small shop would never get fresh data; and a shop whose front end reports
no events at all, of either arm, is judged without clicks.

The judge looks several times at growing data. Look k happens at the first `min_requests` * 2^(k-1) canary answers and may spend `significance` / 2^k, so
all looks of a stage together stay below `significance` for each guardrail (union bound); a look in between spends nothing because it does not happen.

Sources: errors, empty answers, fallbacks, slow answers, clicks: Fisher's exact test, one-sided (Fisher 1922). Latencies: Mann-Whitney rank test on the
histogram's bins with the tie-corrected normal approximation (Mann and Whitney 1947; Lehmann, Nonparametrics, 1975, section 1.4). Guardrails with margins,
and one decision rule for several metrics: Schultzberg et al., Risk-aware product decisions in A/B tests with multiple metrics, 2024.
Clicks of one answer are not independent, so their test is somewhat too eager; the margin and the low significance stand against that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from evershelf.contracts.rungs import Rung
from evershelf.settings import PromotionSettings
from serving.gateway.answers import SnapshotAnswers, Status

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What one snapshot answered in a stage. `latency` counts answers per bin, fastest first; `requests` include errors; `below_best` counts the answers that
    its highest rung, at that gateway, did not give: a snapshot with a shop's own ranker has no `live`.
    """

    requests: int = 0
    errors: int = 0
    empty: int = 0
    below_best: int = 0
    latency: tuple[int, ...] = ()
    shown: int = 0
    clicks: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    why: str


def judge(
    stable: ArmCounts | None, canary: ArmCounts | None, settings: PromotionSettings, look: int = 1, *, ranks: bool = True, fast: int | None = None
) -> Verdict:
    """Judge one stage.

    Args:
        stable, canary: what each arm answered since the stage began; None when it could not be measured.
        look: 1 for the first look at this stage.
        ranks: whether a model ranks for the canary at any gateway; then a canary whose model never answered was not tried.
        fast: how many bins of the latencies are in time, for arms that differ in their best rungs: ranking in the gateway and by the model server take their
            own time each, so that one of them would never be allowed to follow the other. None compares the arms.
    """
    if stable is None or canary is None:
        return Verdict("inconclusive", "the gateways' counters are missing or were reset by a restart")
    for name, arm in (("canary", canary), ("stable", stable)):
        if arm.requests < settings.min_requests:
            return Verdict("inconclusive", f"{name} answered {arm.requests} of the {settings.min_requests} requests that a judgement needs")
    alpha = settings.significance / 2**look
    clicks = _clicks(stable, canary, settings, alpha)
    problems = [
        _share("errors", canary.errors, canary.requests, stable.errors, stable.requests, settings.max_error_ratio, alpha),
        _share("empty answers", canary.empty, canary.requests, stable.empty, stable.requests, settings.max_empty_ratio, alpha),
        _share("answers below the best rung", canary.below_best, canary.requests, stable.below_best, stable.requests, settings.max_fallback_ratio, alpha),
        _model(canary) if ranks else None,
        _latency(stable.latency, canary.latency, settings, alpha, fast),
        clicks,
    ]
    for outcome in ("fail", "inconclusive"):
        if found := [verdict.why for verdict in problems if verdict and verdict.outcome == outcome]:
            return Verdict(outcome, "; ".join(found))
    said = f"; {clicks.why}" if clicks else ""
    return Verdict("pass", f"no guardrail broken in {canary.requests} canary and {stable.requests} stable answers{said}")


def counted(before: Sequence[Status], now: Sequence[Status], snapshot_id: str) -> ArmCounts | None:
    """Return what a snapshot answered between two readings of all gateways; None when a gateway is missing or started anew in between."""
    earlier = {status.name: status for status in before}
    if not now or earlier.keys() != {status.name for status in now} or any(status.uptime_s < earlier[status.name].uptime_s for status in now):
        return None
    arms = [_difference(earlier[status.name].answers.get(snapshot_id), status.answers.get(snapshot_id)) for status in now]
    total = ArmCounts()
    for arm in arms:
        if arm is None:
            return None
        total = _sum(total, arm)
    return total


def best_rungs(statuses: Sequence[Status], snapshot_id: str) -> set[Rung]:
    """Return the highest rung that a snapshot has, of each gateway where it has answered."""
    return {answers.best for status in statuses if (answers := status.answers.get(snapshot_id))}


def fisher_p(hits: int, of: int, other_hits: int, other_of: int) -> float:
    """Return the probability of so many hits or more among `of`, given all margins, if both groups had the same share."""
    all_hits, everything = hits + other_hits, of + other_of
    log_all = _log_choose(everything, of)
    total = 0.0
    for count in range(hits, min(all_hits, of) + 1):
        term = math.exp(_log_choose(all_hits, count) + _log_choose(everything - all_hits, of - count) - log_all)
        total += term
        if term < total * 1e-12:  # the terms fall from here on
            break
    return min(1.0, total)


def slower(stable: Sequence[int], canary: Sequence[int]) -> tuple[float, float]:
    """Compare two latency histograms with the same bins.

    Returns:
        The probability that a canary answer is slower than a stable one (ties count half), and the one-sided p of that under equality.
    """
    n_stable, n_canary = sum(stable), sum(canary)
    wins, below, ties = 0.0, 0, 0.0
    for in_stable, in_canary in zip(stable, canary, strict=True):
        wins += in_canary * (below + in_stable / 2)
        below += in_stable
        ties += (in_stable + in_canary) ** 3 - (in_stable + in_canary)
    everything = n_stable + n_canary
    variance = n_stable * n_canary / 12 * (everything + 1 - ties / (everything * (everything - 1)))
    if variance <= 0:  # all in one bin
        return 0.5, 1.0
    z = (wins - n_stable * n_canary / 2) / math.sqrt(variance)
    return wins / (n_stable * n_canary), 1 - NormalDist().cdf(z)


def _share(what: str, hits: int, of: int, other_hits: int, other_of: int, margin: float, alpha: float) -> Verdict | None:
    excess = hits / of - other_hits / other_of
    if excess <= margin:
        return None
    p = fisher_p(hits, of, other_hits, other_of)
    return Verdict("fail" if p < alpha else "inconclusive", f"{what}: {hits} of {of} against {other_hits} of {other_of} of stable (p = {p:.2g})")


def _latency(stable: Sequence[int], canary: Sequence[int], settings: PromotionSettings, alpha: float, fast: int | None) -> Verdict | None:
    if not sum(stable) or not sum(canary) or len(stable) != len(canary):
        return Verdict("inconclusive", "latencies were not measured")
    if fast is not None:
        return _slow(stable, canary, settings, alpha, fast)
    probability, p = slower(stable, canary)
    if probability > settings.max_slower and p < alpha:
        return Verdict("fail", f"latency: a canary answer is slower than a stable one with probability {probability:.2f} (p = {p:.2g})")
    cuts = (_bins_up_to(quantile, stable) for quantile in (0.9, 0.95))  # two: bins are wide, and behind the last one nothing can be slower
    verdicts = [_slow(stable, canary, settings, alpha / 2, fast) for fast in cuts]
    return min(filter(None, verdicts), key=lambda verdict: verdict.outcome, default=None)  # "fail" before "inconclusive"


def _slow(stable: Sequence[int], canary: Sequence[int], settings: PromotionSettings, alpha: float, fast: int) -> Verdict | None:
    return _share("slow answers", sum(canary[fast:]), sum(canary), sum(stable[fast:]), sum(stable), settings.max_slow_ratio, alpha)


def _bins_up_to(quantile: float, counts: Sequence[int]) -> int:
    """Return how many bins, fastest first, hold this share of the answers."""
    seen = 0
    for number, count in enumerate(counts, start=1):
        seen += count
        if seen >= quantile * sum(counts):
            return number
    return len(counts)


def _model(canary: ArmCounts) -> Verdict | None:
    if canary.requests - canary.errors - canary.below_best > 0:
        return None
    return Verdict("inconclusive", f"the canary's model gave none of its {canary.requests} answers")


def _clicks(stable: ArmCounts, canary: ArmCounts, settings: PromotionSettings, alpha: float) -> Verdict | None:
    """Fail when clicks per shown item are lost; "pass" with what has to be said about clicks that do not hold a release up."""
    if not stable.shown and not canary.shown:
        return Verdict("pass", "clicks were not reported")
    for name, arm in (("the canary", canary), ("stable", stable)):
        if not arm.shown:
            return Verdict("inconclusive", f"clicks: nothing of {name} was reported as shown")
    missed, stable_missed = max(0, canary.shown - canary.clicks), max(0, stable.shown - stable.clicks)
    verdict = _share(
        "items shown without a click", missed, canary.shown, stable_missed, stable.shown, settings.max_click_loss * stable.clicks / stable.shown, alpha
    )
    return verdict if verdict is None or verdict.outcome == "fail" else Verdict("pass", f"fewer clicks, which may be chance: {verdict.why}")


def _difference(before: SnapshotAnswers | None, now: SnapshotAnswers | None) -> ArmCounts | None:
    if now is None:
        return ArmCounts() if before is None else None
    new, old = _arm(now), _arm(before) if before else ArmCounts(latency=(0,) * len(now.latency_ms.counts))
    if len(new.latency) != len(old.latency):
        return None
    latency = tuple(count - earlier for count, earlier in zip(new.latency, old.latency, strict=True))
    numbers = [getattr(new, name) - getattr(old, name) for name in _NUMBERS]
    if min(*numbers, *latency) < 0:
        return None
    return ArmCounts(latency=latency, **dict(zip(_NUMBERS, numbers, strict=True)))


def _arm(answers: SnapshotAnswers) -> ArmCounts:
    below_best = answers.requests - answers.errors - answers.by_rung.get(answers.best, 0)
    return ArmCounts(answers.requests, answers.errors, answers.empty, below_best, tuple(answers.latency_ms.counts), answers.shown, answers.clicks)


def _sum(one: ArmCounts, other: ArmCounts) -> ArmCounts:
    width = max(len(one.latency), len(other.latency))
    pad = [(*arm.latency, *(0,) * (width - len(arm.latency))) for arm in (one, other)]
    return ArmCounts(latency=tuple(map(sum, zip(*pad, strict=True))), **{name: getattr(one, name) + getattr(other, name) for name in _NUMBERS})


def _log_choose(n: int, k: int) -> float:
    return -math.inf if k < 0 or k > n else math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


_NUMBERS = ("requests", "errors", "empty", "below_best", "shown", "clicks")
