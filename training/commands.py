"""`evershelf train` and `evershelf evaluate`."""

import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from evershelf.models import finished_models, model_folder, read_evaluation
from evershelf.progress import step
from evershelf.settings import load_settings
from evershelf.storage import at_hand
from training.train import train_model

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")


@click.command()
@click.option("--ranks", type=click.IntRange(min=1), help="Horovod ranks on this machine; default: training.ranks.")
@click.option(
    "--reproduce", "original", metavar="ID", help="Train the model of this id, or of this snapshot, again from its lineage and compare; keeps nothing."
)
@click.option("--full", is_flag=True, help="Begin from nothing on all days, whatever training.warm_start says.")
@click.option(
    "--start-from",
    metavar="MODEL",
    help="Learn from all days, beginning with a model: the id of one of ours, or a folder with one of another shop, of which all but its items is taken.",
)
@AS_JSON
def train(ranks: int | None, original: str | None, full: bool, start_from: str | None, as_json: bool) -> None:
    """Train a model on the newest days of the lake, measure it, and bless or refuse it.

    The same lake, settings and code give the same model id: a training that was interrupted resumes, one that is finished is reported again.
    """
    settings = load_settings()
    if full and start_from:
        raise click.UsageError("--full begins from nothing, --start-from with a model; leave one of them out.")
    if original:
        from training.reproduce import reproduce

        if ranks or full or start_from:
            raise click.UsageError("--reproduce trains as the original was trained; leave the other options out.")
        _report_reproduction(reproduce(settings, original, step), as_json)
        return
    if ranks:
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"ranks": ranks, "hosts": ()})})
    model_id = train_model(settings, step, full=full, start_from=start_from)
    _report_model(model_id, as_json)


@click.command("bring-ranker")
@click.argument("ranker", required=False, type=click.Path(path_type=Path))
@click.option("--golden", type=click.Path(path_type=Path), help="What --questions wrote, with `scores` beside the inputs of each request.")
@click.option("--questions", type=click.Path(path_type=Path), help="Write the requests that are to be scored to this file, and do no more.")
@click.option("--model", "model_id", help="Whose items and words it knows; default: the newest blessed model.")
@AS_JSON
def bring_ranker(ranker: Path | None, golden: Path | None, questions: Path | None, model_id: str | None, as_json: bool) -> None:
    """Make a new model of RANKER, an ONNX file from any framework, and of what else its base has; measure it, and bless or refuse it.

    The same file gives the same model id: one that is brought already is reported again.
    """
    from training import own_ranker

    if bool(questions) == bool(ranker and golden) or bool(ranker) != bool(golden):
        raise click.UsageError("Give either --questions FILE, or RANKER.onnx and --golden FILE.")
    base = own_ranker.base_of(model_id)
    if questions:
        try:
            questions.write_text(json.dumps(own_ranker.questions(base)))
        except OSError as error:
            raise click.UsageError(f"{questions} cannot be written: {error.strerror}.") from None
        click.echo(f"Wrote the golden requests of {base.name}. {base / 'vocabulary.json'} says what their numbers mean.")
        return
    assert ranker and golden
    _report_model(own_ranker.bring(load_settings(), ranker, golden, base, step), as_json)


@click.command()
@click.option("--trials", type=click.IntRange(min=1), default=30, show_default=True, help="Those of a search that was interrupted count.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at the same time.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="With so many other seeds the best trial must be better, each time.")
@click.option("--sampler", type=click.Choice(["tpe", "random"]), default="tpe", show_default=True)
@AS_JSON
def tune(trials: int, jobs: int, seeds: int, sampler: Literal["tpe", "random"], as_json: bool) -> None:
    """Look for better parameters of the model; what is found to be better is in force from the next training on."""
    from training.tune import tune as search

    found = search(load_settings(), trials=trials, jobs=jobs, seeds=seeds, sampler=sampler, say=step)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'From now on' if found['changed'] else 'Nothing changes'}: {found['why']}.")
    for name, value in found["parameters"].items():
        click.echo(f"  training.{name:14} {value}")


@click.command()
@click.option("--size", "sizes", multiple=True, metavar="WIDTHxBLOCKS", help="Again for each, the teacher first. Default: the size in force and smaller ones.")
@AS_JSON
def frontier(sizes: tuple[str, ...], as_json: bool) -> None:
    """Train, distil and prune models of several sizes; the fastest shown to give up at most 1 % is in force from the next training on."""
    from training.frontier import frontier as measure

    if wrong := [size for size in sizes if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size)]:
        raise click.BadParameter(f"{', '.join(wrong)}: a size is a width and a number of blocks, like 64x2.", param_hint="--size")
    found = measure(load_settings(), [(int(width), int(blocks)) for width, blocks in (size.split("x") for size in sizes)], step)
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table("size", "how", "ms", "MB", "NDCG@10", "given up", "at most", caption="one request, 200 candidates, one thread", caption_justify="left")
    for row in found["frontier"]:
        size, figures = f"{row['width']} x {row['blocks']}", (f"{row['milliseconds']:.3f}", f"{row['megabytes']:.2f}", f"{row['NDCG@10']:.4f}")
        table.add_row(size, row["how"], *figures, f"{row['given_up']:.1%}", f"{row['given_up_at_most']:.1%}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    verdict = "From now on" if found["changed"] else "Nothing changes"
    click.echo(f"{verdict}: {found['width']} wide, {found['blocks']} blocks; {found['why']}.")


@click.command()
@click.option("--minutes", type=click.FloatRange(min=1), default=20.0, show_default=True, help="Learning takes no longer; measuring takes some minutes more.")
@AS_JSON
def fine_tune(minutes: float, as_json: bool) -> None:
    """Let the text encoder learn the shop's own words from its search clicks; what is shown to be better is in force from the next training on."""
    from training.fine_tuning import fine_tune as learn

    found = learn(load_settings(), minutes=minutes, say=step)
    if as_json:
        click.echo(json.dumps(found))
        return
    if "queries_measured" in found:
        table = Table("NDCG@10", "in force", "fine-tuned", "better by", caption=f"{found['queries_measured']} queries after the split", caption_justify="left")
        for what in ("meaning", "hybrid", "hybrid_new_queries"):
            if one := found.get(what):
                difference, low, high = one["better_by"]
                table.add_row(what.replace("_", " "), f"{one['in_force']:.4f}", f"{one['fine_tuned']:.4f}", f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]")
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    click.echo(f"{'From now on' if found['changed'] else 'Nothing changes'}: {found['why']}.")


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
    blessing.check_unseen(stored, stored.name, shop, settings.training)
    with at_hand(stored) as folder:
        found = evaluation.evaluate(folder, shop, seed=settings.training.seed, candidates=settings.candidates).report
    reported = {name: found[name] for name in ("metrics", "interval95", "baselines", "slices", "small_brands", "like_popular", "protocol", "users", "seconds")}
    _report(reported | {"model_id": stored.name}, as_json)


@evaluate.command("sequences")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(min=1), default=21.0, show_default=True, help="The training takes no longer; ranking takes some minutes more.")
@AS_JSON
def evaluate_sequences(file: Path, minutes: float, as_json: bool) -> None:
    """Train on FILE and measure, leave-one-out. One line per shopper: its name, then the items that it chose, in order."""
    from training import evaluate_sequences as sequences

    settings = load_settings()
    parameters = settings.training.model_copy(update=sequences.RECIPE | {"budget": timedelta(minutes=minutes)})
    _report(sequences.evaluate(file, settings, parameters, step), as_json)


@evaluate.command("interactions")
@click.option("--train", "learned", required=True, type=click.Path(path_type=Path), help="Parquet: user, item, timestamp, behaviour.")
@click.option("--test", "foretold", required=True, type=click.Path(path_type=Path), help="Parquet: user, item.")
@AS_JSON
def evaluate_interactions(learned: Path, foretold: Path, as_json: bool) -> None:
    """Learn from one file of interactions and foretell the items in another one."""
    from training import evaluate_interactions as interactions

    _report(interactions.evaluate(learned, foretold, load_settings().training.seed, step), as_json)


@evaluate.command("transfer")
@click.argument("model")
@click.option(
    "--share", "shares", type=click.FloatRange(0, 1, min_open=True), multiple=True, default=(0.05, 0.2, 1.0), show_default=True, help="May be repeated."
)
@AS_JSON
def evaluate_transfer(model: str, shares: tuple[float, ...], as_json: bool) -> None:
    """Train on a share of the lake's shoppers, from nothing and beginning with MODEL (an id or a folder), and compare."""
    from training import evaluate_transfer as transfer

    found = transfer.evaluate(load_settings(), model, shares, step)
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table("of the shoppers", "interactions", "popular", "item-kNN", "from nothing", f"from {found['model']}", "better by", caption=found["protocol"])
    for share, one in found["shares"].items():
        difference, low, high = one["better_by"]
        figures = (f"{one[name]:.4f}" for name in ("popular", "item_knn", "from_nothing", "from_model"))
        table.add_row(f"{float(share):.0%}", str(one["interactions"]), *figures, f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@evaluate.command("search")
@click.option("--products", required=True, type=click.Path(path_type=Path), help="A file or a folder of products: JSON, JSON in a zip, CSV or Parquet.")
@click.option("--judgments", required=True, type=click.Path(path_type=Path), help="CSV: query, docid, rating.")
@AS_JSON
def evaluate_search(products: Path, judgments: Path, as_json: bool) -> None:
    """Answer the queries of judged answers from a catalogue, and measure how good that is."""
    from training import evaluate_search as search

    parameters = load_settings().training
    _report(search.evaluate(products, judgments, parameters.text_encoder, parameters.seed, step), as_json)


def _report_model(model_id: str, as_json: bool) -> None:
    evaluation = read_evaluation(model_id)
    if as_json:
        click.echo(json.dumps({"model_id": model_id} | {name: evaluation.get(name) for name in ("blessed", "why", "metrics", "rankers")}))
        return
    click.echo(f"Model {model_id} is {'blessed' if evaluation['blessed'] else 'refused: what is live stays live'}.")
    for reason in evaluation["why"]:
        click.echo(f"  {reason}")
    _print_figures(evaluation)


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
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if "slices" in found:
        slices = Table("slice", "events", "NDCG@10", title="Parts of the shop", title_justify="left")
        for name, part in found["slices"].items():
            slices.add_row(name.replace("_", " "), str(part["events"]), f"{part['NDCG@10']:.4f}")
        console.print(slices)
    if brands := found.get("small_brands"):
        click.echo(
            f"Small brands: {brands['of_shown']:.0%} of what is shown, {brands['of_choices']:.0%} of what was chosen, {brands['of_items']:.0%} of the items"
        )
    measured = f"{found['queries']} queries" if "queries" in found else f"{found['users']} shoppers"
    for metric in [metric for metric in found["interval95"] if metric.startswith(("NDCG@10", "HR@10"))]:
        low, high = found["interval95"][metric]
        click.echo(f"{metric} of the model is between {low:.4f} and {high:.4f} (95 %), {measured}")
        for name, differences in found.get("better_by", {}).items():
            difference, low, high = differences[metric]
            click.echo(f"  {difference:+.4f} [{low:+.4f}, {high:+.4f}] compared with {name}")
