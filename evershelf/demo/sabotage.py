"""Release candidates that are bad in ways that no checksum and no golden query can see; each is made from good parts by the real `build_snapshot`."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# the columns of each list that name what is shown
_SHOWN = {"user_candidates": "item_id", "item_candidates": "neighbor_id", "query_candidates": "item_id", "popular_items": "item_id"}

_FEW = 10  # items in a broken list: as many as an answer shows


@contextmanager
def mixed_up_model(candidates: Path, models: Path) -> Iterator[str]:
    """Give candidates whose model has a vocabulary that is not its own, so that it scores each item as another one; its golden queries hold numbers and agree.

    Args:
        candidates: the folder of the good ones.
        models: where models are.

    Yields:
        The id of the bad candidates, which are gone afterwards.
    """
    good = json.loads((candidates / "lineage.json").read_bytes())["model_id"]
    with _copy(candidates, "mixed-up") as bad, _copy(models / good, "mixed-up") as model:
        _change(bad / "lineage.json", model_id=model.name)
        padding, *items = json.loads((model / "vocabulary.json").read_bytes())["items"]
        random.Random(7).shuffle(items)
        _change(model / "vocabulary.json", items=[padding, *items])
        yield bad.name


@contextmanager
def upside_down_candidates(candidates: Path) -> Iterator[str]:
    """Give candidates that name the shop's least popular items wherever the good ones name the most popular, and only a few: a wrong order, then a cut.

    Args:
        candidates: the folder of the good ones.

    Yields:
        The id of the bad candidates, which are gone afterwards.
    """
    with _copy(candidates, "upside-down") as bad:
        lists = {name: pq.read_table(bad / name, partitioning=None, filters=[("position", "<=", _FEW)]) for name in _SHOWN}
        chosen = Counter(pq.read_table(bad / "user_history", columns=["item_id"], partitioning=None)["item_id"].to_pylist())
        items = sorted({item for name, table in lists.items() for item in table[_SHOWN[name]].to_pylist()}, key=lambda item: (chosen[item], item))
        opposite = pa.array(items[::-1])
        for name, table in lists.items():
            places = pc.index_in(table[_SHOWN[name]], value_set=pa.array(items))
            shutil.rmtree(bad / name)
            (bad / name).mkdir()
            turned = table.set_column(table.column_names.index(_SHOWN[name]), _SHOWN[name], opposite.take(places.combine_chunks()))
            pq.write_table(turned, bad / name / "part-0.parquet")
        yield bad.name


@contextmanager
def _copy(folder: Path, suffix: str) -> Iterator[Path]:
    copied = folder.with_name(f"{folder.name}-{suffix}")
    shutil.copytree(folder, copied)
    try:
        yield copied
    finally:
        shutil.rmtree(copied, ignore_errors=True)


def _change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))
