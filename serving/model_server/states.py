"""What every version is doing, for whoever asks or waits. Follows core/servable_state_monitor.cc: entries stay for the life of the process."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from serving.model_server.status import StatusError


class State(IntEnum):
    """The numbers of apis/get_model_status.proto."""

    START = 10  # tracked, queued
    LOADING = 20  # loading, or sleeping between attempts
    AVAILABLE = 30  # published after it serves
    UNLOADING = 40  # published before it stops serving
    END = 50  # unloaded, or given up with an error


@dataclass(frozen=True, slots=True)
class VersionState:
    """`change` numbers the changes of the whole server; `error` is why a load was given up."""

    state: State
    change: int
    error: StatusError | None = None


class StateMonitor:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._change = 0
        self._closed = False
        self._models: dict[str, dict[int, VersionState]] = {}

    def publish(self, model: str, version: int, state: State, error: StatusError | None = None) -> None:
        with self._changed:
            self._change += 1
            self._models.setdefault(model, {})[version] = VersionState(state, self._change, error)
            self._changed.notify_all()

    def versions(self, model: str) -> dict[int, VersionState]:
        """Return the versions of a model that were ever tracked, highest first."""
        with self._changed:
            return dict(sorted(self._models.get(model, {}).items(), reverse=True))

    def available(self, model: str, version: int) -> bool:
        entry = self.versions(model).get(version)
        return entry is not None and entry.state is State.AVAILABLE

    @property
    def change(self) -> int:
        with self._changed:
            return self._change

    def settled(self, model: str, after: int) -> VersionState | None:
        """Return the first version of a model that became AVAILABLE or ended after change number `after`."""
        entries = (entry for entry in self.versions(model).values() if entry.change > after and entry.state in (State.AVAILABLE, State.END))
        return min(entries, key=lambda entry: (entry.state, entry.change), default=None)

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait, without a limit, until a condition holds; return False when the server closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or until())
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
