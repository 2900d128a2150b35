"""The way back works whatever is broken."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from evershelf import storage
from evershelf.cli import main
from evershelf.settings import load_settings
from evershelf.storage import local_path
from serving.errors import PromotionRefused
from serving.gateway.answers import EventCounts, Hold, Status
from serving.promotion import rollback
from serving.promotion.log import PromotionLog
from serving.promotion.promoter import align
from serving.promotion.rollback import PENDING, roll_back
from serving.promotion.served_models import ServedModels
from serving.tf_serving.client import ModelServerAdmin
from tests.serving.conftest import GatewayProcess, Shop, eventually
from tests.serving.promotion.conftest import Shoppers, urls, variant


@pytest.fixture
def second_recorded(shop: Shop, configured: Callable[..., None]) -> Shop:
    """`second` is stable and `first` last-good in the log; nothing runs."""
    shop.promote(shop.first)
    shop.promote(shop.second)
    return shop


@pytest.fixture
def second_live(shop: Shop, gateways: list[GatewayProcess], model_server: ModelServerAdmin, configured: Callable[..., None]) -> Shop:
    """`second` is stable and `first` last-good, in both gateways and the model server."""
    shop.promote(shop.second)
    models = ServedModels(load_settings())
    align(models, shop.snapshots, shop.log.state(), load_settings())
    models.close()
    for made in gateways:
        assert {shop.first, shop.second} <= set(made.follow()["loaded"])
    return shop


def command(*arguments: str, as_json: bool = True) -> tuple[int, Any, str]:
    """Run `evershelf …` and return its exit code, what it printed (its JSON when asked for) and what it said besides."""
    printed, said = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(said), pytest.raises(SystemExit) as end:
        main([*arguments, *(["--json"] if as_json else [])])
    lines = printed.getvalue().strip().splitlines()
    return int(end.value.code or 0), json.loads(lines[-1]) if as_json and lines else printed.getvalue(), said.getvalue()


def test_after_a_rollback_no_answer_carries_what_was_rolled_back(second_live: Shop, gateways: list[GatewayProcess], shoppers: Shoppers) -> None:
    eventually(lambda: shoppers.answers[second_live.second, 200] > 20)
    code, result, said = command("rollback", "--why", "lost clicks")
    assert (code, result["to"], result["recorded"]) == (0, second_live.first, True), said
    assert result["seconds"] < 2
    print(f"rollback of two gateways in {result['seconds']} s")
    before = shoppers.answers[second_live.second, 200]
    for made in gateways:
        assert {made.recommend(f"after-{number}")["snapshot_id"] for number in range(100)} == {second_live.first}
    shoppers.stop()
    assert shoppers.answers[second_live.second, 200] - before <= len(gateways)  # the answers that were on their way
    assert {key[1] for key in shoppers.answers} == {200}
    record = second_live.log.records()[-1]
    assert (record.kind, record.snapshot_id, record.to, record.why) == ("rolled_back", second_live.second, second_live.first, "lost clicks")


def test_a_rollback_ends_a_trial_that_is_under_way(second_live: Shop, gateways: list[GatewayProcess]) -> None:
    third = variant(second_live, lambda content: None)
    second_live.log.append("registered", third, "x")
    second_live.log.append("canary", third, "x", share=0.5)
    assert roll_back(None, "both are bad", print).complete
    assert second_live.log.state().out == {second_live.second, third}
    assert {gateways[0].recommend(f"after-{number}")["snapshot_id"] for number in range(50)} == {second_live.first}


def test_without_anything_to_go_back_to_nothing_changes(shop: Shop, configured: Callable[..., None]) -> None:
    with pytest.raises(PromotionRefused, match="Nothing was ever promoted"):
        roll_back(None, "x", print)
    shop.promote(shop.first)
    with pytest.raises(PromotionRefused, match="nothing to go back to"):
        roll_back(None, "x", print)
    with pytest.raises(PromotionRefused, match="is no target"):
        roll_back(shop.second, "x", print)
    assert shop.log.state().stable == shop.first


def test_a_damaged_last_good_that_no_gateway_holds_is_passed_over(shop: Shop, configured: Callable[..., None]) -> None:
    third = variant(shop, lambda content: None)
    for snapshot_id in (shop.first, shop.second, third):
        shop.promote(snapshot_id)
    (shop.snapshots / shop.second / "vocabulary.json").unlink()
    configured(GATEWAY__URLS='["http://127.0.0.1:9"]')
    assert roll_back(None, "x", print).to == shop.first


def test_a_gateway_that_is_away_is_named_and_goes_back_when_it_returns(second_live: Shop, gateways: list[GatewayProcess]) -> None:
    gateways[1].kill()
    code, result, said = command("rollback")
    assert code == 1
    assert result["recorded"]
    assert [state == "ok" for state in result["gateways"].values()] == [True, False]
    assert "cannot be reached" in said
    gateways[1].start()
    assert {gateways[1].recommend(f"after-{number}")["snapshot_id"] for number in range(50)} == {second_live.first}


def test_without_the_log_gateways_get_the_order_directly_and_the_log_its_record_later(
    second_live: Shop, gateways: list[GatewayProcess], configured: Callable[..., None]
) -> None:
    log = second_live.log.folder
    assert isinstance(log, Path)
    log.rename(log.with_name("away"))
    code, result, said = command("rollback", "--why", "storage is gone too")
    assert (code, result["recorded"], result["to"]) == (1, False, second_live.first), said
    for made in gateways:
        assert {made.recommend(f"held-{number}")["snapshot_id"] for number in range(50)} == {second_live.first}
    gateways[0].kill()
    gateways[0].start()  # the order outlives a restart
    configured(GATEWAY__URLS=urls(gateways))
    assert gateways[0].recommend("held")["snapshot_id"] == second_live.first
    code, _, said = command("rollback", "--reconcile")
    assert code == 1
    assert "still cannot be used" in said
    shutil.rmtree(log, ignore_errors=True)
    log.with_name("away").rename(log)
    code, result, said = command("rollback", "--reconcile")
    assert (code, result["recorded"], result["to"]) == (0, True, second_live.first), said
    assert "storage is gone too (break-glass at" in second_live.log.records()[-1].why
    assert not (second_live.home / PENDING).exists()
    for made in gateways:
        status = made.status()
        assert (status["held"], status["stable"]) == (None, second_live.first)
    code, _, said = command("rollback", "--reconcile")
    assert code == 1
    assert "Nothing was changed" in said


class _NoNetwork:
    """Stands in for the gateways: one that knows `b` as stable and `a` as last-good, and takes every order."""

    def __init__(self, **_: Any) -> None:
        self.known = Status("one", 4, "b", None, 0.0, "a", None, ["a", "b"], {}, 10.0, {}, {}, 0, 0, EventCounts(0, 0, 0, 0))

    def status(self) -> dict[str, Status | str]:
        return {}

    follow = status

    def hold(self, snapshot_id: str, epoch: int, why: str) -> dict[str, Status | str]:
        return {"http://one": structs.replace(self.known, held=Hold(snapshot_id, epoch, why, ""))}

    def close(self) -> None:
        pass


def test_a_full_disk_does_not_keep_the_order_from_the_gateways(home: Path, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("no folder can be made here")
    settings, gateways = load_settings().model_copy(update={"home": tmp_path / "full"}), _NoNetwork()
    said: list[str] = []
    result = rollback._break_glass(settings, gateways, [gateways.known], None, "it is bad", 0.0, said.append)  # type: ignore[arg-type]  # a stand-in
    assert (result.to, result.gateways, result.recorded) == ("a", {"http://one": "ok"}, False)
    assert "cannot be written" in said[-1]


def test_a_leftover_of_an_old_break_glass_does_not_replace_the_rollback_that_was_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[str] = []
    monkeypatch.setattr(rollback, "Gateways", _NoNetwork)
    monkeypatch.setattr(rollback, "_align", lambda *_: None)
    monkeypatch.setattr(rollback, "forget", lambda ids, *_: dropped.extend(ids))
    monkeypatch.setattr("serving.promotion.rollback.snapshots.verify", lambda _: None)
    log = PromotionLog(local_path(load_settings().url("promotions")))
    for snapshot_id in "abc":
        log.append("registered", snapshot_id, "x")
        log.append("promoted", snapshot_id, "x")
    storage.replace(load_settings().home / PENDING, json.dumps({"from": "b", "to": "a", "epoch": 4, "why": "old", "at": "then"}).encode())
    assert roll_back(None, "old", print, reconcile=True).to == "c"  # asked only to clear it away
    storage.replace(load_settings().home / PENDING, json.dumps({"from": "b", "to": "a", "epoch": 4, "why": "old", "at": "then"}).encode())
    result = roll_back("a", "new", print)
    assert (result.from_, result.to, log.state().stable, log.records()[-1].why) == ("c", "a", "a", "new")
    assert dropped == ["c"]
    assert not (load_settings().home / PENDING).exists()


def test_status_tells_what_is_live_and_what_is_wrong(second_live: Shop, gateways: list[GatewayProcess]) -> None:
    gateways[0].recommend("someone")
    code, status, said = command("status")
    assert code == 0, said
    assert (status["stable"], status["last_good"], status["canary"]) == (second_live.second, second_live.first, None)
    assert sum(status["rungs"].values()) == 1
    assert set(status["a_times_p"]) == {"U", "P", "T", "answers"}
    assert status["a_times_p"]["answers"] > 0
    assert status["a_times_p"]["U"] is None  # the tiny model measured no head
    assert status["availability"]["answers"] == 1.0
    assert status["availability"]["U"] is None  # there is no lake here: unknown, not guessed
    assert set(status["expected_quality"]) == set(status["rungs"])
    assert any("days old" in problem for problem in status["problems"])
    gateways[1].kill()
    assert any("cannot be reached" in problem for problem in command("status")[1]["problems"])
    shown = command("status", as_json=False)[1]
    assert second_live.second in shown
    assert "away" in shown
    assert "quality" in shown
    assert "P_U unknown" in shown


def test_snapshots_are_listed_with_their_roles_and_verified(second_recorded: Shop) -> None:
    code, listed, _ = command("snapshots", "--verify")
    assert code == 0
    assert {entry["snapshot_id"]: entry["role"] for entry in listed["snapshots"]} == {second_recorded.second: "stable", second_recorded.first: "last-good"}
    (second_recorded.snapshots / second_recorded.first / "golden.json").unlink()
    code, listed, _ = command("snapshots", "--verify")
    assert code == 1
    assert any("golden.json is missing" in entry.get("problem", "") for entry in listed["snapshots"])


def test_pin_and_freeze_are_recorded_once(second_recorded: Shop) -> None:
    before = second_recorded.log.state().seq
    assert command("pin")[1] == {"stable": second_recorded.second, "pinned": True}
    assert command("pin")[0] == 0
    assert command("freeze")[1] == {"frozen": True}
    assert second_recorded.log.state().seq == before + 2
    assert command("promote", second_recorded.first)[0] == 1
    command("freeze", "--off")
    command("pin", "--off")
    assert (second_recorded.log.state().pinned, second_recorded.log.state().frozen) == (False, False)
