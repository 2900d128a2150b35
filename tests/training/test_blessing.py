"""A model is blessed only when it is good, is no popular list in disguise, and takes nothing from any part of the shop."""

import numpy as np

from evershelf.settings import TrainingSettings
from training.blessing import bless
from training.evaluation import Measured

SETTINGS = TrainingSettings(min_ndcg_over_popular=1.5, max_loss_to_stable=0.1, max_like_popular=0.9)
EVENTS = 400
NONE = "there is none yet"


def measured(ndcg: float, popular: float = 0.1, events: int = EVENTS, like_popular: float = 0.3, tail: float | None = None) -> Measured:
    """A model that gains `ndcg` on every event, give or take some, and `tail` on those of the tail."""
    part = np.arange(events) % 2 == 0
    gain = np.where(part, ndcg if tail is None else tail, ndcg) * np.random.default_rng(1).uniform(0.5, 1.5, events)
    report = {"metrics": {"NDCG@10": ndcg}, "baselines": {"popular": {"NDCG@10": popular}}, "events": events, "like_popular": like_popular}
    return Measured(report=report, gain=gain, owners=np.arange(events, dtype=np.int32), slices={"tail_item": part, "guest": np.arange(events) < 20})


def test_a_first_model_above_the_threshold_is_blessed_and_says_that_it_was_compared_with_none() -> None:
    blessed, why = bless(measured(0.2), NONE, SETTINGS)
    assert blessed
    assert f"not compared with a blessed model: {NONE}" in why


def test_a_model_no_better_than_popular_is_refused_with_the_figures() -> None:
    blessed, why = bless(measured(0.14), NONE, SETTINGS)
    assert not blessed
    assert "NDCG@10 0.1400 is NOT above 1.5 times the popular list's 0.1000" in why


def test_a_model_that_shows_only_what_is_popular_is_refused_by_name() -> None:
    blessed, why = bless(measured(0.2, like_popular=0.97), NONE, SETTINGS)
    assert not blessed
    assert "COLLAPSED to popularity: 97% of what it shows is on the popular list too, more than 90%" in why


def test_a_model_much_worse_than_the_last_blessed_one_is_refused() -> None:
    blessed, why = bless(measured(0.2), measured(0.25), SETTINGS, "2026-01-01-stable")
    assert not blessed
    assert any("MORE than 10% below 0.2500 of 2026-01-01-stable" in reason for reason in why)


def test_a_model_a_little_worse_than_the_last_blessed_one_is_blessed() -> None:
    blessed, why = bless(measured(0.24), measured(0.25), SETTINGS, "2026-01-01-stable")
    assert blessed
    assert "in none of 1 slices shown" in why[-1]  # the other one has too few events


def test_a_model_that_is_worse_in_one_slice_alone_is_refused_by_its_name() -> None:
    blessed, why = bless(measured(0.25, tail=0.15), measured(0.25), SETTINGS, "2026-01-01-stable")
    assert not blessed
    assert any(reason.startswith("slice tail_item (200 events): NDCG@10 is MORE than 10% below") for reason in why)


def test_missing_measurements_never_bless() -> None:
    blessed, why = bless(measured(0.9, events=0), NONE, SETTINGS)
    assert not blessed
    assert "no event to measure on" in why[0]
