"""`evershelf run labels`: categories, brands and prices that the catalogue leaves out, each with who says so and how often that is right.

For every item whose newest description lacks a value, the most accurate labeller that has something to say fills it: a rule (training/labelling_rules.py),
or for categories the model's own head. How accurate each is, is measured the same day on the items whose value is known; one below `labels.min_accuracy` is
measured and not used. Truth is never overwritten: labels are a table of their own, one atomic commit per day.

Rules leave the item that they guess for out. The model is asked about items that its category head did not learn from: on half of them the probability is
chosen from which on it is right often enough, on the other half its accuracy is measured.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from rich.console import Console
from rich.table import Table

from evershelf import lake
from evershelf.contracts import LABELS, TRANSACTION_CLASSES
from evershelf.errors import CommandFailed
from evershelf.models import model_folder, newest_blessed
from evershelf.settings import load_settings
from evershelf.storage import at_hand
from evershelf.version import code_version
from training.examples import held_out
from training.labelling_rules import RULES, Catalogue, Guesses, Kind, Price, Value

RECENT = timedelta(days=28)  # an older price is no price
ALMOST = 0.05  # a price is right within this share of the true one
MEASURED = 20  # items on which a labeller must have been measured before it is used
KINDS: tuple[Kind, ...] = ("category", "brand", "price")
TABLES = ("products", "orders")
_SCHEMA = pa.schema([(name, {"date": pa.date32(), "string": pa.string(), "double": pa.float64()}[column.type]) for name, column in LABELS.columns.items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """What a rule or the model says of each item of a catalogue. `counts`: [items] bool, which of them may measure it."""

    name: str
    kind: Kind
    guesses: Guesses
    counts: npt.NDArray[np.bool_]

    def measure(self, catalogue: Catalogue) -> dict[str, Any]:
        """Return `coverage` (share of all items that it says something about), and on those whose value is known `accuracy` (None: none) and `measured`."""
        known = catalogue.known(self.kind)
        pairs = zip(self.guesses, known, self.counts, strict=True)
        judged = [_right(guess, truth) for guess, truth, counts in pairs if counts and guess is not None and truth is not None]
        return {
            "kind": self.kind,
            "coverage": round(sum(guess is not None for guess in self.guesses) / max(len(self.guesses), 1), 5),
            "accuracy": round(sum(judged) / len(judged), 5) if judged else None,
            "measured": len(judged),
        }


def _right(guess: Value, truth: Value) -> bool:
    if isinstance(guess, tuple) and isinstance(truth, tuple):
        return guess[1] == truth[1] and abs(guess[0] - truth[0]) <= ALMOST * truth[0]
    return guess == truth


def read_catalogue(versions: Mapping[str, int], day: date) -> Catalogue:
    """Read the newest description of each item up to a day."""
    newest = lake.newest_products(["item_id", "title", "category_path", "brand", "price", "currency", "valid_from", "dt"], versions["products"], day)
    recent = [("dt", ">", day - RECENT), ("dt", "<=", day)]
    described = lake.read("products", ["item_id", "valid_from", "dt", "landing_dt", "price", "currency"], recent, versions["products"])
    described = described.filter(pc.is_valid(described["price"])).sort_by([(name, "ascending") for name in ("valid_from", "dt", "landing_dt")])
    newest_of = {row["item_id"]: (row["valid_from"], row["dt"]) for row in newest.select(["item_id", "valid_from", "dt"]).to_pylist()}
    before: dict[str, Price] = {}
    for row in described.to_pylist():
        if (row["valid_from"], row["dt"]) < newest_of[row["item_id"]]:  # a description tells nothing about itself
            before[row["item_id"]] = (row["price"], row["currency"])
    paid: dict[str, Price] = {}
    if "orders" in versions:
        orders = lake.read("orders", ["item_id", "ordered_at", "price", "currency"], recent, versions["orders"]).sort_by("ordered_at")
        for item, price, currency in zip(*(orders[name].to_pylist() for name in ("item_id", "price", "currency")), strict=True):
            paid[item] = (price, currency)
    items = newest["item_id"].to_pylist()
    return Catalogue(
        items=items,
        title=[title or "" for title in newest["title"].to_pylist()],
        category=[path or None for path in newest["category_path"].to_pylist()],
        brand=[brand or None for brand in newest["brand"].to_pylist()],
        price=[None if pair[0] is None else pair for pair in zip(newest["price"].to_pylist(), newest["currency"].to_pylist(), strict=True)],
        before=[before.get(item) for item in items],
        paid=[paid.get(item) for item in items],
    )


def by_rules(catalogue: Catalogue) -> list[Labeller]:
    everything = np.ones(len(catalogue.items), np.bool_)
    return [Labeller(name=f"rule {rule.name} v{rule.version}", kind=rule.kind, guesses=rule.guess(catalogue), counts=everything) for rule in RULES]


def by_model(catalogue: Catalogue, model_id: str, min_accuracy: float) -> Labeller:
    """Ask a model's category head; items that it does not know get no guess."""
    from training.exported import Exported  # TensorFlow

    with at_hand(model_folder(model_id)) as folder:
        exported = Exported(folder)
        probabilities = exported.item_categories()
    vocabulary = exported.vocabulary
    number = {item: place for place, item in enumerate(vocabulary.items)}
    numbers = np.array([number.get(item, 0) for item in catalogue.items])
    best, sure = probabilities.argmax(axis=1)[numbers], probabilities.max(axis=1)[numbers]
    named: list[str] = [vocabulary.categories[place] if place and item else "" for place, item in zip(best.tolist(), numbers.tolist(), strict=True)]
    half = held_out(vocabulary.items)[numbers] * (numbers > 0)
    choose, measure = half == 1, half == 2
    right = np.array([name == truth for name, truth in zip(named, catalogue.category, strict=True)])
    from_ = surest(sure[choose & _given(catalogue)], right[choose & _given(catalogue)], min_accuracy)
    guesses: Guesses = [name if name and probability >= from_ else None for name, probability in zip(named, sure.tolist(), strict=True)]
    return Labeller(name=f"model {model_id}", kind="category", guesses=guesses, counts=measure)


def _given(catalogue: Catalogue) -> npt.NDArray[np.bool_]:
    return np.array([category is not None for category in catalogue.category])


def surest(sure: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.bool_], min_accuracy: float) -> float:
    """Return the lowest probability from which on at least `min_accuracy` are right; infinity when there is none."""
    order = np.argsort(-sure, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(accuracy >= min_accuracy)
    return float(sure[order][good[-1]]) if len(good) else float("inf")


def label(catalogue: Catalogue, labellers: Sequence[Labeller], min_accuracy: float) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Fill what is missing.

    Returns:
        rows of LABELS without `dt`; and labeller -> what `measure` found and `filled`, how many items it filled.
    """
    measured = {one.name: one.measure(catalogue) for one in labellers}
    rows: list[dict[str, Any]] = []
    filled: Counter[str] = Counter()
    for kind in KINDS:
        trusted = [one for one in labellers if one.kind == kind and measured[one.name]["measured"] >= MEASURED]
        trusted = [one for one in trusted if measured[one.name]["accuracy"] >= min_accuracy]
        trusted.sort(key=lambda one: (-measured[one.name]["accuracy"], one.name))
        for place, known in enumerate(catalogue.known(kind)):
            by = next((one for one in trusted if one.guesses[place] is not None), None) if known is None else None
            if by is None:
                continue
            guess = by.guesses[place]
            price, currency = guess if isinstance(guess, tuple) else (None, None)
            filled[by.name] += 1
            rows.append(
                {
                    "item_id": catalogue.items[place],
                    "kind": kind,
                    "text": None if price is not None else guess,
                    "price": price,
                    "currency": currency,
                    "source": by.name,
                    "confidence": measured[by.name]["accuracy"],
                }
            )
    return rows, {name: {**found, "filled": filled[name]} for name, found in measured.items()}


def transaction_accuracy(model_id: str, versions: Mapping[str, int], day: date) -> dict[str, Any] | None:
    """Compare the class that the model foretells of a day's order lines with what became of them so far; None without orders."""
    from training.exported import Exported  # TensorFlow

    rows = lake.read("orders", ["item_id", "quantity", "price", "transaction_class"], [("dt", "=", day)], versions["orders"])
    if not rows.num_rows:
        return None
    with at_hand(model_folder(model_id)) as folder:
        exported = Exported(folder)
        number = {item: place for place, item in enumerate(exported.vocabulary.items)}
        items = np.array([number.get(item, 0) for item in rows["item_id"].to_pylist()], np.int32)
        foretold = exported.transaction_classes(items, np.asarray(rows["quantity"], np.float64), np.asarray(rows["price"], np.float64)).argmax(axis=1)
    truth = np.array([TRANSACTION_CLASSES.index(kind) for kind in rows["transaction_class"].to_pylist()])
    return {"kind": "transaction class", "coverage": 1.0, "accuracy": round(float((foretold == truth).mean()), 5), "measured": len(truth), "filled": 0}


def run_day(moment: date | None) -> dict[str, Any]:
    """Publish the labels of a day (default: the newest of the catalogue) and return the report.

    Raises:
        CommandFailed: the day has no published products.
    """
    started, settings = time.monotonic(), load_settings()
    versions = lake.versions(name for name in TABLES if lake.exists(name))
    days = lake.days("products", versions["products"]) if "products" in versions else []
    day = moment or (days[-1] if days else None)
    if day is None or not days or day < days[0]:
        raise CommandFailed(
            f"No products up to {day or 'any day'} are published. No labels were written, those of other days stay; `evershelf run lake_daily` first."
        )
    catalogue, model_id = read_catalogue(versions, day), newest_blessed()
    labellers = by_rules(catalogue)
    if model_id:
        labellers.append(by_model(catalogue, model_id, settings.labels.min_accuracy))
    rows, accuracy = label(catalogue, labellers, settings.labels.min_accuracy)
    if model_id and "orders" in versions and (found := transaction_accuracy(model_id, versions, day)):
        accuracy[f"model {model_id}, transaction class"] = found
    with lake.turn():
        publish(day, rows, {"code_version": code_version(), "tables": versions, "model_id": model_id, "accuracy": accuracy})
    missing = {kind: sum(value is None for value in catalogue.known(kind)) for kind in KINDS}
    return {
        "day": day.isoformat(),
        "items": len(catalogue.items),
        "missing": missing,
        "filled": {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS},
        "labellers": accuracy,
        "seconds": round(time.monotonic() - started, 1),
    }


def publish(day: date, rows: Sequence[Mapping[str, Any]], about: Mapping[str, object]) -> None:
    """Replace a day's labels, in one commit that says `about`."""
    content = pa.Table.from_pylist([{**row, "dt": day} for row in rows], schema=_SCHEMA)
    url = lake.table_url(LABELS.name)
    if not lake.exists(LABELS.name):
        DeltaTable.create(url, _SCHEMA, mode="ignore", partition_by=[LABELS.partition], name=LABELS.name, configuration=lake.NO_BOUNDS)
    said = lake.said({**about, "days": [day.isoformat()]})
    write_deltalake(url, content, mode="overwrite", predicate=f"{LABELS.partition} = '{day}'", commit_properties=said)


@click.command()
@click.option("--date", "moment", type=click.DateTime(["%Y-%m-%d"]), help="The day; default the newest one of the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def main(moment: datetime | None, as_json: bool) -> None:
    """Fill in categories, brands and prices that the catalogue leaves out, and measure whoever does it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets at length
    report = run_day(moment.date() if moment else None)
    if as_json:
        click.echo(json.dumps(report))
        return
    table = Table("labeller", "of", "coverage", "accuracy", "on items", "filled", box=None, pad_edge=False)
    for name, found in report["labellers"].items():
        accuracy = "unknown" if found["accuracy"] is None else f"{found['accuracy']:.1%}"
        table.add_row(name, found["kind"], f"{found['coverage']:.1%}", accuracy, f"{found['measured']}", f"{found['filled']}")
    Console().print(table)
    left = ", ".join(f"{kind} {report['filled'][kind]} of {count}" for kind, count in report["missing"].items())
    click.echo(f"{report['day']}: of {report['items']} items these were missing and are filled in: {left}.")


if __name__ == "__main__":
    main()
