"""A shop that is only a catalogue and judgments: which products are how good an answer to which queries."""

import csv
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from training.errors import UnusableData

# what a field may be called, in any case; of several that a product has, the first one that is not empty
NAMES = {
    "id": ("id", "item_id", "product_id", "docid", "asin", "sku"),
    "title": ("title", "product_title", "name"),
    "code": ("name", "model", "mpn"),
    "brand": ("brand", "supplier", "product_brand", "manufacturer"),
    "category": ("category_path", "category", "product_type", "attr_t_product_type", "product_class"),
    "description": ("short_description", "description", "product_description", "bullet_point"),
}
JUDGMENT = {"query": ("query", "q"), "item": NAMES["id"], "rating": ("rating", "grade", "label", "relevance", "judgment")}
SUFFIXES = (".json", ".jsonl", ".json.zip", ".csv", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The products of a shop; each list has one entry per product, "" where it is not known."""

    ids: list[str]
    texts: dict[str, list[str]]  # title, code, brand, category, description
    price: npt.NDArray[np.float64]  # nan where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgments:
    """queries: in order of the alphabet. ratings: of each, product number -> rating, 0 is useless."""

    queries: list[str]
    ratings: list[dict[int, float]]


def read_catalogue(path: Path) -> Catalogue:
    """Read a file or a folder of files: JSON (one array, or one object per line), such JSON in a zip file, CSV or Parquet.

    Raises:
        UnusableData: there is none, one cannot be read, or a product has no id or no title.
    """
    files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and not _is_judgments(file)) if path.is_dir() else [path]
    products: dict[str, Mapping[str, Any]] = {}
    for file in files:
        try:
            for product in _records(file):
                low = {str(key).lower(): value for key, value in product.items()}
                products[_of(low, "id")] = low
        except (OSError, ValueError, csv.Error, zipfile.BadZipFile) as error:
            raise UnusableData(f"{file} cannot be read as products: {error}. Nothing was measured; it must be JSON, JSON in a zip, CSV or Parquet.") from None
    if not products:
        raise UnusableData(f"There are no products in {path}. Nothing was measured.")
    texts = {field: [_of(product, field) for product in products.values()] for field in NAMES if field != "id"}
    texts["code"] = ["" if code == title else code for code, title in zip(texts["code"], texts["title"], strict=True)]
    if "" in products or not any(texts["title"]):
        raise UnusableData(f"Products in {path} have no {'id' if '' in products else 'title'}. Nothing was measured; call it one of {', '.join(NAMES['id'])}.")
    return Catalogue(ids=list(products), texts=texts, price=np.array([_price(product.get("price")) for product in products.values()]))


def read_judgments(path: Path, catalogue: Catalogue) -> tuple[Judgments, int]:
    """Return the judgments of products that are in the catalogue, and how many are not.

    Raises:
        UnusableData: it cannot be read, a column is missing, or a rating is no number.
    """
    number = {name: place for place, name in enumerate(catalogue.ids)}
    found: dict[str, dict[int, float]] = {}
    unknown = 0
    try:
        for row in _records(path):
            low = {str(key).lower(): value for key, value in row.items()}
            query, item, rating = (next((low[name] for name in names if name in low), None) for names in JUDGMENT.values())
            if query is None or item is None or rating is None:
                raise UnusableData(f"{path} has no column for the query, the product or the rating, only {', '.join(low)}. Nothing was measured.")
            place = number.get(str(item).strip())
            if place is None:
                unknown += 1
            else:
                found.setdefault(str(query).strip(), {})[place] = float(rating)
    except (OSError, ValueError, csv.Error) as error:
        raise UnusableData(f"{path} cannot be read as judgments: {error}. Nothing was measured; it needs query, docid and rating.") from None
    queries = sorted(query for query, ratings in found.items() if max(ratings.values()) > 0)
    if not queries:
        raise UnusableData(f"No query of {path} has a relevant product in the catalogue. Nothing was measured.")
    return Judgments(queries=queries, ratings=[found[query] for query in queries]), unknown


def _is_judgments(file: Path) -> bool:
    return file.name.startswith("judgments")


def _records(file: Path) -> Iterator[dict[str, Any]]:
    if file.name.endswith(".parquet"):
        yield from pq.read_table(file).to_pylist()
    elif file.name.endswith(".csv"):
        with file.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines)
    elif file.name.endswith(".zip"):
        with zipfile.ZipFile(file) as packed:
            for name in packed.namelist():
                yield from _objects(packed.read(name).decode())
    else:
        yield from _objects(file.read_text(encoding="utf-8"))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    if text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _of(product: Mapping[str, Any], field: str) -> str:
    for name in NAMES[field]:
        value = product.get(name)
        if value not in (None, "", []):
            return " ".join(map(str, value)) if isinstance(value, list) else str(value).strip()
    return ""


def _price(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
