"""What smaller models give up, and which size is in force."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock, Timeout

from evershelf.errors import InvalidSettings
from evershelf.settings import Settings, TrainingSettings
from training import commands, frontier, tuned
from training.frontier import choose, decide, given_up, prune, sizes_below


def row(how: str, width: int, milliseconds: float, at_most: float, ndcg: float = 0.1) -> dict[str, Any]:
    return {"how": how, "width": width, "blocks": 1, "milliseconds": milliseconds, "given_up_at_most": at_most, "NDCG@10": ndcg}


SMALL, HALF, WHOLE = row("trained", 16, 0.03, 0.02), row("trained", 32, 0.05, 0.01), row("trained", 64, 0.09, 0.0)


def test_the_fastest_size_that_gives_up_little_enough_is_chosen() -> None:
    assert choose([SMALL, HALF, WHOLE]) is HALF
    assert choose([row("distilled", 16, 0.03, 0.0), SMALL, WHOLE]) is WHOLE  # no training makes a distilled one


def test_a_size_that_may_give_up_more_is_not_chosen_by_chance() -> None:
    random = np.random.default_rng(1)
    best = random.random(400)
    near, far = best + random.normal(0, 0.001, 400), best - 0.0005 + random.normal(0, 0.3, 400)
    rows = given_up([(SMALL, far), (HALF, near), (WHOLE, best + 0.001)], np.arange(400), seed=1)
    assert rows[2]["given_up"] == rows[2]["given_up_at_most"] == 0
    assert rows[1]["given_up_at_most"] < 0.01 < rows[0]["given_up_at_most"]
    assert choose(rows)["width"] == 32


def test_the_chosen_size_is_in_force_from_the_next_training_on(home: Path) -> None:
    tuned.decide({"parameters": {"dropout": 0.3}})
    found = decide(TrainingSettings(), [SMALL, HALF, WHOLE], events=100)
    assert found["changed"] and found["width"] == 32
    in_force = tuned.with_tuned(TrainingSettings())
    assert (in_force.width, in_force.blocks, in_force.dropout) == (32, 1, 0.3)
    assert not decide(TrainingSettings(), [SMALL, HALF, WHOLE], events=100)["changed"]


@pytest.mark.parametrize(
    ("settings", "events", "ndcg", "why"),
    [
        (TrainingSettings(width=64), 100, 0.1, r"settings win: remove training\.width and"),
        (TrainingSettings(), 99, 0.1, "99 events are too few"),
        (TrainingSettings(), 100, 0.0, "nothing to choose by"),
    ],
    ids=["set by hand", "few events", "nothing learned"],
)
def test_nothing_is_decided_where_it_would_not_count_or_nothing_is_known(home: Path, settings: TrainingSettings, events: int, ndcg: float, why: str) -> None:
    found = decide(settings, [row("trained", 32, 0.05, 0.0, ndcg), row("trained", 64, 0.09, 0.0, ndcg)], events)
    assert (found["changed"], found["width"], tuned.decision()) == (False, 64, None)
    assert re.search(why, found["why"])
    assert tuned.with_tuned(settings).width == found["width"]


def test_smaller_sizes_keep_the_heads() -> None:
    assert sizes_below(TrainingSettings(width=64, blocks=2, heads=2)) == [(64, 2), (64, 1), (32, 2), (32, 1), (16, 2), (16, 1)]
    assert sizes_below(TrainingSettings(width=8, blocks=1, heads=1)) == [(8, 1)]


def test_a_size_that_no_model_can_have_is_refused_before_anything_is_trained(home: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"15 wide with 1 blocks.* a multiple of heads, 2"):
        frontier.frontier(Settings(), [(64, 1), (15, 1)], print)
    refused = CliRunner().invoke(commands.frontier, ["--size", "big"])
    assert refused.exit_code == 2
    assert "like 64x2" in refused.output


@pytest.mark.slow
def test_the_frontier_is_measured_and_no_redaction_takes_its_work(new_installation: Callable[..., Any]) -> None:
    installation = new_installation(TRAINING__RANKS="1", TRAINING__EPOCHS="1")
    work = installation.home / "training" / "frontier"
    with installation.start("frontier", "--size", "16x1", "--size", "8x1", "--size", "8x1", "--json") as process:
        while not work.is_dir():
            assert process.poll() is None
            time.sleep(0.05)
        with pytest.raises(Timeout), FileLock(work.with_suffix(".lock"), timeout=0):
            pass
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert not work.exists()
    found = json.loads(out.splitlines()[-1])
    rows = found["frontier"]
    assert {(each["how"], each["width"]) for each in rows} == {("trained", 16), ("pruned 30%", 16), ("pruned 50%", 16), ("trained", 8), ("distilled", 8)}
    assert len(rows) == 5
    assert [each["milliseconds"] for each in rows] == sorted(each["milliseconds"] for each in rows)
    assert (found["changed"], found["width"]) == (False, 16)  # few events, and the settings say 16


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
