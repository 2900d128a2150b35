"""Bad release candidates are bad in the way that is claimed, leave the good ones alone, and are gone afterwards."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evershelf.demo.sabotage import mixed_up_model, upside_down_candidates

ITEMS = [f"item-{number}" for number in range(6)]


def written(folder: Path, columns: dict[str, Iterable[object]]) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "part-00000.parquet")


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    folder = tmp_path / "candidates" / "c1"
    for name, key, shown in (
        ("user_candidates", "user_id", "item_id"),
        ("item_candidates", "item_id", "neighbor_id"),
        ("query_candidates", "query", "item_id"),
    ):
        written(folder / name, {key: ["a"] * 6, shown: ITEMS, "position": range(1, 7), "score": [1.0] * 6})
    written(folder / "popular_items", {"category": [""] * 6, "item_id": ITEMS, "position": range(1, 7), "score": [1.0] * 6})
    written(folder / "user_history", {"user_id": ["a"] * 15, "item_id": [item for times, item in enumerate(reversed(ITEMS)) for _ in range(times)]})
    (folder / "lineage.json").write_text(json.dumps({"model_id": "m1", "data_as_of": "2026-01-01"}))
    model = tmp_path / "models" / "m1"
    model.mkdir(parents=True)
    (model / "vocabulary.json").write_text(json.dumps({"items": ["", *ITEMS], "actions": ["", "view"]}))
    return folder


def test_upside_down_lists_name_the_least_popular_first(candidates: Path) -> None:
    with upside_down_candidates(candidates) as bad:
        for name, shown in (("user_candidates", "item_id"), ("item_candidates", "neighbor_id"), ("query_candidates", "item_id"), ("popular_items", "item_id")):
            table = pq.read_table(candidates.parent / bad / name, partitioning=None)
            assert table[shown].to_pylist() == ITEMS[::-1]
            assert table["position"].to_pylist() == [1, 2, 3, 4, 5, 6]
            assert pq.read_table(candidates / name, partitioning=None)[shown].to_pylist() == ITEMS
    assert [path.name for path in candidates.parent.iterdir()] == ["c1"]


def test_mixed_up_model_knows_the_same_items_by_other_numbers(candidates: Path, tmp_path: Path) -> None:
    with mixed_up_model(candidates, tmp_path / "models") as bad:
        lineage = json.loads((candidates.parent / bad / "lineage.json").read_text())
        assert lineage["data_as_of"] == "2026-01-01"
        vocabulary = json.loads((tmp_path / "models" / lineage["model_id"] / "vocabulary.json").read_text())
        assert vocabulary["items"][0] == ""
        assert vocabulary["items"][1:] != ITEMS
        assert sorted(vocabulary["items"][1:]) == ITEMS
        assert vocabulary["actions"] == ["", "view"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m1"]
    assert [path.name for path in candidates.parent.iterdir()] == ["c1"]
