"""Build one snapshot: candidates, model and the products' latest descriptions become one sealed bundle.

Reads the candidates' Parquet, the model folder and the products table; writes a folder under `snapshots` that is visible whole or not at all. The same
candidates, model, language and synonyms give the snapshot that is already there, unless that was rejected or rolled back. Nothing is promoted by this job.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
import lmdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from evershelf import lake, snapshot
from evershelf.contracts import EVENT_TYPES
from evershelf.contracts.candidates import CANDIDATE_LISTS
from evershelf.contracts.model import OWN_RANKER, TEXT_ENCODER
from evershelf.contracts.rungs import RUNGS
from evershelf.contracts.snapshot import EVALUATION, GOLDEN, ITEMS, MODEL, SEARCH, STORE, VECTORS, VOCABULARY
from evershelf.errors import CommandFailed, SnapshotDamaged
from evershelf.hybrid import SEARCHED, WEIGHTS, item_text
from evershelf.lexical import read_synonyms, write_lexical
from evershelf.progress import step
from evershelf.ranker import ranker_file
from evershelf.settings import load_settings
from evershelf.storage import ASIDE, Place, at, at_hand, glob, remove
from evershelf.telemetry import SNAPSHOT_BUILD_SECONDS, metrics
from evershelf.text_encoder import ENCODER, TOKENIZER, TextEncoder
from evershelf.vectors import embed, write_vectors
from evershelf.version import code_version
from serving.promotion.log import PromotionLog
from serving.stores import layout
from serving.stores.snapshot_store import SnapshotStore

ADVICE = "No snapshot was built; what is live stays live."
_MAP_SIZE = 1 << 38  # address space that LMDB may grow into, not disk
_LIMITS = [
    "measured on what shoppers chose from what they were shown: of what was never shown it says little",
    "an item or shopper without history is judged by title, brand, category and price, or by popularity, alone",
    "ages, genders and other traits of people are not known to it, and were not looked at",
]
_NOT_REQUIRED = {"user_candidates", "query_candidates", "user_history", "item_candidates"}  # a young shop may have none of these yet

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Products:
    """The latest description of every item, in order of item id: the number of an item is its row."""

    table: pa.Table
    ids: pa.Array
    version: int

    def numbers(self, ids: pa.ChunkedArray) -> pa.Array:
        """Return the item numbers of ids, null for unknown ones."""
        return pc.index_in(ids, value_set=self.ids).combine_chunks()


def build_snapshot(candidates_id: str | None = None) -> str:
    """Build and seal a snapshot, or find the one that the same inputs gave before.

    Args:
        candidates_id: which candidates; the newest when None.

    Returns:
        The snapshot's id.

    Raises:
        CommandFailed: an input is missing or not fit to serve; names it.
    """
    settings = load_settings()
    started = time.monotonic()
    candidates = _candidates_folder(candidates_id)
    lineage = _read_json(candidates / "lineage.json")
    model = at(settings.url("models")) / lineage["model_id"]
    evaluation = _read_json(model / "evaluation.json")
    synonyms = _synonyms(settings.search.synonyms)
    search = {
        "language": settings.search.language,
        "synonyms": hashlib.sha256(json.dumps(synonyms).encode()).hexdigest(),
        "by_meaning": settings.by_meaning,
    }
    whole_lineage = {"candidates_id": candidates.name, "candidates": lineage, "model": _read_json(model / "lineage.json"), "search": search}
    snapshots = at(settings.url("snapshots"))
    if existing := _already_built(snapshots, whole_lineage, PromotionLog(at(settings.url("promotions"))).state().out):
        return existing
    quality = evaluation.get("rung_quality", {})
    if missing := set(RUNGS) - quality.keys():
        raise CommandFailed(f"evaluation.json of model {model.name} has no rung_quality for {', '.join(sorted(missing))}. {ADVICE} Train it again.")
    tables = lineage.get("tables", {})
    data_as_of = date.fromisoformat(lineage["data_as_of"][:10])
    products = _products(tables.get("products"), tables.get("labels"), data_as_of)
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=settings.home) as aside:
        content = Path(aside) / "content"
        content.mkdir()
        with at_hand(candidates) as lists:
            _write_store(content / STORE, lists, products)
        texts = {field: products.table[column].to_pylist() for field, column in SEARCHED.items()}
        write_lexical(content / SEARCH, texts, settings.search.language, synonyms)
        with at_hand(model) as trained:
            vocabulary = _read_json(trained / "vocabulary.json")
            _write_items(content / ITEMS, products, vocabulary, hide_seen=bool(evaluation.get("mask_seen", False)))
            if settings.by_meaning and _by_meaning(trained / TEXT_ENCODER):
                _write_vectors(content / VECTORS, trained / TEXT_ENCODER, snapshots, products)
            if OWN_RANKER not in whole_lineage["model"]:
                shutil.copytree(trained / "saved_model", content / MODEL)
            ranker = ranker_file(trained).name
            for source, name in ((ranker, ranker), ("vocabulary.json", VOCABULARY), ("golden.json", GOLDEN), ("evaluation.json", EVALUATION)):
                shutil.copyfile(trained / source, content / name)
        snapshot_id = snapshot.seal(
            content,
            snapshots,
            data_as_of=str(data_as_of),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            shop=settings.shop.adapter,
            model_id=model.name,
            lineage=whole_lineage,
            rung_quality={rung: float(quality[rung]) for rung in RUNGS},
            model_card=_model_card(model.name, evaluation, whole_lineage),
        )
    _try_out(snapshots / snapshot_id)
    metrics().timing(SNAPSHOT_BUILD_SECONDS, (time.monotonic() - started) * 1000)
    return snapshot_id


def _candidates_folder(candidates_id: str | None) -> Place:
    folder = at(load_settings().url("candidates"))
    if candidates_id:
        if not (folder / candidates_id / "lineage.json").is_file():
            raise CommandFailed(f"There are no candidates {candidates_id} in {folder}. {ADVICE} Build them with `evershelf run candidates`.")
        return folder / candidates_id
    finished = sorted(glob(folder, "[!.]*/lineage.json"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise CommandFailed(f"There are no candidates in {folder}. {ADVICE} Build them with `evershelf run candidates`.")
    return finished[-1].parent


def _synonyms(path: Path | None) -> dict[str, list[str]]:
    try:
        return read_synonyms(path.read_text(encoding="utf-8")) if path else {}
    except OSError as error:
        raise CommandFailed(f"The synonyms {path} cannot be read ({error.strerror}). {ADVICE} Put the file there, or change search.synonyms.") from None
    except ValueError as error:  # a UnicodeDecodeError is one too
        raise CommandFailed(f"The synonyms {path} cannot be read: {error}. {ADVICE} A line is `a, b, c` or `a => b`, in UTF-8; # begins a comment.") from None


def _read_json(path: Place) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path} cannot be read ({error}). {ADVICE} Make the model or the candidates again.") from None
    if not isinstance(content, dict):
        raise CommandFailed(f"{path} holds no JSON object. {ADVICE} Make the model or the candidates again.")
    return content


def _already_built(snapshots: Place, lineage: dict[str, Any], out: Set[str]) -> str | None:
    """Return the snapshot of this lineage; one that is `out` is never a target again, so it does not count."""
    for snapshot_id in snapshot.stored_snapshots(snapshots):
        if snapshot_id in out:
            continue
        try:
            if snapshot.read_manifest(snapshots / snapshot_id).lineage == lineage:
                snapshot.verify(snapshots / snapshot_id)
                return snapshot_id
        except SnapshotDamaged:
            continue  # it is refused wherever it would be used; a new one is built beside it
    return None


def _products(version: int | None, labels: int | None, data_as_of: date) -> Products:
    """Read the newest description of each item, of the version that the candidates saw when they name one. A category or brand that it leaves out is taken from
    that version of the labels.
    """
    version = version if version is not None else lake.open_table("products").version()
    newest = lake.newest_products(["item_id", "title", "description", "brand", "category_path", "price", "currency", "stock", "image"], version)
    if not newest.num_rows:
        raise CommandFailed(f"The products table is empty. {ADVICE} Publish a day of products first.")
    day = lake.current_labels(labels, data_as_of) if labels is not None else None
    for kind, column in (("category", "category_path"), ("brand", "brand")) if day else ():
        said = lake.read("labels", ["item_id", "text"], [("kind", "=", kind), ("dt", "=", day)], labels)
        text = dict(zip(said["item_id"].to_pylist(), said["text"].to_pylist(), strict=True))
        filled = [value or text.get(item) for item, value in zip(newest["item_id"].to_pylist(), newest[column].to_pylist(), strict=True)]
        newest = newest.set_column(newest.column_names.index(column), column, pa.array(filled, pa.string()))
    return Products(newest, newest["item_id"].combine_chunks(), version)


def _read_list(candidates: Path, name: str, products: Products, item_columns: tuple[str, ...]) -> pa.Table:
    """Read one list with item numbers in place of item ids, in order of its first column and position.

    Raises:
        CommandFailed: it is absent, has other columns than its contract, or names items that the products table does not know.
    """
    folder = candidates / name
    if not folder.is_dir():
        raise CommandFailed(f"The candidates {candidates.name} have no list {name}. {ADVICE} Build them again.")
    table = ds.dataset(folder, format="parquet", exclude_invalid_files=False, partitioning=None).to_table()
    if lacking := [column for column in CANDIDATE_LISTS[name] if column not in table.column_names]:
        raise CommandFailed(f"List {name} of candidates {candidates.name} lacks {', '.join(lacking)}. {ADVICE} Build them again.")
    if not table.num_rows and name not in _NOT_REQUIRED:
        raise CommandFailed(f"List {name} of candidates {candidates.name} is empty. {ADVICE} Build them again.")
    for column in item_columns:
        numbers = products.numbers(table[column])
        if numbers.null_count:
            if name != "user_history":
                unknown = pc.unique(table[column].filter(numbers.is_null())).slice(0, 5).to_pylist()
                raise CommandFailed(
                    f"List {name} of candidates {candidates.name} names items that the products table does not know, such as {', '.join(map(repr, unknown))}. "
                    f"{ADVICE} Publish the days of those products and build the candidates again."
                )
            table = table.filter(numbers.is_valid())  # a shopper may have bought what the shop no longer describes
            numbers = numbers.drop_null()
        table = table.set_column(table.column_names.index(column), column, numbers)
    first = next(iter(CANDIDATE_LISTS[name]))
    return table.sort_by([(first, "ascending"), ("position", "ascending")]).combine_chunks()


def _groups(keys: pa.ChunkedArray) -> Iterator[tuple[Any, slice]]:
    """Yield each key of a sorted column with the rows that have it."""
    if not len(keys):
        return
    encoded = keys.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    bounds = np.flatnonzero(np.diff(codes)) + 1
    starts, ends = [0, *bounds.tolist()], [*bounds.tolist(), len(codes)]
    names = encoded.dictionary.to_pylist()
    for start, end in zip(starts, ends, strict=True):
        yield names[codes[start]], slice(start, end)


def _item_lists(table: pa.Table, item_column: str) -> Iterator[tuple[Any, layout.ItemList]]:
    items = table[item_column].to_numpy().astype(layout.NUMBER)
    scores = table["score"].to_numpy().astype(layout.SCORE)
    for key, rows in _groups(table.column(0)):
        yield key, layout.ItemList(items[rows].tobytes(), scores[rows].tobytes())


def _write_store(path: Path, candidates: Path, products: Products) -> None:
    popular = dict(_item_lists(_read_list(candidates, "popular_items", products, ("item_id",)), "item_id"))
    if "" not in popular:
        raise CommandFailed(f"Candidates {candidates.name} have no popular items for the whole shop (category ''). {ADVICE} Build them again.")
    neighbours = _item_lists(_read_list(candidates, "item_candidates", products, ("item_id", "neighbor_id")), "neighbor_id")
    queries = _item_lists(_read_list(candidates, "query_candidates", products, ("item_id",)), "item_id")
    with lmdb.open(str(path), subdir=False, lock=False, map_size=_MAP_SIZE) as database, database.begin(write=True) as writing:
        for category, items in popular.items():
            writing.put(layout.popular_key(category), layout.encode(items))
        for number, items in neighbours:
            writing.put(layout.neighbours_key(number), layout.encode(items))
        for query, items in queries:
            writing.put(layout.query_key(query), layout.encode(items))
        for user, lists in _users(candidates, products):
            writing.put(layout.user_key(user), layout.encode(lists))


def _users(candidates: Path, products: Products) -> Iterator[tuple[str, layout.UserLists]]:
    """Yield every shopper with candidates or a history."""
    listed = dict(_item_lists(_read_list(candidates, "user_candidates", products, ("item_id",)), "item_id"))
    history = _read_list(candidates, "user_history", products, ("item_id",))
    known = history.filter(pc.is_in(history["type"], value_set=pa.array(EVENT_TYPES))).combine_chunks()
    items = known["item_id"].to_numpy().astype(layout.NUMBER)
    actions = pc.index_in(known["type"], value_set=pa.array(EVENT_TYPES)).to_numpy().astype(layout.ACTION)
    times = known["event_time"].cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.int64()).to_numpy().astype(layout.SECONDS)
    nothing = layout.ItemList(b"", b"")
    for user, rows in _groups(known["user_id"]):
        newest_last = slice(rows.stop - 1, rows.start - 1 if rows.start else None, -1)
        yield (
            user,
            layout.UserLists(listed.pop(user, nothing), items[newest_last].tobytes(), actions[newest_last].tobytes(), times[newest_last].tobytes()),
        )
    for user, candidates_of_user in listed.items():
        yield user, layout.UserLists(candidates_of_user, b"", b"", b"")


def _write_items(path: Path, products: Products, vocabulary: dict[str, list[str]], *, hide_seen: bool) -> None:
    table = products.table
    shown = ("item_id", "title", "price", "currency", "category_path", "image")
    index = pc.fill_null(pc.index_in(products.ids, value_set=pa.array(vocabulary["items"], pa.string())), 0).to_numpy()
    stock = pc.fill_null(table["stock"], 1).to_numpy()
    paths = pc.fill_null(table["category_path"], "").combine_chunks().dictionary_encode()
    currencies = pc.fill_null(table["currency"], "").combine_chunks().dictionary_encode()
    actions = {action: place for place, action in enumerate(vocabulary["actions"])}
    columns = {
        layout.COLUMN_VOCABULARY: index.astype(layout.INDEX).tobytes(),
        layout.COLUMN_IN_STOCK: (stock > 0).astype(np.bool_).tobytes(),
        layout.COLUMN_CATEGORY: paths.indices.to_numpy().astype(layout.INDEX).tobytes(),
        layout.COLUMN_PRICE: pc.fill_null(table["price"], np.nan).to_numpy().astype(layout.SCORE).tobytes(),
        layout.COLUMN_CURRENCY: currencies.indices.to_numpy().astype(layout.INDEX).tobytes(),
        layout.CURRENCIES: msgspec.msgpack.encode(currencies.dictionary.to_pylist()),
        layout.CATEGORIES: msgspec.msgpack.encode(paths.dictionary.to_pylist()),
        layout.ACTIONS: msgspec.msgpack.encode([actions.get(event, 0) for event in EVENT_TYPES]),
        layout.HIDE_SEEN: msgspec.msgpack.encode(hide_seen),
    }
    with lmdb.open(str(path), subdir=False, lock=False, map_size=_MAP_SIZE, max_dbs=4) as database:
        by_id, items, known_words, arrays = (database.open_db(name) for name in (layout.BY_ID, layout.ITEMS_BY_NUMBER, layout.WORDS, layout.COLUMNS))
        with database.begin(write=True) as writing:
            for number, row in enumerate(zip(*(table[name].to_pylist() for name in shown), strict=True)):
                writing.put(layout.id_key(row[0]), number.to_bytes(4, "little"), db=by_id)
                writing.put(layout.number_key(number), layout.encode(layout.Item(*row)), db=items, append=True)
            for place, word in enumerate(vocabulary["words"]):
                if place:  # entry 0 is padding
                    writing.put(layout.id_key(word), place.to_bytes(4, "little"), db=known_words)
            for name, value in columns.items():
                writing.put(name, value, db=arrays)


def _by_meaning(folder: Path) -> bool:
    """Return whether a model came with a text encoder and more than words counts."""
    return folder.is_dir() and any(json.loads((folder / WEIGHTS).read_bytes())[1:])


def _write_vectors(folder: Path, trained: Path, snapshots: Place, products: Products) -> None:
    """Write what is needed to search by meaning: a model's encoder and weights, and the vector of every item, taken from the model and the newest snapshot with
    this encoder where they have it."""
    shutil.copytree(trained, folder)
    texts = [item_text(*pair) for pair in zip(products.table["title"].to_pylist(), products.table["description"].to_pylist(), strict=True)]
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as aside:
        known = [trained, *_vectors_of_newest(snapshots, trained, Path(aside) / VECTORS)]
        vectors = embed(texts, TextEncoder(folder, threads=len(os.sched_getaffinity(0))), known, step)
    write_vectors(folder, texts, vectors)


def _vectors_of_newest(snapshots: Place, trained: Path, copy: Path) -> Iterator[Path]:
    """Yield a copy of the vectors of the newest snapshot with this encoder, if there is one that is as it was sealed."""
    wanted = {hashlib.sha256((trained / name).read_bytes()).hexdigest() for name in (ENCODER, TOKENIZER)}
    for snapshot_id in snapshot.stored_snapshots(snapshots):
        with suppress(SnapshotDamaged, OSError):
            files = snapshot.read_manifest(snapshots / snapshot_id).files
            if wanted <= {files[name].sha256 for name in (f"{VECTORS}/{ENCODER}", f"{VECTORS}/{TOKENIZER}") if name in files}:
                shutil.rmtree(copy, ignore_errors=True)
                snapshot.copy_part(snapshots / snapshot_id, VECTORS, copy)
                yield copy
                return


def _model_card(model_id: str, evaluation: dict[str, Any], lineage: dict[str, Any]) -> dict[str, Any]:
    """Return what a person should know of the model before shoppers get it."""
    return {
        "model_id": model_id,
        "purpose": "order items for a shopper or a query; not for decisions about people",
        "trained_on": lineage["model"].get("tables", {}),
        "data_as_of": lineage["model"].get("data_as_of"),
        "measured": evaluation.get("protocol"),
        "metrics": evaluation.get("metrics", {}),
        "interval95": evaluation.get("interval95", {}),
        "baselines": evaluation.get("baselines", {}),
        "heads": evaluation.get("heads", {}),
        "search": evaluation.get("search"),
        "rankers": evaluation.get("rankers", []),
        OWN_RANKER: lineage["model"].get(OWN_RANKER),
        "fairness": {name: evaluation.get(name) for name in ("slices", "small_brands", "like_popular")},
        "limits": _LIMITS,
        "blessed": evaluation.get("blessed"),
        "why": evaluation.get("why"),
        "code_version": code_version(),
    }


def _try_out(folder: Place) -> None:
    """Open the sealed snapshot as a gateway does: what cannot be opened must not be on offer."""
    try:
        with at_hand(folder) as opened:
            store = SnapshotStore(opened)
            if store.popular() is None:
                raise SnapshotDamaged(f"Snapshot {folder.name} gives no popular items.")
            if problem := store.ranker_problem or store.meaning_problem:
                raise SnapshotDamaged(f"Of snapshot {folder.name}, {problem}.")
    except SnapshotDamaged as error:
        remove(folder)
        raise CommandFailed(f"{error} It was removed. {ADVICE}") from error


@click.command()
@click.option("--candidates", "candidates_id", metavar="ID", help="Which candidates; the newest when left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def main(candidates_id: str | None, as_json: bool) -> None:
    """Build one snapshot from candidates, their model and the products table."""
    snapshot_id = build_snapshot(candidates_id)
    if as_json:
        click.echo(json.dumps({"snapshot_id": snapshot_id}))
    else:
        click.echo(f"Snapshot {snapshot_id} is ready. Try it with `evershelf promote {snapshot_id}`.")


if __name__ == "__main__":
    main()
