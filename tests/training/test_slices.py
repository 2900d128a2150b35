"""Parts of a shop, and what falls to small brands."""

import numpy as np

from training.slices import small_brands


def test_small_brands_are_those_beyond_the_few_that_make_up_half_of_all_choices() -> None:
    brands = ["", "big", "big", "small", "tiny", ""]
    chosen = np.array([0, 60, 20, 15, 5, 100])
    shown = np.array([0, 8, 1, 1, 0, 30])
    found = small_brands(brands, shown, chosen)
    assert found == {"of_shown": 0.1, "of_choices": 0.2, "of_items": 0.5}  # what has no brand counts nowhere


def test_a_shop_without_brands_has_no_small_ones() -> None:
    assert small_brands(["", "", ""], np.zeros(3, np.int64), np.ones(3, np.int64)) is None
