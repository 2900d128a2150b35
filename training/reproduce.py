"""Make a model again from its lineage, aside, and say whether it is the same one."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from deltalake.exceptions import DeltaError
from pydantic import ValidationError

from evershelf import snapshot
from evershelf.contracts.model import GOLDEN_TOLERANCE, OWN_RANKER
from evershelf.errors import StorageError, in_one_line
from evershelf.golden import read_golden
from evershelf.models import finished_models, models_folder
from evershelf.progress import Say
from evershelf.settings import Settings, TrainingSettings
from evershelf.storage import ASIDE, Place, at
from evershelf.version import code_version
from training import data
from training.data import Shop
from training.errors import CannotReproduce, UnusableData
from training.train import fit

METRIC_TOLERANCE = 1e-3  # scores that agree within GOLDEN_TOLERANCE may still order two near items the other way round
ADVICE = "Nothing was trained and what is live stays live."


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A finished model, or the one in a snapshot: `folder` holds its golden.json, evaluation.json and vocabulary.json."""

    model_id: str
    folder: Place
    lineage: dict[str, Any]

    @property
    def item_vectors(self) -> Place:
        """Only the model's own folder has them; a snapshot outlives it."""
        return models_folder() / self.model_id / "item_vectors.npy"


def find(settings: Settings, name: str) -> Original:
    """Return the model of that id, or of the snapshot of that id.

    Raises:
        CannotReproduce: there is neither.
        SnapshotDamaged: the snapshot is not as it was sealed, so nothing can be compared with it.
    """
    snapshots = at(settings.url("snapshots"))
    if name in snapshot.stored_snapshots(snapshots):
        manifest = snapshot.verify(snapshots / name)
        return Original(model_id=manifest.model_id, folder=snapshots / name, lineage=manifest.lineage["model"])
    if name in finished_models():
        folder = models_folder() / name
        return Original(model_id=name, folder=folder, lineage=_read(folder / "lineage.json"))
    raise CannotReproduce(
        f"There is no model {name} in {models_folder()} and no snapshot of that name in {snapshots}. {ADVICE} `evershelf snapshots` lists them."
    )


def reproduce(settings: Settings, name: str, say: Say) -> dict[str, Any]:
    """Train again what a lineage describes and compare it with the original; models/ is not touched.

    Returns:
        What `compare` found.

    Raises:
        CannotReproduce: there is no such model, or its lineage cannot be replayed.
        TrainingError: the training itself failed.
    """
    from training import evaluation, export, warm_start

    original = find(settings, name)
    parameters, shop = replay(settings, original)
    try:
        begins = warm_start.again(original.lineage)
    except UnusableData as error:
        raise CannotReproduce(f"Model {original.model_id} cannot be made again: {error}. {ADVICE}") from None
    (settings.home / "training").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=settings.home / "training") as aside:
        work, made = Path(aside, "work"), Path(aside, "model")
        work.mkdir()
        words, prepared = fit(original.model_id, parameters, shop, work, say, begins=begins)
        export.export_best(parameters, prepared, work, words, shop, made)
        return compare(original, made, evaluation.evaluate(made, shop, seed=parameters.seed, candidates=settings.candidates).report)


def replay(settings: Settings, original: Original) -> tuple[TrainingSettings, Shop]:
    """Return the parameters and the shop that a model was trained with.

    Raises:
        CannotReproduce: its ranker was brought, it is of another shop, a setting is no longer known, or a table does not have that version any more.
    """
    lineage, model_id = original.lineage, original.model_id
    if own := lineage.get(OWN_RANKER):
        raise CannotReproduce(f"The ranker of model {model_id} was not trained here but brought. {ADVICE} All else is that of {own['base']}: reproduce that.")
    if lineage["shop"] != settings.shop.adapter:
        raise CannotReproduce(
            f"Model {model_id} was trained on the shop {lineage['shop']}, this installation has {settings.shop.adapter}. {ADVICE} Do it where its lake is."
        )
    if (language := lineage.get("language", settings.search.language)) != settings.search.language:
        raise CannotReproduce(f"Model {model_id} read queries as {language}, search.language is {settings.search.language}. {ADVICE} Set it as it was.")
    ours = settings.training
    same = ours.hosts and ours.ranks == lineage["parameters"].get("ranks")  # where it ran says nothing of the model
    where = {"hosts": ours.hosts, "interface": ours.interface, "ssh_config": ours.ssh_config and str(ours.ssh_config)} if same else {}
    try:
        parameters = TrainingSettings.model_validate_json(msgspec.json.encode(lineage["parameters"] | where))
    except ValidationError as error:
        raise CannotReproduce(
            f"Model {model_id} was trained with settings that this version does not have ({error.errors()[0]['msg']}). {ADVICE} "
            f"Reproduce it with its own code, {lineage['code_version']}."
        ) from None
    try:
        return parameters, data.read_shop(parameters, lineage["tables"])
    except (StorageError, DeltaError, OSError) as error:
        tables = ", ".join(f"{table} {version}" for table, version in lineage["tables"].items())
        raise CannotReproduce(
            f"The lake does not have all that model {model_id} was trained on ({tables}) any more: a version was vacuumed, or a table was removed or made anew "
            f"({in_one_line(error)}). {ADVICE} Restore the lake's folder from a backup to reproduce it."
        ) from None


def compare(original: Original, made: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return how far a model made again is from the original.

    Args:
        made: its folder.
        found: its evaluation.

    Returns:
        `same`; `same_vocabulary`; `largest_score_difference` on the original's golden requests and `largest_vector_difference` over all items, None where
        they cannot be compared; `metrics` and `code_version`, each {"then", "now"}.
    """
    from training.exported import Exported

    vocabulary = _read(made / "vocabulary.json")  # may have lists that models did not have in the original's time
    same_vocabulary = all(vocabulary.get(name) == known for name, known in _read(original.folder / "vocabulary.json").items())
    scores = vectors = None
    if same_vocabulary:  # else the numbers in the golden requests are other items
        exported = Exported(made)
        inputs, wanted = read_golden((original.folder / "golden.json").read_bytes()).arrays()
        scores = _difference(exported.scores(inputs), wanted)
        if original.item_vectors.is_file():
            vectors = _difference(exported.item_vectors, np.load(io.BytesIO(original.item_vectors.read_bytes())))
    then, now = _read(original.folder / "evaluation.json")["metrics"], found["metrics"]
    close = then.keys() == now.keys() and all(abs(then[name] - now[name]) <= METRIC_TOLERANCE for name in then)
    return {
        "model_id": original.model_id,
        "same": same_vocabulary and close and scores is not None and scores <= GOLDEN_TOLERANCE and (vectors is None or vectors <= GOLDEN_TOLERANCE),
        "same_vocabulary": same_vocabulary,
        "largest_score_difference": scores,
        "largest_vector_difference": vectors,
        "metrics": {"then": then, "now": now},
        "code_version": {"then": original.lineage["code_version"], "now": code_version()},
    }


def _difference(now: Any, then: Any) -> float | None:
    return float(np.abs(now.astype(np.float64) - then).max()) if now.shape == then.shape else None


def _read(path: Place) -> Any:
    return msgspec.json.decode(path.read_bytes())
