"""A gateway holds what is live on its own disk, follows decisions, and needs nobody to go on."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from evershelf import snapshot
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, Shop, eventually

Start = Callable[..., GatewayProcess]
USER = tiny.RAW_USERS[0]


def _damage(folder: Any) -> None:
    store = folder / "store.lmdb"
    store.write_bytes(store.read_bytes()[:-1] + b"?")


def test_a_promotion_is_followed_and_a_rollback_leaves_no_trace(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    assert running.recommend(USER)["snapshot_id"] == shop.first
    shop.promote(shop.second)
    status = running.follow()
    assert status["stable"] == shop.second and status["last_good"] == shop.first and set(status["loaded"]) == {shop.first, shop.second}
    assert running.recommend(USER)["snapshot_id"] == shop.second
    shop.log.append("rolled_back", shop.second, "test", to=shop.first)
    status = running.follow()
    assert status["stable"] == shop.first and status["last_good"] is None
    assert all(running.recommend(f"user {number}")["snapshot_id"] == shop.first for number in range(50))
    eventually(lambda: not (running.home / "snapshots" / shop.second).exists())


def test_decisions_are_followed_without_being_told(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    shop.promote(shop.second)
    eventually(lambda: running.recommend(USER)["snapshot_id"] == shop.second)


def test_a_canary_gets_its_share_of_shoppers_and_keeps_them(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    shop.log.append("registered", shop.second, "test")
    shop.log.append("warming", shop.second, "test")
    running = gateway()
    eventually(lambda: shop.second in running.status()["loaded"])
    users = [f"user {number}" for number in range(300)]
    assert {running.recommend(user)["arm"] for user in users[:50]} == {"stable"}
    shop.log.append("canary", shop.second, "test", share=0.25)
    running.follow()
    arms = {user: running.recommend(user)["arm"] for user in users}
    assert all(running.recommend(user)["arm"] == arm for user, arm in list(arms.items())[:50])
    tried = {user for user, arm in arms.items() if arm == "canary"}
    assert 45 < len(tried) < 105
    answer = running.recommend(min(tried))
    assert answer["snapshot_id"] == shop.second
    assert running.get("/v1/search", q="mug", user_id=min(tried))["snapshot_id"] == shop.second
    shop.log.append("canary", shop.second, "test", share=0.5)
    running.follow()
    assert all(running.recommend(user)["arm"] == "canary" for user in tried)
    counted = running.status()["answers"]
    assert counted[shop.second]["requests"] >= len(tried) and counted[shop.second]["errors"] == counted[shop.second]["empty"] == 0
    assert sum(counted[shop.first]["latency_ms"]["counts"]) == counted[shop.first]["requests"] == sum(counted[shop.first]["by_rung"].values())
    shop.log.append("rejected", shop.second, "test")
    running.follow()
    assert {running.recommend(user)["snapshot_id"] for user in tried} == {shop.first}


def test_it_starts_from_its_own_disk_alone(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    shop.promote(shop.second)
    running = gateway()
    eventually(lambda: len(running.status()["loaded"]) == 2)
    running.kill()
    for gone in ("promotions", "snapshots", "lake", "models", "candidates"):
        shutil.rmtree(shop.home / gone)
    again = gateway()
    answer = again.recommend(USER)
    assert answer["snapshot_id"] == shop.second and answer["items"]
    status = again.status()
    assert status["seq"] == 4 and status["last_good"] == shop.first and "promotion log" in status["problems"]


def test_a_damaged_copy_is_fetched_again(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    running.kill()
    _damage(running.home / "snapshots" / shop.first)
    again = gateway()
    assert again.recommend(USER)["snapshot_id"] == shop.first
    snapshot.verify(again.home / "snapshots" / shop.first)


def test_a_damaged_snapshot_is_refused_and_last_good_answers(shop: Shop, gateway: Start) -> None:
    _damage(shop.snapshots / shop.second)
    shop.promote(shop.first)
    shop.promote(shop.second)
    running = gateway()
    answer = running.recommend(USER)
    assert answer["snapshot_id"] == shop.first and answer["arm"] == "last_good" and answer["items"]
    status = running.status()
    assert "store.lmdb has changed" in status["problems"][shop.second] and status["loaded"] == [shop.first]


def test_a_copy_damaged_while_storage_is_away_gives_last_good(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    shop.promote(shop.second)
    running = gateway()
    eventually(lambda: len(running.status()["loaded"]) == 2)
    running.kill()
    _damage(running.home / "snapshots" / shop.second)
    shutil.rmtree(shop.snapshots)
    answer = gateway().recommend(USER)
    assert (answer["snapshot_id"], answer["arm"]) == (shop.first, "last_good")


def test_without_a_snapshot_it_says_what_to_do_and_begins_when_there_is_one(shop: Shop, gateway: Start) -> None:
    running = gateway(ready=False)
    assert running.client.get("/healthz").status_code == 200
    for path in ("/readyz", "/v1/recommend?user_id=ann"):
        response = running.client.get(path)
        assert response.status_code == 503 and "evershelf promote" in response.json()["detail"]
    assert running.status()["stable"] is None
    shop.promote(shop.first)
    eventually(lambda: running.client.get("/readyz").status_code == 200)
    assert running.recommend(USER)["snapshot_id"] == shop.first


def test_break_glass_holds_across_restarts_until_the_log_decides_again(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    shop.promote(shop.second)
    running = gateway()
    eventually(lambda: len(running.status()["loaded"]) == 2)
    assert running.admin("/admin/hold", snapshot_id="2020-01-01-00000000", epoch=4, why="x").status_code == 409
    assert running.admin("/admin/hold", snapshot_id=shop.first, epoch=3, why="x").status_code == 409  # the log has decided since
    assert running.admin("/admin/hold", snapshot_id=shop.first, epoch=4, why="storage is away").json()["held"]["snapshot_id"] == shop.first
    assert running.recommend(USER)["snapshot_id"] == shop.first
    running.kill()
    again = gateway()
    assert again.recommend(USER)["snapshot_id"] == shop.first and again.status()["stable"] == shop.second
    shop.log.append("rolled_back", shop.second, "test", to=shop.first)
    assert again.follow()["held"] is None
    assert again.recommend(USER)["snapshot_id"] == shop.first
    shop.promote(shop.second)  # the log, not the hold, decides now
    again.follow()
    assert again.recommend(USER)["snapshot_id"] == shop.second


def test_a_hold_can_be_lifted_and_needs_the_token(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    assert running.client.post("/admin/follow").status_code == 401
    assert running.client.post("/admin/hold", json={}, headers={"Authorization": "Bearer guess"}).status_code == 401
    assert running.admin("/admin/hold", snapshot_id=shop.first, epoch=2, why="x").status_code == 200
    assert running.admin("/admin/hold", snapshot_id=None).json()["held"] is None


def test_two_gateways_never_share_a_name(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    second = subprocess.run([sys.executable, "-m", "evershelf.cli", "serve", "--port", "0"], capture_output=True, text=True, check=False)
    assert second.returncode != 0 and "--name" in second.stderr and "Traceback" not in second.stderr
    other = gateway("gateway-2")
    assert running.recommend(USER)["items"] == other.recommend(USER)["items"]
    assert json.loads((other.home / "address.json").read_bytes())["pid"] == other.process.pid  # type: ignore[union-attr]  # it was started
