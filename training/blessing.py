"""Whether a model may be served: good enough by itself, not a popular list in disguise, and no worse than the last one that was, in no part of the shop."""

import msgspec

from evershelf.errors import in_one_line
from evershelf.models import model_folder, newest_blessed, own_ranker
from evershelf.settings import CandidateSettings, Settings, TrainingSettings
from evershelf.storage import Place, at_hand
from training.data import Shop
from training.errors import NotEnoughData
from training.evaluation import Measured, evaluate
from training.ranking import bootstrap

METRIC = "NDCG@10"
FEWEST = 100  # events of a slice that is compared


def bless(new: Measured, stable: Measured | str, settings: TrainingSettings, stable_id: str = "") -> tuple[bool, list[str]]:
    """Return whether the model is blessed, and every reason in words.

    Args:
        stable: the last blessed model on the same events, or why there is none to compare with.
        stable_id: its name.
    """
    if not new.report["events"]:
        return False, ["refused: the validation days have no event to measure on"]
    verdicts = [_above_popular(new, settings), _not_only_popular(new, settings)]
    if isinstance(stable, str):
        verdicts.append((True, f"not compared with a blessed model: {stable}"))
    else:
        verdicts += [_overall(new, stable, settings, stable_id), *_by_slice(new, stable, settings, stable_id)]
    return all(passes for passes, _ in verdicts), [reason for _, reason in verdicts]


def _above_popular(new: Measured, settings: TrainingSettings) -> tuple[bool, str]:
    ours, popular = new.report["metrics"][METRIC], new.report["baselines"]["popular"][METRIC]
    passes = ours > settings.min_ndcg_over_popular * popular
    return passes, f"{METRIC} {ours:.4f} is {'above' if passes else 'NOT above'} {settings.min_ndcg_over_popular:g} times the popular list's {popular:.4f}"


def _not_only_popular(new: Measured, settings: TrainingSettings) -> tuple[bool, str]:
    share = new.report["like_popular"]
    passes = share <= settings.max_like_popular
    what = f"{share:.0%} of what it shows is on the popular list too"
    return passes, what if passes else f"COLLAPSED to popularity: {what}, more than {settings.max_like_popular:.0%}"


def _overall(new: Measured, stable: Measured, settings: TrainingSettings, stable_id: str) -> tuple[bool, str]:
    ours, theirs = new.report["metrics"][METRIC], stable.report["metrics"][METRIC]
    passes = ours >= theirs * (1 - settings.max_loss_to_stable)
    low, high = bootstrap(new.gain - stable.gain, new.owners, settings.seed)
    return passes, (
        f"{METRIC} {ours:.4f} is {'no more than' if passes else 'MORE than'} {settings.max_loss_to_stable:.0%} below {theirs:.4f} of {stable_id} on the same "
        f"events (difference {low:+.4f} to {high:+.4f}, 95 %)"
    )


def _by_slice(new: Measured, stable: Measured, settings: TrainingSettings, stable_id: str) -> list[tuple[bool, str]]:
    """A slice stops a model only when it is shown to be worse there: with few events, the difference alone says little."""
    verdicts, share = [], f"{settings.max_loss_to_stable:.0%}"
    compared = {name: part for name, part in new.slices.items() if part.sum() >= FEWEST}
    for name, part in compared.items():
        margin = settings.max_loss_to_stable * float(stable.gain[part].mean())
        low, high = bootstrap((new.gain - stable.gain)[part], new.owners[part], settings.seed)
        if high < -margin:
            verdicts.append((False, f"slice {name} ({int(part.sum())} events): {METRIC} is MORE than {share} below {stable_id} ({low:+.4f} to {high:+.4f})"))
    return verdicts or [(True, f"in none of {len(compared)} slices shown to be more than {share} below {stable_id}")]


def beside_newest(new: Measured, shop: Shop, settings: Settings) -> tuple[bool, list[str]]:
    """Bless or refuse a model beside the newest blessed one; returns as `bless`."""
    newest = newest_blessed()
    return bless(new, last_blessed(newest, shop, settings.training, settings.candidates), settings.training, newest or "")


def last_blessed(model_id: str | None, shop: Shop, settings: TrainingSettings, candidates: CandidateSettings) -> Measured | str:
    """Measure the last blessed model on the new model's events, or say why that cannot be compared."""
    if model_id is None:
        return "there is none yet"
    stored = model_folder(model_id)
    trained_until = trained_before(stored)
    if trained_until > shop.split:
        return f"{model_id} has learned from the days that would measure it"
    with at_hand(stored) as folder:
        try:
            return evaluate(folder, shop, seed=settings.seed, candidates=candidates)
        except Exception as error:  # a shop's own ranker may fail in any way, on one history of thousands; that must not end every training from now on
            if not own_ranker(stored):
                raise
            return f"the ranker that was brought as {model_id} fails: {type(error).__name__}: {in_one_line(error)[:300]}"


def check_unseen(stored: Place, model_id: str, shop: Shop, settings: TrainingSettings) -> None:
    """Refuse a model that cannot be measured.

    Raises:
        NotEnoughData: it has learned from the validation days.
    """
    if trained_before(stored) > shop.split:
        raise NotEnoughData(
            f"Model {model_id} has learned from the last {settings.validation_days} days of the lake, so they cannot measure it. Nothing changed; "
            "publish newer days, lower training.validation_days, or train a new model."
        )


def trained_before(folder: Place) -> float:
    """Return the instant (days since 1970) from which on a model has learned nothing."""
    return float(msgspec.json.decode((folder / "lineage.json").read_bytes())["trained_before"])
