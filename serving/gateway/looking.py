"""Look at something that is shared over and over, in the background."""

import threading
from collections.abc import Callable


class Lookout:
    """A thread that looks again and again until it is stopped.

    Args:
        look: must not raise. It may hang in a dead file system: nobody waits for it for long, and the process can end without it.
    """

    def __init__(self, name: str, look: Callable[[], None]) -> None:
        self._name, self._look = name, look
        self._looked, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pause: float, patience: float = 0.0) -> None:
        """Begin to look every `pause` seconds; return after the first look, or after `patience` seconds."""
        self._thread = threading.Thread(target=self._look_forever, args=(pause,), name=self._name, daemon=True)
        self._thread.start()
        self._looked.wait(patience)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join(timeout=1.0)

    def _look_forever(self, pause: float) -> None:
        while True:
            self._look()
            self._looked.set()
            if self._stopping.wait(pause):
                return
