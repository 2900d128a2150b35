"""Where a training begins: from nothing, from the newest model of this shop (the new days are enough then), or from a model of another shop.

What the model knows by name is carried over name by name: items, words, categories, brands. What is new begins as it would from nothing. Everything else, such
as the attention, is taken as it was. Another shop's items are not ours, even where the ids are the same.

Sources: Ash and Adams, "On warm-starting neural network training", NeurIPS 2020 (what is lost by it, hence the full trainings in between); Rebuffi et al.,
"iCaRL", CVPR 2017 (repeating some of what was learned before, so that it is not forgotten).
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.errors import in_one_line
from evershelf.models import finished_models, model_folder, models_folder, own_ranker, read_evaluation
from evershelf.settings import TrainingSettings
from evershelf.storage import Place
from training.data import Shop, Windows
from training.errors import UnusableData
from training.examples import Examples
from training.vocabulary import ItemFeatures, Vocabulary, lookup

WEIGHTS = "weights.npz"  # in a model's folder
START = "start.npz"  # in the folder of a training that runs
NAMES = ("items", "words", "categories", "brands")  # lists of a vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A model that a training begins with.

    Attributes:
        weights: checksum of its weights.
        same_shop: its items are ours.
        since: only what happened from then on (days since 1970) is learned, beside what is repeated; None: everything.
        generation: how many trainings in a row have gone on from the one before, this one included; 0 when everything is learned.
    """

    model_id: str
    weights: str
    same_shop: bool
    since: float | None
    generation: int

    def lineage(self) -> dict[str, Any]:
        return asdict(self)


Chosen = tuple[Start, Place]  # and the model's folder


def choose(parameters: TrainingSettings, shop: Shop, adapter: str) -> tuple[Chosen | None, str]:
    """Return the model of an earlier day that a training goes on from, and in words why that one, or why none.

    It is the newest one there is that was trained. When it was refused, or has gone on from others so often that a check is due, the training begins from
    nothing.
    """
    if not parameters.warm_start:
        return None, "training.warm_start is off"
    before = (name for name in finished_models() if name[:10] < shop.data_as_of.isoformat())
    name = next((name for name in before if not own_ranker(model_folder(name))), None)  # a ranker that was brought says nothing of its base
    if name is None:
        return None, "there is no model of an earlier day"
    folder = model_folder(name)
    if not read_evaluation(name)["blessed"]:
        return None, f"{name}, the newest one before it, was refused"
    if not (folder / WEIGHTS).is_file():
        return None, f"{name} keeps no {WEIGHTS}"
    about = _lineage(folder)
    generation = about["start"]["generation"] + 1 if about["start"] else 1
    if about["shop"] != adapter:
        return None, f"{name} was trained on the shop {about['shop']}"
    if generation >= parameters.full_every:
        return None, f"one training in {parameters.full_every} is a full one, and {name} ends {generation - 1} in a row that were not"
    if about["trained_before"] >= shop.split:
        return None, f"{name} has learned from all days before the split already"
    content = (folder / WEIGHTS).read_bytes()
    if other := _differs(content, parameters):
        return None, f"{name} {other}"
    start = Start(model_id=name, weights=_checksum(content), same_shop=True, since=about["trained_before"], generation=generation)
    return (start, folder), f"goes on from {name}, with what happened since {np.datetime64(int(about['trained_before']), 'D')}"


def named(model: str, parameters: TrainingSettings, shop: Shop, adapter: str) -> Chosen:
    """Return the start from a model that somebody names: one of ours by its id, or a folder with a model of another shop. Everything is learned.

    Raises:
        UnusableData: there is no such model, or one that is built otherwise, or one that has learned from the days that would measure what begins with it.
    """
    ours = model in finished_models()
    folder = models_folder() / model if ours else Path(model)
    if not (folder / WEIGHTS).is_file() or not (folder / "vocabulary.json").is_file():
        raise UnusableData(f"{folder} is no model that a training can start from: it needs {WEIGHTS} and vocabulary.json. Nothing was trained.")
    content = (folder / WEIGHTS).read_bytes()
    if other := _differs(content, parameters):
        raise UnusableData(
            f"{folder} {other}. Nothing was trained and what is live stays live; name another one, or set training.width, blocks and heads as it was trained."
        )
    about = _lineage(folder) if ours else {}
    same_shop = about.get("shop") == adapter
    if same_shop and about["trained_before"] > shop.split:
        raise UnusableData(
            f"{model} has learned from the days from {np.datetime64(int(shop.split), 'D')} on, which would measure the new model. Nothing was trained and what "
            "is live stays live; name a model of an earlier day."
        )
    return Start(model_id=folder.name, weights=_checksum(content), same_shop=same_shop, since=None, generation=0), folder


def again(about: dict[str, Any]) -> Chosen | None:
    """Return the start that a lineage tells of; None when it began from nothing.

    Raises:
        UnusableData: its weights are no longer there.
    """
    if about.get("start") is None:  # models of before its time say nothing of it
        return None
    start = Start(**about["start"])
    folder = models_folder() / start.model_id
    if not (folder / WEIGHTS).is_file() or _checksum((folder / WEIGHTS).read_bytes()) != start.weights:
        raise UnusableData(f"it began with the weights of {start.model_id}, which are not in {models_folder()}")
    return start, folder


def keep(model: Any, features: ItemFeatures, folder: Path) -> None:
    """Write what a later training can start from: every trained parameter, and which items have a history."""
    arrays: dict[str, npt.NDArray[Any]] = {f"v{index}": variable.numpy() for index, variable in enumerate(model.trainable_variables)}
    np.savez(folder / WEIGHTS, names=np.array(_layout(model)), seen=features.seen > 0, **arrays)  # type: ignore[arg-type]  # as in Examples.save()


def narrowed(parameters: TrainingSettings, prepared: Examples, shop: Shop, start: Start) -> tuple[TrainingSettings, Examples]:
    """Return how, and from what, a training learns that goes on from another one: from the new days, and a share of what was there before."""
    if start.since is None:
        return parameters, prepared
    random = np.random.default_rng((parameters.seed, int(start.since)))
    day = shop.orders.day[shop.orders.day < shop.split]
    lines = (day >= start.since) | (random.random(len(day)) < parameters.replay)
    examples = replace(
        prepared,
        train=_since(prepared.train, shop.time, start.since, parameters.replay, random),
        order_item=prepared.order_item[lines],
        order_quantity=prepared.order_quantity[lines],
        order_price=prepared.order_price[lines],
        order_label=prepared.order_label[lines],
    )
    return parameters.model_copy(update={"epochs": parameters.warm_epochs}), examples


def _since(windows: Windows, time: npt.NDArray[np.float64], since: float, share: float, random: np.random.Generator) -> Windows:
    """Return windows that foretell what happened since an instant, with what was before as context; and a share of those that foretell what was before."""
    old = np.append(0, np.cumsum(time < since))
    border = windows.begin + old[windows.end] - old[windows.begin]  # within a window, time rises
    target = np.maximum(windows.target, border)
    new = np.flatnonzero(target < windows.end)
    end = np.minimum(windows.end, border)
    repeated = np.flatnonzero((windows.target < end) & (random.random(len(end)) < share))
    return Windows(
        begin=windows.begin[np.append(new, repeated)],
        target=np.append(target[new], windows.target[repeated]),
        end=np.append(windows.end[new], end[repeated]),
    )


def prepare(chosen: Chosen, words: Vocabulary, path: Path) -> None:
    """Write for the ranks what a model begins with: its old weights, and the old number of each name, -1 where it has none."""
    start, folder = chosen
    before = Vocabulary(**msgspec.json.decode((folder / "vocabulary.json").read_bytes(), type=dict[str, list[str]]))
    with np.load(io.BytesIO((folder / WEIGHTS).read_bytes())) as file:
        weights = {name: file[name] for name in file.files if name.startswith("v")}
        seen = file["seen"]
    numbers = {name: lookup(getattr(words, name), getattr(before, name)) for name in NAMES}
    for found in numbers.values():
        found[1:][found[1:] == 0] = -1  # 0 is padding, or not known, in both
    items = numbers["items"]
    items[~seen[items] | (not start.same_shop)] = -1  # an id that nobody had met has learned nothing
    np.savez(path, **weights, **numbers)  # type: ignore[arg-type]


def begin(model: Any, path: Path) -> None:
    """Give a model the weights that `prepare` wrote."""
    with np.load(path) as file:
        for index, (variable, name, axis) in enumerate(_parameters(model)):
            value = file[f"v{index}"]
            if name:
                number, fresh = file[name], np.moveaxis(variable.numpy().copy(), axis, 0)
                fresh[number >= 0] = np.moveaxis(value, axis, 0)[number[number >= 0]]
                value = np.moveaxis(fresh, 0, axis)
            variable.assign(value)


def _parameters(model: Any) -> Iterator[tuple[Any, str, int]]:
    """Yield each trained parameter, with the names that its rows along an axis stand for; '' when they have none."""
    head = model.category_head
    by_name = [(model.id_table, "items", 0), (model.bias, "items", 0), (model.word_table, "words", 0), (model.category_table, "categories", 0)]
    by_name += [(model.brand_table, "brands", 0), (head.kernel, "categories", 1), (head.bias, "categories", 0)]
    for variable in model.trainable_variables:
        yield next(((variable, name, axis) for one, name, axis in by_name if one is variable), (variable, "", 0))


def _layout(model: Any) -> list[str]:
    """Return what each parameter is and how large, without what hangs on a shop's names. Keras numbers layers through a process; those numbers are left out."""
    found = []
    for variable, name, axis in _parameters(model):
        shape = ["·" if name and place == axis else str(size) for place, size in enumerate(variable.shape)]
        found.append(f"{re.sub(r'_[0-9]+(?=/|$)', '', variable.path)} {name} {'x'.join(shape)}")
    return found


def _differs(weights: bytes, parameters: TrainingSettings) -> str:
    """Return how weights differ from those of a model as it would be built now, or that they are damaged; '' when they fit."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets at length
    from training.model import Ranker, Shape

    nothing, none = np.zeros(1, np.int32), np.zeros(1, np.float32)
    rows = nothing[:, None]
    features = ItemFeatures(categories=rows, brand=nothing, price=nothing, words=rows, category=nothing, seen=none, log_popularity=none, brands=1)
    shape = Shape(width=parameters.width, blocks=parameters.blocks, heads=parameters.heads, dropout=parameters.dropout, words=1, categories=1)
    expected = _layout(Ranker(shape, features))
    try:
        with np.load(io.BytesIO(weights)) as file:
            found = {name: file[name] for name in file.files}["names"].tolist()  # all of it: each array has a checksum
    except (BadZipFile, EOFError, KeyError, OSError, RuntimeError, ValueError) as error:
        return f"keeps a {WEIGHTS} that cannot be read ({in_one_line(error)})"
    unlike = [f"{theirs} is {ours} now" for theirs, ours in zip(found, expected, strict=False) if theirs != ours]
    if unlike or len(found) != len(expected):
        return f"is built otherwise ({unlike[0] if unlike else f'{len(found)} parameters, not {len(expected)}'})"
    return ""


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _lineage(folder: Place) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((folder / "lineage.json").read_bytes())
    return found
