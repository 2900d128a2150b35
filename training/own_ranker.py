"""A shop's own ranker, in ONNX: its base model with that ranker in the place of the base's, held to the same agreement, evaluation and blessing as a training.

The shop scores the base's golden requests in its own framework; the file must give those scores. Nothing is published before it does.
"""

import hashlib
import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import OWN_RANKER, RANKED_CANDIDATES, RANKERS
from evershelf.errors import in_one_line
from evershelf.golden import Golden, difference, read_golden
from evershelf.models import model_folder, models_folder, newest_blessed, own_ranker
from evershelf.progress import Say
from evershelf.ranker import ON_CPU, Ranker, open_ranker, ranker_in
from evershelf.settings import Settings
from evershelf.storage import ASIDE, Place, fetch, publish
from evershelf.version import code_version
from training.errors import RankerRefused
from training.rankers import race

MOST_OF_DEADLINE = 0.1  # share of gateway.deadline that ranking may take: it holds up all other requests of a gateway meanwhile
LOWEST = np.finfo(np.float32).min
NOTHING = "Nothing was brought and what is live stays live."

Inputs = dict[str, npt.NDArray[Any]]


def base_of(model_id: str | None) -> Place:
    """Return the folder of the model that a ranker is brought for; default: the newest blessed one. Of one whose ranker was brought, the base is the same.

    Raises:
        RankerRefused: there is no blessed model.
        StorageError: there is no model of that name.
    """
    name = model_id or newest_blessed()
    if name is None:
        raise RankerRefused(f"There is no blessed model whose items a ranker could rank. {NOTHING} Train one with `evershelf train`, or name one with --model.")
    own = own_ranker(model_folder(name))
    return model_folder(own["base"]) if own else model_folder(name)


def questions(base: Place) -> dict[str, Any]:
    """Return the golden requests of a model without their scores, for the shop to score: {"requests": [{"inputs": {name: [length]}}]}."""
    return {"requests": [{"inputs": request["inputs"]} for request in msgspec.json.decode(_read(base / "golden.json"))["requests"]]}


def bring(settings: Settings, file: Path, golden_file: Path, base: Place, say: Say) -> str:
    """Check, measure, bless or refuse, and publish a ranker as a new model; return its id, which the same file and base give again.

    Args:
        golden_file: `questions(base)` with "scores", [RANKED_CANDIDATES], beside the inputs of each.

    Raises:
        RankerRefused: it does not agree, cannot be run, or is too slow.
        NotEnoughData: the base has learned from the days that would measure it.
    """
    from training import blessing, data, evaluation

    content = _read(file)
    digest = hashlib.sha256(content).hexdigest()
    model_id = f"{base.name[:10]}-{hashlib.sha256(json.dumps([base.name, digest, code_version()]).encode()).hexdigest()[:8]}"
    if (models_folder() / model_id).is_dir():
        say(f"{model_id} is brought already")
        return model_id
    golden = _answered(golden_file, base)
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=settings.home) as aside:
        folder = Path(aside, "model")
        fetch(base, folder)
        before = ranker_in(folder, ON_CPU)
        for name in RANKERS:
            (folder / name).unlink(missing_ok=True)
        (folder / "ranker.onnx").write_bytes(content)
        row = _agreement(_open(folder / "ranker.onnx", file), before, golden, settings, file) | {"megabytes": round(len(content) / 1e6, 3)}
        say(f"{file} gives the golden scores; {row['milliseconds']:.3f} ms for a request, {row['ratio']:.2f} times what {base.name} takes")
        _write(folder / "golden.json", {"requests": golden.requests})
        lineage = msgspec.json.decode((base / "lineage.json").read_bytes())
        own = {OWN_RANKER: {"base": base.name, "sha256": digest}, "code_version": code_version()}
        _write(folder / "lineage.json", lineage | own)
        shop = data.read_shop(settings.training)
        blessing.check_unseen(folder, base.name, shop, settings.training)
        measured = evaluation.evaluate(folder, shop, seed=settings.training.seed, candidates=settings.candidates)
        blessed, why = blessing.beside_newest(measured, shop, settings)
        kept = {name: value for name, value in msgspec.json.decode((base / "evaluation.json").read_bytes()).items() if name == "search"}
        about = {"rankers": [row], "blessed": blessed, "why": why, "model_id": model_id, "trained_at": round(time.time(), 3)}
        _write(folder / "evaluation.json", measured.report | kept | about)
        with suppress(FileExistsError):  # another process brought the same file meanwhile
            publish(folder, models_folder() / model_id)
    if blessed and (newest := newest_blessed()) != model_id:
        say(f"{newest} is newer: candidates and snapshots take that one. Bring the ranker for it, with its vocabulary, to use it")
    return model_id


def _agreement(ranker: Ranker, base: Ranker, golden: Golden, settings: Settings, file: Path) -> dict[str, Any]:
    """Return what stands of the ranker in evaluation.json, but for its size.

    Raises:
        RankerRefused: names the first thing that is wrong.
    """
    furthest = 0.0
    for number, request in enumerate(golden.requests, 1):
        inputs, wanted = request.arrays()
        try:
            scores, again = ranker.scores(inputs), ranker.scores(inputs)
        except ValueError as error:
            raise _refused(file, f"asked golden request {number}, it fails: {in_one_line(error)[:300]}") from None
        if problem := _problem(inputs["candidates"][0] > 0, scores, again, wanted):
            raise _refused(file, f"on golden request {number}, {problem}")
        furthest = max(furthest, float(np.abs(scores - wanted)[inputs["candidates"][0] > 0].max()))
    took = race({"own": ranker, "base": base}, golden.arrays()[0])
    most = settings.gateway.deadline.total_seconds() * 1000 * MOST_OF_DEADLINE
    if took["own"] > most:
        raise _refused(
            file,
            f"it takes {took['own']:.1f} ms for a request ({took['base']:.2f} of the base), more than {MOST_OF_DEADLINE:.0%} of gateway.deadline, {most:g} ms",
        )
    figures = {"milliseconds": round(took["own"], 4), "ratio": round(took["own"] / took["base"], 3), "largest_difference": furthest}
    return {"form": "ONNX", "precision": "own", **figures, "ndcg_lost": None, "agrees": True, "ships": True}


def _problem(known: npt.NDArray[np.bool_], scores: npt.NDArray[Any], again: npt.NDArray[Any], wanted: npt.NDArray[np.float32]) -> str:
    """Return what is wrong with a golden request's scores, which are asked for twice; '' when nothing is."""
    if scores.dtype != np.float32 or scores.shape != (RANKED_CANDIDATES,):
        return f"it gives {scores.dtype} of shape {scores.shape}, not float32 of shape {(RANKED_CANDIDATES,)}"
    if not np.isfinite(scores[known]).all():
        return "it gives candidates scores that are no numbers"
    if not (scores[~known] == LOWEST).all():
        return f"it gives padding (candidate 0) other scores than the lowest float, {LOWEST}"
    if not np.array_equal(scores, again):
        return "it gives other scores when it is asked twice"
    other = difference(scores, wanted)
    return f"it gives other scores than the golden ones: {other}" if other else ""


def _open(copy: Path, file: Path) -> Ranker:
    try:
        return open_ranker(copy, ON_CPU)
    except ValueError as error:
        raise _refused(file, in_one_line(error)[:500]) from None


def _answered(file: Path, base: Place) -> Golden:
    """Return the golden requests that the shop scored. They must be the base's: made of item numbers, not of anybody's history, and none left out.

    Raises:
        RankerRefused: they are not.
    """
    ours, theirs = _golden(base / "golden.json"), _golden(file)
    for number, request in enumerate(theirs.requests, 1):
        if len(request.scores) != RANKED_CANDIDATES:
            raise _refused(file, f"request {number} has {len(request.scores)} scores, not {RANKED_CANDIDATES}", "golden requests")
    same = len(ours.requests) == len(theirs.requests) and all(
        np.array_equal(array, other.arrays()[0][name])
        for one, other in zip(ours.requests, theirs.requests, strict=True)
        for name, array in one.arrays()[0].items()
    )
    if not same:
        raise _refused(file, f"they are not those of {base.name}; write those with --questions and score them, all and unchanged", "golden requests")
    return theirs


def _golden(file: Place) -> Golden:
    try:
        return read_golden(_read(file))
    except ValueError as error:
        raise _refused(file, f"{error}", "golden requests") from None


def _read(file: Place) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _refused(file, f"it cannot be read ({error.strerror})", "file") from None


def _refused(file: Place, why: str, what: str = "ranker") -> RankerRefused:
    return RankerRefused(f"The {what} in {file} {'are' if what.endswith('s') else 'is'} refused: {why}. {NOTHING}")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
