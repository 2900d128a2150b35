from typing import Any

from evershelf.settings import TrainingSettings
from training.blessing import bless

SETTINGS = TrainingSettings(min_ndcg_over_popular=1.5, max_loss_to_stable=0.1)


def measured(ndcg: float, popular: float = 0.1, events: int = 100) -> dict[str, Any]:
    return {"metrics": {"NDCG@10": ndcg}, "baselines": {"popular": {"NDCG@10": popular}}, "events": events, "model_id": "2026-01-01-stable"}


def test_a_first_model_above_the_threshold_is_blessed_and_says_that_it_was_compared_with_none() -> None:
    blessed, why = bless(measured(0.2), "there is none yet", SETTINGS)
    assert blessed
    assert "not compared with a blessed model: there is none yet" in why


def test_a_model_no_better_than_popular_is_refused_with_the_figures() -> None:
    blessed, why = bless(measured(0.14), "there is none yet", SETTINGS)
    assert not blessed
    assert "NDCG@10 0.1400 is NOT above 1.5 times the popular list's 0.1000" in why


def test_a_model_much_worse_than_the_last_blessed_one_is_refused() -> None:
    blessed, why = bless(measured(0.2), measured(0.25), SETTINGS)
    assert not blessed
    assert "MORE than 10% below 0.2500 of 2026-01-01-stable" in why[-1]


def test_a_model_a_little_worse_than_the_last_blessed_one_is_blessed() -> None:
    assert bless(measured(0.24), measured(0.25), SETTINGS)[0]


def test_missing_measurements_never_bless() -> None:
    blessed, why = bless(measured(0.9, events=0), "there is none yet", SETTINGS)
    assert not blessed
    assert "no event to measure on" in why[0]
