"""Loads and unloads versions so that a model never goes dark.

Follows core/aspired_versions_manager.cc and availability_preserving_policy.cc: one thread, one action per tick, as the original does with its default of
no load threads. So one version that fails slowly holds up every other load, and a version that is aspired again while it still unloads must wait.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import grpc

from serving.model_server.servable import Servable
from serving.model_server.states import State, StateMonitor
from serving.model_server.status import StatusError, of

logger = logging.getLogger(__name__)

TICK_S = 0.1


class Stage(Enum):
    NEW = auto()
    READY = auto()
    FAILED = auto()


@dataclass(slots=True)
class Managed:
    """One version that the manager keeps track of."""

    folder: Path
    aspired: bool = True
    stage: Stage = Stage.NEW
    servable: Servable | None = None


class VersionManager:
    """Keep what is loaded equal to what is aspired.

    Args:
        retries: attempts after a failed one.
        retry_s: seconds between attempts.
        load: makes a servable of (model, version, folder).
    """

    def __init__(self, states: StateMonitor, retries: int, retry_s: float, load: Callable[[str, int, Path], Servable] = Servable) -> None:
        self._states, self._retries, self._retry_s, self._load_servable = states, retries, retry_s, load
        self._managed: dict[str, dict[int, Managed]] = {}
        self._wishes: dict[str, dict[int, Path]] = {}  # newest unread wish of each model
        self._wishes_lock = threading.Lock()
        self._serving: dict[str, dict[int, Servable]] = {}  # replaced whole: readers need no lock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="version-manager", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def aspire(self, model: str, versions: Mapping[int, Path]) -> None:
        """Ask that exactly these versions of a model be loaded; the newest wish counts."""
        with self._wishes_lock:
            self._wishes[model] = dict(versions)

    def servable(self, model: str, version: int | None) -> Servable:
        """Return a loaded version; the highest when none is named.

        Raises:
            StatusError: NOT_FOUND.
        """
        versions = self._serving.get(model, {})
        if version is None and versions:
            return versions[max(versions)]
        if version in versions:
            return versions[version]
        asked = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        raise StatusError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")

    def close(self) -> None:
        """Stop the thread, after the load that it may be in."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(TICK_S):
            self._read_wishes()
            for model in list(self._managed):
                self._act(model)

    def _read_wishes(self) -> None:
        with self._wishes_lock:
            wishes = dict(self._wishes)
        for model, versions in wishes.items():
            managed = self._managed.setdefault(model, {})
            for version in [number for number, entry in managed.items() if entry.stage is Stage.FAILED and not entry.aspired]:
                del managed[version]
            if any(version in managed and not managed[version].aspired for version in versions):
                continue  # aspired again while it still serves or unloads: the whole wish waits
            for version, entry in managed.items():
                entry.aspired = version in versions
            for version in sorted(versions.keys() - managed.keys()):
                managed[version] = Managed(versions[version])
                self._states.publish(model, version, State.START)
            with self._wishes_lock:
                if self._wishes.get(model) == versions:
                    del self._wishes[model]

    def _act(self, model: str) -> None:
        """Unload the lowest version that nobody wants, unless it is the last one and another is to come; else load the highest new one."""
        managed = self._managed[model]
        ready = [version for version, entry in managed.items() if entry.stage is Stage.READY]
        unwanted = [version for version in ready if not managed[version].aspired]
        wanted = any(entry.aspired for entry in managed.values())
        new = [version for version, entry in managed.items() if entry.stage is Stage.NEW]
        if unwanted and (len(ready) > 1 or not wanted):
            self._unload(model, min(unwanted))
        elif aspired := [version for version in new if managed[version].aspired]:
            self._load(model, max(aspired))
        for version in new:
            if not managed[version].aspired:  # dropped before it was tried
                del managed[version]
                self._states.publish(model, version, State.END)

    def _load(self, model: str, version: int) -> None:
        entry = self._managed[model][version]
        self._states.publish(model, version, State.LOADING)
        for attempt in range(1 + self._retries):
            if attempt and self._stopped.wait(self._retry_s):
                return
            try:
                entry.servable = self._load_servable(model, version, entry.folder)
            except Exception as error:
                status = of(error)
                logger.warning("%s version %d did not load (attempt %d of %d): %s", model, version, attempt + 1, 1 + self._retries, status)
            else:
                entry.stage = Stage.READY
                self._serving = {**self._serving, model: {**self._serving.get(model, {}), version: entry.servable}}
                self._states.publish(model, version, State.AVAILABLE)
                logger.info("%s version %d is available", model, version)
                return
        entry.stage = Stage.FAILED
        self._states.publish(model, version, State.END, status)

    def _unload(self, model: str, version: int) -> None:
        entry = self._managed[model][version]
        self._states.publish(model, version, State.UNLOADING)
        self._serving = {**self._serving, model: {number: servable for number, servable in self._serving[model].items() if number != version}}
        assert entry.servable is not None
        entry.servable.close()
        del self._managed[model][version]
        self._states.publish(model, version, State.END)
        logger.info("%s version %d is unloaded", model, version)
