import numpy as np

from training import ranking


def test_ranks_are_full_catalogue_and_ties_share_their_places() -> None:
    scores = np.array([[-np.inf, 3.0, 2.0, 2.0, 1.0]])
    ranks = [ranking.ranks_of(scores, np.array([item], np.int32)).rank[0] for item in range(5)]
    assert ranks == [np.inf, 1.0, 2.5, 2.5, 4.0]


def test_the_interval_resamples_shoppers_and_holds_the_mean() -> None:
    random = np.random.default_rng(3)
    gain, owners = random.random(400), np.repeat(np.arange(40, dtype=np.int32), 10)
    low, high = ranking.bootstrap(gain, owners, seed=1)
    assert low < gain.mean() < high
    assert high - low < 0.2


def test_figures_are_what_their_definitions_say() -> None:
    scores = np.full((3, 41), -np.inf)
    scores[:, 1:] = -np.arange(40)  # every row: item 1 first, item 40 last
    ranks = ranking.ranks_of(scores, np.array([1, 3, 30]))
    popular = np.zeros(41)
    popular[1:11] = 96.0
    figures = ranks.figures(popular)
    assert figures["HR@10"] == round(2 / 3, 5)
    assert figures["NDCG@10"] == round((1 + 1 / 2) / 3, 5)
    assert figures["Recall@20"] == round(2 / 3, 5)
    assert figures["MRR"] == round((1 + 1 / 3 + 1 / 30) / 3, 5)
    assert figures["coverage@10"] == 10 / 40
    assert figures["novelty@10"] == round(-np.log2(97 / 1000), 3)


def test_a_paired_interval_says_which_of_two_rankings_is_better() -> None:
    random = np.random.default_rng(4)
    scores = random.random((300, 30))
    scores[:, 0] = -np.inf
    target = 1 + random.integers(29, size=300)
    better = scores.copy()
    better[np.arange(300), target] += 0.3
    ours, theirs = ranking.ranks_of(better, target), ranking.ranks_of(scores, target)
    difference, low, high = ranking.paired(ours, {"theirs": theirs}, np.arange(300), seed=1)["theirs"]["NDCG@10"]
    assert 0 < low < difference < high
    assert ranking.paired(ours, {"itself": ours}, np.arange(300), seed=1)["itself"]["MRR"] == [0.0, 0.0, 0.0]
