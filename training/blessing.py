"""Whether a model may be served: good enough by itself, and no worse than the last one that was."""

from typing import Any

import msgspec

from evershelf.models import model_folder
from evershelf.settings import CandidateSettings, TrainingSettings
from evershelf.storage import Place, at_hand
from training.data import Shop
from training.evaluation import evaluate

METRIC = "NDCG@10"


def bless(evaluation: dict[str, Any], stable: dict[str, Any] | str, settings: TrainingSettings) -> tuple[bool, list[str]]:
    """Return whether the model is blessed, and every reason in words.

    Args:
        evaluation: of the new model.
        stable: evaluation of the last blessed model on the same events, or why there is none to compare with.
    """
    reasons, passes = [], True
    if not evaluation["events"]:
        return False, ["refused: the validation days have no event to measure on"]
    ours, popular = evaluation["metrics"][METRIC], evaluation["baselines"]["popular"][METRIC]
    wanted = settings.min_ndcg_over_popular * popular
    passes &= ours > wanted
    reasons.append(
        f"{METRIC} {ours:.4f} is {'above' if ours > wanted else 'NOT above'} {settings.min_ndcg_over_popular:g} times the popular list's {popular:.4f}"
    )
    if isinstance(stable, str):
        reasons.append(f"not compared with a blessed model: {stable}")
    else:
        theirs = stable["metrics"][METRIC]
        floor = theirs * (1 - settings.max_loss_to_stable)
        passes &= ours >= floor
        share = f"{settings.max_loss_to_stable:.0%}"
        reasons.append(
            f"{METRIC} {ours:.4f} is {'no more than' if ours >= floor else 'MORE than'} {share} below {theirs:.4f} of {stable['model_id']} on the same events"
        )
    return passes, reasons


def last_blessed(model_id: str | None, shop: Shop, settings: TrainingSettings, candidates: CandidateSettings) -> dict[str, Any] | str:
    """Measure the last blessed model on the new model's events, or say why that cannot be compared."""
    if model_id is None:
        return "there is none yet"
    stored = model_folder(model_id)
    trained_until = trained_before(stored)
    if trained_until > shop.split:
        return f"{model_id} has learned from the days that would measure it"
    with at_hand(stored) as folder:
        return evaluate(folder, shop, seed=settings.seed, candidates=candidates) | {"model_id": model_id}


def trained_before(folder: Place) -> float:
    """Return the instant (days since 1970) from which on a model has learned nothing."""
    return float(msgspec.json.decode((folder / "lineage.json").read_bytes())["trained_before"])
