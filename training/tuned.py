"""The recorded decision which parameters and which text encoder a training takes where the settings say nothing: `tuned.json` beside the models."""

from typing import Any

import msgspec
from pydantic import ValidationError

from evershelf.errors import in_one_line
from evershelf.models import models_folder
from evershelf.settings import TrainingSettings
from evershelf.storage import replace
from training.errors import UnusableData

TUNED = "tuned.json"
TEXT_ENCODER = "text_encoder"  # in a decision: {"name": folder below the models, …} and how it came about


def decide(found: dict[str, Any]) -> None:
    """Record a decision; `parameters` count from the next training on. The encoder that was decided for stays unless another one is named.

    Args:
        found: {"parameters": {name: value}, …} and how it came about.
    """
    kept = {name: value for name, value in (decision() or {}).items() if name == TEXT_ENCODER}
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / TUNED, msgspec.json.format(msgspec.json.encode(kept | found)))


def decision() -> dict[str, Any] | None:
    """Return the newest decision, if there is one."""
    file = models_folder() / TUNED
    found: dict[str, Any] | None = msgspec.json.decode(file.read_bytes()) if file.is_file() else None
    return found


def text_encoder() -> str | None:
    """Return the folder, below the models, of the fine-tuned encoder that was decided for, if one was."""
    found = (decision() or {}).get(TEXT_ENCODER)
    name: str | None = found["name"] if found else None
    return name


def with_tuned(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings with what was decided wherever they say nothing themselves.

    Raises:
        UnusableData: the decision cannot be read, or no training can take it.
    """
    try:
        found = decision()
        if found is None:
            return settings
        text_encoder()  # what cannot be read there is no decision either
        known = {name: value for name, value in found["parameters"].items() if name not in settings.model_fields_set}
        return TrainingSettings.model_validate(settings.model_dump() | known)
    except (ValidationError, msgspec.DecodeError, KeyError, AttributeError, TypeError) as error:
        raise UnusableData(
            f"{models_folder() / TUNED} is no decision that a training can take: {in_one_line(error)}. Nothing was trained and what is live stays live. "
            "Delete it to train with the settings alone, or run `evershelf tune`."
        ) from None
