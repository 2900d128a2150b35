"""Hybrid search joins the fit of words and of meaning."""

import numpy as np

from evershelf import hybrid


def test_what_means_the_same_comes_before_what_shares_a_word_and_after_what_does_both() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[0] = vectors[1]  # 0 and 1 mean the same
    fitting = hybrid.fits(np.array([5.0, 0.0, 5.0, 0.0]), vectors, vectors[0])
    assert fitting.shape == (4, len(hybrid.FITS))
    np.testing.assert_allclose(fitting[:, 0], [1, 0, 1, 0])
    np.testing.assert_allclose(fitting[:, 1], [1, 1, 0, 0])
    assert fitting[0, 3] == 1 > fitting[2, 3] > fitting[1, 3] == fitting[3, 3] == 0
    order = np.argsort(-hybrid.scores(fitting, (1.0, 1.5, 0.0, 0.0)))
    assert order.tolist() == [0, 1, 2, 3]


def test_without_a_matching_word_meaning_alone_decides() -> None:
    vectors = np.eye(3, dtype=np.float32)
    scores = hybrid.scores(hybrid.fits(np.zeros(3), vectors, vectors[2]))
    assert scores.argmax() == 2
    assert np.isfinite(scores).all()


def test_the_third_fit_is_nearness_to_the_best_items() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    vectors[:25, 0] += 5  # one group, whose first items the query names
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lexical = np.where(np.arange(50) < 20, 1.0, 0.0)
    like_the_best = hybrid.fits(lexical, vectors, vectors[0])[:, 2]
    assert like_the_best[20:25].min() > like_the_best[25:].max()
