"""How good a model is: full-catalogue ranking of what shoppers chose next after the time split, beside the popular list and item-kNN in the same run.

A model is measured through its exported folder, so the same code measures the new one, the last blessed one, and any other. The shoppers who chose the epoch
are left out.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evershelf.contracts.candidates import FUSION, NEAR_WEIGHT, RECENT
from evershelf.contracts.model import RANKED_CANDIDATES
from evershelf.settings import CandidateSettings
from training import baselines, clicks, examples, slices
from training.baselines import Vectors
from training.data import ACTIONS, Bools, Floats, Ints, Shop
from training.examples import Sequences
from training.exported import BATCH, Exported, opened
from training.ranking import SHOWN, Ranks, intervals, ranks_of

EVENTS = 4000  # a seeded sample of so many validation events is ranked
PROTOCOL = (
    "Time split: trained before {split}, measured from then to {until}. Each event of the measured shoppers that chooses another item than the event before is "
    "foretold from the history up to it (query words are not given) by ranking the whole catalogue, the item just before left out{masked}; sample of at most "
    "{events} events; one shopper in {share} chose the epoch and is not measured. 95 % intervals: bootstrap over shoppers."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model on the shop's time split.

    report: metrics, intervals, baselines, slices, heads, quality per rung. gain: [events] NDCG@10 of each measured event. owners: [events] its shopper.
    slices: which events belong to each.
    """

    report: dict[str, Any]
    gain: Floats
    owners: Ints
    slices: dict[str, Bools]


def evaluate(folder: Path, shop: Shop, *, seed: int, candidates: CandidateSettings) -> Measured:
    """Measure a model folder."""
    started = time.monotonic()
    exported = opened(folder)
    count = len(exported.vocabulary.items)
    numbers = exported.vocabulary.numbers_of(shop)
    sequences = Sequences.of(shop, exported.vocabulary, until=np.inf)
    popular = baselines.popularity(shop, numbers, count)
    neighbors = baselines.neighbors(shop, numbers, count)

    choosing = examples.validation_rows(shop, selection=True, most=examples.SELECTION_EVENTS, seed=seed)
    mask_seen = _mask_helps(exported, sequences, choosing)
    rows = examples.validation_rows(shop, selection=False, most=EVENTS, seed=seed)
    inputs = sequences.histories(rows)
    history, target = inputs["history_items"].astype(np.int32), sequences.item[rows]
    model_scores = exported.catalogue(inputs)
    hide = _hidden(history, count, mask_seen)
    near = neighbors.scores(history)
    knn_scores = near + 1e-6 * popular / max(popular.max(), 1e-9)
    ranks = {
        "model": ranks_of(np.where(hide, -np.inf, model_scores), target),
        "popular": ranks_of(np.where(hide, -np.inf, popular), target),
        "item_knn": ranks_of(np.where(hide, -np.inf, knn_scores), target),
    }
    stored = _stored(exported, sequences, shop, neighbors, popular, mask_seen, candidates.per_user)
    retrieved = _retrieved(history, [stored.get(int(owner), stored[-1]) for owner in shop.shopper[rows]], neighbors, stored[-1], candidates)
    rungs = {
        "live": ranks_of(np.where(hide, -np.inf, _blended(model_scores, near, retrieved)), target),
        "stored": _list_ranks([stored.get(int(owner), stored[-1]) for owner in shop.shopper[rows]], history[:, -1], target, count),
        "popular": _list_ranks([stored[-1]] * len(rows), history[:, -1], target, count),
    }
    pages, exposure = clicks.read_pages(shop, seed)
    if pages.clicked.sum() >= clicks.MIN_CLICKS:
        worth = _worth_in_clicks(exported, sequences, shop, numbers, pages, exposure, neighbors, popular, stored, mask_seen, candidates)
        rung_quality = {"rung_quality": _shares(worth), "rung_quality_by": "clicks", "rung_clicks": {rung: round(value, 5) for rung, value in worth.items()}}
    else:
        ndcg = {name: float(result.gains()["NDCG@10"].mean()) for name, result in rungs.items()}
        rung_quality = {"rung_quality": _shares(ndcg), "rung_quality_by": "next item"}
    owners = shop.shopper[rows]
    chosen = np.bincount(sequences.item[shop.time < shop.split], minlength=count)
    parts = slices.of_shop(shop, rows, history, target, chosen)
    gain = ranks["model"].gains()["NDCG@10"]
    report = {
        "metrics": ranks["model"].figures(chosen),
        "interval95": intervals(ranks["model"], owners, seed),
        "baselines": {name: ranks[name].figures(chosen) for name in ("popular", "item_knn")},
        "like_popular": _like(ranks["model"], ranks["popular"]),
        "slices": slices.means(gain, parts) | _after_search_with_query(exported, sequences, shop, rows, inputs, hide, target),
        "small_brands": slices.small_brands(_brands(shop, numbers, count), ranks["model"].shown, chosen),
        "heads": _heads(exported, sequences, shop, numbers, examples.validation_rows(shop, selection=False, most=EVENTS, seed=seed, choices=False)),
        "rung_metrics": {name: result.figures(chosen) for name, result in rungs.items()},
        **rung_quality,
        "mask_seen": mask_seen,
        "protocol": PROTOCOL.format(
            split=np.datetime64(int(shop.split), "D"),
            until=shop.data_as_of,
            masked=" and every item of the history too" if mask_seen else "",
            events=EVENTS,
            share=examples.SELECTION_SHARE,
        ),
        "events": len(rows),
        "users": len(np.unique(owners)),
        "seconds": round(time.monotonic() - started, 2),
    }
    return Measured(report=report, gain=gain, owners=owners, slices=parts)


def _like(ranks: Ranks, popular: Ranks) -> float:
    """Return the share of what was shown that the popular list shows as well."""
    return round(float(ranks.shown[popular.shown > 0].sum() / max(ranks.shown.sum(), 1)), 4)


def _brands(shop: Shop, numbers: Ints, count: int) -> list[str]:
    brands = [""] * count
    for number, brand in zip(numbers, shop.products.brand, strict=True):
        if number:
            brands[number] = brand
    return brands


def _mask_helps(exported: Exported, sequences: Sequences, rows: npt.NDArray[np.int64]) -> bool:
    """Whether leaving out the history ranks better, for the shoppers set aside for choosing: in some shops people come back for the same things."""
    inputs = sequences.histories(rows)
    history, count = inputs["history_items"].astype(np.int32), len(exported.item_vectors)
    scores = exported.catalogue(inputs)
    masked, plain = (
        ranks_of(np.where(_hidden(history, count, mask), -np.inf, scores), sequences.item[rows]).gains()["NDCG@10"].mean() for mask in (True, False)
    )
    return bool(masked > plain)


def _hidden(history: npt.NDArray[np.int32], count: int, mask_seen: bool) -> npt.NDArray[np.bool_]:
    """Return [events, items] what may not be answered: padding, the item just before, and the whole history where that is the rule."""
    hidden = np.zeros((len(history), count), np.bool_)
    np.put_along_axis(hidden, history if mask_seen else history[:, -1:], True, axis=1)
    hidden[:, 0] = True
    return hidden


def _list_ranks(lists: list[npt.NDArray[np.int64]], last: npt.NDArray[np.int32], target: npt.NDArray[np.int32], count: int) -> Ranks:
    rank, shown = np.full(len(target), np.inf), np.zeros(count, np.int64)
    for row, (items, current, wanted) in enumerate(zip(lists, last, target, strict=True)):
        answer = items[items != current]
        shown[answer[:SHOWN]] += 1
        found = np.flatnonzero(answer == wanted)
        if len(found):
            rank[row] = 1 + found[0]
    return Ranks(rank=rank, shown=shown)


def _stored(
    exported: Exported, sequences: Sequences, shop: Shop, neighbors: baselines.Neighbors, popular: Vectors, mask_seen: bool, most: int
) -> dict[int, npt.NDArray[np.int64]]:
    """Return the list that would have been stored at the split for every shopper with an account, by shopper code; -1 is the popular list."""
    last = np.array([end - 1 for end in _ends_before_split(shop)], np.int64)
    owners = np.flatnonzero(last >= shop.first[:-1])
    owners = owners[shop.known[owners]]
    lists: dict[int, npt.NDArray[np.int64]] = {-1: np.argsort(-popular, kind="stable")[:most]}
    for start in range(0, len(owners), BATCH):
        some = owners[start : start + BATCH]
        inputs = sequences.states(last[some], shop.split)
        history = inputs["history_items"].astype(np.int32)
        by_model = exported.user_vectors(inputs) @ exported.item_vectors.T  # as the candidates job does, whoever ranks
        near = neighbors.scores(history)
        fused = np.where(_hidden(history, neighbors.count, mask_seen), -np.inf, _reciprocal_ranks(by_model, most) + _reciprocal_ranks(near, 2 * most))
        lists |= dict(zip(some.tolist(), np.argsort(-fused, axis=1)[:, :most], strict=True))
    return lists


def _reciprocal_ranks(scores: Vectors, most: int) -> npt.NDArray[np.float64]:
    """Return 1 / (FUSION + rank) of the best `most` in each row, 0 elsewhere and where the score is 0: how the candidate job fuses its two sources."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    fused = np.zeros(scores.shape)
    np.put_along_axis(fused, best, 1.0 / (FUSION + np.arange(1, best.shape[1] + 1))[None], axis=1)
    return np.where(scores == 0, 0.0, fused)


def _ends_before_split(shop: Shop) -> list[int]:
    return [int(first + np.searchsorted(shop.time[first:end], shop.split)) for first, end in zip(shop.first[:-1], shop.first[1:], strict=True)]


def _retrieved(
    history: npt.NDArray[np.int32],
    stored: list[npt.NDArray[np.int64]],
    neighbors: baselines.Neighbors,
    popular: npt.NDArray[np.int64],
    candidates: CandidateSettings,
) -> npt.NDArray[np.bool_]:
    """Return [events, items] what the gateway would rank: neighbours of the newest items, the stored list and the popular list, as many as the ranker takes."""
    found = np.zeros((len(history), neighbors.count), np.bool_)
    for row, items in enumerate(stored):
        near = [neighbors.nearest(int(item), candidates.per_item // 5) for item in history[row, : -RECENT - 1 : -1] if item > 0]
        wanted = dict.fromkeys(np.concatenate([items, *near, popular]).tolist())
        found[row, list(wanted)[:RANKED_CANDIDATES]] = True
    return found


def _blended(model_scores: Vectors, near: Vectors, retrieved: npt.NDArray[np.bool_]) -> Vectors:
    """Return [events, items] what the rung `live` orders by: the model's score and the nearness to the newest items, each scaled over what was retrieved."""
    low = np.where(retrieved, model_scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(retrieved, model_scores, -np.inf).max(axis=1, keepdims=True)
    nearest = np.where(retrieved, near, 0).max(axis=1, keepdims=True)
    total = (model_scores - low) / np.maximum(high - low, 1e-9) + NEAR_WEIGHT * near / np.maximum(nearest, 1e-9)
    return np.where(retrieved, total, -np.inf).astype(np.float32)


def _worth_in_clicks(
    exported: Exported,
    sequences: Sequences,
    shop: Shop,
    numbers: npt.NDArray[np.int32],
    pages: clicks.Pages,
    exposure: clicks.Exposure,
    neighbors: baselines.Neighbors,
    popular: Vectors,
    stored: dict[int, npt.NDArray[np.int64]],
    mask_seen: bool,
    candidates: CandidateSettings,
) -> dict[str, float]:
    """Return the expected clicks of each rung's first answer after the split, as a mean over the shoppers with an account who came after it.

    Who came for the first time gets the popular list from every rung.
    """
    log_popular = np.log1p(popular.astype(np.float64))
    code = np.zeros(neighbors.count, np.int64)  # of each of the model's numbers
    code[numbers] = np.arange(len(numbers))

    def state(shopper: npt.NDArray[np.int32], time: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int32], Vectors, Vectors]:
        """Return each shopper's history before an instant, [n, items] what the model says, and how near the items are."""
        ends = np.array([np.searchsorted(shop.time[shop.first[who] : shop.first[who + 1]], when) for who, when in zip(shopper, time, strict=True)], np.int64)
        inputs = sequences.states(np.maximum(shop.first[shopper] + ends - 1, 0), time)
        for name in ("history_items", "history_actions", "history_ages"):
            inputs[name] = np.where((ends > 0)[:, None], inputs[name], 0).astype(inputs[name].dtype)
        history = inputs["history_items"].astype(np.int32)
        return history, exported.catalogue(inputs), neighbors.scores(history)

    def features(
        who: npt.NDArray[np.int32], history: npt.NDArray[np.int32], scores: Vectors, near: Vectors, row: npt.NDArray[np.int64], item: npt.NDArray[np.int32]
    ) -> Floats:
        """Return [n, features] of showing item `item` (the model's number) to the shopper of each row."""
        top = scores.max(axis=1, keepdims=True)
        total = top + np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        came_before = (history[row, -1] > 0).astype(np.float64)
        lift = exposure.lift(who[row], code[item])
        return np.column_stack([(scores - total)[row, item], np.sqrt(near[row, item]), log_popular[item], came_before, lift])

    learned = state(pages.shopper, pages.time)
    judge = clicks.fit(features(pages.shopper, *learned, pages.page, numbers[pages.item]), pages.place, pages.clicked)
    came = np.unique(pages.shopper)
    history, scores, near = state(came, np.full(len(came), shop.split))
    lists = [stored.get(int(owner), stored[-1]) for owner in came]
    hidden = _hidden(history, neighbors.count, mask_seen)
    blended = np.where(hidden, -np.inf, _blended(scores, near, _retrieved(history, lists, neighbors, stored[-1], candidates)))
    known = history[:, -1] > 0
    slates = {
        "live": [np.argsort(-row, kind="stable")[:SHOWN] if old else stored[-1][:SHOWN] for row, old in zip(blended, known, strict=True)],
        "stored": [items[items != last][:SHOWN] for items, last in zip(lists, history[:, -1], strict=True)],
        "popular": [stored[-1][stored[-1] != last][:SHOWN] for last in history[:, -1]],
    }
    worth = {}
    for rung, answers in slates.items():
        row = np.repeat(np.arange(len(came)), [len(answer) for answer in answers])
        place = np.concatenate([np.arange(1.0, len(answer) + 1) for answer in answers])
        items = np.concatenate(answers).astype(np.int32)
        chance = judge.chances(features(came, history, scores, near, row, items), place, exposure.untold(came[row], code[items]))
        worth[rung] = float(chance.sum()) / len(came)
    return worth


def _shares(worth: dict[str, float]) -> dict[str, float]:
    """Return what each rung is worth as a share of `live`."""
    share = {name: round(float(min(1.0, value / max(worth["live"], 1e-9))), 4) for name, value in worth.items()}
    return {"live": 1.0, "local_model": 1.0, "stored": share["stored"], "snapshot": share["stored"], "popular": share["popular"]}


def _after_search_with_query(
    exported: Exported,
    sequences: Sequences,
    shop: Shop,
    rows: npt.NDArray[np.int64],
    inputs: dict[str, npt.NDArray[np.generic]],
    hide: npt.NDArray[np.bool_],
    target: npt.NDArray[np.int32],
) -> dict[str, dict[str, float]]:
    """Return the figures of the choices after a search when the model is told the words that were searched for; nothing when there are none."""
    searched = shop.query[rows] > 0
    if not searched.any():
        return {}
    some = {name: array[searched] for name, array in inputs.items()} | {"query_words": sequences.query_words[shop.query[rows[searched]]]}
    scores = np.where(hide[searched], -np.inf, exported.catalogue(some))
    gain = float(ranks_of(scores, target[searched]).gains()["NDCG@10"].mean())
    return {"after_search_with_query": {"events": int(searched.sum()), "NDCG@10": round(gain, 5)}}


def _heads(
    exported: Exported,
    sequences: Sequences,
    shop: Shop,
    numbers: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
) -> dict[str, dict[str, float] | None]:
    """Return accuracy of the behaviour (P_U), product (P_P) and transaction (P_T) heads, and that of the commonest answer; None: nothing to measure on."""
    features = exported.vocabulary
    category = {name: index for index, name in enumerate(features.categories)}
    wanted = np.array([0, *(category.get(path, 0) for path in shop.products.category)])
    number = np.array([0, *numbers])
    described = (wanted > 0) & (number > 0) & (examples.held_out(features.items) != examples.TEACHES)[number]
    orders, late = shop.orders, shop.orders.day >= shop.split
    bought = numbers[orders.item[late]]
    classes = exported.transaction_classes(bought, orders.quantity[late], orders.price[late]) if late.any() else np.zeros((0, 1), np.float32)
    actions = exported.next_actions(sequences.histories(rows)) if len(rows) else np.zeros((0, len(ACTIONS)), np.float32)
    return {
        "P_U": _accuracy(actions, shop.action[rows]),
        "P_P": _accuracy(exported.item_categories()[number[described]], wanted[described]),
        "P_T": _accuracy(classes, orders.label[late]),
    }


def _accuracy(probabilities: Vectors, wanted: npt.NDArray[np.integer[Any]]) -> dict[str, float] | None:
    if not len(wanted):
        return None
    return {
        "accuracy": round(float((probabilities.argmax(axis=1) == wanted).mean()), 5),
        "commonest": round(float(np.bincount(wanted).max() / len(wanted)), 5),
        "measured": len(wanted),
    }
