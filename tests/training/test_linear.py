import numpy as np
import scipy.linalg

from training import linear


def test_it_is_the_ridge_regression_from_what_came_before_to_what_came_next() -> None:
    random = np.random.default_rng(5)
    shopper = np.repeat(np.arange(30, dtype=np.int32), 6)
    item = (1 + random.integers(8, size=180)).astype(np.int32)
    inputs, outputs = np.zeros((180, 9)), np.zeros((180, 9))
    for row in range(180):
        outputs[row, item[row]] = 1
        for before in range(row // 6 * 6, row):
            inputs[row, item[before]] += linear.DECAY ** (row - 1 - before)
    expected = scipy.linalg.solve(inputs.T @ inputs + 2.0 * np.eye(9), inputs.T @ outputs)
    found = linear.fit(shopper, item, 9, ridge=2.0)
    together = (inputs.T @ outputs) > 0  # an input that never came before an output has no weight
    np.testing.assert_allclose(found.weights.toarray()[together], expected[together], atol=0.02)
    history = np.array([[0, 3, 5]], np.int32)
    weights = found.weights.toarray()
    np.testing.assert_allclose(found.scores(history)[0], linear.DECAY * weights[3] + weights[5], rtol=1e-5)
    np.testing.assert_allclose(found.scores(history, decay=1.0)[0], weights[3] + weights[5], rtol=1e-5)


def test_on_a_ring_the_next_item_is_foretold_and_both_ways_also_the_one_before() -> None:
    shopper = np.repeat(np.arange(40, dtype=np.int32), 12)
    item = (1 + (np.arange(40)[:, None] * 7 + np.arange(12)) % 20).astype(np.int32).ravel()
    history = np.array([[10]], np.int32)
    assert linear.fit(shopper, item, 21).scores(history)[0].argmax() == 11
    assert set(np.argsort(-linear.fit(shopper, item, 21, both_ways=True).scores(history)[0])[:2]) == {9, 11}


def test_shoppers_who_chose_once_teach_nothing_and_break_nothing() -> None:
    found = linear.fit(np.arange(5, dtype=np.int32), np.ones(5, np.int32), 3)
    assert found.scores(np.array([[1, 2]], np.int32)).tolist() == [[0.0, 0.0, 0.0]]
