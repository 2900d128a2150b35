"""`evaluate transfer`: what a shop with few orders gains from beginning with the model of another one, beside beginning from nothing.

The shop in the lake is made small: of what happened before the split, only what a share of its shoppers did is left. Catalogue and validation days stay whole.
Both models of a share are measured on the same choices; each share draws its own, so figures of two shares are not about the same ones.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from evershelf.progress import Say
from evershelf.settings import Settings
from evershelf.storage import ASIDE
from training import data, export, ranking, warm_start
from training.data import Shop
from training.errors import NotEnoughData
from training.evaluation import Measured
from training.evaluation import evaluate as measured
from training.train import fit
from training.tuned import with_tuned

METRIC = "NDCG@10"
PROTOCOL = (
    "Time split: trained before {split}, on what a share of the shoppers did; measured from then to {until} on the choices of all shoppers but those who chose "
    "the epoch, ranking the whole catalogue; seed {seed}. Differences are on the same choices, with 95 % intervals: bootstrap over shoppers."
)


def evaluate(settings: Settings, model: str, shares: Sequence[float], say: Say) -> dict[str, Any]:
    """Train twice on each share, and return what `--json` prints.

    Args:
        model: id or folder of the model to begin with, as `evershelf train --start-from` takes it.
        shares: of the shoppers, above 0 and up to 1.

    Raises:
        UnusableData: there is no such model, it is built otherwise, or it has learned from the validation days.
        NotEnoughData: nobody of a share was there before the split.
        TrainingError: a training failed.
    """
    started, parameters = time.monotonic(), with_tuned(settings.training)
    whole = data.read_shop(parameters)
    begins = warm_start.named(model, parameters, whole, settings.shop.adapter)
    settings = settings.model_copy(update={"training": parameters})
    found: dict[str, Any] = {}
    for share in shares:
        shop = thinned(whole, share, parameters.seed)
        nothing, transferred = _measure(settings, shop, None, say), _measure(settings, shop, begins, say)
        found[f"{share:g}"] = one = {
            "interactions": int((shop.time < shop.split).sum()),
            "from_nothing": nothing.report["metrics"][METRIC],
            "from_model": transferred.report["metrics"][METRIC],
            "better_by": ranking.difference(transferred.gain, nothing.gain, nothing.owners, parameters.seed),
            **{name: figures[METRIC] for name, figures in nothing.report["baselines"].items()},
        }
        say(f"{share:.0%} of the shoppers: {METRIC} {one['from_nothing']:.4f} from nothing, {one['from_model']:.4f} from {model}")
    return {
        "model": begins[0].model_id,
        "shares": found,
        "protocol": PROTOCOL.format(split=np.datetime64(int(whole.split), "D"), until=whole.data_as_of, seed=parameters.seed),
        "seconds": round(time.monotonic() - started, 1),
    }


def thinned(shop: Shop, share: float, seed: int) -> Shop:
    """Return a shop where before the split only a share of the shoppers had been, and of the order lines as many are left.

    Raises:
        NotEnoughData: none of them had been there.
    """
    chosen = np.array([crc32(f"{seed} {name}".encode()) < share * 2**32 for name in shop.shoppers], np.bool_)
    rows = np.flatnonzero(chosen[shop.shopper] | (shop.time >= shop.split))
    if not (shop.time[rows] < shop.split).any():
        raise NotEnoughData(
            f"A share of {share:g} of {len(shop.shoppers)} shoppers leaves none who was there before the split. Nothing more was trained; raise --share."
        )
    left, shopper = np.unique(shop.shopper[rows], return_inverse=True)
    orders = shop.orders
    lines = (orders.day >= shop.split) | (np.random.default_rng(seed).random(len(orders.day)) < share)
    return replace(
        shop,
        shoppers=[shop.shoppers[place] for place in left],
        known=shop.known[left],
        shopper=shopper.astype(np.int32),
        item=shop.item[rows],
        action=shop.action[rows],
        query=shop.query[rows],
        time=shop.time[rows],
        first=np.searchsorted(shopper, np.arange(len(left) + 1)),
        orders=replace(
            orders, item=orders.item[lines], quantity=orders.quantity[lines], price=orders.price[lines], day=orders.day[lines], label=orders.label[lines]
        ),
    )


def _measure(settings: Settings, shop: Shop, begins: warm_start.Chosen | None, say: Say) -> Measured:
    parameters, at = settings.training, settings.home / "training"
    at.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=ASIDE, dir=at))
    try:
        words, prepared = fit("transfer", parameters, shop, work, say, begins=begins)
        export.export_best(parameters, prepared, work, words, shop, work / "model")
        return measured(work / "model", shop, seed=parameters.seed, candidates=settings.candidates)
    finally:
        shutil.rmtree(work)
