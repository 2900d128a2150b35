"""A snapshot with a shop's own ranker has nothing for the model server: gateways rank with it, it is judged by what it has, and the way back is as ever."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evershelf.contracts.rungs import RUNGS
from serving.build_snapshot import build_snapshot
from serving.promotion.overview import look
from serving.promotion.promoter import promote
from serving.promotion.rollback import roll_back
from serving.tf_serving.client import ModelServerAdmin
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, Shop, eventually
from tests.serving.promotion.conftest import Shoppers, variant
from tests.serving.promotion.test_promoter import available


@pytest.fixture
def own(shop: Shop) -> str:
    """A snapshot with a ranker that was brought for the shop's model."""
    (model,) = (folder.name for folder in (shop.home / "models").iterdir())
    candidates = f"{tiny.DATA_AS_OF}-55555555"
    tiny.make_candidates(shop.home, candidates, tiny.bring_ranker(shop.home, model))
    return build_snapshot(candidates)


def served_by(gateway: GatewayProcess) -> tuple[str, list[str]]:
    """Return which rung answers a shopper with a history, and which are skipped."""
    answer = gateway.recommend(tiny.RAW_USERS[0])
    assert answer["items"]
    return answer["served_by"], [skip["rung"] for skip in answer["skipped"]]


def back_to_live(gateway: GatewayProcess) -> None:
    eventually(lambda: served_by(gateway) == ("live", []))


def test_it_has_no_saved_model_and_says_whose_ranker_it_has(shop: Shop, own: str) -> None:
    folder = shop.snapshots / own
    assert not (folder / "model").exists()
    assert (folder / "ranker.onnx").is_file() and not (folder / "ranker.tflite").exists()
    assert json.loads((folder / "manifest.json").read_bytes())["model_card"]["own_ranker"]["base"].endswith("-11111111")


def test_it_is_tried_beside_one_that_is_ranked_live_and_there_is_a_way_back(
    shop: Shop, own: str, gateways: list[GatewayProcess], model_server: ModelServerAdmin, shoppers: Shoppers
) -> None:
    said: list[str] = []
    promotion = promote(own, "our own", said.append)
    assert (promotion.outcome, [stage["verdict"] for stage in promotion.stages]) == ("promoted", ["pass", "pass"]), promotion
    assert "1 golden queries gave the offline scores, from the local ranker" in said
    shoppers.stop()
    assert {key[1] for key in shoppers.answers} == {200}
    for made in gateways:
        assert served_by(made) == ("local_model", [])
        assert list(made.status()["rungs"]) == [rung for rung in RUNGS if rung != "live"]
    assert available(model_server) == [1]  # last-good's; nothing was loaded for this one

    assert roll_back(None, "back", print).complete
    for made in gateways:
        back_to_live(made)
    assert available(model_server) == [1]


def test_one_that_is_ranked_live_can_follow_it(
    shop: Shop, own: str, gateways: list[GatewayProcess], model_server: ModelServerAdmin, shoppers: Shoppers
) -> None:
    assert promote(own, "our own", print).outcome == "promoted"
    promotion = promote(shop.second, "ours again", print)
    assert promotion.outcome == "promoted", promotion
    eventually(lambda: available(model_server) == [shop.log.state().registrations[shop.second]])  # last-good, the own one, needs none
    for made in gateways:
        back_to_live(made)


def test_a_shop_that_has_only_its_own_needs_no_model_server(shop: Shop, own: str, configured: Callable[..., None]) -> None:
    assert promote(own, "first", print).outcome == "promoted"
    assert not [problem for problem in look().problems if "model" in problem]
    assert look().models is None


def test_other_scores_than_the_shop_gave_are_rejected(shop: Shop, own: str, configured: Callable[..., None]) -> None:
    def change(content: Path) -> None:
        golden = json.loads((content / "golden.json").read_bytes())
        golden["requests"][0]["scores"][3] += 0.01
        (content / "golden.json").write_text(json.dumps(golden))

    promotion = promote(variant(shop, change, own), "nightly", print)
    assert promotion.outcome == "rejected"
    assert "the local ranker on golden query 1" in promotion.why
