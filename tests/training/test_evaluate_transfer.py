"""What a small shop gains from another one's model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evershelf.settings import TrainingSettings
from tests.training.conftest import Installation
from training import data
from training.errors import NotEnoughData
from training.evaluate_transfer import thinned


def test_a_small_shop_has_fewer_shoppers_before_the_split_and_the_same_choices_after_it(shop_lake: Path) -> None:
    whole = data.read_shop(TrainingSettings(validation_days=1))
    small, again = thinned(whole, 0.3, seed=7), thinned(whole, 0.3, seed=7)
    after, before = whole.time >= whole.split, small.time < small.split
    assert np.array_equal(small.item[~before], whole.item[after])
    assert 0 < before.sum() < 0.6 * (~after).sum()
    assert 0 < (small.orders.day < small.split).sum() < 0.6 * (whole.orders.day < whole.split).sum()
    learned = {small.shoppers[shopper] for shopper in small.shopper[before]}
    assert all((whole.shopper == whole.shoppers.index(name)).sum() == (small.shopper == small.shoppers.index(name)).sum() for name in learned)
    assert np.array_equal(small.first, np.searchsorted(small.shopper, np.arange(len(small.shoppers) + 1)))
    assert np.array_equal(small.item, again.item)
    everything = thinned(whole, 1.0, seed=7)
    assert np.array_equal(everything.item, whole.item) and everything.shoppers == whole.shoppers
    with pytest.raises(NotEnoughData, match="leaves none who was there before the split"):
        thinned(whole, 1e-6, seed=7)


@pytest.mark.slow
def test_beginning_with_a_model_that_knows_the_shop_is_better_than_from_nothing(trained: Any) -> None:
    installation, outcome = trained
    short = Installation(installation.home, {"EVERSHELF_TRAINING__EPOCHS": "1", "EVERSHELF_TRAINING__RANKS": "1"})
    before = set(installation.home.rglob("*"))
    (share,) = short.run("evaluate", "transfer", outcome.answer["model_id"], "--share", "0.5", "--json").answer["shares"].values()
    difference, low, _ = share["better_by"]
    assert difference == pytest.approx(share["from_model"] - share["from_nothing"], abs=1e-4)
    assert low > 0
    assert set(installation.home.rglob("*")) == before  # nothing is kept
