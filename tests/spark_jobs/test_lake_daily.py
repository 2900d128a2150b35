"""lake_daily: what comes out depends on the landings alone, and every row of a landing day is accounted for."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from evershelf import lake, quarantine
from evershelf.errors import CommandFailed
from evershelf.pseudonyms import pseudonym
from evershelf.quality import store as quality
from evershelf.quality.stale import Stale, stale
from evershelf.settings import load_settings
from evershelf.shops import ADAPTERS, door, landing
from spark_jobs import reconciliation
from spark_jobs.landed_rows import filled, judged_rows, read_rows
from spark_jobs.outcomes import DayReport
from spark_jobs.reconciliation import changed_days
from tests.spark_jobs.landings import MONDAY, THURSDAY, TUESDAY, WEDNESDAY, Row, content, event, land, land_day, product, reconciled

pytestmark = pytest.mark.slow

RETAIL_DAY = date(2011, 12, 8)


def test_each_broken_row_goes_to_quarantine_under_its_reason_and_the_sum_holds(run: Callable[..., DayReport]) -> None:
    bad: dict[str, Row | str] = {
        "unreadable line": '{"event_id": "x',
        "missing key": event(1, MONDAY, event_id=""),
        "bad time": event(2, MONDAY, event_time="yesterday"),
        "unknown type": event(3, MONDAY, type="dance"),
        "field too long": event(4, MONDAY, type="search", query="q" * 10_000),
        "missing item": event(6, MONDAY, item_id=None),
        "missing query": event(7, MONDAY, type="search", query=" "),
        "unknown currency": event(8, MONDAY, price=1, currency="XXX"),
        "price not positive": event(9, MONDAY, price=0, currency="GBP"),
        "quantity not positive": event(10, MONDAY, quantity=-1),
        "position not positive": event(11, MONDAY, position="first"),
        "propensity outside 0 to 1": event(12, MONDAY, propensity=1.5),
        "too late": event(13, MONDAY - timedelta(days=3)),
        "in the future": event(14, TUESDAY),
    }
    good: list[Row | str] = [event(number, MONDAY) for number in range(100, 150)]
    good.append(event(200, MONDAY, type="search", query="🎁 für Oma", item_id=None, slate=["i1", "i2"], propensity=0.5, position=2))
    land_day(MONDAY, [*good, *bad.values(), good[0], good[0]])
    report = run(MONDAY)
    assert report.outcome == "published", report.why
    assert report.counts["events"].reasons == dict.fromkeys(bad, 1)
    assert reconciled()[MONDAY, "events"] == (67, 51, 14, 2)
    assert Counter(lake.read("quarantine").column("reason").to_pylist()) == Counter(list(bad))
    emoji = next(row for row in lake.read("events").to_pylist() if row["event_id"] == "e200")
    assert (emoji["query"], emoji["slate"], emoji["position"]) == ("🎁 für Oma", ["i1", "i2"], 2)
    assert lake.open_table("events").version() == 1  # one commit


def test_late_rows_join_their_own_day_in_any_order_of_runs_and_repetitions(run: Callable[..., DayReport], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deliver() -> None:
        land_day(MONDAY, [event(1, MONDAY), event(2, MONDAY), event(2, MONDAY)])
        land_day(TUESDAY, [event(3, TUESDAY), event(4, MONDAY), event(1, MONDAY, item_id="repeated")])
        land_day(WEDNESDAY, [event(5, WEDNESDAY), event(6, MONDAY), event(4, MONDAY), event(3, TUESDAY)])
        land("gateway", TUESDAY, [event(7, TUESDAY, request_id="r", rung="live"), event(7, TUESDAY, request_id="r", rung="live")])

    orders = [(MONDAY, TUESDAY, WEDNESDAY), (WEDNESDAY, TUESDAY, MONDAY, TUESDAY)]
    results = []
    for index, days in enumerate(orders):
        monkeypatch.setenv("EVERSHELF_HOME", str(home / str(index)))
        load_settings.cache_clear()
        deliver()
        for day in days:
            assert run(day).outcome == "published"
        results.append(content())
    assert results[0] == results[1]
    events = {(row["event_id"], row["dt"], row["landing_dt"], row["item_id"]) for row in lake.read("events").to_pylist()}
    assert {(key, dt, landed) for key, dt, landed, _ in events} == {
        ("e1", MONDAY, MONDAY), ("e2", MONDAY, MONDAY), ("e4", MONDAY, TUESDAY), ("e6", MONDAY, WEDNESDAY),
        ("e3", TUESDAY, TUESDAY), ("e7", TUESDAY, TUESDAY), ("e5", WEDNESDAY, WEDNESDAY),
    }  # fmt: skip
    assert ("e1", MONDAY, MONDAY, "i1") in events  # the first landing's row stays
    assert {key: value for key, value in reconciled().items() if key[1] == "events"} == {
        (MONDAY, "events"): (3, 2, 0, 1), (TUESDAY, "events"): (3, 2, 0, 1), (WEDNESDAY, "events"): (4, 2, 0, 2),
    }  # fmt: skip


def test_a_run_leaves_the_files_of_earlier_landings_alone_and_makes_whole_partitions_where_it_cannot(run: Callable[..., DayReport]) -> None:
    def paths(day: date) -> set[str]:
        return {name for name in lake.files(lake.open_table("events")) if name.startswith(f"dt={day}/")}

    land_day(MONDAY, [*(event(number, MONDAY) for number in range(5)), event(0, MONDAY)])
    land_day(TUESDAY, [event(10, TUESDAY), event(11, MONDAY), event(1, MONDAY, item_id="repeated")])
    run(MONDAY)
    (before,) = paths(MONDAY)
    run(TUESDAY)
    assert before in paths(MONDAY)
    assert [len(paths(day)) for day in (MONDAY, TUESDAY)] == [2, 1]
    wanted = content()
    assert quality.read_days(MONDAY, MONDAY)[MONDAY].measures["events"]["rows"] == 6  # of both files
    lake.open_table("events").optimize.compact()
    (together,) = paths(MONDAY)
    run(MONDAY)  # its rows and those of Tuesday are in one file now
    assert together not in paths(MONDAY)
    assert content() == wanted


def test_a_held_day_is_recorded_and_the_tables_keep_what_they_had(run: Callable[..., DayReport]) -> None:
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        land_day(day, [event(number, day, event_id=f"{day}{number}") for number in range(200)])
        assert run(day).outcome == "published"
    tables = ("events", "orders", "products", "quarantine")
    before = {name: rows for name, rows in content().items() if name in tables}

    def held(why: str) -> None:
        report = run(THURSDAY)
        assert (report.outcome, why in str(report.why)) == ("held", True), report.why
        assert {name: rows for name, rows in content().items() if name in tables} == before
        recorded = [row for row in lake.read("reconciliation").to_pylist() if row["landing_dt"] == THURSDAY]
        assert recorded
        assert all(row["outcome"] == "held" and why in row["why"] for row in recorded)

    held("no file landed")
    landing.reject("events", THURSDAY, landing.Rejection(file="events.jsonl", reason="the file is empty"))
    held("the file is empty")
    land_day(THURSDAY, [event(number, THURSDAY) for number in range(3)])
    held("0.015 times the rows of its usual day")
    land_day(THURSDAY, [{key: value for key, value in event(number, THURSDAY).items() if key != "type"} for number in range(200)])
    held("no row has the column type")
    land_day(THURSDAY, [event(number, THURSDAY, event_id=f"t{number}" if number % 2 else None) for number in range(200)])
    held("only 50% of its rows have a readable key")
    (landing.landing_folder("orders", THURSDAY) / "door.jsonl.gz").unlink()
    held("no file of orders landed")
    land_day(THURSDAY, [event(number, THURSDAY, event_id=f"t{number}") for number in range(200)])
    assert run(THURSDAY).outcome == "published"


def test_a_day_that_needs_a_held_one_waits_for_it(run: Callable[..., DayReport]) -> None:
    land_day(MONDAY, [event(number, MONDAY) for number in range(10)])
    assert run(MONDAY).outcome == "published"
    (landing.landing_folder("orders", MONDAY) / "door.jsonl.gz").unlink()
    assert run(MONDAY).outcome == "held"
    land_day(TUESDAY, [event(100, TUESDAY), event(101, MONDAY)])
    report = run(TUESDAY)
    assert report.outcome == "held"
    assert "published before and is held back now" in str(report.why)
    assert lake.read("events").num_rows == 10
    land_day(WEDNESDAY, [event(200, WEDNESDAY)])  # needs nothing of it
    assert run(WEDNESDAY).outcome == "published"


def test_gateways_alone_are_published_only_when_asked(run: Callable[..., DayReport]) -> None:
    land("gateway", MONDAY, [event(1, MONDAY)])
    assert run(MONDAY).outcome == "held"
    assert run(MONDAY, partial=True).outcome == "published"
    assert lake.read("events").num_rows == 1


def test_bad_rows_of_a_gateway_go_to_quarantine_and_never_stop_the_shops_day(run: Callable[..., DayReport]) -> None:
    land_day(MONDAY, [event(1, MONDAY)])
    land("gateway", MONDAY, [event(2, MONDAY), event(3, MONDAY, type="dance"), "nonsense"])
    assert run(MONDAY).outcome == "published"
    assert reconciled()[MONDAY, "gateway"] == (3, 1, 2, 0)


def test_a_day_that_grew_after_it_was_published_runs_again(run: Callable[..., DayReport]) -> None:
    land_day(MONDAY, [event(1, MONDAY)])
    run(MONDAY)
    land_day(TUESDAY, [event(2, TUESDAY)])
    assert changed_days(ADAPTERS["simulator"], TUESDAY) == []
    land("gateway", MONDAY, [event(3, MONDAY)], name="segment-1.jsonl.gz")
    assert changed_days(ADAPTERS["simulator"], TUESDAY) == [MONDAY]


def test_rows_taken_out_of_a_landing_leave_the_tables(run: Callable[..., DayReport]) -> None:
    land_day(MONDAY, [event(1, MONDAY)])
    land_day(TUESDAY, [event(2, TUESDAY), event(3, MONDAY)])
    run(MONDAY), run(TUESDAY)
    land_day(TUESDAY, [event(2, TUESDAY)])
    run(TUESDAY)
    assert sorted(lake.read("events").column("event_id").to_pylist()) == ["e1", "e2"]


def test_what_the_checks_found_is_kept_with_the_day(run: Callable[..., DayReport]) -> None:
    land_day(MONDAY, [*(event(number, MONDAY, price=2.0, currency="GBP") for number in range(30)), event(99, MONDAY, type="dance")])
    run(MONDAY)
    land_day(TUESDAY, [event(number, TUESDAY, event_id=f"t{number}") for number in range(5)] + [event(40, MONDAY)])
    run(TUESDAY)
    (landing.landing_folder("orders", WEDNESDAY)).mkdir(parents=True)
    run(WEDNESDAY)
    days = quality.read_days(MONDAY, WEDNESDAY)
    results = [days[day].result or {} for day in (MONDAY, TUESDAY, WEDNESDAY)]
    assert [(one["outcome"], one["why"]) for one in results] == [("published", None), ("published", None), ("held", "no file landed")]
    monday = results[0]
    assert monday["sources"]["events"] == {
        "rows_in": 31, "rows_clean": 30, "rows_quarantined": 1, "rows_deduplicated": 0, "reasons": {"unknown type": 1},
        "values": {"event_id": 31, "event_time": 31, "received_at": 31, "user_id": 31, "type": 31, "item_id": 31, "price": 30, "currency": 30},
    }  # fmt: skip
    assert [one["meta"]["about"] for one in monday["validations"]] == [
        "landing events", "landing orders", "landing products", "table events", "table orders", "table products", "table quarantine",
    ]  # fmt: skip
    assert all(one["success"] for one in monday["validations"])
    assert days[MONDAY].measures["events"]["rows"] == 31  # with the late row
    assert days[MONDAY].measures["events"]["nulls"]["price"] == 1
    assert days[TUESDAY].measures["events"]["rows"] == 5


def test_a_column_that_vanished_or_has_another_type_stops_the_day_by_its_name(run: Callable[..., DayReport]) -> None:
    def deliver(day: date, **fields: Any) -> None:
        land_day(day, [event(number, day, event_id=f"{day}{number}") for number in range(30)])
        land("products", day, [product(number, day, **{"stock": number, "brand": "Oak", **fields}) for number in range(40)])

    for day in (MONDAY, TUESDAY, WEDNESDAY):
        deliver(day)
        assert run(day).outcome == "published"
    deliver(THURSDAY, brand=None)
    assert "products: the column brand is gone" in str(run(THURSDAY).why)
    deliver(THURSDAY, stock="many")
    assert "products: most values of the column stock are of another type" in str(run(THURSDAY).why)
    deliver(THURSDAY)
    assert run(THURSDAY).outcome == "published"


def test_repaired_rows_reach_the_lake_once_and_the_sum_still_holds(run: Callable[..., DayReport]) -> None:
    good: list[Row | str] = [event(number, TUESDAY) for number in range(30)]
    land_day(TUESDAY, [*good, event(50, TUESDAY, type="dance", user_id="u9"), event(51, MONDAY, price="2,50", currency="GBP"), '{"event_id": "half', "{"])
    run(TUESDAY)
    assert reconciled()[TUESDAY, "events"] == (34, 30, 4, 0)
    rows = {row["reason"]: row["row_id"] for row in lake.read("quarantine").to_pylist()}
    repeated = {name: value for name, value in event(1, TUESDAY).items() if name != "user_id"}
    corrections = [
        {"row_id": rows["unknown type"], "set": {"type": "view", "user_id": "shopper 7"}},
        {"row_id": rows["price not positive"], "set": {"price": 2.5}},
        {"row_id": next(row["row_id"] for row in lake.read("quarantine").to_pylist() if row["raw"] == "{"), "set": repeated},
    ]
    lines = [json.dumps(one).encode() for one in corrections]
    for _ in range(2):  # the second time changes nothing
        assert quarantine.repair(TUESDAY, lines) == 3
        assert run(TUESDAY).outcome == "published"
        assert reconciled()[TUESDAY, "events"] == (34, 32, 1, 1)
        assert quarantine.reasons(TUESDAY) == {"unreadable line": 1}
        events = {row["event_id"]: row for row in lake.read("events").to_pylist()}
        assert len(events) == lake.read("events").num_rows == 32
        assert (events["e50"]["type"], events["e50"]["user_id"]) == ("view", pseudonym("shopper 7"))
        assert (events["e51"]["dt"], events["e51"]["price"]) == (MONDAY, 2.5)
    for broken, why in (
        ({"row_id": "none-1", "set": {}}, "is no row in quarantine"),
        ({"row_id": rows["unknown type"], "set": {"colour": "red"}}, "has no column colour"),
        ({"row": 1}, "is not"),
    ):
        with pytest.raises(CommandFailed, match=why):
            quarantine.repair(TUESDAY, [json.dumps(broken).encode()])


def test_a_weekday_on_which_nothing_ever_comes_is_closed_and_another_gap_is_an_outage() -> None:
    first = date(2026, 1, 5)  # a Monday
    days = [first + timedelta(days=number) for number in range(603)]  # to 2027-08-30
    holiday = date(2026, 8, 31)
    landed = [day for day in days if day.weekday() != 6 and day != holiday]
    assert "never opens on a Sunday" in str(reconciliation.closed_day(date(2026, 3, 1), landed))
    assert "never opens on a Sunday" in str(reconciliation.closed_day(date(2026, 1, 25), [day for day in landed if day < date(2026, 2, 20)]))
    assert reconciliation.closed_day(date(2026, 1, 18), [day for day in landed if day < date(2026, 1, 18)]) is None  # one Sunday alone says nothing
    assert reconciliation.closed_day(holiday, landed) is None  # the first time, nobody can know
    assert "closed on this date: nothing landed on 2026-08-31" in str(reconciliation.closed_day(date(2027, 8, 31), landed))
    assert reconciliation.closed_day(date(2027, 8, 30), landed) is None  # a year ago it was a Sunday


def test_a_closed_day_is_recorded_and_stops_nothing(run: Callable[..., DayReport]) -> None:
    weeks = [MONDAY + timedelta(weeks=number) for number in range(5)]
    for day in weeks[:2]:  # nothing came on the Tuesdays between
        land_day(day, [event(number, day, event_id=f"{day}{number}") for number in range(5)])
    (landing.landing_folder("events", weeks[-1])).mkdir(parents=True)  # and more came later
    report = run(weeks[1] + timedelta(days=1))
    assert (report.outcome, report.why) == ("closed", "the shop never opens on a Tuesday: nothing landed on the 3 around it")
    row = lake.read("reconciliation", filters=[("source", "=", "events")]).to_pylist()[0]
    assert (row["outcome"], row["rows_in"], row["why"]) == ("closed", 0, report.why)
    assert run(weeks[3]).outcome == "held"  # on Mondays it opens


def test_a_days_volume_is_held_against_its_own_weekday() -> None:
    rows = {(MONDAY - timedelta(days=back), "events"): {"outcome": "published", "rows_in": 10 if back % 7 == 0 else 1000} for back in range(1, 29)}
    history = reconciliation.Reconciled(rows)
    assert history.usual_rows("events", MONDAY) == 10
    assert history.usual_rows("events", TUESDAY) == 1000
    assert reconciliation.Reconciled(dict(list(rows.items())[:8])).usual_rows("events", MONDAY) == 1000  # one Monday is no history


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_the_days_on_which_the_clocks_change_have_23_and_25_hours(home: Path, spark: SparkSession, day: date, hours: int) -> None:
    first = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=6)
    moments = [first + timedelta(minutes=15 * number) for number in range(4 * 36)]
    land("events", day + timedelta(days=1), [event(number, day, event_time=f"{moment:%Y-%m-%dT%H:%M:%SZ}") for number, moment in enumerate(moments)])
    source, settings = ADAPTERS["simulator"].source("events"), load_settings()
    rows = read_rows(spark, source, {day + timedelta(days=1): landing.landed_files("events", day + timedelta(days=1))})
    found = {row["dt"]: row["count"] for row in judged_rows(rows, source, settings).where("reason IS NULL").groupBy("dt").count().collect()}
    assert found[day] == 4 * hours
    assert sum(found.values()) == len(moments)
    lines = ADAPTERS["online_retail"].source("lines").typed  # the shop's own clock skips an hour, or shows one twice
    local = [f"{day} {hour:02}:30:00" for hour in range(24)]
    frame = spark.createDataFrame([(moment,) for moment in local], "InvoiceDate string")
    typed = frame.selectExpr(*(f"{filled(lines[name], settings)} AS {name}" for name in ("dt", "at"))).collect()
    assert {row["dt"] for row in typed} == {day}
    assert len({row["at"] for row in typed}) == (23 if hours == 23 else 24)


def test_what_was_built_before_a_day_changed_is_listed_as_stale(run: Callable[..., DayReport], home: Path) -> None:
    land_day(MONDAY, [event(1, MONDAY)])
    run(MONDAY)
    built = {"tables": lake.versions(["events", "products"]), "data_as_of": f"{MONDAY}"}
    folder = home / "candidates" / "old"
    folder.mkdir(parents=True)
    (folder / "lineage.json").write_text(json.dumps(built))
    run(MONDAY)  # another version with the same rows
    assert stale() == []
    land_day(TUESDAY, [event(2, TUESDAY), event(3, MONDAY)])
    run(TUESDAY)
    assert stale() == [Stale("candidates", "old", {"events": {f"{MONDAY}": (1, 2)}})]
    built["tables"] = lake.versions(["events", "products"])
    (folder / "lineage.json").write_text(json.dumps(built))
    assert stale() == []


RETAIL = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,85123a,"WHITE  HANGING, HOLDER ",6,2011-12-08 08:26:00,2.55,17850.0,United Kingdom
1,85123A,NEWER HOLDER,6,2011-12-08 09:26:00,2.75,,United Kingdom
1,85123A,NEWER HOLDER,6,2011-12-08 09:26:00,2.75,,United Kingdom
2,22734,RED BAG,300,2011-12-08 10:00:00,1.00,17850.0,United Kingdom
C3,22734,RED BAG,-1,2011-12-08 11:00:00,1.00,17850.0,United Kingdom
A4,B,Adjust bad debt,1,2011-12-08 12:00:00,11062.06,,United Kingdom
5,POST,POSTAGE,1,2011-12-08 12:00:00,18.00,17850.0,France
6,22734,,-5,2011-12-08 12:00:00,0.00,,United Kingdom
7,22734,RED BAG,-5,2011-12-08 12:00:00,1.00,,United Kingdom
8,22734,three fields
"""


def test_order_lines_become_events_orders_and_products(run: Callable[..., DayReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSHELF_SHOP__ADAPTER", "online_retail")
    monkeypatch.setenv("EVERSHELF_LAKE__MAX_QUARANTINED_SHARE", "0.6")
    load_settings.cache_clear()
    (tmp_path / "2011-12-08.csv").write_text(RETAIL)
    door.take_in(ADAPTERS["online_retail"], tmp_path, RETAIL_DAY)
    report = run(RETAIL_DAY)
    assert report.outcome == "published", report.why
    assert report.counts["lines"].reasons == {
        "adjustment of accounts": 1, "not a product": 1, "price not positive": 1, "quantity not positive": 1, "unreadable line": 1,
    }  # fmt: skip
    assert reconciled()[RETAIL_DAY, "lines"] == (10, 4, 5, 1)
    orders = {row["order_id"] + row["item_id"] + str(row["price"]): row for row in lake.read("orders").to_pylist()}
    assert {key: (row["quantity"], row["transaction_class"]) for key, row in orders.items()} == {
        "185123A2.55": (6, "kept"), "185123A2.75": (6, "kept"), "2227341.0": (300, "bulk"), "C3227341.0": (1, "cancelled"),
    }  # fmt: skip
    assert orders["185123A2.75"]["user_id"] is None
    events = lake.read("events").to_pylist()
    assert Counter(row["session_id"] for row in events) == {"1": 2, "2": 1}
    products = {row["item_id"]: (row["title"], row["price"], row["category_path"]) for row in lake.read("products").to_pylist()}
    assert products == {"85123A": ("NEWER HOLDER", 2.65, "Storage"), "22734": ("RED BAG", 1.0, "Bags")}
