"""What the newest overlay adds to each snapshot that is loaded here. Without one, or when it is too old, answers are the snapshot's alone."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from evershelf import overlay
from evershelf.errors import EvershelfError
from evershelf.overlay import Overlay
from evershelf.storage import Place
from serving.gateway.addition import Addition, added
from serving.gateway.question import RecentEvent
from serving.stores.snapshot_store import SnapshotStore

logger = logging.getLogger(__name__)

_OVERLAY = "overlay"  # what a problem is named after


class Overlays:
    """Keeps up with the newest overlay. `of` is asked on the event loop; everything else happens on a thread of its own.

    Args:
        place: where overlays are published.
        expires: seconds after which one is left out.
        stores: the snapshots that are loaded now.
    """

    def __init__(self, place: Place, expires: float, stores: Callable[[], Iterable[SnapshotStore]]) -> None:
        self._place, self._expires, self._stores = place, expires, stores
        self._name = ""
        self._newest: Overlay | None = None
        self._made: dict[str, Addition] = {}  # snapshot id -> what is added to it; replaced as a whole
        self.problems: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def newest(self) -> Overlay | None:
        """The overlay that answers go by now."""
        made = self._newest
        return made if made and time.time() - made.made_at <= self._expires else None

    def of(self, snapshot_id: str, now: float) -> Addition | None:
        """Return what is added to a snapshot; None without an overlay that is young enough, and while it is being worked out."""
        made = self._made.get(snapshot_id)
        return made if made and now - made.made_at <= self._expires else None

    def recent(self, user: str) -> list[RecentEvent]:
        """Return what a shopper did lately, at any gateway, newest last."""
        made = self.newest
        return [RecentEvent(*action) for action in made.actions(user)] if made else []

    def drop(self, gone: Callable[[str], bool]) -> None:
        """Drop from memory what belongs to shoppers who were forgotten; on any thread."""
        if (made := self._newest) and any(map(gone, made.shoppers)):
            self._newest = Overlay(made.made_at, made.changes, made.chosen, {user: known for user, known in made.shoppers.items() if not gone(user)})

    def start(self, poll: float) -> None:
        self._thread = threading.Thread(target=self._follow_forever, args=(poll,), name="overlays", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join(timeout=1.0)  # it may hang in a dead file system; it is a daemon

    def _follow_forever(self, poll: float) -> None:
        while True:
            try:
                self.follow()
                self.problems.pop(_OVERLAY, None)
            except Exception as error:  # whatever is wrong with overlays, snapshots answer without them
                if _OVERLAY not in self.problems:
                    logger.warning("overlays cannot be read; answers go by the one that is known until it expires, then without: %s", error)
                self.problems[_OVERLAY] = str(error) if isinstance(error, OSError | EvershelfError) else f"{type(error).__name__}: {error}"
            if self._stopping.wait(poll):
                return

    def follow(self) -> None:
        """Read the newest overlay if it is another one, and work out what it adds to what is loaded.

        Raises:
            OSError, StorageError: it cannot be read.
        """
        names = overlay.names(self._place)
        if names and names[-1] != self._name:
            self._newest = overlay.read(self._place, names[-1])
            self._name, self._made = names[-1], {}
        if self._newest is None:
            return
        made = {store.snapshot_id: self._made.get(store.snapshot_id) or added(self._newest, store) for store in self._stores()}
        if made.keys() != self._made.keys():
            self._made = made


def merged(mine: Sequence[RecentEvent], others: Sequence[RecentEvent]) -> list[RecentEvent]:
    """Join what two tell of one shopper, newest last; what both tell counts once."""
    return sorted({*mine, *others}, key=lambda event: event.time) if others else list(mine)
