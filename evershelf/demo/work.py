"""Run the real commands, one step at a time or several at once, with progress and times."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from evershelf.errors import CommandFailed
from evershelf.processes import stop_tree
from evershelf.stack.services import EVERSHELF, POLITELY


@dataclass(slots=True)
class Step:
    """One step of the report: what was done, the seconds that it took, and what came out."""

    name: str
    seconds: float = 0.0
    outcome: str = ""


@dataclass(slots=True)
class Job:
    """A command that was started."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    log: Path

    def wait(self, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Wait for the end and return the JSON object on the last line of its output, {} when there is none.

        Raises:
            CommandFailed: it ended with another code than the allowed ones; the message carries its last words.
        """
        code = self.process.wait()
        if code not in allowed:
            said = self.log.read_text(errors="replace").split("\n")
            reason = next((line for line in reversed(said) if line.strip()), "it said nothing")
            raise CommandFailed(f"`{self.name}` ended with {code}: {reason[:500]}\n{self.last_words()}\nThe demo stops here; all of it is in {self.log}.")
        lines = self.output.read_text(errors="replace").splitlines()
        try:
            answer = json.loads(lines[-1])
        except (IndexError, ValueError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def last_words(self, lines: int = 15) -> str:
        said = [*self.output.read_text(errors="replace").splitlines(), *self.log.read_text(errors="replace").splitlines()]
        return "\n".join(f"    {line[:300]}" for line in said[-lines:])


@dataclass(slots=True)
class Workshop:
    """Starts commands with one environment, and stops whatever is still at work in the end."""

    environment: Mapping[str, str]
    logs: Path
    console: Console
    steps: list[Step] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def begin(self, *arguments: str) -> Job:
        """Start `evershelf <arguments>`; data jobs and training politely, because here they share their cores with what answers shoppers."""
        polite = POLITELY if arguments[0] in ("run", "train") else ()
        return self.launch(arguments, [*polite, *EVERSHELF, *arguments])

    def run(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run `evershelf <arguments>` to its end; see `Job.wait`."""
        return self.begin(*arguments).wait(allowed)

    def module(self, name: str, *arguments: str) -> Job:
        """Start a module of this package as a process that ends when the demo does."""
        return self.launch((name.rsplit(".")[-1],), [sys.executable, "-m", name, *arguments])

    def launch(self, title: tuple[str, ...], command: list[str]) -> Job:
        self.logs.mkdir(parents=True, exist_ok=True)
        stem = f"{len(self.jobs) + 1:02d}-{re.sub('[^a-z0-9_]+', '-', '-'.join(title[:2]))}"
        output, log = self.logs / f"{stem}.out", self.logs / f"{stem}.log"
        with output.open("wb") as out, log.open("wb") as err:
            process = subprocess.Popen(
                command,
                env=dict(self.environment),
                stdin=subprocess.PIPE,  # its end tells a process that watches it that the demo was killed
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which stops all in order
            )
        job = Job(" ".join(("evershelf", *title)), process, output, log)
        self.jobs.append(job)
        return job

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step and say how it went."""
        step, started = Step(name), time.monotonic()
        self.steps.append(step)
        if self.console.is_terminal:
            with self.console.status(name):
                yield step
        else:
            self.console.print(f"... {name}", markup=False, highlight=False)
            yield step
        step.seconds = time.monotonic() - started
        self.console.print(f"{step.seconds:6.1f} s  {name}{': ' if step.outcome else ''}{step.outcome}", markup=False, highlight=False)

    def stop(self) -> None:
        """End every command that is still at work."""
        for job in self.jobs:
            if job.process.poll() is None:
                stop_tree(job.process.pid, patience=5.0)
                job.process.wait()


def clean_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with the demo's settings; addresses that were set for another installation must not reach it."""
    kept = {name: value for name, value in os.environ.items() if not (name.startswith("EVERSHELF_") and name.endswith("_URL"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **overrides}
