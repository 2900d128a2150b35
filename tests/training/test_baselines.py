from pathlib import Path

import numpy as np

from evershelf.settings import TrainingSettings
from training import baselines, data, evaluation, vocabulary


def test_neighbors_of_a_ring_are_the_items_beside(shop_lake: Path) -> None:
    shop = data.read_shop(TrainingSettings(validation_days=1))
    words, _ = vocabulary.build(shop)
    near = baselines.neighbors(shop, words.numbers_of(shop), len(words.items))
    assert {2, 4} & set(near.nearest(3, 4).tolist())
    assert 0 not in near.columns
    assert (near.similarity <= 1.0 + 1e-9).all()


def test_hidden_items_are_the_last_one_or_the_whole_history() -> None:
    history = np.array([[0, 2, 3]], np.int32)
    assert np.flatnonzero(evaluation._hidden(history, 5, mask_seen=False)[0]).tolist() == [0, 3]
    assert np.flatnonzero(evaluation._hidden(history, 5, mask_seen=True)[0]).tolist() == [0, 2, 3]
