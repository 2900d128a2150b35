"""The simulated shop: the same bytes for the same seed, behaviour that something can be learnt from, and the figures that docs/simulator.md promises."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from evershelf.shops import demand
from evershelf.shops.catalogue import SHELF_NAMES, make_catalogue
from evershelf.shops.commands import simulate as command
from evershelf.shops.dirt import CLEAN, LATE_DAYS, LEVELS, Dirt
from evershelf.shops.shoppers import CART, ELASTICITY, POSITION_BIAS, PURCHASE, TRUTH, Truth, carted_and_bought, clicked, load_truth
from evershelf.shops.simulator import simulate
from evershelf.shops.visits import REGRET, USUAL_REGRET
from evershelf.shops.world import open_shop
from evershelf.text import words

Row = dict[str, Any]
END = date(2026, 3, 29)  # clocks change in London
FORTNIGHT = 14
SIZE: dict[str, Any] = {"users": 500, "items": 300, "visits": 240}
# sha256 of the lines that `play(seed=3, dirt=LEVELS["much"])` writes, recorded once: any machine has to write the same
RECORDED = "712bdba372299d178dfaa2f18a64ad6e8d4d6a73b00405246c5da5f663e6cb1a"


# a machine of fifteen years ago: NumPy, OpenBLAS and the C library take other ways through the same arithmetic (x86 only, elsewhere they take them anyway)
OLD_MACHINE = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "OPENBLAS_CORETYPE": "Prescott",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX",
    "TZ": "Asia/Tokyo",
    "PYTHONHASHSEED": "1",
}


def play(out: Path, *, seed: int = 3, dirt: Dirt = CLEAN, days: int = 2, **more: Any) -> None:
    for _ in simulate(out, **{"days": days, "end": END, "seed": seed, "users": 60, "items": 80, "visits": 120, "dirt": dirt, **more}):
        pass


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): gzip.decompress(path.read_bytes()) for path in sorted(out.rglob("*.gz"))}


def digest(out: Path) -> str:
    return hashlib.sha256(b"".join(content(out).values())).hexdigest()


def rows(out: Path, name: str, *days: date) -> list[Row]:
    """Return what one can read of the files of some days, or of all."""
    found = []
    for path in [out / f"{day}" / f"{name}.jsonl.gz" for day in days] or sorted(out.glob(f"*/{name}.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            with suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line))
    return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shop")
    play(out)
    return out


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole weeks, Monday to Sunday, without dirt."""
    out = tmp_path_factory.mktemp("fortnight")
    play(out, days=FORTNIGHT, robots=0.02, fraud=0.01, **SIZE)
    return out


@pytest.fixture(scope="module")
def events(fortnight: Path) -> list[Row]:
    return rows(fortnight, "events")


@pytest.fixture(scope="module")
def honest(fortnight: Path, events: list[Row]) -> list[Row]:
    truth = load_truth(fortnight / TRUTH)
    others = {*truth.robots.tolist(), *truth.farms.tolist()}
    return [event for event in events if event["user_id"] not in others]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("other", 4)):
        play(tmp_path / name, seed=seed, dirt=LEVELS["much"])
    assert digest(tmp_path / "one") == RECORDED != digest(tmp_path / "other")


def test_the_same_seed_gives_the_same_bytes_on_another_machine(tmp_path: Path) -> None:
    arguments = ["--days", "2", "--end", f"{END}", "--seed", "3", "--users", "60", "--items", "80", "--visits", "120", "--dirt", "much"]
    run = [sys.executable, "-m", "evershelf.cli", "simulate", "--out", str(tmp_path), *arguments]
    subprocess.run(run, env={**os.environ, **OLD_MACHINE}, check=True, capture_output=True)
    assert digest(tmp_path) == RECORDED


def test_dirt_changes_what_arrives_and_never_what_happens(shop: Path, tmp_path: Path) -> None:
    play(tmp_path, dirt=Dirt(repeated=0.2, nulls=0, broken=0, late=0, skewed=0))
    for name, clean in content(shop).items():
        assert set(content(tmp_path)[name].splitlines()) == set(clean.splitlines())


def test_events_follow_the_funnel(honest: list[Row]) -> None:
    kinds = Counter(event["type"] for event in honest)
    assert kinds["impression"] > kinds["click"] == kinds["view"] > kinds["cart"] > kinds["purchase"] > 0 < kinds["search"]
    assert len({event["event_id"] for event in honest}) == len(honest)


def test_click_through_falls_with_the_position_as_its_bias_says(honest: list[Row]) -> None:
    shown, clicks = (Counter(event["position"] for event in honest if event["type"] == kind) for kind in ("impression", "click"))
    through = [clicks[place] / shown[place] for place in range(1, 7)]
    for ahead, behind in pairwise(through):
        assert POSITION_BIAS - 0.2 < behind / ahead < POSITION_BIAS + 0.06  # better items stand first, so it falls a little faster than by the bias alone


def test_demand_follows_the_price_with_the_stated_elasticity(fortnight: Path, honest: list[Row]) -> None:
    listed = make_catalogue(3, *_sizes(fortnight)).prices
    price = {(row["valid_from"][:10], row["item_id"]): row["price"] for row in rows(fortnight, "products")}
    place = {item: index for index, item in enumerate(load_truth(fortnight / TRUTH).item_ids.tolist())}
    clicks, carts = Counter[float](), Counter[float]()
    for event in honest:
        if event["type"] in ("click", "cart"):
            discount = round(1 - price[event["event_time"][:10], event["item_id"]] / listed[place[event["item_id"]]], 1)
            (clicks if event["type"] == "click" else carts)[discount] += 1
    assert {round(discount, 1) for discount in clicks} == {0.0, *demand.DISCOUNTS}
    off = {discount: carts[discount] / clicks[discount] / (carts[0.0] / clicks[0.0]) for discount in demand.DISCOUNTS}
    slopes = [-np.log(ratio) / np.log(1 - discount) for discount, ratio in off.items()]
    weights = [clicks[discount] for discount in demand.DISCOUNTS]
    assert np.average(slopes, weights=weights) == pytest.approx(ELASTICITY, abs=0.5)


def _sizes(out: Path) -> tuple[int, int]:
    """Return how many items there are at the end, and were at the beginning."""
    return len(load_truth(out / TRUTH).item_ids), SIZE["items"]


def test_items_are_bought_again_and_consumables_more_often(fortnight: Path) -> None:
    had: set[tuple[str, str]] = set()
    again = {True: [0, 0], False: [0, 0]}
    consumable = dict(zip(load_truth(fortnight / TRUTH).item_ids.tolist(), load_truth(fortnight / TRUTH).consumable.tolist(), strict=True))
    for line in sorted(rows(fortnight, "orders"), key=lambda row: str(row["ordered_at"])):
        key = (line["user_id"], line["item_id"])
        if line["user_id"]:
            again[consumable[line["item_id"]]][0] += key in had
            again[consumable[line["item_id"]]][1] += 1
            had.add(key)
    rates = {kind: repeated / lines for kind, (repeated, lines) in again.items()}
    assert 0.15 < rates[True] < 0.40
    assert 0.01 < rates[False] < 0.08


def test_orders_are_cancelled_and_returned_as_stated(fortnight: Path) -> None:
    departments = {row["item_id"]: row["category_path"].split(" > ")[0] for row in rows(fortnight, "products")}
    lines: dict[bool, list[Row]] = defaultdict(list)
    for line in rows(fortnight, "orders"):
        lines[departments[line["item_id"]] == "Clothing"].append(line)
    for clothing, some in lines.items():
        cancelled, returned = (np.mean([line[name] is not None for line in some]) for name in ("cancelled_at", "returned_at"))
        cancels, returns = REGRET["Clothing"] if clothing else USUAL_REGRET
        bound = 0.07 if clothing else 0.015  # there are few lines of clothing
        assert (cancelled, returned) == pytest.approx((cancels, returns), abs=bound)
    assert all(line["cancelled_at"] is None or line["returned_at"] is None for some in lines.values() for line in some)


def test_a_returned_line_is_delivered_on_the_day_when_it_comes_back(fortnight: Path) -> None:
    days = [END - timedelta(days=back) for back in range(FORTNIGHT)]
    returned = [(day, line) for day in days for line in rows(fortnight, "orders", day) if line["returned_at"]]
    assert returned
    for day, line in returned:
        assert line["returned_at"][:10] == day.isoformat()
        assert 1 <= (day - date.fromisoformat(line["ordered_at"][:10])).days <= LATE_DAYS


def test_visits_follow_the_week(honest: list[Row]) -> None:
    visits = Counter(date.fromisoformat(day).weekday() for day, _ in {(event["event_time"][:10], event["session_id"]) for event in honest})
    mean = sum(visits.values()) / 7
    assert [visits[weekday] / mean for weekday in range(7)] == pytest.approx(list(demand.WEEKDAYS), abs=0.08)


def test_seasons_turn_and_december_is_busy() -> None:
    garden = SHELF_NAMES.index(("Garden", "Tools"))
    june, december = demand.season(date(2026, 6, 15))[garden], demand.season(date(2026, 12, 15))[garden]
    assert june == pytest.approx(1.6, abs=0.05)
    assert december == pytest.approx(0.4, abs=0.05)
    assert demand.volume(date(2026, 12, 7)) > 1.3 * demand.volume(date(2026, 3, 2))
    assert sum(demand.WEEKDAYS) == pytest.approx(7)


def test_nobody_spends_more_than_the_weeks_budget(fortnight: Path, events: list[Row]) -> None:
    world = open_shop(3, SIZE["users"], SIZE["items"], FORTNIGHT)
    allowance = dict(zip(world.user_ids.tolist(), world.allowance.tolist(), strict=True))
    spent: dict[tuple[str, int], float] = defaultdict(float)
    for event in events:
        if event["type"] == "purchase" and event["user_id"]:
            spent[event["user_id"], date.fromisoformat(event["event_time"][:10]).isocalendar().week] += event["price"] * event["quantity"]
    assert all(total <= allowance[user] + 0.001 for (user, _), total in spent.items())
    assert any(total > 0.8 * allowance[user] for (user, _), total in spent.items())


def test_stock_falls_by_what_is_sold_and_is_refilled(fortnight: Path, events: list[Row]) -> None:
    days = [END - timedelta(days=back) for back in reversed(range(FORTNIGHT))]
    stock = [{row["item_id"]: row["stock"] for row in rows(fortnight, "products", day)} for day in days]
    sold = Counter[tuple[str, str]]()
    for event in events:
        if event["type"] == "purchase":
            sold[event["event_time"][:10], event["item_id"]] += event["quantity"]
    refilled = 0
    for before, after, day in zip(stock, stock[1:], days[1:], strict=False):
        for item in before:
            if after[item] != before[item] - sold[day.isoformat(), item]:
                refilled += 1
                assert before[item] < after[item] + sold[day.isoformat(), item]
    assert 0 < refilled < 0.2 * len(stock[0]) * FORTNIGHT


def test_new_items_and_shoppers_come_every_day(fortnight: Path, events: list[Row]) -> None:
    days = [END - timedelta(days=back) for back in reversed(range(FORTNIGHT))]
    begun: dict[str, str] = {}
    for day in days:
        for row in rows(fortnight, "products", day):
            assert row["valid_from"] == f"{day}T00:00:00.000Z"
            begun.setdefault(row["item_id"], day.isoformat())
    assert len(begun) - SIZE["items"] > 5
    assert all(event["event_time"][:10] >= begun[event["item_id"]] for event in events if event.get("item_id"))
    truth = load_truth(fortnight / TRUTH)
    assert set(begun) == set(truth.item_ids.tolist())
    assert len(truth.user_ids) - SIZE["users"] > 30
    came = {event["user_id"] for event in events}
    assert came & set(truth.user_ids[SIZE["users"] :].tolist())


def test_robots_and_click_farms_make_their_share_buy_nothing_and_are_known_to_the_truth_only(fortnight: Path, events: list[Row]) -> None:
    truth = load_truth(fortnight / TRUTH)
    shares = []
    for accounts in (truth.robots.tolist(), truth.farms.tolist()):
        theirs = [event for event in events if event["user_id"] in accounts]
        shares.append(len(theirs) / len(events))
        assert {event["type"] for event in theirs} <= {"search", "impression", "click", "view"}
    assert shares == pytest.approx([0.02, 0.01], rel=0.05)
    assert not {*truth.robots.tolist(), *truth.farms.tolist()} & set(truth.user_ids.tolist())
    pushed = Counter(event["item_id"] for event in events if event["type"] == "click" and event["user_id"] in truth.farms.tolist())
    assert len(pushed) <= 3
    moments = sorted(datetime.fromisoformat(event["event_time"]) for event in events if event["user_id"] == truth.robots[0])
    assert np.median([(after - before).total_seconds() for before, after in pairwise(moments)]) < 0.6


def test_every_event_is_of_its_own_day_in_the_shops_calendar(shop: Path) -> None:
    times = [event["event_time"] for event in rows(shop, "events", END)]
    assert "2026-03-29T00:00" < min(times) <= max(times) < "2026-03-29T23:00"  # summer time began: the day ends at 23:00 UTC


def test_what_follows_an_item_is_no_accident(fortnight: Path, honest: list[Row]) -> None:
    truth = load_truth(fortnight / TRUTH)
    clicks = [event for event in honest if event["type"] == "click"]
    clicks.sort(key=lambda event: (event["session_id"], event["event_time"]))
    place = {item: index for index, item in enumerate(truth.item_ids.tolist())}
    pairs = [(place[a["item_id"]], place[b["item_id"]]) for a, b in pairwise(clicks) if a["session_id"] == b["session_id"]]
    linked = np.mean([after in truth.links[before] for before, after in pairs])
    assert linked > 3 * truth.links.shape[1] / len(place)


def test_dirt_comes_at_its_stated_rates(tmp_path: Path) -> None:
    much, days = LEVELS["much"], 5
    play(tmp_path, days=days, dirt=much)
    first, last = END - timedelta(days=days - 1), END
    lines = [
        line for day in range(days) for line in gzip.decompress((tmp_path / f"{first + timedelta(days=day)}" / "events.jsonl.gz").read_bytes()).splitlines()
    ]
    readable = rows(tmp_path, "events")
    unique = {json.dumps(row) for row in readable}
    assert (len(lines) - len(readable)) / len(lines) == pytest.approx(much.broken, rel=0.25)
    assert (len(readable) - len(unique)) / len(unique) == pytest.approx(much.repeated, rel=0.25)
    fields = ("event_id", "event_time", "received_at", "session_id", "type")
    nulls = sum(any(row[name] is None for name in fields) for row in readable) / len(readable)
    assert 0.5 * much.nulls < nulls < much.nulls
    whole = [row for row in readable if row["received_at"] and row["event_time"]]
    late = [row for row in rows(tmp_path, "events", last) if row["received_at"] and row["received_at"][:10] < f"{last}"]
    assert {row["received_at"][:10] for row in late} == {f"{last - timedelta(days=back)}" for back in (1, 2)}
    assert len(late) / len(rows(tmp_path, "events", last)) == pytest.approx(much.late, abs=0.03)
    off = {row["session_id"]: abs((_at(row["received_at"]) - _at(row["event_time"])).total_seconds()) > 30 for row in whole}
    assert np.mean(list(off.values())) == pytest.approx(much.skewed, abs=0.03)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_days_go_missing_come_twice_and_change_their_columns_by_command(home: Path, tmp_path: Path) -> None:
    sizes = ["--days", "4", "--end", f"{END}", "--users", "60", "--items", "80", "--visits", "20", "--seed", "3", "--dirt", "none"]
    days = [END - timedelta(days=back) for back in (3, 2, 1, 0)]
    for name, more in (("usual", []), ("odd", ["--missing-day", f"{days[2]}", "--double-day", f"{days[0]}", "--schema-change", f"{days[3]}"])):
        outcome = CliRunner().invoke(command, ["--out", str(tmp_path / name), *sizes, *more])
        assert outcome.exit_code == 0, outcome.output
    usual, odd = content(tmp_path / "usual"), content(tmp_path / "odd")
    assert {name for name in usual if name not in odd} == {f"{days[2]}/{name}.jsonl.gz" for name in ("events", "orders", "products")}
    for name in ("events", "orders", "products"):
        file = f"{name}.jsonl.gz"
        assert odd[f"{days[1]}/{file}"] == usual[f"{days[1]}/{file}"] + usual[f"{days[0]}/{file}"]
    assert all("app_version" in row for row in rows(tmp_path / "odd", "events", days[3]))
    assert not any("app_version" in row for row in rows(tmp_path / "odd", "events", *days[:2]))


def test_titles_are_distinct_and_searched_words_are_in_them(shop: Path) -> None:
    catalogue = make_catalogue(3, 80)
    assert len(set(catalogue.titles)) == 80
    assert len(set(make_catalogue(3, 4_000).titles)) == 4_000
    known = {word for row in rows(shop, "products") for word in words(f"{row['title']} {row['category_path']}")}
    queries = {event["query"] for event in rows(shop, "events") if event["type"] == "search"}
    assert queries
    assert all(set(words(query)) <= known for query in queries)


def test_a_live_shopper_clicks_by_taste_and_never_what_is_unknown(shop: Path) -> None:
    truth: Truth = load_truth(shop / TRUTH)
    rng = np.random.default_rng(1)
    order = np.argsort(-truth.item_vectors @ truth.shopper_vectors[0])
    loved, disliked = truth.item_ids[order[:4]].tolist(), truth.item_ids[order[-4:]].tolist()
    clicks = Counter(item for _ in range(200) for item in clicked(truth, rng, 0, [*disliked[:2], "no-such-item", *loved[:2]]))
    assert sum(clicks[item] for item in loved) > 3 * sum(clicks[item] for item in disliked)
    assert clicks["no-such-item"] == 0
    assert clicked(truth, rng, 0, []) == []


def test_a_live_shopper_buys_within_the_budget_and_never_what_is_unknown(shop: Path) -> None:
    truth, rng = load_truth(shop / TRUTH), np.random.default_rng(1)
    nothing, order = np.full(truth.owned.shape[1], -1), np.argsort(truth.prices)
    cheap, plain = truth.item_ids[order[:3]].tolist(), ~truth.consumable & (truth.demand == 1.0)
    taken = Counter(item for _ in range(2000) for item in carted_and_bought(truth, rng, nothing, 1e9, [*cheap, "no-such-item"])[1])
    assert set(taken) <= set(cheap)
    one = str(truth.item_ids[plain][0])
    assert sum(bool(carted_and_bought(truth, rng, nothing, 1e9, [one])[1]) for _ in range(4000)) / 4000 == pytest.approx(CART * PURCHASE, abs=0.02)
    assert carted_and_bought(truth, rng, nothing, truth.prices.min() / 2, cheap * 20)[1] == []
    owned, left, price = nothing, 2.5 * float(truth.prices[order[0]]), float(truth.prices[order[0]])
    bought = 0
    for _ in range(400):  # one budget for all answers of a week
        _, more, owned, left = carted_and_bought(truth, rng, owned, left, cheap[:1])
        bought += len(more)
    assert bought == 2
    assert left == pytest.approx(price / 2)
    assert owned[:2].tolist() == [order[0], order[0]]
    assert carted_and_bought(truth, rng, nothing, 1.0, [])[:2] == ([], [])


def test_a_catalogue_of_any_size_fills_its_pages(tmp_path: Path) -> None:
    play(tmp_path, days=1, items=3000, visits=30)  # more items than a page considers at once
    play(tmp_path / "small", days=1, items=20, visits=30)
    for out in (tmp_path, tmp_path / "small"):
        pages = defaultdict(list)
        for event in rows(out, "events", END):
            if event["type"] == "impression":
                pages[event["session_id"], event["event_time"]].append(event["item_id"])
        honest = [page for page in pages.values() if len(page) > 1]
        assert honest
        assert all(len(set(page)) == 6 for page in honest)
