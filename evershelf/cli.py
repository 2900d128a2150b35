"""The `evershelf` command. Each subcommand lives with what it commands and is imported only when it is called, so that a gateway never loads Spark."""

import importlib
import sys
from typing import Any

import click

from evershelf.errors import EvershelfError

# command -> where it is written, what it does
COMMANDS = {
    "doctor": ("evershelf.doctor:doctor", "Check what this machine has and what is missing."),
    "simulate": ("evershelf.shops.commands:simulate", "Make the raw days of a simulated shop."),
    "ingest": ("evershelf.shops.commands:ingest", "Take a shop's raw days in at the door: pseudonyms first, then landing."),
    "up": ("evershelf.stack.commands:up", "Start the local stack in the background."),
    "down": ("evershelf.stack.commands:down", "Stop what `up` started."),
    "demo": ("evershelf.demo.commands:demo", "Go round the whole circle, break things, report."),
    "shoppers": ("evershelf.demo.live_shoppers:shoppers", "Let simulated shoppers use the gateways, and say what they got."),
    "run": ("evershelf.run:run", "Run one data job: lake_daily, interests, labels, candidates, build_snapshot, nearline, maintain_lake, redact, retention."),
    "sql": ("evershelf.sql:sql", "Query the lake's tables, without Spark."),
    "dictionary": ("evershelf.dictionary:command", "Print every table and column with its meaning, unit, checks and source."),
    "lineage": ("evershelf.lineage:lineage", "Show what a table's day was made of, by which code, and what was built from it."),
    "tables": ("evershelf.tables:tables", "Show where each table lives, its last good day and health, and what goes dark without it."),
    "train": ("training.commands:train", "Train, evaluate and bless or refuse a model."),
    "tune": ("training.commands:tune", "Look for better parameters of the model; the winner is in force from the next training on."),
    "frontier": ("training.commands:frontier", "Show what smaller models gain in speed and give up in quality; the size that pays is in force from then on."),
    "fine-tune": ("training.commands:fine_tune", "Let the text encoder learn from the shop's search clicks; a better one is in force from then on."),
    "bring-ranker": ("training.commands:bring_ranker", "Bring a shop's own ranker, in ONNX: check, measure, bless or refuse it."),
    "evaluate": ("training.commands:evaluate", "Measure how good the answers are: of the newest model on the shop, or of the same code on a file."),
    "status": ("serving.promotion.commands:status", "Show what is live, since when, how old, and what is wrong."),
    "why": ("serving.gateway.why_command:why", "Explain a recent answer: what was asked, which rung, how long, why these items."),
    "snapshots": ("serving.promotion.commands:snapshots", "List, verify and describe snapshots."),
    "promote": ("serving.promotion.commands:promote", "Try a snapshot on a share of the shoppers; promote or reject it."),
    "rollback": ("serving.promotion.commands:rollback", "Put last-good back, everywhere, at once."),
    "pin": ("serving.promotion.commands:pin", "Keep stable what is stable: promotions are refused until unpinned."),
    "freeze": ("serving.promotion.commands:freeze", "Stop every promotion until unfrozen."),
    "serve": ("serving.gateway.commands:serve", "Start a gateway."),
    "model-server": ("serving.model_server.commands:model_server", "Start the TensorFlow Serving stand-in."),
    "bench": ("evershelf.bench:bench", "Measure, each time beside a named peer."),
    "forget": ("serving.forget:command", "Forget a shopper: at the gateways at once, in what is stored with the next `run redact`."),
    "quarantine": ("evershelf.quarantine:quarantine", "Look at rows that broke a contract, repair and replay them."),
    "quality": ("evershelf.quality.commands:quality", "Show what the checks of each day found, and where a day differs from the weeks before."),
}


class LazyCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`evershelf {cmd_name}` needs the package {error.name}, which this role did not install; see README, section Roles."
            ) from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the table: --help of one command must not import the others
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="evershelf")
def cli() -> None:
    """Search and recommendations that never go dark."""


def main(arguments: list[str] | None = None) -> Any:
    """Run one command; a foreseeable mistake is printed without a stack trace."""
    try:
        return cli.main(arguments, prog_name="evershelf")
    except EvershelfError as error:
        click.echo(f"evershelf: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
