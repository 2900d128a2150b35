"""What was rejected or rolled back is built anew, because promotion never takes it again."""

from pathlib import Path
from typing import Any

import pytest

from evershelf import snapshot
from evershelf.contracts.rungs import RUNGS
from evershelf.errors import SnapshotDamaged
from serving.build_snapshot import _already_built
from serving.promotion import promoter
from serving.promotion.log import LiveState


def test_a_snapshot_that_is_out_is_not_the_answer_for_the_same_inputs(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    about: dict[str, Any] = dict.fromkeys(("created_at", "shop", "model_id"), "x") | {"data_as_of": "2026-01-01", "model_card": {}}
    made = snapshot.seal(tmp_path / "content", tmp_path / "snapshots", lineage={"seed": 7}, rung_quality=dict.fromkeys(RUNGS, 1.0), **about)
    assert _already_built(tmp_path / "snapshots", {"seed": 7}, set()) == made
    assert _already_built(tmp_path / "snapshots", {"seed": 7}, {made}) is None


@pytest.mark.parametrize("error", [SnapshotDamaged("changed"), OSError("the disk is gone")])
def test_last_good_is_the_next_one_when_one_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def verify(folder: Path) -> None:
        if folder.name == "b":
            raise error

    monkeypatch.setattr("serving.promotion.promoter.snapshots.verify", verify)
    assert promoter.last_good(LiveState(stable="c", been_stable=("c", "b", "a")), tmp_path) == "a"
