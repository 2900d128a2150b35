"""What nearline knows changes answers at once, on every rung; without it, or when it grows old, answers are the snapshot's."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from evershelf import forgotten, overlay
from evershelf.contracts import EVENT_TYPES
from evershelf.overlay import Change, Overlay, encoded
from evershelf.pseudonyms import pseudonym, tombstone
from evershelf.storage import replace
from serving.gateway.addition import added
from serving.gateway.overlays import merged
from serving.gateway.question import Question, RecentEvent
from serving.stores import layout
from serving.stores.snapshot_store import SnapshotStore
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, Shop, eventually

Start = Callable[..., GatewayProcess]
SAME, NEXT = str(tiny.DATA_AS_OF), str(tiny.DATA_AS_OF + timedelta(days=1))
VIEW = EVENT_TYPES.index("view")


def write(**content: Any) -> None:
    made: dict[str, Any] = {"made_at": time.time(), "changes": {}, "chosen": {}, "shoppers": {}, **content}
    overlay.write(overlay.folder(), Overlay(**made))


def known(running: GatewayProcess) -> dict[str, Any] | None:
    found: dict[str, Any] | None = running.status()["overlay"]
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_sold_out_item_goes_and_a_new_price_shows_on_every_rung(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    before = running.recommend("bob", k=5)
    assert before["overlay_age_s"] is None and known(running) is None
    first, second = ids(before)[:2]
    write(
        changes={
            first: Change(NEXT, 1.0, "GBP", 0),
            second: Change(NEXT, 123.45, "EUR", 3),
            tiny.SOLD_OUT: Change(NEXT, 1.0, "GBP", 7),
            "new": Change(NEXT, 1.0, "GBP", 7),
        }
    )
    eventually(lambda: first not in ids(running.recommend("bob", k=5)))
    after = running.recommend("bob", k=20)
    shown = {item["item_id"]: item for item in after["items"]}
    assert (shown[second]["price"], shown[second]["currency"]) == (123.45, "EUR")
    assert tiny.SOLD_OUT in shown and "new" not in shown  # an item that the snapshot does not know comes with the next one
    assert 0 <= after["overlay_age_s"] < 20
    found = known(running)
    assert found and (found["items"], found["shoppers"]) == (4, 0)
    for answer in (
        running.get("/v1/recommend", user_id="nobody"),
        running.get("/v1/similar", item_id=second),
        running.get("/v1/search", q="mug candle lantern"),
    ):
        assert first not in ids(answer)


def test_what_a_shopper_did_at_one_gateway_counts_at_the_others(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway(GATEWAY__RUNGS='["local_model", "snapshot", "popular"]')
    assert running.recommend("stranger")["served_by"] == "popular"
    write(shoppers={pseudonym("stranger"): encoded([("i01", VIEW, time.time())])})
    answer = eventually(lambda: (found := running.recommend("stranger"))["served_by"] == "local_model" and found)
    assert "i01" not in ids(answer)
    running.kill()
    again = gateway("gateway-2", GATEWAY__RUNGS='["snapshot", "popular"]')
    assert eventually(lambda: again.recommend("stranger")["served_by"] == "snapshot")


def test_an_overlay_that_is_too_old_is_left_out(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway(NEARLINE__EXPIRES="PT2S")
    gone = ids(running.recommend("bob"))[0]
    write(changes={gone: Change(NEXT, 1.0, "GBP", 0)})
    eventually(lambda: gone not in ids(running.recommend("bob")))
    eventually(lambda: gone in ids(running.recommend("bob")))
    assert running.recommend("bob")["overlay_age_s"] is None and known(running) is None


def test_a_damaged_overlay_is_a_named_problem_and_costs_nothing(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    write(changes={"i01": Change(NEXT, 77.0, "GBP", 5)})
    eventually(lambda: known(running))
    place = overlay.folder()
    replace(place / "999999999999999.msgpack.gz", b"nonsense")
    assert "damaged" in eventually(lambda: running.status()["problems"].get("overlay"))
    assert running.recommend("bob")["overlay_age_s"] is not None
    (place / "999999999999999.msgpack.gz").unlink()
    eventually(lambda: running.status()["problems"] == {})


def test_the_forgotten_are_strangers_to_it_at_once(shop: Shop, gateway: Start) -> None:
    shop.promote(shop.first)
    running = gateway()
    user = pseudonym("stranger")
    write(shoppers={user: encoded([("i01", VIEW, time.time())]), pseudonym("other"): encoded([("i01", VIEW, time.time())])})
    eventually(lambda: running.recommend("stranger")["served_by"] == "local_model")
    forgotten.add(tombstone(user))
    eventually(lambda: running.status()["forgotten"] == 1)
    assert running.recommend("stranger")["served_by"] == "popular"
    eventually(lambda: (found := known(running)) and found["shoppers"] == 1)  # nor does it stay in memory


def test_an_event_that_the_snapshot_has_is_not_counted_again(store: SnapshotStore) -> None:
    known = store.user(tiny.USERS[0])
    assert known
    item, second = store.item(int(np.frombuffer(known.history_items, layout.NUMBER)[-1])).item_id, int(np.frombuffer(known.history_times, layout.SECONDS)[-1])
    again = RecentEvent(item, VIEW, second + 0.123)  # a snapshot keeps whole seconds
    assert Question(store, "recommend", 5, time.time(), tiny.USERS[0], recent=[again]).history.fresh == 0
    assert Question(store, "recommend", 5, time.time(), tiny.USERS[0], recent=[again._replace(time=second + 1.0)]).history.fresh == 1


@pytest.fixture
def store(shop: Shop) -> SnapshotStore:
    return SnapshotStore(shop.snapshots / shop.first)


def test_only_what_is_newer_than_a_snapshot_is_added_to_it(store: SnapshotStore) -> None:
    made = Overlay(
        time.time(),
        {"i01": Change(SAME, 9.0, "GBP", 0), "i02": Change(NEXT, 9.0, "GBP", 0)},
        {SAME: {"i03": 5}, NEXT: {"i04": 2, "i05": 1, "unknown": 8}},
        {},
    )
    addition = added(made, store)
    numbers = store.numbers(["i01", "i02", "i04", "i05", "unknown"])
    assert set(numbers) == {"i01", "i02", "i04", "i05"}
    assert set(addition.changes) == {numbers["i02"]}
    assert addition.in_stock[numbers["i01"]] and not addition.in_stock[numbers["i02"]] and store.in_stock[numbers["i02"]]
    assert addition.price[numbers["i02"]] == 9 and addition.price[numbers["i01"]] == store.price[numbers["i01"]] == 2.5
    assert sorted(addition.chosen_items.tolist()) == sorted([numbers["i04"], numbers["i05"]])
    assert 2.0 < addition.chosen[numbers["i04"]] < 2.2  # half a day after the end of the snapshot's data counts a little more


def test_popular_lists_are_counted_again_with_what_was_chosen_since(store: SnapshotStore) -> None:
    whole = store.popular()
    assert whole
    worst, lead = int(whole.numbers()[-1]), float(whole.values()[0])
    item = store.item(worst).item_id
    addition = added(Overlay(time.time(), {}, {NEXT: {item: int(lead) + 1}}, {}), store)
    again = addition.popular(store, "")
    assert again is not None and again[0] == worst
    assert sorted(again.tolist()) == sorted(whole.numbers().tolist())
    for path in layout.parents(str(store.item(worst).category_path)):
        narrower = addition.popular(store, path)
        assert narrower is not None and narrower[0] == worst
    for name in tiny.CATEGORIES:
        listed = addition.popular(store, name)
        assert listed is not None and {store.categories[int(place)] for place in np.unique(store.category[listed])} == {name}
    assert addition.popular(store, "no such") is None
    unchanged = added(Overlay(time.time(), {}, {}, {}), store)
    assert unchanged.popular(store, "").tolist() == whole.numbers().tolist()  # type: ignore[union-attr]


def test_what_two_tell_of_a_shopper_counts_once_newest_last() -> None:
    mine = [RecentEvent("a", VIEW, 3.0), RecentEvent("b", VIEW, 5.0)]
    others = [RecentEvent("c", VIEW, 4.0), RecentEvent("b", VIEW, 5.0)]
    assert [event.item_id for event in merged(mine, others)] == ["a", "c", "b"]
    assert merged(mine, []) == mine
