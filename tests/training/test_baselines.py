from pathlib import Path

import numpy as np

from evershelf.contracts.candidates import BACKWARD, GAP
from evershelf.settings import TrainingSettings
from training import baselines, data, evaluation, vocabulary
from training.sequence_file import read_sequences


def test_neighbors_of_a_ring_are_the_items_beside(shop_lake: Path) -> None:
    shop = data.read_shop(TrainingSettings(validation_days=1))
    words, _ = vocabulary.build(shop)
    near = baselines.neighbors(shop, words.numbers_of(shop), len(words.items))
    assert {2, 4} & set(near.nearest(3, 4).tolist())
    assert 0 not in near.columns
    assert (near.similarity <= 1.0 + 1e-9).all()


def test_what_comes_next_counts_in_full_what_came_before_or_is_further_apart_less(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("u a b c d e\n")
    shop = read_sequences(tmp_path / "file.txt")
    near = baselines.neighbors(shop, np.arange(1, 6, dtype=np.int32), 6, half_life=np.inf)
    assert dict(zip(near.columns[near.start[1] : near.start[2]].tolist(), near.similarity[near.start[1] : near.start[2]], strict=True)) == {2: 1.0, 3: GAP}
    assert dict(zip(near.columns[near.start[2] : near.start[3]].tolist(), near.similarity[near.start[2] : near.start[3]], strict=True)) == {3: 1.0, 1: BACKWARD}


def test_hidden_items_are_the_last_one_or_the_whole_history() -> None:
    history = np.array([[0, 2, 3]], np.int32)
    assert np.flatnonzero(evaluation._hidden(history, 5, mask_seen=False)[0]).tolist() == [0, 3]
    assert np.flatnonzero(evaluation._hidden(history, 5, mask_seen=True)[0]).tolist() == [0, 2, 3]
