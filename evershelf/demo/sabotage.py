"""Release candidates that are bad in ways that no checksum and no golden query can see; each is made from good parts by the real `build_snapshot`."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evershelf.storage import Place, at_hand, fetch, publish, remove

# the columns of each list that name what is shown
_SHOWN = {"user_candidates": "item_id", "item_candidates": "neighbor_id", "query_candidates": "item_id", "popular_items": "item_id"}

_FEW = 10  # items in a broken list: as many as an answer shows


@contextmanager
def mixed_up_model(candidates: Place, models: Place) -> Iterator[str]:
    """Give candidates whose model has a vocabulary that is not its own, so that it scores each item as another one, the most popular as the least.

    Its golden queries hold numbers and agree.

    Args:
        candidates: the folder of the good ones.
        models: where models are.

    Yields:
        The id of the bad candidates, which are gone afterwards.
    """
    good = json.loads((candidates / "lineage.json").read_bytes())["model_id"]
    with (
        _changed(models / good, "mixed-up", lambda copied: _mix_up(copied, _chosen(candidates))) as model,
        _changed(candidates, "mixed-up", lambda copied: _change(copied / "lineage.json", model_id=model)) as bad,
    ):
        yield bad


def _mix_up(model: Path, chosen: Counter[str]) -> None:
    padding, *items = json.loads((model / "vocabulary.json").read_bytes())["items"]
    popular = sorted(items, key=lambda item: (chosen[item], item))
    opposite = dict(zip(popular, reversed(popular), strict=True))
    _change(model / "vocabulary.json", items=[padding, *(opposite[item] for item in items)])


def _chosen(candidates: Place) -> Counter[str]:
    """Count how often shoppers chose each item."""
    with at_hand(candidates) as lists:
        return Counter(pq.read_table(lists / "user_history", columns=["item_id"], partitioning=None)["item_id"].to_pylist())


@contextmanager
def upside_down_candidates(candidates: Place) -> Iterator[str]:
    """Give candidates that name the shop's least popular items wherever the good ones name the most popular, and only a few: a wrong order, then a cut.

    Args:
        candidates: the folder of the good ones.

    Yields:
        The id of the bad candidates, which are gone afterwards.
    """
    with _changed(candidates, "upside-down", _turn_over) as bad:
        yield bad


def _turn_over(bad: Path) -> None:
    lists = {name: pq.read_table(bad / name, partitioning=None, filters=[("position", "<=", _FEW)]) for name in _SHOWN}
    chosen = _chosen(bad)
    items = sorted({item for name, table in lists.items() for item in table[_SHOWN[name]].to_pylist()}, key=lambda item: (chosen[item], item))
    opposite = pa.array(items[::-1])
    for name, table in lists.items():
        places = pc.index_in(table[_SHOWN[name]], value_set=pa.array(items))
        shutil.rmtree(bad / name)
        (bad / name).mkdir()
        turned = table.set_column(table.column_names.index(_SHOWN[name]), _SHOWN[name], opposite.take(places.combine_chunks()))
        pq.write_table(turned, bad / name / "part-0.parquet")


@contextmanager
def _changed(folder: Place, suffix: str, change: Callable[[Path], None]) -> Iterator[str]:
    """Put a changed copy of a folder beside it, which is gone afterwards; yield its name."""
    name = f"{folder.name}-{suffix}"
    with tempfile.TemporaryDirectory(prefix="evershelf-") as temporary:
        copied = Path(temporary, name)
        fetch(folder, copied)
        change(copied)
        publish(copied, folder.with_name(name))
    try:
        yield name
    finally:
        remove(folder.with_name(name))


def _change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))
