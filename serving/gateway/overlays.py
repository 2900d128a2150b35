"""What the newest overlay adds to each snapshot that is loaded here. Without one, or when it is too old, answers are the snapshot's alone."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from evershelf import overlay
from evershelf.errors import EvershelfError
from evershelf.overlay import Overlay
from evershelf.storage import Place
from serving.gateway.addition import Addition, added
from serving.gateway.following import Loaded
from serving.gateway.looking import Lookout
from serving.gateway.question import RecentEvent

logger = logging.getLogger(__name__)

_OVERLAY = "overlay"  # what a problem is named after


class Overlays:
    """Keeps up with the newest overlay. `of`, `recent` and `newest` are asked on the event loop; everything else happens on other threads.

    Args:
        place: where overlays are published.
        expires: seconds after which one is left out.
        loaded: the snapshots that are loaded now.
        gone: whether the shopper of a pseudonym was forgotten.
    """

    def __init__(self, place: Place, expires: float, loaded: Callable[[], Sequence[Loaded]], gone: Callable[[str], bool]) -> None:
        self._place, self._expires, self._loaded, self._gone = place, expires, loaded, gone
        self._changing = threading.Lock()  # over the three below, which are replaced as wholes
        self._name = ""
        self._newest: Overlay | None = None
        self._made: dict[str, Addition] = {}  # snapshot id -> what is added to it
        self.problems: dict[str, str] = {}
        self._lookout = Lookout("overlays", self._look)

    @property
    def newest(self) -> Overlay | None:
        """The overlay that answers go by now."""
        made = self._newest
        return made if made and time.time() - made.made_at <= self._expires else None

    def of(self, snapshot_id: str, now: float) -> Addition | None:
        """Return what is added to a snapshot; None without an overlay that is young enough, and until it is worked out for the first time."""
        made = self._made.get(snapshot_id)
        return made if made and now - made.made_at <= self._expires else None

    def recent(self, user: str) -> list[RecentEvent]:
        """Return what a shopper did lately, at any gateway, newest last."""
        made = self.newest
        return [RecentEvent(*action) for action in made.actions(user)] if made else []

    def drop(self) -> None:
        """Drop from memory what belongs to shoppers who were forgotten."""
        with self._changing:
            if self._newest:
                self._newest = self._without_the_forgotten(self._newest)

    def _without_the_forgotten(self, made: Overlay) -> Overlay:
        return msgspec.structs.replace(made, shoppers={user: known for user, known in made.shoppers.items() if not self._gone(user)})

    def start(self, poll: float) -> None:
        self._lookout.start(poll)

    def stop(self) -> None:
        self._lookout.stop()

    def _look(self) -> None:
        try:
            self.follow()
            self.problems.pop(_OVERLAY, None)
        except Exception as error:  # whatever is wrong with overlays, snapshots answer without them
            if _OVERLAY not in self.problems:
                logger.warning("overlays cannot be read; answers go by the one that is known until it expires, then without: %s", error)
            self.problems[_OVERLAY] = str(error) if isinstance(error, OSError | EvershelfError) else f"{type(error).__name__}: {error}"

    def follow(self) -> None:
        """Read the newest overlay if it is another one, and work out what it adds to what is loaded. One that has expired is let go.

        Raises:
            OSError, StorageError: it cannot be read.
        """
        names = overlay.names(self._place)
        name = names[-1] if names else ""
        fresh = overlay.read(self._place, name) if name and name != self._name else None
        newest = fresh or self._newest
        if newest is None or time.time() - newest.made_at > self._expires:
            with self._changing:
                self._name, self._newest, self._made = name, None, {}
            return
        loaded = self._loaded()  # held meanwhile: one that is put away would be opened again beside this
        known = {} if fresh else self._made
        made: dict[str, Addition] = {}
        for one in loaded:
            try:
                made[one.snapshot_id] = known.get(one.snapshot_id) or added(newest, one.store)
            except Exception:  # a snapshot that cannot be read must not take the overlay from the others
                logger.exception("snapshot %s answers without the overlay", one.snapshot_id)
        with self._changing:  # at once, so that no answer falls back to the snapshot's own prices in between
            self._made = made
            if fresh:
                self._name, self._newest = name, self._without_the_forgotten(fresh)


def merged(mine: Sequence[RecentEvent], others: Sequence[RecentEvent]) -> list[RecentEvent]:
    """Join what two tell of one shopper, newest last; what both tell counts once."""
    return sorted({*mine, *others}, key=lambda event: event.time) if others else list(mine)
