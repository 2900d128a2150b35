"""One training from the lake to a model folder: prepare, run the ranks, export, measure, bless or refuse, publish."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from evershelf import lake
from evershelf.contracts.model import TEXT_ENCODER
from evershelf.models import model_folder, models_folder
from evershelf.progress import Say
from evershelf.settings import Settings, TrainingSettings
from evershelf.storage import ASIDE, Place, at, publish, remove
from evershelf.telemetry import TRAINING_EPOCH_SECONDS, TRAINING_LOSS, metrics
from evershelf.version import code_version
from training.errors import TrainingRunning
from training.tracking import Run
from training.tuned import with_tuned


def train_model(settings: Settings, say: Say, *, full: bool = False, start_from: str | None = None) -> str:
    """Train, evaluate, bless and export; return the model's id.

    Args:
        full: begin from nothing, whatever training.warm_start says.
        start_from: the id, or the folder, of a model to begin with; everything is learned.

    Raises:
        TrainingError: nothing was exported.
    """
    from training import data, text_encoder, warm_start

    started = time.monotonic()
    settings = settings.model_copy(update={"training": with_tuned(settings.training)})
    encoder = text_encoder.in_force(settings.training) if settings.by_meaning else None
    shop = data.read_shop(settings.training)
    if start_from:
        begins, why = warm_start.named(start_from, settings.training, shop, settings.shop.adapter), f"begins with what {start_from} knows by name"
    elif full:
        begins, why = None, "it was asked for"
    else:
        begins, why = warm_start.choose(settings.training, shop, settings.shop.adapter)
    model_id = f"{shop.data_as_of}-{_fingerprint(settings, shop, begins, encoder)}"
    if (models_folder() / model_id).is_dir():
        say(f"{model_id} is trained already")
        return model_id
    work = settings.home / "training" / model_id
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work.with_suffix(".lock"), timeout=0):
            about = {"code_version": code_version(), "data_as_of": shop.data_as_of, "start": begins[0].model_id if begins else "nothing"}
            run = Run(settings, model_id, shop.versions | about, say)
            kept_at = f"{settings.url('models')}/{ASIDE}{model_id}"  # another machine can go on with the training, too
            at(kept_at).mkdir(parents=True, exist_ok=True)
            say(f"{model_id} {why if begins else f'begins from nothing: {why}'}")
            words, prepared = fit(model_id, settings.training, shop, work, say, run.epoch, kept_at=kept_at, begins=begins)
            say(f"trained after {time.monotonic() - started:.0f} s; evaluating and exporting")
            finished = _finish(settings, shop, words, prepared, encoder, work, at(kept_at), model_id, begins, say, started)
            run.finish(finished, model_folder(model_id))
            remove(at(kept_at))
            shutil.rmtree(work)
    except Timeout:
        raise TrainingRunning(f"Model {model_id} is being trained by another process. Nothing was started and what is live stays live; wait for it.") from None
    return model_id


def fit(
    model_id: str,
    parameters: TrainingSettings,
    shop: Any,
    work: Path,
    say: Say,
    track: Callable[[dict[str, Any]], None] = lambda epoch: None,
    chooses: Any = None,
    kept_at: str | None = None,
    begins: Any = None,
) -> tuple[Any, Any]:
    """Run the ranks to the end; return the vocabulary and the prepared examples.

    Args:
        chooses: rows of the events that choose the epoch; default: a sample of those after the split.
        kept_at: address of the folder where checkpoints and the best weights are kept; default: `work`.
        track: is given what the ranks tell of each epoch.
        begins: `warm_start.Chosen`, the model to begin with; default: from nothing.

    Raises:
        TrainingError: a rank was lost, or the loss diverged.
    """
    from training import examples, gang, loop, vocabulary, warm_start

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets at length
    words, features = vocabulary.build(shop)
    if chooses is None:
        chooses = examples.validation_rows(shop, selection=True, most=examples.SELECTION_EVENTS, seed=parameters.seed)
    prepared = examples.prepare(shop, words, features, chooses)
    (work / warm_start.START).unlink(missing_ok=True)
    if begins:
        warm_start.prepare(begins, words, work / warm_start.START)
        parameters, prepared = warm_start.narrowed(parameters, prepared, shop, begins[0])
    say(f"{model_id}: {len(shop.item)} interactions of {len(shop.shoppers)} shoppers, {len(shop.items)} items, {parameters.ranks} ranks")
    prepared.save(work / loop.EXAMPLES)
    (work / loop.PARAMETERS).write_text(parameters.model_dump_json())
    (work / loop.KEPT_AT).write_text(kept_at or work.as_uri())

    def after(epoch: dict[str, Any]) -> None:
        _tell(epoch, say)
        track(epoch)

    gang.run(work, parameters, after, say)
    return words, prepared


def _finish(
    settings: Settings,
    shop: Any,
    words: Any,
    prepared: Any,
    encoder: Any,
    work: Path,
    kept: Place,
    model_id: str,
    begins: Any,
    say: Say,
    started: float,
) -> dict[str, Any]:
    """Export, evaluate and bless; return what evaluation.json holds."""
    from training import blessing, evaluation, export, rankers, search_clicks, warm_start

    folder = work / "model"
    model, epoch = export.export_best(settings.training, prepared, kept, words, shop, folder)
    warm_start.keep(model, prepared.features, folder)
    shipped = rankers.ship(model, folder, prepared, settings.training.rankers, say)
    measured = evaluation.evaluate(folder, shop, seed=settings.training.seed, candidates=settings.candidates)
    blessed, why = blessing.beside_newest(measured, shop, settings)
    search = {"search": search_clicks.write(shop, encoder, folder / TEXT_ENCODER, settings.search.language, settings.training.seed, say)} if encoder else {}
    seconds = round(time.monotonic() - started, 1)
    about = {"model_id": model_id, "best_epoch": epoch, "training_seconds": seconds, "trained_at": round(time.time(), 3)}
    found = measured.report | search | {"rankers": shipped, "blessed": blessed, "why": why} | about
    _write(folder / "evaluation.json", found)
    _write(
        folder / "lineage.json",
        {
            "tables": shop.versions,
            "parameters": settings.training.of_the_model,
            "seed": settings.training.seed,
            "code_version": code_version(),
            "data_as_of": str(shop.data_as_of),
            "trained_before": shop.split,
            "shop": settings.shop.adapter,
            "language": settings.search.language,
            "start": begins[0].lineage() if begins else None,
            "fine_tuned_text_encoder": encoder.fine_tuned if encoder else None,
        },
    )
    publish(folder, models_folder() / model_id)
    say(f"{model_id} done after {seconds:.0f} s")
    return found


def _fingerprint(settings: Settings, shop: Any, begins: Any, encoder: Any) -> str:
    parameters = settings.training.of_the_model | {"by_meaning": settings.by_meaning, "language": settings.search.language}
    parameters["fine_tuned_text_encoder"] = encoder.fine_tuned if encoder else None
    what = {"tables": shop.versions, "parameters": parameters, "code": code_version(), "lake": lake.table_url("events")}
    what["start"] = begins[0].lineage() if begins else None
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def _tell(epoch: dict[str, Any], say: Say) -> None:
    metrics().timing(TRAINING_EPOCH_SECONDS, epoch["seconds"] * 1000)
    metrics().gauge(TRAINING_LOSS, epoch["loss"])
    quality = f"NDCG@10 of the shoppers set aside {epoch['selection_ndcg']:.4f}"
    say(f"epoch {epoch['epoch']}/{epoch['epochs']}: loss {epoch['loss']:.4f}, {quality}, {epoch['seconds']:.1f} s")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
