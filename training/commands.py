"""`evershelf train` and `evershelf evaluate`."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from evershelf import lake
from evershelf.models import finished_models, model_folder, models_folder, newest_blessed, read_evaluation
from evershelf.settings import Settings, TrainingSettings, load_settings
from evershelf.storage import at_hand, publish
from evershelf.telemetry import TRAINING_EPOCH_SECONDS, TRAINING_LOSS, metrics
from evershelf.version import code_version
from training.errors import NotEnoughData, TrainingRunning
from training.tracking import Run

Say = Callable[[str], None]
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")


@click.command()
@click.option("--ranks", type=click.IntRange(min=1), help="Horovod ranks on this machine; default: training.ranks.")
@click.option(
    "--reproduce", "original", metavar="ID", help="Train the model of this id, or of this snapshot, again from its lineage and compare; keeps nothing."
)
@AS_JSON
def train(ranks: int | None, original: str | None, as_json: bool) -> None:
    """Train a model on the newest days of the lake, measure it, and bless or refuse it.

    The same lake, settings and code give the same model id: a training that was interrupted resumes, one that is finished is reported again.
    """
    settings = load_settings()
    say = Console(stderr=True, soft_wrap=True, highlight=False).print
    if original:
        from training.reproduce import reproduce

        if ranks:
            raise click.UsageError("--reproduce trains with as many ranks as the original; leave --ranks out.")
        _report_reproduction(reproduce(settings, original, say), as_json)
        return
    if ranks:
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"ranks": ranks})})
    model_id = train_model(settings, say)
    evaluation = read_evaluation(model_id)
    if as_json:
        click.echo(json.dumps({"model_id": model_id, "blessed": evaluation["blessed"], "why": evaluation["why"], "metrics": evaluation["metrics"]}))
        return
    click.echo(f"Model {model_id} is {'blessed' if evaluation['blessed'] else 'refused: what is live stays live'}.")
    for reason in evaluation["why"]:
        click.echo(f"  {reason}")
    _print_figures(evaluation)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def evaluate() -> None:
    """Measure how good the answers are: of the shop in the lake, or of the same code on a file."""


@evaluate.command("shop")
@click.option("--model", "model_id", help="Default: the newest one.")
@AS_JSON
def evaluate_shop(model_id: str | None, as_json: bool) -> None:
    """Measure a model on the newest days of the lake, beside the popular list and item-kNN."""
    from training import blessing, data, evaluation

    settings = load_settings()
    stored = model_folder(model_id or next(iter(finished_models()), "(none)"))
    shop = data.read_shop(settings.training)
    if blessing.trained_before(stored) > shop.split:
        raise NotEnoughData(
            f"Model {stored.name} has learned from the last {settings.training.validation_days} days of the lake, so they cannot measure it. Nothing changed; "
            "publish newer days, lower training.validation_days, or train a new model."
        )
    with at_hand(stored) as folder:
        found = evaluation.evaluate(folder, shop, seed=settings.training.seed, candidates=settings.candidates)
    reported = {name: found[name] for name in ("metrics", "interval95", "baselines", "protocol", "users", "seconds")}
    _report(reported | {"model_id": stored.name}, as_json)


@evaluate.command("sequences")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(min=1), default=18.0, show_default=True, help="The training takes no longer; ranking takes some minutes more.")
@AS_JSON
def evaluate_sequences(file: Path, minutes: float, as_json: bool) -> None:
    """Train on FILE and measure, leave-one-out. One line per shopper: its name, then the items that it chose, in order."""
    from training import evaluate_sequences as sequences

    settings = load_settings()
    parameters = settings.training.model_copy(update=sequences.RECIPE | {"budget": timedelta(minutes=minutes)})
    _report(sequences.evaluate(file, settings, parameters, Console(stderr=True, soft_wrap=True, highlight=False).print), as_json)


@evaluate.command("interactions")
@click.option("--train", "learned", required=True, type=click.Path(path_type=Path), help="Parquet: user, item, timestamp, behaviour.")
@click.option("--test", "foretold", required=True, type=click.Path(path_type=Path), help="Parquet: user, item.")
@AS_JSON
def evaluate_interactions(learned: Path, foretold: Path, as_json: bool) -> None:
    """Learn from one file of interactions and foretell the items in another one."""
    from training import evaluate_interactions as interactions

    _report(interactions.evaluate(learned, foretold, load_settings().training.seed, Console(stderr=True, soft_wrap=True, highlight=False).print), as_json)


def train_model(settings: Settings, say: Say) -> str:
    """Train, evaluate, bless and export; return the model's id.

    Raises:
        TrainingError: nothing was exported.
    """
    from training import data

    started = time.monotonic()
    shop = data.read_shop(settings.training)
    model_id = f"{shop.data_as_of}-{_fingerprint(settings, shop)}"
    if (models_folder() / model_id).is_dir():
        say(f"{model_id} is trained already")
        return model_id
    work = settings.home / "training" / model_id
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work.with_suffix(".lock"), timeout=0):
            run = Run(settings, model_id, shop.versions | {"code_version": code_version(), "data_as_of": shop.data_as_of}, say)
            words, prepared = fit(model_id, settings.training, shop, work, say, run.epoch)
            say(f"trained after {time.monotonic() - started:.0f} s; evaluating and exporting")
            run.finish(_finish(settings, shop, words, prepared, work, model_id, say, started), model_folder(model_id))
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
) -> tuple[Any, Any]:
    """Run the ranks to the end, which leaves the best weights in the folder `work`; return the vocabulary and the prepared examples.

    Args:
        chooses: rows of the events that choose the epoch; default: a sample of those after the split.
        track: is given what the ranks tell of each epoch.

    Raises:
        TrainingError: a rank was lost, or the loss diverged.
    """
    from training import examples, gang, loop, vocabulary

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets at length
    words, features = vocabulary.build(shop)
    if chooses is None:
        chooses = examples.validation_rows(shop, selection=True, most=examples.SELECTION_EVENTS, seed=parameters.seed)
    prepared = examples.prepare(shop, words, features, chooses)
    say(f"{model_id}: {len(shop.item)} interactions of {len(shop.shoppers)} shoppers, {len(shop.items)} items, {parameters.ranks} ranks")
    prepared.save(work / loop.EXAMPLES)
    (work / loop.PARAMETERS).write_text(parameters.model_dump_json())

    def after(epoch: dict[str, Any]) -> None:
        _tell(epoch, say)
        track(epoch)

    gang.run(work, parameters.ranks, after)
    return words, prepared


def _finish(settings: Settings, shop: Any, words: Any, prepared: Any, work: Path, model_id: str, say: Say, started: float) -> dict[str, Any]:
    """Export, evaluate and bless; return what evaluation.json holds."""
    from training import blessing, evaluation, export, loop

    model, epoch = loop.load_best(settings.training, prepared, work / loop.BEST)
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was interrupted
    folder.mkdir()
    export.export(model, words, shop, folder, settings.training.seed)
    found = evaluation.evaluate(folder, shop, seed=settings.training.seed, candidates=settings.candidates)
    before = newest_blessed()
    stable = blessing.last_blessed(before, shop, settings.training, settings.candidates)
    blessed, why = blessing.bless(found, stable, settings.training)
    seconds = round(time.monotonic() - started, 1)
    found |= {"blessed": blessed, "why": why, "model_id": model_id, "best_epoch": epoch, "training_seconds": seconds}
    _write(folder / "evaluation.json", found)
    _write(
        folder / "lineage.json",
        {
            "tables": shop.versions,
            "parameters": settings.training.model_dump(mode="json"),
            "seed": settings.training.seed,
            "code_version": code_version(),
            "data_as_of": str(shop.data_as_of),
            "trained_before": shop.split,
            "shop": settings.shop.adapter,
        },
    )
    publish(folder, models_folder() / model_id)
    say(f"{model_id} done after {seconds:.0f} s")
    return found


def _fingerprint(settings: Settings, shop: Any) -> str:
    what = {"tables": shop.versions, "parameters": settings.training.model_dump(mode="json"), "code": code_version(), "lake": lake.table_url("events")}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def _tell(epoch: dict[str, Any], say: Say) -> None:
    metrics().timing(TRAINING_EPOCH_SECONDS, epoch["seconds"] * 1000)
    metrics().gauge(TRAINING_LOSS, epoch["loss"])
    quality = f"NDCG@10 of the shoppers set aside {epoch['selection_ndcg']:.4f}"
    say(f"epoch {epoch['epoch']}/{epoch['epochs']}: loss {epoch['loss']:.4f}, {quality}, {epoch['seconds']:.1f} s")


def _report_reproduction(found: dict[str, Any], as_json: bool) -> None:
    """Print what was compared; exit with 1 when it is not the same model."""
    then, now = found["code_version"]["then"], found["code_version"]["now"]
    if then != now:
        click.echo(f"The model was trained by code {then}, this is {now}: a difference may come from there.", err=True)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"Model {found['model_id']} {'came out the same' if found['same'] else 'came out DIFFERENT'}.")
        click.echo(f"  vocabulary                 {'the same' if found['same_vocabulary'] else 'different'}")
        for name, what in (("largest_score_difference", "golden scores"), ("largest_vector_difference", "item vectors")):
            click.echo(f"  {what:26} {'not compared' if found[name] is None else f'differ by at most {found[name]:.3g}'}")
        for metric, value in found["metrics"]["then"].items():
            click.echo(f"  {metric:26} then {value:.5f}, now {found['metrics']['now'].get(metric, float('nan')):.5f}")
    if not found["same"]:
        click.get_current_context().exit(1)


def _report(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print_figures(found)


def _print_figures(found: dict[str, Any]) -> None:
    table = Table(caption=found["protocol"], caption_justify="left")
    table.add_column("")
    for metric in found["metrics"]:
        table.add_column(metric, justify="right")
    for name, figures in ({"model": found["metrics"]} | found["baselines"]).items():
        table.add_row(name, *(f"{figures[metric]:.4f}" for metric in found["metrics"]))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for metric in ("NDCG@10", "HR@10"):
        low, high = found["interval95"][metric]
        click.echo(f"{metric} of the model is between {low:.4f} and {high:.4f} (95 %), {found['users']} shoppers")
        for name, differences in found.get("better_by", {}).items():
            difference, low, high = differences[metric]
            click.echo(f"  {difference:+.4f} [{low:+.4f}, {high:+.4f}] compared with {name}")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
