"""A small simulated shop per seed, its lake as it is without any fault, and what a reader may see of the lake meanwhile."""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from evershelf import storage
from evershelf.contracts import LAKE_TABLES

DAY = date(2026, 3, 29)  # a Sunday, on which maintain_lake runs too; the clocks change
EARLIER = 2  # landing days before it, published, some of whose days it restates
Tables = Mapping[str, pa.Table]


@dataclass(frozen=True)
class Undisturbed:
    """What is shared (landing and lake) as local folders, before the day is published and after."""

    before: Path
    after: Path

    @cached_property
    def tables_before(self) -> Tables:
        return tables(f"{self.before.as_uri()}/lake")

    @cached_property
    def tables_after(self) -> Tables:
        return tables(f"{self.after.as_uri()}/lake")


def undisturbed(folder: Path, seed: int, run: Callable[[list[str], Mapping[str, str], Path], int]) -> Undisturbed:
    """Return a seed's shop from a folder; made when it is not there."""
    if not folder.exists():
        with storage.new_folder(folder) as aside:
            home, raw, log = aside / "home", aside / "raw", folder.with_suffix(".log")
            end, first = DAY.isoformat(), (DAY - timedelta(days=EARLIER)).isoformat()
            size = ["--users", "30", "--items", "25", "--visits", "6", "--dirt", "much"]
            env = {"EVERSHELF_HOME": str(home), "EVERSHELF_STORAGE_URL": ""}

            def command(*arguments: str) -> None:
                if run(list(arguments), env, log):
                    raise RuntimeError(f"{arguments} failed without any fault; see {log}")

            command("simulate", "--out", str(raw), "--days", str(EARLIER + 1), "--end", end, "--seed", str(seed), *size)
            command("ingest", "--data", str(raw))
            command("run", "lake_daily", "--from", first, "--to", (DAY - timedelta(days=1)).isoformat())
            _copy(home, aside / "before")
            command("run", "lake_daily", "--date", end)
            _copy(home, aside / "after")
            shutil.rmtree(home)
    shop = Undisturbed(folder / "before", folder / "after")
    changed = [name for name, content in shop.tables_after.items() if not content.equals(shop.tables_before[name])]
    restated = set(shop.tables_before["events"]["dt"].to_pylist()) & set(_of(shop.tables_after["events"], DAY)["dt"].to_pylist())
    assert {"events", "orders", "products", "quarantine", "reconciliation"} <= set(changed), changed
    assert restated, "the day restates no day before it"
    return shop


def _of(rows: pa.Table, landed: date) -> pa.Table:
    return rows.filter(pa.compute.equal(rows["landing_dt"], landed))


def _copy(home: Path, target: Path) -> None:
    for place in ("landing", "lake"):
        shutil.copytree(home / place, target / place)


def put(tree: Path, root: storage.Place) -> None:
    """Copy a local tree to HDFS, but for locks and checksums of a local file system."""
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.name.startswith(".")]

    def one(path: Path) -> None:
        place = root / path.relative_to(tree).as_posix()
        assert isinstance(place, storage.HdfsPath)
        place.write(path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, files))


def tables(lake_url: str) -> Tables:
    """Return the lake's content, each table in the order of its key and without the code's version."""
    return {name: rows(DeltaTable(f"{lake_url}/{name}"), name) for name in LAKE_TABLES}


def rows(opened: DeltaTable, name: str) -> pa.Table:
    table = LAKE_TABLES[name]
    content = opened.to_pyarrow_table(columns=[column for column in table.columns if column != "code_version"])
    return content.sort_by([(column, "ascending") for column in (*table.key, table.partition)]).combine_chunks()


class Reader(threading.Thread):
    """Reads every table's newest version over and over again. A table takes the day in one commit, so it must be as before or as after, never anything else;
    and when the reconciliation says that the day is published, every table must be as after.

    looks: how often all tables were read; wrong: what nobody may see; unread: errors, from each of which a reader comes back by reading again.
    """

    def __init__(self, lake_url: str, before: Tables, after: Tables) -> None:
        super().__init__(name="reader", daemon=True)
        self.url, self.before, self.after = lake_url, before, after
        self.looks, self.wrong, self.unread = 0, list[str](), list[str]()
        self._versions = dict.fromkeys(LAKE_TABLES, 0)
        self._over = threading.Event()

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join(60)
        if self.is_alive():
            self.wrong.append("the reader hangs")

    def run(self) -> None:
        while not self._over.is_set():
            started = time.monotonic()
            try:
                self._look()
                self.looks += 1
            except Exception as error:  # of several kinds, from Rust
                self.unread.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            self._over.wait(0.3 + time.monotonic() - started)  # half of the time at most: the machine has other things to do

    def _look(self) -> None:
        published = False
        for name in ("reconciliation", *(name for name in LAKE_TABLES if name != "reconciliation")):
            opened = DeltaTable(f"{self.url}/{name}")
            seen = rows(opened, name)
            if opened.version() < self._versions[name]:
                self.wrong.append(f"{name} went back from version {self._versions[name]} to {opened.version()}")
            self._versions[name] = opened.version()
            is_after = seen.equals(self.after[name])
            if not is_after and not seen.equals(self.before[name]):
                self.wrong.append(f"{name} version {opened.version()} with {seen.num_rows} rows is neither as before nor as after")
            elif not is_after and published:
                self.wrong.append(f"the reconciliation says that the day is published, but {name} version {opened.version()} is as before")
            published = published or (name == "reconciliation" and is_after)
