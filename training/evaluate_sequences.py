"""`evaluate sequences`: what the recommender makes of a shop that is a file of sequences, leave-one-out.

The last choice of each shopper tests, the one before it validates; all items are ranked but those in the shopper's history. Validation chooses the epoch of
the Transformer, and how much the second source counts beside it.

Sources of the protocol: Kang and McAuley, ICDM 2018; ranking all items, as Krichene and Rendle ask, KDD 2020.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.progress import Say
from evershelf.settings import Settings, TrainingSettings
from evershelf.version import code_version
from training import baselines, export, linear, ranking, slices
from training.baselines import Neighbors
from training.examples import Sequences
from training.exported import Exported
from training.linear import Linear
from training.ranking import Ranks
from training.sequence_file import SHORTEST, read_sequences
from training.train import fit

PROTOCOL = (
    "Leave-one-out{described}: the last choice of each of {users} shoppers is foretold from all before it, ranking all {items} items but those of the history; "
    "the Transformer is the mean of {members} trainings. The choice before the last one chose their epochs {epochs}, and that in a blend of standard scores "
    "the second source counts {second:g} of 1, and the logarithm of how often an item was chosen {popular:g} beside. 95 % intervals: bootstrap over shoppers."
)
# found on the validation choices of Amazon's Beauty; see docs/decisions/0011-the-second-source-is-a-local-regression.md
RECIPE = {
    "ranks": 1,  # with all cores: two ranks on one machine's two cores would each go over all items' vectors
    "hosts": (),
    "epochs": 30,  # of 36, those after the 22nd brought nothing to the shoppers who choose
    "patience": 30,  # the best epochs come when the learning rate has fallen
    "batch_size": 64,
    "width": 64,
    "blocks": 2,
    "heads": 1,
    "dropout": 0.5,
    "learning_rate": 0.0015,
    "averaging": 0.998,
}
WEIGHTS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the second source
POPULARITY = (0.0, 0.05, 0.1)  # weights of the logarithm of how often an item was chosen, beside the two
MEMBERS = 2  # trainings that differ in their seeds alone
CHOOSING = 6000  # at most so many shoppers choose the epoch and the weights
BATCH = 1024
STANDARD = "standard "

Parts = dict[str, npt.NDArray[np.float32]]  # source -> [events, items]
Blend = Callable[[Parts], npt.NDArray[np.float32]]


def evaluate(path: Path, settings: Settings, parameters: TrainingSettings, say: Say) -> dict[str, Any]:
    """Train on a file's sequences and return what `--json` prints. What was interrupted goes on where it was when it is called again.

    Raises:
        UnusableData: the file holds no sequences.
        TrainingError: the training failed.
    """
    started = time.monotonic()
    shop = read_sequences(path)
    last = shop.first[np.flatnonzero(np.diff(shop.first) >= SHORTEST) + 1] - 1
    work = settings.home / "training" / f"sequences-{_fingerprint(path, parameters)}"
    work.mkdir(parents=True, exist_ok=True)
    chooses = np.sort(np.random.default_rng(parameters.seed).permutation(last - 1)[:CHOOSING])
    members, epochs = [], []
    for member in range(MEMBERS):
        budget = parameters.budget and parameters.budget / MEMBERS
        its, place = parameters.model_copy(update={"seed": parameters.seed + member, "budget": budget}), work / f"{member}"
        place.mkdir(exist_ok=True)
        words, prepared = fit(path.name, its, shop, place, say, chooses=chooses)
        _, epoch = export.export_best(its, prepared, place, words, shop, place / "model")
        members.append(Exported(place / "model"))
        epochs.append(str(epoch))
    say(f"trained and exported after {time.monotonic() - started:.0f} s; learning the second source")

    described = ", items described by their attributes" if any(shop.products.title) else ""
    sequences, count = Sequences.of(shop, words, until=np.inf), len(words.items)
    choices = np.flatnonzero((shop.time < shop.split) & (sequences.following == np.arange(len(shop.item))))
    sources = Sources(
        members=members,
        second=linear.fit(shop.shopper[choices], sequences.item[choices], count),
        neighbors=baselines.neighbors(shop, words.numbers_of(shop), count, half_life=np.inf),
        popular=np.bincount(sequences.item[shop.time < shop.split], minlength=count),
        sequences=sequences,
        first=shop.first,
    )
    say(f"the second source is there after {time.monotonic() - started:.0f} s; ranking")
    blends = {weights: _blended(*weights) for weights in product(WEIGHTS, POPULARITY)}
    validated = {weights: round(float(ranks.gains()["NDCG@10"].mean()), 5) for weights, ranks in sources.ranks(chooses, blends).items()}
    weights = max(validated, key=lambda weights: validated[weights])
    found = sources.ranks(last, {"evershelf": blends[weights]} | {name: itemgetter(name) for name in ("transformer", "second_source", "item_knn", "popular")})
    ours, owners = found.pop("evershelf"), shop.shopper[last]
    shutil.rmtree(work)
    return {
        "metrics": ours.figures(sources.popular),
        "interval95": ranking.intervals(ours, owners, parameters.seed),
        "baselines": {name: ranks.figures(sources.popular) for name, ranks in found.items()},
        "better_by": ranking.paired(ours, found, owners, parameters.seed),
        "slices": slices.means(ours.gains()["NDCG@10"], slices.of_events(last - shop.first[owners], sequences.item[last], sources.popular)),
        "validation": {f"{second:g} of the second source, {popular:g} of popularity": value for (second, popular), value in validated.items()},
        "protocol": PROTOCOL.format(
            members=MEMBERS, users=len(last), items=count - 1, epochs=" and ".join(epochs), second=weights[0], popular=weights[1], described=described
        ),
        "users": len(last),
        "seconds": round(time.monotonic() - started, 1),
    }


def _blended(second: float, popular: float) -> Blend:
    weights = {"transformer": np.float32(1 - second), "second_source": np.float32(second), "popular": np.float32(popular)}
    return lambda parts: np.asarray(sum(weight * parts[STANDARD + name] for name, weight in weights.items() if weight), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What can rank the items of one shop."""

    members: list[Exported]  # their mean is the Transformer's score
    second: Linear
    neighbors: Neighbors
    popular: npt.NDArray[np.integer[Any]]  # [items] choices to learn from
    sequences: Sequences
    first: npt.NDArray[np.int64]  # row of each shopper's first event

    def ranks(self, rows: npt.NDArray[np.int64], blends: Mapping[Any, Blend]) -> dict[Any, Ranks]:
        """Rank all items just before each event, by each blend."""
        found: dict[Any, list[Ranks]] = {name: [] for name in blends}
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            hidden = self._hidden(some)
            parts = self._scores(some)
            parts |= {STANDARD + name: _standard(parts[name], hidden) for name in ("transformer", "second_source")}
            parts[STANDARD + "popular"] = _standard(np.log1p(parts["popular"]), hidden)
            for name, blend in blends.items():
                found[name].append(ranking.ranks_of(np.where(hidden, -np.inf, blend(parts)), self.sequences.item[some]))
        return {name: ranking.together(ranks) for name, ranks in found.items()}

    def _scores(self, rows: npt.NDArray[np.int64]) -> Parts:
        inputs = self.sequences.histories(rows)
        history = inputs["history_items"].astype(np.int32)
        return {
            "transformer": np.mean([member.catalogue(inputs) for member in self.members], axis=0),
            "second_source": self.second.scores(history),
            "item_knn": self.neighbors.scores(history),
            "popular": np.repeat(self.popular[None].astype(np.float32), len(rows), axis=0),
        }

    def _hidden(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return [rows, items]: padding, and all that the shopper chose before."""
        hidden = np.zeros((len(rows), len(self.popular)), np.bool_)
        begin = self.first[self.sequences.shopper[rows]]
        before = np.concatenate([np.arange(first, row) for first, row in zip(begin, rows, strict=True)])
        hidden[np.repeat(np.arange(len(rows)), rows - begin), self.sequences.item[before]] = True
        hidden[:, 0] = True
        return hidden


def _standard(scores: npt.NDArray[np.float32], hidden: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return scores of mean 0 and deviation 1 over what may be shown."""
    shown = (~hidden).sum(axis=1, keepdims=True)
    scores = np.where(hidden, 0, scores)
    mean = scores.sum(axis=1, keepdims=True) / shown
    deviation = np.sqrt(np.maximum((scores**2).sum(axis=1, keepdims=True) / shown - mean**2, 1e-12))
    return np.asarray((scores - mean) / deviation, np.float32)


def _fingerprint(path: Path, parameters: TrainingSettings) -> str:
    what = msgspec.json.encode([parameters.model_dump(mode="json"), code_version()])
    return hashlib.sha256(path.read_bytes() + what).hexdigest()[:8]
