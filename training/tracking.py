"""Every training is tracked in TensorBoard's event files: parameters, what each epoch gave, the figures in the end, and where the model is.

`tensorboard --logdir <home>/runs` shows the runs side by side. Files and nothing else: no server has to run for a training to be tracked.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evershelf.progress import Say
from evershelf.settings import Settings
from evershelf.storage import Place

EPOCH = {"loss": "loss", "selection_ndcg": "NDCG@10 of the shoppers set aside", "seconds": "seconds"}  # of what the ranks tell -> its name in a plot


class Run:
    """One training. A disk that is full or a broken file costs the record, never the training: it is said, and nothing more is tracked."""

    def __init__(self, settings: Settings, model_id: str, about: Mapping[str, Any], say: Say) -> None:
        """Begin to track.

        Args:
            about: what tells this run from others besides its parameters, such as the versions of the tables; values are turned into text.
        """
        self.folder = settings.home / "runs" / model_id
        self._say, self._writer = say, None
        with self._tolerant():
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(self.folder))
            parameters = settings.training.model_dump(mode="json", exclude_none=True)
            simple = {
                name: value if isinstance(value, str | int | float) else ", ".join(value) for name, value in parameters.items()
            }  # TensorBoard has no lists
            self._add(hparams_pb({**simple, **{name: str(value) for name, value in about.items()}}, trial_id=model_id), 0)

    def epoch(self, epoch: Mapping[str, Any]) -> None:
        """Track what the ranks told of an epoch."""
        with self._tolerant():
            self._scalars({f"epoch/{name}": epoch[key] for key, name in EPOCH.items()}, epoch["epoch"])

    def finish(self, found: Mapping[str, Any], model: Place) -> None:
        """Track the evaluation, as evaluation.json holds it, and the model's folder; the run ends."""
        with self._tolerant():
            from tensorboard.plugins.text.summary_v2 import text_pb

            figures = {"model": found["metrics"]} | found["baselines"]
            self._scalars({f"evaluation/{metric} of {name}": value for name, its in figures.items() for metric, value in its.items()}, found["best_epoch"])
            verdict = "blessed" if found["blessed"] else "refused"
            self._add(text_pb("model", f"`{model}`: {verdict}. {'; '.join(found['why'])}"), found["best_epoch"])
            if self._writer:
                self._writer.close()

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for name, value in values.items():
            self._add(scalar_pb(name, float(value)), step)

    def _add(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._writer:
            self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._writer.flush()

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever keeps a run from being tracked, the model is what counts
            self._writer = None
            self._say(f"this training is not tracked in {self.folder} any more ({type(error).__name__}: {error}); it goes on")
