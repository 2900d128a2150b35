"""A tiny shop written straight into a lake, in the contracts' columns: shoppers walk along a ring of items, so that the next item can be learned."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from evershelf.contracts import EVENTS, ORDERS, PRODUCTS, Table

TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "int": pa.int32(),
    "double": pa.float64(),
    "array<string>": pa.list_(pa.string()),
    "map<string,string>": pa.map_(pa.string(), pa.string()),
}
FIRST = date(2026, 1, 5)
COLOURS = ("red", "green", "blue", "white")


def write(lake: Path, table: Table, rows: list[dict[str, Any]]) -> None:
    columns = {name: pa.array([row.get(name) for row in rows], TYPES[column.type]) for name, column in table.columns.items()}
    write_deltalake(f"file://{lake}/{table.name}", pa.table(columns), partition_by=[table.partition], mode="overwrite")


def event(number: int, when: datetime, kind: str, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number:06}", "event_time": when, "received_at": when, "landing_dt": when.date(), "dt": when.date(), "type": kind} | more


def product(item_id: str, **more: Any) -> dict[str, Any]:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    return {"item_id": item_id, "landing_dt": FIRST, "dt": FIRST, "title": item_id, "currency": "GBP", "valid_from": start} | more


def make_lake(lake: Path, *, days: int = 4, shoppers: int = 40, items: int = 24, seed: int = 1) -> None:
    """Write events, products and orders of `days` days from FIRST on; one shopper in eight is a guest."""
    random = np.random.default_rng(seed)
    events: list[dict[str, Any]] = []
    orders: list[dict[str, Any]] = []
    for day in range(days):
        for shopper in range(shoppers):
            when = datetime(2026, 1, 5, 9, tzinfo=UTC) + timedelta(days=day, minutes=int(random.integers(600)))
            at, user = int(random.integers(items)), None if shopper % 8 == 7 else f"user-{shopper:03}"
            common = {"user_id": user, "session_id": f"s{day}-{shopper}"}
            for step in range(int(random.integers(3, 7))):
                item = {"item_id": f"item-{at:03}"} | common
                if step == 0:
                    events.append(event(len(events), when, "search", query=f"{COLOURS[at % 4]} thing{' under 30' * (shopper % 2)}", **common))
                for kind in ("click", "view")[: 1 + int(random.integers(2))]:
                    when += timedelta(seconds=40)
                    events.append(event(len(events), when, kind, **item))
                if random.random() < 0.3:
                    when += timedelta(seconds=40)
                    events.append(event(len(events), when, "purchase", quantity=1, price=2.5, currency="GBP", **item))
                    bulk = random.random() < 0.2
                    orders.append(
                        {"order_id": f"o{len(orders)}", "line_id": "1", "ordered_at": when, "landing_dt": when.date(), "dt": when.date()}
                        | {"user_id": user, "item_id": item["item_id"], "quantity": 200 if bulk else 1, "price": 2.5, "currency": "GBP"}
                        | {"transaction_class": "bulk" if bulk else "kept"}
                    )
                at = (at + (1 if random.random() < 0.9 else 5)) % items
    write(lake, EVENTS, events)
    write(lake, ORDERS, orders)
    described = [
        product(
            f"item-{item:03}",
            title=f"{COLOURS[item % 4]} thing {item}",
            brand=f"brand {item % 3}",
            category_path=f"Things > {COLOURS[item % 4].title()}",
            price=1.0 + item,
            stock=3,
        )
        for item in range(items + 1)  # the last one was never seen
    ]
    write(lake, PRODUCTS, described)


@dataclass(frozen=True)
class Installation:
    """A home whose commands run as processes of their own, as they do in production."""

    home: Path
    more: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        small = {"WIDTH": "16", "BLOCKS": "1", "EPOCHS": "3", "BATCH_SIZE": "8", "VALIDATION_DAYS": "1", "LEARNING_RATE": "0.01"}
        small["RANKERS"] = '["LiteRT float32"]'  # test_rankers.py has all of them
        return (
            os.environ
            | {"EVERSHELF_HOME": str(self.home), "EVERSHELF_TELEMETRY__STATSD_PORT": "9"}
            | {f"EVERSHELF_TRAINING__{name}": value for name, value in small.items()}
            | self.more
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "evershelf.cli", *arguments]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> "Outcome":
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=280)
        return Outcome(process.returncode, out, err)

    @property
    def models(self) -> list[Path]:
        return sorted((self.home / "models").glob("[!.]*/"))


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        answer: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return answer


MakeInstallation = Callable[..., Installation]


@pytest.fixture(scope="session")
def new_installation(tmp_path_factory: pytest.TempPathFactory) -> MakeInstallation:
    """Make a home with the tiny shop in its lake; keyword arguments are further EVERSHELF_ settings."""

    def make(**settings: str) -> Installation:
        home = tmp_path_factory.mktemp("home")
        make_lake(home / "lake")
        return Installation(home, {f"EVERSHELF_{name}": value for name, value in settings.items()})

    return make


@pytest.fixture(scope="session")
def trained(new_installation: MakeInstallation) -> tuple[Installation, Outcome]:
    """A tiny model, trained once by two real ranks."""
    installation = new_installation()
    return installation, installation.run("train", "--json")


@pytest.fixture
def lake_writer() -> Callable[[Path, Table, list[dict[str, Any]]], None]:
    return write


@pytest.fixture
def shop_lake(home: Path) -> Path:
    make_lake(home / "lake")
    return home / "lake"
