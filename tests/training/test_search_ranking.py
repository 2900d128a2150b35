"""The weights of hybrid search are learned from judged answers, and what cannot be read as judged answers is named."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evershelf import hybrid
from training import search_files, search_ranking
from training.errors import UnusableData
from training.search_ranking import Asked

TELLING, MISLEADING = 1, 2  # of the fits below


def asked(queries: int, seed: int) -> list[Asked]:
    """Queries for which the second fit tells which items are good, the third one the contrary, and the others nothing."""
    found, random = [], np.random.default_rng(seed)
    for _ in range(queries):
        gain = random.choice([0.0, 1.0, 3.0], 40)
        gain[0] = 7.0
        fits = np.column_stack([random.normal(size=40), gain + random.normal(size=40), -gain + 2 * random.normal(size=40), np.ones(40)])
        judged = random.random(40) < 0.6
        judged[0] = True
        found.append(Asked(fits=fits.astype(np.float32), gain=np.where(judged, gain, 0), judged=judged, likely=np.arange(40)))
    return found


def test_the_fit_that_tells_gets_the_weight_and_new_queries_gain() -> None:
    weights = search_ranking.learn(asked(40, seed=1), seed=1)
    assert weights[TELLING] > 3 * abs(weights[0])
    assert weights[MISLEADING] < 0
    new = asked(40, seed=2)
    ours = np.mean([one.ndcg(hybrid.scores(one.fits, weights), judged_only=True) for one in new])
    plain = np.mean([one.ndcg(hybrid.scores(one.fits), judged_only=True) for one in new])
    assert ours > plain + 0.05


def test_too_few_queries_teach_nothing() -> None:
    assert search_ranking.learn(asked(5, seed=1), seed=1) == hybrid.PLAIN


def test_each_query_is_held_out_once() -> None:
    queries = asked(13, seed=3)
    folds = search_ranking.folds(queries, seed=1)
    assert sorted(id(one) for _, held_out in folds for one in held_out) == sorted(map(id, queries))
    assert all(not {*map(id, rest)} & {*map(id, held_out)} for rest, held_out in folds)


def test_ndcg_of_all_counts_an_unjudged_item_as_nothing() -> None:
    one = Asked(fits=np.zeros((3, len(hybrid.FITS)), np.float32), gain=np.array([0.0, 3.0, 0.0]), judged=np.array([False, True, True]), likely=np.arange(3))
    scores = np.array([3.0, 2.0, 1.0])
    assert one.ndcg(scores, judged_only=True) == 1.0
    assert one.ndcg(scores, judged_only=False) == pytest.approx(1 / np.log2(3))


PRODUCTS = [
    {"id": 1, "title": "Red kettle", "supplier": "Acme", "price": "1990"},
    {"id": "2", "name": "Blue mug", "bullet_point": ["large", "dishwasher safe"]},
]


def test_products_are_read_from_every_form_they_come_in(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, PRODUCTS)))
    with zipfile.ZipFile(tmp_path / "array.json.zip", "w") as packed:
        packed.writestr("array.json", json.dumps(PRODUCTS))
    for file in ("lines.jsonl", "array.json.zip"):
        found = search_files.read_catalogue(tmp_path / file)
        assert found.ids == ["1", "2"]
        assert found.texts["title"] == ["Red kettle", "Blue mug"]
        assert found.texts["brand"] == ["Acme", ""]
        assert found.texts["description"] == ["", "large dishwasher safe"]
        assert found.texts["code"] == ["", ""]  # what is the title already says nothing more
        np.testing.assert_array_equal(found.price, [1990, np.nan])
    assert search_files.read_catalogue(tmp_path).ids == ["1", "2"]  # the same products in two files


@pytest.mark.parametrize(
    ("products", "judgments", "said"),
    [
        ("[{]", "query,docid,rating\nmug,2,1\n", "cannot be read as products"),
        ("[]", "query,docid,rating\nmug,2,1\n", "no products"),
        ('[{"title": "mug"}]', "query,docid,rating\nmug,2,1\n", "have no id"),
        ('[{"id": 2, "price": 3}]', "query,docid,rating\nmug,2,1\n", "have no title"),
        (json.dumps(PRODUCTS), "query,docid\nmug,2\n", "no column for"),
        (json.dumps(PRODUCTS), "query,docid,rating\nmug,2,good\n", "cannot be read as judgments"),
        (json.dumps(PRODUCTS), "query,docid,rating\nmug,2,0\nkettle,7,1\n", "relevant product"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, products: str, judgments: str, said: str) -> None:
    (tmp_path / "products.json").write_text(products)
    (tmp_path / "judgments.csv").write_text(judgments)
    with pytest.raises(UnusableData, match=said):
        search_files.read_judgments(tmp_path / "judgments.csv", search_files.read_catalogue(tmp_path / "products.json"))
