"""`evaluate sequences`, `interactions` and `search`, as commands, on files small enough that the answer is known; and on real ones where they lie beside."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evershelf.settings import TrainingSettings
from training import evaluate_interactions, evaluate_sequences
from training.errors import UnusableData
from training.interaction_files import read_interactions
from training.sequence_file import read_sequences

ITEMS = 30


def ring(path: Path, shoppers: int = 80) -> Path:
    """Shoppers walk along a ring of items, nine steps out of ten."""
    random = np.random.default_rng(6)
    lines = []
    for shopper in range(shoppers):
        steps = np.where(random.random(int(random.integers(5, 12))) < 0.9, 1, 7)
        lines.append(" ".join([f"u{shopper}", *(f"i{place}" for place in (int(random.integers(ITEMS)) + np.cumsum(steps)) % ITEMS)]))
    path.write_text("\n".join([*lines, "short i1", "shorter i2 i3"]) + "\n")
    return path


def test_a_file_of_sequences_becomes_a_shop_that_holds_two_choices_back(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("a x y z x\n\nb y z\n")
    shop = read_sequences(tmp_path / "file.txt")
    assert shop.items == ["x", "y", "z"]
    assert shop.time.tolist() == [-2.0, -1.0, 0.0, 1.0, -2.0, -1.0]  # b is too short to be measured, all of it teaches
    assert [shop.items[code] for code in shop.item] == ["x", "y", "z", "x", "y", "z"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a x y z\nb\n", "Line 2 of .* names a shopper but no item"),
        ("a x y z\na x y\n", "Line 2 of .* is the second one of shopper a"),
        ("a x y\n", "No line of .* has 3 items"),
        ("", "No line of .* has 3 items"),
    ],
)
def test_a_file_that_is_no_sequences_is_refused_by_name(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "file.txt").write_text(content)
    with pytest.raises(UnusableData, match=why):
        read_sequences(tmp_path / "file.txt")


def test_attributes_beside_a_file_of_sequences_describe_its_items(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("a x y z x\n")
    (tmp_path / "file_item2attributes.json").write_text('{"x": [1, 2], "z": ["red"], "unknown": [7]}')
    assert read_sequences(tmp_path / "file.txt").products.title == ["1 2", "", "red"]
    (tmp_path / "file_item2attributes.json").write_text('{"x": 1}')
    with pytest.raises(UnusableData, match="cannot be read as attributes"):
        read_sequences(tmp_path / "file.txt")


@pytest.mark.slow
def test_evaluate_sequences_learns_the_ring_and_beats_what_does_not_see_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "evershelf.cli", "evaluate", "sequences", str(ring(tmp_path / "ring.txt")), "--minutes", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"metrics", "interval95", "baselines", "protocol", "users", "seconds"} <= set(found)
    assert found["users"] == 80
    assert found["metrics"]["NDCG@10"] > 2 * found["baselines"]["popular"]["NDCG@10"]
    assert set(found["baselines"]) == {"transformer", "second_source", "item_knn", "popular"}
    assert found["better_by"]["popular"]["NDCG@10"][1] > 0
    assert f"{max(found['validation'], key=found['validation'].get).split()[0]} of 1" in found["protocol"]
    assert not list((tmp_path / "home" / "training").glob("*/"))  # no work is left behind


def files(folder: Path, train: dict[str, list[Any]], test: dict[str, list[Any]]) -> tuple[Path, Path]:
    pq.write_table(pa.table(train), folder / "train.parquet")
    pq.write_table(pa.table(test), folder / "test.parquet")
    return folder / "train.parquet", folder / "test.parquet"


def test_evaluate_interactions_foretells_what_goes_together(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    train: dict[str, list[Any]] = {"user": [], "item": [], "event": [], "ts": []}
    test: dict[str, list[Any]] = {"user": [], "item": []}
    for user in range(300):
        group = int(random.integers(10))  # ten groups of eight items that are bought together
        wanted = (group * 8 + random.permutation(8)[:5]).tolist()
        test["user"].append(user)
        test["item"].append(wanted.pop())
        for place, item in enumerate(wanted):
            for event in ("view", "buy") if place % 2 else ("view",):
                train["user"].append(user)
                train["item"].append(item)
                train["event"].append(event)
                train["ts"].append(place * 10 + (event == "buy"))
    found = evaluate_interactions.evaluate(*files(tmp_path, train, test), seed=1, say=lambda text: None)
    assert found["users"] == 300
    assert found["metrics"]["NDCG@20"] > found["baselines"]["item_knn"]["NDCG@20"]  # kNN may show what was only viewed; the validation found that never wanted
    assert "met are left out" in found["protocol"]
    assert found["better_by"]["popular"]["Recall@20"][1] > 0


def test_popularity_and_item_knn_count_a_stronger_behaviour_more_and_mask_only_what_was_bought(tmp_path: Path) -> None:
    train: dict[str, list[Any]] = {"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 3, 2], "event": ["buy", "view", "view", "cart", "view"], "ts": [1, 2, 1, 2, 1]}
    learned, owners, targets, names = read_interactions(*files(tmp_path, train, {"user": [1], "item": [2]}))
    assert names == ["", "1", "2", "3"]
    assert evaluate_interactions._popularity(learned, 4).tolist() == [0, 4, 2, 2]
    scores = evaluate_interactions._item_knn(learned, 4)(np.array([0]))
    assert scores[0, 3] == pytest.approx(3 * (1 * 2) / np.sqrt(10 * 4) + 0)  # items 1 and 3 meet in shopper 2, who viewed the one and put the other in a cart
    ranks = evaluate_interactions._ranks(lambda who: np.repeat([[0.0, 9, 1, 2]], len(who), axis=0).astype(np.float32), learned, False, owners, targets)
    assert ranks.rank.tolist() == [2.0]  # item 1 was bought, item 3 comes first


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ({"user": [1], "item": [1], "event": ["view"]}, "no column for the time"),
        ({"user": [1], "item": [None], "event": ["view"], "ts": [1]}, "has empty values"),
        ({"user": [1], "item": [float("nan")], "event": ["view"], "ts": [1]}, "has empty values"),
        ({"user": [1], "item": [1], "event": ["gaze"], "ts": [1]}, "behaviours that are not known: gaze"),
        ({"user": [], "item": [], "event": [], "ts": []}, "has no rows"),
    ],
)
def test_files_that_are_no_interactions_are_refused_by_name(tmp_path: Path, train: dict[str, list[Any]], why: str) -> None:
    with pytest.raises(UnusableData, match=why):
        read_interactions(*files(tmp_path, train, {"user": [1], "item": [1]}))
    (tmp_path / "train.parquet").write_text("not parquet")
    with pytest.raises(UnusableData, match="cannot be read as Parquet"):
        read_interactions(tmp_path / "train.parquet", tmp_path / "test.parquet")


SAME = {  # what a shopper says -> what the shop says
    "sofa": "leather couch for the living room", "cell phone": "android smartphone 64 GB", "laptop": "notebook computer 15 inch",
    "earbuds": "wireless in-ear headphones", "tv": "55 inch television", "fridge": "refrigerator with freezer", "rug": "wool carpet",
    "trousers": "cotton pants for men", "sneakers": "running shoes", "stove": "gas cooker", "flashlight": "pocket torch", "backpack": "hiking rucksack",
}  # fmt: skip


@pytest.mark.slow
def test_evaluate_search_finds_what_is_meant_and_not_only_what_is_said(tmp_path: Path) -> None:
    products = [{"id": f"good-{place}", "title": title} for place, title in enumerate(SAME.values())]
    products += [{"id": f"bad-{place}", "title": f"{query} sticker"} for place, query in enumerate(SAME)]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, products)))
    rows = [f"{query},{kind}-{place},{3 if kind == 'good' else 0}" for place, query in enumerate(SAME) for kind in ("good", "bad")]
    (tmp_path / "judgments.csv").write_text("\n".join(["query,docid,rating", *rows, "sofa,unknown,3"]))
    command = [sys.executable, "-m", "evershelf.cli", "evaluate", "search", "--json"]
    command += ["--products", str(tmp_path / "products.jsonl"), "--judgments", str(tmp_path / "judgments.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "1 judgments are of products that are not in the catalogue" in done.stderr
    assert found["queries"] == len(SAME)
    assert found["baselines"]["bm25"]["NDCG@10 judged"] == pytest.approx(1 / np.log2(3), abs=1e-4)  # words alone put the sticker first
    assert found["baselines"]["meaning"]["NDCG@10"] > 0.6
    difference, low, high = found["better_by"]["bm25"]["NDCG@10"]
    assert low > 0
    assert low <= difference <= high


def test_a_file_is_learned_on_this_machine_whatever_hosts_the_shop_trains_on() -> None:
    spread = TrainingSettings(ranks=8, hosts=("node-1:4", "node-2:4"), interface="eth0")
    alone = TrainingSettings.model_validate_json(spread.model_copy(update=evaluate_sequences.RECIPE).model_dump_json())  # as each rank does
    assert (alone.hosts, alone.ranks) == ((), 1)
