"""The tombstones that one gateway goes by: those of the shared list, and for when that cannot be read, its own copy on local disk. They only become more."""

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from evershelf import forgotten, storage
from evershelf.forgotten import Forgotten
from serving.gateway.looking import Lookout

logger = logging.getLogger(__name__)

_LIST, _COPY = "list of forgotten shoppers", "copy of the list of forgotten shoppers"  # what a problem is named after
_NEVER = -1.0
_SETTLED = 5.0  # seconds after which a list's time of change tells it from any later one
_FIRST_LOOK = 0.5  # seconds that a start waits for the shared list before it goes by its own copy


class Tombstones:
    """Keeps `known` in step with the shared list. `known` may be read from any thread; it is replaced as a whole.

    Args:
        copy: the file on this gateway's disk.
    """

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._adding = threading.Lock()
        self._saved = True
        self._listed: float | None = _NEVER  # when the list that was read last had changed
        self.known = Forgotten()
        self.problems: dict[str, str] = {}
        self._lookout = Lookout("tombstones", self._look)

    def start(self, poll: float) -> None:
        """Read the copy, then the shared list, which a start waits for only a moment; then go on reading it in the background."""
        try:
            self.known = Forgotten(msgspec.json.decode(self._copy.read_bytes(), type=list[str]))
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            logger.error("%s cannot be read; only the shared list says who was forgotten: %s", self._copy, error)
            self.problems[_COPY] = f"cannot be read: {error}"
        self._lookout.start(poll, _FIRST_LOOK)

    def stop(self) -> None:
        self._lookout.stop()

    def add(self, names: Iterable[str]) -> None:
        """Go by more tombstones from now on, and after a restart."""
        with self._adding:
            more = self.known.union(names)
            if len(more) == len(self.known) and self._saved:
                return
            self.known = Forgotten(more)
            try:
                storage.replace(self._copy, msgspec.json.encode(sorted(more)))
            except OSError as error:
                self._saved = False  # tried again with every look at the list
                self.problems[_COPY] = f"cannot be written: {error}"
            else:
                self._saved = True
                self.problems.pop(_COPY, None)

    def _read_if_changed(self) -> None:
        """Read the list, unless it is as it was when it was read last: reading many tombstones twice a second would cost a gateway a good part of a core."""
        changed, now = forgotten.changed_at(patient=False), time.time()
        if self._saved and changed == self._listed:
            return
        self.add(forgotten.read(patient=False))
        self._listed = changed if changed is None or now - changed > _SETTLED else _NEVER  # a storage's clock may be coarse: what follows at once looks alike

    def _look(self) -> None:
        try:
            self._read_if_changed()
            self.problems.pop(_LIST, None)
        except Exception as error:  # whatever is wrong with the list, those who are known to be forgotten stay so
            if _LIST not in self.problems:
                logger.exception("the list of forgotten shoppers cannot be read; what was known of it stays")
            self.problems[_LIST] = f"cannot be read: {error}"
