"""What a job is at, for whoever watches it: a line on standard error as each step begins. What the job reports is on standard output."""

from collections.abc import Callable

import click

Say = Callable[[str], None]


def step(what: str) -> None:
    """Say that a step begins, such as `write events`."""
    click.echo(what, err=True)
