"""Nearline tells the gateways what landed lately, cleaned as the lake cleans it; it keeps nothing that the landing does not have."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from evershelf import forgotten, overlay, storage
from evershelf.contracts import EVENT_TYPES
from evershelf.errors import CommandFailed
from evershelf.overlay import Change, Overlay
from evershelf.pseudonyms import tombstone
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, landing
from spark_jobs.nearline import ACTIONS_EACH, Nearline
from tests.spark_jobs.landings import event, land, product

pytestmark = pytest.mark.slow

TODAY = datetime.now(load_settings().zone).date()
YESTERDAY = TODAY - timedelta(days=1)
VIEW, CART = EVENT_TYPES.index("view"), EVENT_TYPES.index("cart")


@pytest.fixture
def nearline(home: Path, spark: SparkSession) -> Nearline:
    return Nearline(spark, ADAPTERS["simulator"], overlay.folder())


def newest() -> Overlay:
    place = overlay.folder()
    return overlay.read(place, overlay.names(place)[-1])


def at(day: date, clock: str) -> float:
    return datetime.fromisoformat(f"{day}T{clock}Z").timestamp()


def test_what_landed_since_the_last_batch_joins_what_is_known(nearline: Nearline) -> None:
    land("events", YESTERDAY, [event(1, YESTERDAY, user_id="ann", item_id="i1"), event(2, YESTERDAY, user_id=None, item_id="i2")])
    land("products", YESTERDAY, [product(1, YESTERDAY, stock=5), product(2, YESTERDAY)])
    first = nearline.batch()
    assert (first.files, first.clean, first.new, first.items, first.shoppers) == (2, 4, 1, 2, 1)  # one viewer has neither a name nor a session
    assert newest().changes == {"i1": Change(str(YESTERDAY), 2.5, "GBP", 5), "i2": Change(str(YESTERDAY), 2.5, "GBP", None)}

    land(
        "gateway",
        TODAY,
        [event(3, TODAY, user_id="ann", item_id="i3", type="cart", event_time=f"{TODAY}T00:30:00Z"), event(4, TODAY, type="impression")],
        "a.jsonl.gz",
    )
    land("products", TODAY, [product(1, TODAY, stock=0, price=9.99)])
    second = nearline.batch()
    assert (second.files, second.new, second.items, second.shoppers) == (2, 1, 2, 1)
    found = newest()
    assert found.changes["i1"] == Change(str(TODAY), 9.99, "GBP", 0) and found.changes["i2"].dt == str(YESTERDAY)
    assert found.actions("ann") == [("i1", VIEW, at(YESTERDAY, "12:00:00")), ("i3", CART, at(TODAY, "00:30:00"))]
    assert found.chosen == {str(YESTERDAY): {"i1": 1}, str(TODAY): {"i3": 1}}

    before = overlay.names(overlay.folder())
    idle = nearline.batch()
    assert (idle.files, idle.items, idle.shoppers) == (0, 2, 1)
    assert overlay.names(overlay.folder())[-1] > before[-1] and len(overlay.names(overlay.folder())) == 2


def test_a_second_process_knows_what_the_first_one_knew(nearline: Nearline, spark: SparkSession) -> None:
    land("events", YESTERDAY, [event(number, YESTERDAY, session_id="s") for number in range(30)])
    land("gateway", TODAY, [event(number, TODAY, session_id="s") for number in range(30, 60)], "a.jsonl.gz")
    nearline.batch()
    land("gateway", TODAY, [event(number, TODAY, session_id="s") for number in range(50, 90)], "b.jsonl.gz")
    assert nearline.batch().new == 30  # ten came twice
    one = newest()
    Nearline(spark, ADAPTERS["simulator"], overlay.folder()).batch()
    other = newest()
    assert {user: one.actions(user) for user in one.shoppers} == {user: other.actions(user) for user in other.shoppers}
    assert (one.chosen, one.changes) == (other.chosen, other.changes)
    assert {len(one.actions(user)) for user in one.shoppers} == {ACTIONS_EACH}


def test_rows_are_judged_as_the_lake_judges_them(nearline: Nearline) -> None:
    land(
        "events",
        TODAY,
        [
            event(1, TODAY),
            event(1, TODAY),
            event(2, TODAY, type="dance"),
            event(3, TODAY - timedelta(days=9)),
            '{"event_id": "x',
        ],
    )
    land("products", TODAY, [product(1, TODAY), product(2, TODAY, price=-1)])
    done = nearline.batch()
    assert (done.clean, done.quarantined, done.repeated) == (2, 4, 1)
    assert set(newest().changes) == {"i1"}


def test_a_file_that_cannot_be_read_is_named_and_costs_nothing_else(nearline: Nearline) -> None:
    land("gateway", TODAY, [event(1, TODAY)], "a.jsonl.gz")
    landing.land("gateway", TODAY, "b.jsonl.gz", gzip.compress(b"{}\n" * 500)[:-20])
    done = nearline.batch()
    assert done.new == 1 and "b.jsonl.gz (" in done.unreadable[0] and len(done.unreadable) == 1
    assert nearline.batch().files == 0  # it is not tried again until it changes
    land("gateway", TODAY, [event(2, TODAY)], "b.jsonl.gz")  # delivered again, whole
    done = nearline.batch()
    assert (done.new, done.unreadable) == (1, [])


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b""), gzip.compress(b"a,b\n1,2\n" * 900)[:-20]])
def test_a_csv_file_that_cannot_be_read_is_named_too(home: Path, spark: SparkSession, content: bytes) -> None:
    made = Nearline(spark, ADAPTERS["online_retail"], overlay.folder())
    (source,) = {source.name for source in ADAPTERS["online_retail"].sources} - {"gateway"}
    land("gateway", TODAY, [event(1, TODAY)], "a.jsonl.gz")
    landing.land(source, TODAY, "b.csv.gz", content)
    done = made.batch()
    assert done.new == 1 and "b.csv.gz (" in done.unreadable[0]


def test_when_it_is_not_the_file_s_fault_the_batch_fails_and_the_next_one_does_its_work(nearline: Nearline, monkeypatch: pytest.MonkeyPatch) -> None:
    land("gateway", TODAY, [event(1, TODAY)], "a.jsonl.gz")
    with monkeypatch.context() as patch:
        patch.setattr(nearline, "_clean", lambda files: (_ for _ in ()).throw(PySparkException("no DataNode answers")))
        with pytest.raises(CommandFailed, match="1 files that landed cannot be read now \\(no DataNode answers"):
            nearline.batch()
    assert nearline.batch().new == 1


def test_what_was_done_last_counts_and_not_what_arrived_last(nearline: Nearline) -> None:
    early, late = (
        [event(number, TODAY, user_id="ann", event_time=f"{TODAY}T00:{number:02}:00Z") for number in numbers] for numbers in (range(25), range(25, 50))
    )
    land("gateway", TODAY, late, "a.jsonl.gz")
    nearline.batch()
    land("gateway", TODAY, early, "b.jsonl.gz")
    nearline.batch()
    assert [item for item, _, _ in newest().actions("ann")] == [f"i{number}" for number in range(30, 50)]


def test_a_repaired_row_joins(nearline: Nearline) -> None:
    land("events", TODAY, [event(1, TODAY), bad := event(2, TODAY, type="dance")])
    assert nearline.batch().new == 1
    landing.correct("events", TODAY, {row_hash(bad): {"type": "view"}})
    assert nearline.batch().new == 1


def row_hash(row: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()


def test_old_days_and_forgotten_shoppers_are_left_out(nearline: Nearline, monkeypatch: pytest.MonkeyPatch) -> None:
    land("events", YESTERDAY, [event(1, YESTERDAY, user_id="ann"), event(2, YESTERDAY, user_id="bob")])
    land("events", TODAY, [event(3, TODAY, user_id="cleo")])
    nearline.batch()
    assert set(newest().shoppers) == {"ann", "bob", "cleo"}
    forgotten.add(tombstone("bob"))
    nearline.batch()
    assert set(newest().shoppers) == {"ann", "cleo"}
    monkeypatch.setattr("spark_jobs.nearline.datetime", Tomorrow)
    nearline.batch()
    assert set(newest().shoppers) == {"cleo"} and set(newest().chosen) == {str(TODAY)}


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz: object = None) -> "Tomorrow":
        return super().now(tz) + timedelta(days=1)  # type: ignore[arg-type]


def test_killed_at_any_moment_the_next_one_goes_on(home: Path) -> None:
    land("events", TODAY, [event(number, TODAY) for number in range(6)])
    command = [sys.executable, "-m", "evershelf.cli", "run", "nearline"]
    settings = {"EVERSHELF_NEARLINE__INTERVAL": "PT1S"}
    with subprocess.Popen(command, env=os.environ | settings, start_new_session=True) as process:
        wait_for(lambda: len(overlay.names(overlay.folder())) == 2)
        os.killpg(process.pid, signal.SIGKILL)
    before = newest()
    (overlay.folder() / f"{storage.ASIDE}0").write_bytes(b"half a fi")  # type: ignore[union-attr]  # a local path
    land("events", TODAY, [event(9, TODAY)], "more.jsonl.gz")
    done = subprocess.run([*command, "--once", "--json"], capture_output=True, text=True, check=True)
    assert '"new":7' in done.stdout
    assert newest().made_at > before.made_at and sum(newest().chosen[str(TODAY)].values()) == 7


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
