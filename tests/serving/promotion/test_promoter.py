"""A release goes round with real parts: model server, two gateways, shoppers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from evershelf.contracts.model import RANK_INPUTS, RANK_OUTPUT, SIGNATURE
from evershelf.errors import SnapshotDamaged
from evershelf.settings import load_settings
from serving.errors import ModelServerError, PromotionRefused, ServingError
from serving.promotion.promoter import LOCK, promote
from serving.tf_serving.client import ModelServerAdmin
from tests.serving.conftest import GatewayProcess, Shop, eventually, free_port
from tests.serving.promotion.conftest import ModelServerProcess, Shoppers, variant


def available(admin: ModelServerAdmin) -> list[int]:
    return sorted(version for version, status in admin.status().items() if status.state == "AVAILABLE")


def kinds(shop: Shop) -> list[str]:
    return [record.kind for record in shop.log.records()]


def serves_only(gateway: GatewayProcess, snapshot_id: str) -> None:
    assert {gateway.recommend(f"someone-{number}")["snapshot_id"] for number in range(50)} == {snapshot_id}


# the first snapshot


def test_the_first_snapshot_is_promoted_without_gateways_and_says_that_nothing_was_compared(shop: Shop, model_server: ModelServerAdmin) -> None:
    promotion = promote(shop.first, "first", print)
    assert promotion.outcome == "promoted"
    assert "nothing to compare" in promotion.why
    assert kinds(shop) == ["registered", "promoted"]
    assert available(model_server) == [1]
    assert promote(shop.first, "again", print).outcome == "already stable"
    assert kinds(shop) == ["registered", "promoted"]


def test_nothing_changes_when_the_model_server_is_away_and_the_snapshot_may_come_again(shop: Shop, configured: Callable[..., None], request: Any) -> None:
    with pytest.raises(ModelServerError, match="did not"):
        promote(shop.first, "first", print)
    assert shop.log.state().stable is None
    request.getfixturevalue("model_server")
    assert promote(shop.first, "again", print).outcome == "promoted"


# the usual way


def test_a_snapshot_as_good_as_stable_is_promoted_while_nobody_notices(
    shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin, shoppers: Shoppers
) -> None:
    promotion = promote(shop.second, "nightly", print)
    assert (promotion.outcome, [stage["verdict"] for stage in promotion.stages]) == ("promoted", ["pass", "pass"]), promotion
    assert kinds(shop) == ["registered", "promoted", "registered", "warming", "canary", "canary", "promoted"]
    for made in gateways:
        serves_only(made, shop.second)
    shoppers.stop()
    assert {key[1] for key in shoppers.answers} == {200}
    assert {key[0] for key in shoppers.answers} == {shop.first, shop.second}
    assert available(model_server) == [1, 3]  # last-good stays loaded
    assert "Redis" in shop.log.records()[-1].why  # which was away all the time


def test_without_shoppers_there_is_no_verdict_and_no_promotion(
    shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin, configured: Callable[..., None]
) -> None:
    configured(PROMOTION__STAGE_TIMEOUT="PT1S")
    promotion = promote(shop.second, "nightly", print)
    assert promotion.outcome == "rejected"
    assert "canary answered 0 of the 40" in promotion.why
    assert shop.log.state().out == {shop.second}
    for made in gateways:
        serves_only(made, shop.first)
    eventually(lambda: available(model_server) == [1])
    assert not (load_settings().served_models / "ranker" / "3").exists()
    with pytest.raises(PromotionRefused, match="never a target again"):
        promote(shop.second, "again", print)


def test_a_canary_whose_model_is_gone_is_rejected_and_no_shopper_goes_without(
    shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin, shoppers: Shoppers
) -> None:
    def sabotage(line: str) -> None:
        if "give it 30%" in line:
            model_server.reload([1], {}, load_settings().served_models / "ranker")
            eventually(lambda: available(model_server) == [1])

    promotion = promote(shop.second, "nightly", sabotage)
    assert promotion.outcome == "rejected"
    assert "answers below the best rung" in promotion.why
    shoppers.stop()
    assert {key[1] for key in shoppers.answers} == {200}
    assert "empty" not in {key[0] for key in shoppers.answers}
    for made in gateways:
        serves_only(made, shop.first)


# what is wrong with the snapshot


def test_other_scores_than_the_offline_model_gave_are_rejected(shop: Shop, model_server: ModelServerAdmin) -> None:
    def change(content: Path) -> None:
        golden = json.loads((content / "golden.json").read_bytes())
        golden["requests"][0]["scores"][3] += 0.01
        (content / "golden.json").write_text(json.dumps(golden))

    promote(shop.first, "first", print)
    promotion = promote(variant(shop, change), "nightly", print)
    assert promotion.outcome == "rejected"
    assert "golden query 1" in promotion.why
    eventually(lambda: available(model_server) == [1])


def test_a_local_ranker_that_differs_from_the_served_model_is_rejected(shop: Shop, model_server: ModelServerAdmin, tmp_path: Path) -> None:
    import tensorflow as tf

    class Constant(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __call__(self, candidates: Any, **others: Any) -> dict[str, Any]:
            return {RANK_OUTPUT: tf.cast(candidates, tf.float32) + sum(tf.reduce_sum(tf.cast(value, tf.float32)) for value in others.values())}

    def change(content: Path) -> None:
        other = Constant()
        specs = {name: tf.TensorSpec([1, length], kind, name=name) for name, (kind, length) in RANK_INPUTS.items()}
        saved = str(tmp_path / "other")
        tf.saved_model.save(other, saved, signatures={SIGNATURE: tf.function(other.__call__).get_concrete_function(**specs)})
        (content / "ranker.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())

    with_other_ranker = variant(shop, change)
    promotion = promote(with_other_ranker, "nightly", print)
    assert promotion.outcome == "rejected"
    assert "local ranker" in promotion.why


def test_a_model_that_does_not_load_is_rejected_and_stable_stays_loaded(shop: Shop, model_server: ModelServerAdmin) -> None:
    promote(shop.first, "first", print)
    promotion = promote(variant(shop, lambda content: (content / "model" / "saved_model.pb").write_bytes(b"\xff")), "nightly", print)
    assert promotion.outcome == "rejected"
    assert "did not load version 3" in promotion.why
    assert available(model_server) == [1]


def test_a_damaged_snapshot_changes_nothing(shop: Shop, model_server: ModelServerAdmin) -> None:
    (shop.snapshots / shop.first / "vocabulary.json").write_text("{}")
    with pytest.raises(SnapshotDamaged, match=r"vocabulary\.json has changed"):
        promote(shop.first, "first", print)
    assert kinds(shop) == []


# who may promote


def test_pins_freezes_and_unknown_names_are_refused(shop: Shop, model_server: ModelServerAdmin) -> None:
    promote(shop.first, "first", print)
    for kind in ("pinned", "frozen"):
        shop.log.append(kind, shop.first, "sale")
        with pytest.raises(PromotionRefused, match=kind):
            promote(shop.second, "nightly", print)
        shop.log.append(kind, shop.first, "over", on=False)
    with pytest.raises(PromotionRefused, match="There is no snapshot"):
        promote("2026-01-01-00000000", "nightly", print)
    assert shop.log.state().stable == shop.first


def test_a_second_promoter_is_refused(shop: Shop, configured: Callable[..., None]) -> None:
    with FileLock(shop.home / LOCK), pytest.raises(PromotionRefused, match="Another promotion is under way"):
        promote(shop.first, "first", print)


def test_a_gateway_that_is_away_stops_a_release_before_it_starts(
    shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin, configured: Callable[..., None]
) -> None:
    gateways[1].kill()
    with pytest.raises(ServingError, match="A release needs every gateway"):
        promote(shop.second, "nightly", print)
    assert shop.log.state().canary is None
    assert shop.second not in shop.log.state().out  # it may come again
    eventually(lambda: available(model_server) == [1])


def test_a_decision_of_somebody_else_ends_a_trial(shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin) -> None:
    def decide(line: str) -> None:
        if "give it 30%" in line:
            shop.log.append("frozen", shop.first, "sale")

    with pytest.raises(PromotionRefused, match="Another decision"):
        promote(shop.second, "nightly", decide)
    assert (shop.log.state().canary, shop.log.state().stable) == (None, shop.first)
    serves_only(gateways[0], shop.first)


# a promoter that dies


@pytest.fixture
def dead_promoter(shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin) -> Iterator[None]:
    """A promoter killed while `second` is on trial; without shoppers the trial would last."""
    process = subprocess.Popen([sys.executable, "-m", "evershelf.cli", "promote", shop.second], env=os.environ.copy())
    eventually(lambda: shop.log.state().canary_share > 0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    yield


def test_a_promotion_that_was_killed_goes_on_where_it_was(shop: Shop, gateways: list[GatewayProcess], dead_promoter: None, shoppers: Shoppers) -> None:
    lines: list[str] = []
    assert promote(shop.second, "again", lines.append).outcome == "promoted"
    assert "resuming the interrupted promotion at 30%" in lines
    assert kinds(shop).count("registered") == 2
    for made in gateways:
        serves_only(made, shop.second)


def test_another_snapshot_first_clears_the_trial_of_a_dead_promoter_away(
    shop: Shop, gateways: list[GatewayProcess], dead_promoter: None, shoppers: Shoppers
) -> None:
    third = variant(shop, lambda content: None)
    assert promote(third, "nightly", print).outcome == "promoted"
    state = shop.log.state()
    assert state.stable == third
    assert state.out == {shop.second}
    rejected = next(record for record in shop.log.records() if record.kind == "rejected")
    assert "interrupted" in rejected.why


# a model server that dies


@pytest.mark.slow
def test_a_model_server_that_was_killed_serves_again_without_a_person(shop: Shop, configured: Callable[..., None]) -> None:
    server = ModelServerProcess.start(free_port())
    try:
        configured(MODEL_SERVER__PORT=str(server.port), PROMOTION__LOAD_TIMEOUT="PT60S")
        admin = ModelServerAdmin(f"127.0.0.1:{server.port}")
        eventually(lambda: admin_answers(admin), 60)
        promote(shop.first, "first", print)
        server.kill()
        server = ModelServerProcess.start(server.port)
        eventually(lambda: admin_answers(admin) and available(admin) == [1], 60)
        admin.close()
    finally:
        server.kill()


def admin_answers(admin: ModelServerAdmin) -> bool:
    try:
        admin.status()
    except ModelServerError:
        return False
    return True
