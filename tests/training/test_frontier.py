"""What smaller models give up, and which size is in force."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evershelf.settings import TrainingSettings
from training.frontier import choose, prune, sizes_below


def row(how: str, width: int, milliseconds: float, given_up: float) -> dict[str, Any]:
    return {"how": how, "width": width, "blocks": 1, "milliseconds": milliseconds, "given_up": given_up}


def test_the_fastest_size_that_gives_up_little_enough_is_chosen() -> None:
    small, half, whole = row("trained", 16, 0.03, 0.02), row("trained", 32, 0.05, 0.01), row("trained", 64, 0.09, 0.0)
    assert choose([small, half, whole]) is half
    assert choose([row("distilled", 16, 0.03, 0.0), small, whole]) is whole  # no training makes a distilled one


def test_smaller_sizes_keep_the_heads() -> None:
    assert sizes_below(TrainingSettings(width=64, blocks=2, heads=2)) == [(64, 2), (64, 1), (32, 2), (32, 1), (16, 2), (16, 1)]
    assert sizes_below(TrainingSettings(width=8, blocks=1, heads=1)) == [(8, 1)]


@pytest.mark.slow
def test_the_frontier_is_measured_and_a_smaller_size_that_is_as_good_is_in_force(new_installation: Callable[..., Any]) -> None:
    installation = new_installation(TRAINING__RANKS="1", TRAINING__EPOCHS="1")
    found = installation.run("frontier", "--size", "16x1", "--size", "8x1", "--json").answer
    rows = found["frontier"]
    assert {(each["how"], each["width"]) for each in rows} == {("trained", 16), ("pruned 30%", 16), ("pruned 50%", 16), ("trained", 8), ("distilled", 8)}
    assert [each["milliseconds"] for each in rows] == sorted(each["milliseconds"] for each in rows)
    assert choose(rows)["width"] == found["width"]
    decision = installation.home / "models" / "tuned.json"
    assert decision.is_file() == found["changed"] == (found["width"] != 16)
    if found["changed"]:
        assert json.loads(decision.read_bytes())["parameters"] == {"width": 8, "blocks": 1}
    refused = installation.run("frontier", "--size", "big")
    assert refused.code == 2
    assert "like 64x2" in refused.err


@pytest.mark.slow
def test_pruning_takes_the_smallest_weights() -> None:
    from training.model import Block, Shape

    block = Block(Shape(width=8, blocks=1, heads=2, dropout=0.0, words=1, categories=1))
    block.build(None)
    before = block.up.kernel.numpy()

    class Model:
        blocks = (block,)

    prune(Model(), 0.25)
    after = block.up.kernel.numpy()
    gone = after == 0
    assert gone.mean() == pytest.approx(0.25)
    assert np.abs(before[gone]).max() <= np.abs(after[~gone]).min()
    assert (after[~gone] == before[~gone]).all()
