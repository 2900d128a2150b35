"""Real trainings of a tiny shop by two real Horovod ranks."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from evershelf.contracts import ORDERS
from evershelf.contracts.candidates import CANDIDATE_LISTS
from evershelf.contracts.model import RANK_INPUTS, RANKED_CANDIDATES
from evershelf.contracts.rungs import RUNGS
from evershelf.ranker import ranker_in

pytestmark = pytest.mark.slow

Trained = Any


def test_train_writes_every_file_of_the_contract_and_says_whether_it_is_blessed(trained: Trained) -> None:
    installation, outcome = trained
    answer = outcome.answer
    (folder,) = installation.models
    assert folder.name == answer["model_id"]
    assert answer["model_id"].startswith("2026-01-08-")
    assert {path.name for path in folder.iterdir()} == {
        "saved_model",
        "ranker.tflite",
        "vocabulary.json",
        "item_vectors.npy",
        "user_vectors.parquet",
        "evaluation.json",
        "golden.json",
        "lineage.json",
        "text_encoder",
        "weights.npz",
    }
    assert (folder / "saved_model" / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0
    evaluation = json.loads((folder / "evaluation.json").read_bytes())
    assert evaluation["blessed"] == answer["blessed"]
    assert -0.001 < (folder / "evaluation.json").stat().st_mtime - evaluation["trained_at"] < 60  # it is rounded
    assert set(evaluation["rung_quality"]) == set(RUNGS)
    assert evaluation["rung_quality_by"] == "next item"  # this shop logs no impressions
    assert evaluation["metrics"]["NDCG@10"] > evaluation["baselines"]["popular"]["NDCG@10"]  # the ring can be learned, popularity says nothing of it
    assert evaluation["search"]["queries_measured"] == 4 and evaluation["search"]["NDCG@10"] > 0
    (ranker,) = evaluation["rankers"]
    assert (ranker["form"], ranker["precision"], ranker["agrees"], ranker["ships"]) == ("LiteRT", "float32", True, True)
    slices = evaluation["slices"]
    assert slices["known"]["events"] + slices["guest"]["events"] == evaluation["events"]
    assert slices["light_history"]["events"] > 0
    assert not list((installation.home / "training").glob("*/"))  # no work is left behind
    lineage = json.loads((folder / "lineage.json").read_bytes())
    assert lineage["data_as_of"] == "2026-01-08"
    assert set(lineage["tables"]) == {"events", "products", "orders"}


def test_the_exported_forms_and_the_golden_scores_agree(trained: Trained) -> None:
    import tensorflow as tf

    (folder,) = trained[0].models
    requests = json.loads((folder / "golden.json").read_bytes())["requests"]
    inputs = {name: np.array([request["inputs"][name] for request in requests], dtype) for name, (dtype, _) in RANK_INPUTS.items()}
    golden = np.array([request["scores"] for request in requests], np.float32)
    assert golden.shape == (8, RANKED_CANDIDATES)
    saved_model = tf.saved_model.load(str(folder / "saved_model"))
    scores = saved_model.signatures["serving_default"](**{name: tf.constant(array) for name, array in inputs.items()})["scores"].numpy()
    assert np.abs(scores - golden).max() <= 1e-5
    ranker = ranker_in(folder)
    local = np.stack([ranker.scores({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(8)])
    assert np.abs(local - golden).max() <= 1e-3
    assert (golden[inputs["candidates"] == 0] == np.finfo(np.float32).min).all()
    vectors = np.load(folder / "item_vectors.npy")
    assert np.isfinite(vectors).all()
    assert len(vectors) == 26


def test_every_known_shopper_has_a_vector_that_scores_as_the_ranker_does(trained: Trained) -> None:
    (folder,) = trained[0].models
    vectors = pq.read_table(folder / "user_vectors.parquet")
    assert vectors.num_rows == 35  # forty shoppers, five of them guests
    assert len(vectors["vector"][0]) == np.load(folder / "item_vectors.npy").shape[1]


def test_training_again_on_the_same_lake_reports_the_same_model(trained: Trained) -> None:
    installation, outcome = trained
    assert installation.run("train", "--json").answer == outcome.answer


def test_evaluate_gives_the_agreed_report(trained: Trained) -> None:
    installation, outcome = trained
    report = installation.run("evaluate", "shop", "--json").answer
    assert {"metrics", "interval95", "baselines", "protocol", "users", "seconds"} <= set(report)
    assert report["metrics"] == pytest.approx(outcome.answer["metrics"])
    low, high = report["interval95"]["NDCG@10"]
    assert low <= report["metrics"]["NDCG@10"] <= high


def test_candidates_are_written_whole_for_every_shopper(trained: Trained) -> None:
    installation, outcome = trained
    answer = installation.run("run", "candidates", "--json", *([] if outcome.answer["blessed"] else ["--allow-unblessed"])).answer
    folder = installation.home / "candidates" / answer["candidates_id"]
    assert {path.name for path in folder.iterdir()} == {*CANDIDATE_LISTS, "lineage.json"}
    for name, columns in CANDIDATE_LISTS.items():
        table = pq.read_table(folder / name)
        assert table.column_names == list(columns)
        assert table.num_rows == answer["rows"][name]
    users = pq.read_table(folder / "user_candidates")
    assert len(set(users["user_id"].to_pylist())) == 35
    assert {"model", "neighbors"} & set(users["source"].to_pylist())
    assert "item-024" in users["item_id"].to_pylist()  # nobody has met it; its title and category say whom it may please
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["model_id"] == outcome.answer["model_id"]
    assert lineage["data_as_of"] == "2026-01-08"


def test_a_loss_that_is_no_number_is_named_and_nothing_is_exported(
    new_installation: Callable[..., Any], lake_writer: Callable[[Path, Any, list[dict[str, Any]]], None]
) -> None:
    installation = new_installation()
    when = datetime(2026, 1, 5, 9, tzinfo=UTC)
    order = {
        "order_id": "o",
        "ordered_at": when,
        "landing_dt": when.date(),
        "dt": when.date(),
        "item_id": "item-001",
        "currency": "GBP",
        "transaction_class": "kept",
    }
    lake_writer(installation.home / "lake", ORDERS, [order | {"line_id": str(line), "quantity": 1, "price": float("inf")} for line in range(4)])
    outcome = installation.run("train", "--json")
    assert outcome.code == 1
    assert "it is not a number, or it diverged. Nothing was exported" in outcome.err
    assert "Traceback" not in outcome.err
    assert not installation.models


def test_a_refused_model_is_not_used(new_installation: Callable[..., Any]) -> None:
    installation = new_installation(TRAINING__EPOCHS="2", TRAINING__MIN_NDCG_OVER_POPULAR="1000")
    again = installation.run("train", "--json")
    assert len(installation.models) == 1
    assert again.answer["blessed"] is False
    assert "NOT above 1000 times the popular list's" in again.answer["why"][0]

    named = installation.run("run", "candidates", "--model", again.answer["model_id"])
    assert named.code == 1
    assert "was refused" in named.err
    newest = installation.run("run", "candidates")
    assert newest.code == 1
    assert "There is no blessed model" in newest.err
    assert not (installation.home / "candidates").exists()
