"""Look for better parameters of the model: trials on the lake's newest days, on the shoppers who choose the epoch, never on those who measure.

Half of the choosing shoppers choose among trials, by their best epoch. Then the best trial and the parameters in force are trained with other seeds and
compared on the other half; the winner is in force only when it is better with each seed. Trials are kept in a journal, so a search that was killed goes on.

Sources: Bergstra et al., "Algorithms for hyper-parameter optimization" (TPE), NeurIPS 2011; Akiba et al., "Optuna", KDD 2019.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from evershelf.progress import Say
from evershelf.settings import Settings, TrainingSettings
from training import tuned
from training.data import Shop, read_shop
from training.errors import TrainingError, TrainingRunning

WORK = "trial-"  # begins the name of a trial's own folder

Rows = npt.NDArray[np.int64]


def tune(settings: Settings, *, trials: int, jobs: int, seeds: int, sampler: Literal["tpe", "random"], say: Say) -> dict[str, Any]:
    """Search, compare the best trial with what is in force, and record which of the two is in force from now on.

    Args:
        trials: of this search in all; those of a search that was killed count.
        jobs: trials at the same time.
        seeds: with how many other seeds the best trial must be better, each time.

    Returns:
        What `--json` prints.

    Raises:
        TrainingError: no trial could be finished, or the same search runs already.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    current = tuned.with_tuned(settings.training)
    shop = read_shop(current)
    choosing, confirming = halves(shop, current.seed)
    folder = settings.home / "training" / f"tuning-{shop.data_as_of}-{shop.versions['events']}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            for left_over in folder.glob(f"{WORK}*"):  # of trials that were killed
                shutil.rmtree(left_over)
            study = optuna.create_study(
                study_name=folder.name,
                direction="maximize",
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal"))),
                sampler=optuna.samplers.TPESampler(seed=current.seed) if sampler == "tpe" else optuna.samplers.RandomSampler(seed=current.seed),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
                load_if_exists=True,
            )
            _go_on(study, current, say)
            ranks = max(1, min(current.ranks, (os.cpu_count() or 1) // jobs))
            states = optuna.trial.TrialState
            left = trials - sum(trial.state in (states.COMPLETE, states.PRUNED) for trial in study.trials)
            search = _Search(shop, current, choosing, ranks, folder, say)
            if left > 0:
                study.optimize(search.trial, n_trials=left, n_jobs=jobs, catch=(TrainingError,))
            finished = [trial for trial in study.trials if trial.state == states.COMPLETE]
            if not finished:
                raise TrainingError("No trial came to its end. Nothing was changed; the lines above say why.")
            return _decide(search, study.best_trial, current, confirming, len(study.trials), seeds)
    except Timeout:
        raise TrainingRunning(f"The search {folder.name} runs in another process. Nothing was started; wait for it.") from None


def halves(shop: Shop, seed: int) -> tuple[Rows, Rows]:
    """Return events of the shoppers who choose, and of as many other ones of them."""
    from training import examples

    rows = examples.validation_rows(shop, selection=True, most=2 * examples.SELECTION_EVENTS, seed=seed)
    first = shop.shopper[rows] % 2 == 0
    return rows[first], rows[~first]


def _go_on(study: Any, current: TrainingSettings, say: Say) -> None:
    """Let a study begin with what is in force, or repeat the trials that were running when it was killed."""
    import optuna

    running = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    for trial in running:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    if running:
        say(f"{len(running)} trials were interrupted; they begin again")
    if not study.trials:
        study.enqueue_trial(_as_trial(current))


def _as_trial(parameters: TrainingSettings) -> dict[str, Any]:
    """Return what a trial would have chosen; `sequences` is the batch over all ranks."""
    chosen = {name: getattr(parameters, name) for name in ("width", "blocks", "heads", "dropout", "learning_rate")}
    return chosen | {"sequences": parameters.batch_size * parameters.ranks}


class _Search:
    """What all trials have in common."""

    def __init__(self, shop: Shop, current: TrainingSettings, choosing: Rows, ranks: int, folder: Path, say: Say) -> None:
        self.shop, self.current, self.choosing, self.ranks, self.folder, self.say = shop, current, choosing, ranks, folder, say
        self._saying = threading.Lock()

    def trial(self, trial: Any) -> float:
        import optuna

        chosen = {
            "width": trial.suggest_categorical("width", sorted({32, 64, 128, self.current.width})),
            "blocks": trial.suggest_int("blocks", 1, 3),
            "heads": trial.suggest_categorical("heads", [1, 2, 4]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.6),
            "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
            "sequences": trial.suggest_categorical("sequences", sorted({16, 32, 64, _as_trial(self.current)["sequences"]})),
        }

        def after(epoch: dict[str, Any]) -> None:
            trial.report(epoch["selection_ndcg"], epoch["epoch"])
            if trial.should_prune():
                self._tell(f"trial {trial.number}: NDCG@10 {epoch['selection_ndcg']:.4f} after {epoch['epoch']} epochs; pruned")
                raise optuna.TrialPruned

        quality = self.quality(chosen, self.current.seed, self.choosing, after)
        self._tell(f"trial {trial.number}: NDCG@10 {quality:.4f} with {chosen}")
        return quality

    def parameters(self, chosen: dict[str, Any], ranks: int) -> dict[str, Any]:
        """Return settings of a training with so many ranks."""
        return {name: value for name, value in chosen.items() if name != "sequences"} | {"batch_size": max(1, chosen["sequences"] // ranks)}

    def quality(self, chosen: dict[str, Any], seed: int, rows: Rows, after: Callable[[dict[str, Any]], None] = lambda epoch: None) -> float:
        """Train once, and return the best epoch's NDCG@10 on some events."""
        from training.train import fit

        update = self.parameters(chosen, self.ranks) | {"ranks": self.ranks, "hosts": (), "seed": seed}
        parameters, found = self.current.model_copy(update=update), list[float]()

        def each(epoch: dict[str, Any]) -> None:
            found.append(epoch["selection_ndcg"])
            after(epoch)

        work = Path(tempfile.mkdtemp(prefix=WORK, dir=self.folder))
        try:
            fit("trial", parameters, self.shop, work, lambda line: None, each, chooses=rows)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return max(found)

    def _tell(self, line: str) -> None:
        with self._saying:
            self.say(line)


def _decide(search: _Search, best: Any, current: TrainingSettings, rows: Rows, trials: int, seeds: int) -> dict[str, Any]:
    """Compare the best trial with what is in force, and record the outcome."""
    started, now = time.monotonic(), _as_trial(current)
    qualities = []
    for seed in range(current.seed + 1, current.seed + 1 + seeds):
        qualities.append((search.quality(best.params, seed, rows), search.quality(now, seed, rows)))
        search.say(f"seed {seed}: NDCG@10 {qualities[-1][0]:.4f} with the best trial's parameters, {qualities[-1][1]:.4f} with those in force")
    better = all(ours > theirs for ours, theirs in qualities)
    chosen = search.parameters(best.params if better else now, current.ranks)
    found = {
        "parameters": chosen,
        "changed": better,
        "why": f"the best of {trials} trials was {'better' if better else 'NOT better'} than what was in force with each of {seeds} other seeds",
        "compared": [{"best_trial": round(ours, 5), "in_force": round(theirs, 5)} for ours, theirs in qualities],
        "best_trial": {"number": best.number, "NDCG@10": round(best.value, 5), "parameters": best.params},
        "in_force": now,
        "data_as_of": str(search.shop.data_as_of),
        "tables": search.shop.versions,
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": "NDCG@10 over all items, on shoppers who choose the epoch: half of them chose the trial, the others compared; none of them measures models",
        "seconds": round(time.monotonic() - started, 1),
    }
    if better:
        tuned.decide(found)
    return found
