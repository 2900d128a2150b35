"""The text encoder learns the shop's own words: from what shoppers chose after they searched, when there is enough of it.

It learns from clicks before the time split, of queries that several shoppers asked; a fifth of the queries (`search_clicks.held_out`) chooses the step and
teaches the weights of hybrid search; searches after the split decide. The encoder begins with the published weights each time, so that it knows nothing of
clicks that are gone. It is in force from the next training on only where the hybrid answer is shown to be better than with the encoder in force.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from evershelf import hybrid
from evershelf.models import models_folder
from evershelf.progress import Say
from evershelf.settings import Settings
from evershelf.storage import glob, publish, remove
from evershelf.text_encoder import TOKENIZER
from training import contrastive, ranking, search_clicks, search_ranking, text_encoder, tuned
from training.alone import alone
from training.contrastive import Pairs
from training.data import Shop, read_shop
from training.search_clicks import Searches
from training.text_encoder import Encoder

LEAST_SHOPPERS = 2  # with an account, of a query: what only one ever asked is theirs
LEAST_PAIRS, LEAST_QUERIES = 1_000, 100  # to learn from
LEAST_CHOOSING, LEAST_MEASURED = 20, 50  # queries that choose the step, and that decide
FOLDER = "text_encoders"  # beside the models
MEANING = tuple(float(fit == "meaning") for fit in hybrid.FITS)


def fine_tune(settings: Settings, *, minutes: float, say: Say) -> dict[str, Any]:
    """Learn, compare with the encoder in force, and record which of the two is in force from now on.

    Args:
        minutes: after which learning ends; measuring takes some more.

    Returns:
        What `--json` prints.

    Raises:
        TrainingError: the encoder in force cannot be read, the loss is not a number, or the same command runs already.
    """
    current = tuned.with_tuned(settings.training)
    if current.text_encoder:
        return _unchanged("training.text_encoder is set, and settings win: remove it and run this again")
    if not settings.by_meaning:
        return _unchanged("nothing is searched for by meaning here; set search.by_meaning and run this again")
    in_force = text_encoder.in_force(current)
    shop = read_shop(current)
    searches = search_clicks.read_searches(shop, current.seed)
    learning, choosing = pairs(shop, searches, held_out=False), pairs(shop, searches, held_out=True)
    counts = {
        "pairs of a query and an item to learn from": (len(learning.query), LEAST_PAIRS),
        "queries to learn from": (len(np.unique(learning.query)), LEAST_QUERIES),
        "other queries to choose by": (len(np.unique(choosing.query)), LEAST_CHOOSING),
        "queries after the split to decide by": (len(searches.after), LEAST_MEASURED),
    }
    if few := [f"{count} {what}, {least} are needed" for what, (count, least) in counts.items() if count < least]:
        return _unchanged(f"there is not enough to learn from: {'; '.join(few)}")
    work = settings.home / "training" / "fine-tuning"
    with alone(work, "fine-tune"):
        made = work / "encoder"
        made.mkdir()
        backbone, tokenizer = text_encoder.load(text_encoder.published())
        before, best = contrastive.learn(backbone, tokenizer, learning, choosing, minutes=minutes, seed=current.seed, say=say)
        learned: dict[str, Any] = {
            "pairs": len(learning.query),
            "queries": counts["queries to learn from"][0],
            "chosen_by_MRR": [round(before, 5), round(best, 5)],
        }
        if best <= before:
            found = _unchanged("the queries held out were found no better after any step") | learned
        else:
            backbone.save_to_preset(str(made))
            shutil.copyfile(text_encoder.published() / TOKENIZER, made / TOKENIZER)
            found = _compared(settings, searches, made, in_force, {learning.queries[one] for one in learning.query}, say) | learned
            found |= decide(found["hybrid"]["better_by"], made, found | {"data_as_of": str(shop.data_as_of), "tables": shop.versions})
    return found


def pairs(shop: Shop, searches: Searches, *, held_out: bool) -> Pairs:
    """Return which texts were chosen before the split after queries that several shoppers asked; of those held out, or of the others."""
    texts, text = np.unique(np.array(searches.embedded, np.object_), return_inverse=True)
    rows = (shop.query > 0) & (searches.item >= 0) & (shop.time < shop.split)
    query, item, shopper = shop.query[rows].astype(np.int64), text[searches.item[rows]], shop.shopper[rows]
    named = shop.known[shopper]  # a guest may be the same person in every visit
    asked_by = np.bincount(np.unique(np.column_stack([query, shopper])[named], axis=0)[:, 0], minlength=len(shop.queries))
    usable = np.array([search_clicks.held_out(one) is held_out for one in shop.queries]) & (asked_by >= LEAST_SHOPPERS)
    query, item = np.unique(np.column_stack([query, item])[usable[query] & (texts[item] != "")], axis=0).T
    return Pairs(queries=shop.queries, items=texts.tolist(), query=query, item=item)


def decide(better_by: list[float], made: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Record the encoder as the one in force from now on if it is shown to be better; return whether, and why.

    Args:
        better_by: `ranking.difference` of the hybrid answers.
        made: its folder; it is moved to the models.
        found: how it came about.
    """
    if better_by[1] <= 0:
        return _unchanged("the fine-tuned encoder is NOT shown to be better than the one in force on searches after the split")
    why = "the fine-tuned encoder is shown to be better than the one in force on searches after the split"
    folder = models_folder() / FOLDER
    for left in glob(folder, "*"):
        if f"{FOLDER}/{left.name}" != tuned.text_encoder():  # not in force for long, or of one that was killed
            remove(left)
    name = text_encoder.fingerprint(made)
    publish(made, folder / name)
    verdict = {"changed": True, "why": why, "name": f"{FOLDER}/{name}"}
    decided = found | verdict | {"decided_at": datetime.now(UTC).isoformat(timespec="seconds")}
    tuned.decide((tuned.decision() or {"parameters": {}}) | {tuned.TEXT_ENCODER: decided})
    return verdict


def _unchanged(why: str) -> dict[str, Any]:
    return {"changed": False, "why": why}


def _compared(settings: Settings, searches: Searches, made: Path, in_force: Encoder, learned: set[str], say: Say) -> dict[str, Any]:
    """Return NDCG@10 after the split with either encoder: by meaning alone, by all fits, and by all fits of queries that it has not learned."""
    encoders, gains = {"fine_tuned": Encoder(text_encoder.converted(made, made.parent), made.name), "in_force": in_force}, {}
    for name, encoder in encoders.items():
        say(f"measure the encoder {name.replace('_', ' ')}")
        before, after = search_clicks.asked(searches, encoder, made.parent / name, settings.search.language, say)
        weights = {"meaning": MEANING, "hybrid": search_ranking.learn(search_clicks.found(before), settings.training.seed)}
        gains[name] = {how: np.array([one.ndcg(hybrid.scores(one.fits, by), judged_only=False) for one in after]) for how, by in weights.items()}
    new = np.array([query not in learned for query, *_ in searches.after])
    everything = np.ones_like(new)
    report: dict[str, Any] = {"queries_measured": len(new), "new_queries": int(new.sum())}
    for what, how, part in (("meaning", "meaning", everything), ("hybrid", "hybrid", everything), ("hybrid_new_queries", "hybrid", new)):
        if part.any():
            ours, theirs = (gains[name][how][part] for name in ("fine_tuned", "in_force"))
            better_by = ranking.difference(ours, theirs, np.arange(len(ours)), settings.training.seed)
            report[what] = {"fine_tuned": round(float(ours.mean()), 5), "in_force": round(float(theirs.mean()), 5), "better_by": better_by}
    return report
