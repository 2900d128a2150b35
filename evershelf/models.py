"""Where trained models lie, and which of them are blessed."""

from typing import Any

import msgspec

from evershelf.contracts.model import OWN_RANKER
from evershelf.errors import StorageError
from evershelf.settings import load_settings
from evershelf.storage import ASIDE, Place, at


def models_folder() -> Place:
    return at(load_settings().url("models"))


def model_folder(model_id: str) -> Place:
    """Return the folder of a finished model.

    Raises:
        StorageError: there is none of that name.
    """
    folder = models_folder() / model_id
    if not (folder / "evaluation.json").is_file():
        raise StorageError(f"There is no model {model_id} in {models_folder()}. Nothing was changed; `evershelf train` makes one.")
    return folder


def read_evaluation(model_id: str) -> dict[str, Any]:
    evaluation: dict[str, Any] = msgspec.json.decode((model_folder(model_id) / "evaluation.json").read_bytes())
    return evaluation


def own_ranker(folder: Place) -> dict[str, str] | None:
    """Return what evershelf/contracts/model.py says of a ranker that a shop brought; None for a model that ranks by itself, or is not finished."""
    file = folder / "lineage.json"
    found: dict[str, str] | None = msgspec.json.decode(file.read_bytes()).get(OWN_RANKER) if file.is_file() else None
    return found


def torn(folder: Place, items: int, vectors: int) -> str:
    """Return that a model's vocabulary and its item vectors are not of one training, as a sentence; '' when they can be."""
    known = f"The vocabulary of model {folder.name} names {items} items, and it has {vectors} item vectors"
    return "" if items == vectors else f"{known}: they are not of one training."


def finished_models() -> list[str]:
    """Return the ids of all finished models, newest data first; of the same data, the one that was trained last comes first."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    found = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(ASIDE) and (child / "evaluation.json").is_file()]
    return [child.name for child in sorted(found, key=lambda child: (child.name[:10], _trained_at(child)), reverse=True)]


def _trained_at(folder: Place) -> float:
    """Return seconds since 1970. A folder's own time changes when a shopper is taken out of it; it counts for models of before `trained_at` was written."""
    at: float = msgspec.json.decode((folder / "evaluation.json").read_bytes()).get("trained_at", folder.stat().st_mtime)
    return at


def newest_blessed() -> str | None:
    """Return the id of the newest blessed model, if there is one."""
    return next((model_id for model_id in finished_models() if read_evaluation(model_id)["blessed"]), None)
