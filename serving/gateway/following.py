"""Follow the promotion log: hold on local disk what is live and what may be needed next, and swap what answers in one step.

<home>/gateway/<name>/state.json     what the log said last, and a break-glass hold; read when the log cannot be
<home>/gateway/<name>/snapshots/     verified copies of stable, canary, last-good and a held snapshot
"""

import hashlib
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from evershelf import snapshot, storage
from evershelf.contracts.snapshot import MODEL
from evershelf.errors import EvershelfError, SnapshotOfOtherVersion
from evershelf.storage import Place
from serving.errors import NoSourceAnswered, ServingError
from serving.gateway.answers import Arm, Hold
from serving.gateway.ladder import Ladder
from serving.gateway.looking import Lookout
from serving.promotion.log import LiveState, PromotionLog
from serving.stores.snapshot_store import SnapshotStore

logger = logging.getLogger(__name__)

_RETRY = 10.0  # seconds before a snapshot that could not be loaded is tried again
_LOG, _STATE_FILE = "promotion log", "state file"  # what a problem is named after when it is not a snapshot
_FIRST_LOOK = 0.5  # seconds that a start waits for the log before it goes by what it remembers


@dataclass(frozen=True)
class Loaded:
    """A snapshot that can answer. It is closed when the last request that uses it ends: nothing else holds it then."""

    store: SnapshotStore
    ladder: Ladder

    @property
    def snapshot_id(self) -> str:
        return self.store.snapshot_id


@dataclass(frozen=True)
class Live:
    """What answers now; replaced as a whole, never changed."""

    log: LiveState = field(default_factory=LiveState)
    hold: Hold | None = None
    stable: Loaded | None = None
    canary: Loaded | None = None
    last_good: Loaded | None = None
    held: Loaded | None = None

    def assign(self, key: str) -> tuple[Loaded, Arm]:
        """Return the snapshot that answers one shopper; the same key gets the same one as long as nothing is decided, and stays in a canary whose share grows.

        Raises:
            NoSourceAnswered: nothing is loaded.
        """
        if self.held:
            return self.held, "stable"
        if self.hold:  # it was ordered away from canary and stable, and what it was ordered to cannot be loaded
            if self.last_good:
                return self.last_good, "last_good"
            raise NoSourceAnswered(
                f"This gateway is held on snapshot {self.hold.snapshot_id}, which cannot be loaded, and has no last-good. "
                "Look at /v1/status; lift the hold, or hold another."
            )
        if self.canary and self.log.canary_share > 0 and _place(f"{self.canary.snapshot_id}:{key}") < self.log.canary_share:
            return self.canary, "canary"
        if self.stable:
            return self.stable, "stable"
        if self.last_good:
            return self.last_good, "last_good"
        raise NoSourceAnswered("This gateway has no snapshot that it can serve. Build one with `evershelf run build_snapshot`, then `evershelf promote` it.")


class _Remembered(msgspec.Struct, frozen=True):
    log: LiveState
    hold: Hold | None = None


def _place(key: str) -> float:
    """Return where a key falls between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def _with_originals(name: str | None, log: LiveState) -> Iterator[str]:
    """Yield a snapshot, then those whose places it took."""
    originals = {copy: original for original, copy in log.copies.items()}
    while name:
        yield name
        name = originals.get(name)


class Follower:
    """Keeps `live` in step with the promotion log. Its methods may be called from any thread but the event loop's; `live` may be read from all.

    Args:
        home: this gateway's own folder.
        snapshots: where snapshots are published.
        ladder: builds the rungs of a snapshot from its registration number; None where it has no model for the model server.
    """

    def __init__(self, home: Path, log: PromotionLog, snapshots: Place, ladder: Callable[[int | None], Ladder]) -> None:
        self._state_file, self._copies = home / "state.json", home / "snapshots"
        self._log, self._source, self._ladder = log, snapshots, ladder
        self._swapping = threading.Lock()  # over live, _loaded and the state file; held for moments
        self._loading = threading.Lock()  # held while snapshots are copied; a rollback to what is loaded never waits for it
        self._loaded: dict[str, Loaded] = {}
        self._opened: dict[str, weakref.ref[Loaded]] = {}
        self._retry_at: dict[str, float] = {}
        self._saved = True  # whether the state file has what it should
        self.problems: dict[str, str] = {}
        self.live = Live()
        self._next_look: Callable[[], None] = self._read_log  # the first one copies nothing: a start waits for it
        self._lookout = Lookout("follower", self._look)

    @property
    def loaded(self) -> list[str]:
        return sorted(self._loaded)

    def find(self, snapshot_id: str) -> Loaded | None:
        """Return a snapshot while it is loaded."""
        return self._loaded.get(snapshot_id)

    def start(self, poll: float) -> None:
        """Load what local disk has, as the log says or, when it cannot be read at once, as it said last; then go on following in the background."""
        self._copies.mkdir(parents=True, exist_ok=True)
        if self._state_file.exists():
            try:
                remembered = msgspec.json.decode(self._state_file.read_bytes(), type=_Remembered)
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                logger.error("%s cannot be read; the log alone says what is live, and a hold is forgotten: %s", self._state_file, error)
                self.problems[_STATE_FILE] = f"cannot be read: {error}"
            else:
                self.live = Live(log=remembered.log, hold=remembered.hold)
        self._lookout.start(poll, _FIRST_LOOK)
        with self._loading:
            self._load_missing(copy=False)

    def stop(self) -> None:
        self._lookout.stop()

    def _look(self) -> None:
        try:
            self._next_look()
        except Exception:
            logger.exception("following the promotion log failed; what is live stays live")
        self._next_look = self.follow

    def follow(self, *, now: bool = False) -> None:
        """Read the log and do what it says. What is loaded already is swapped in before anything is copied.

        Args:
            now: also try again what could not be loaded a moment ago.
        """
        self._read_log()
        if not self._saved:
            with self._swapping:
                self._swap(self.live)
        if now:
            self._retry_at.clear()
        if self._missing():
            with self._loading:
                self._load_missing(copy=True)
        self._forget_unneeded()

    def hold(self, snapshot_id: str | None, epoch: int, why: str) -> None:
        """Serve one loaded snapshot until the log has more than `epoch` decisions; None lifts it. Durable, unless `problems` names the state file.

        Raises:
            ServingError: it is not loaded, or the log has decided since.
        """
        with self._swapping:
            if snapshot_id is None:
                self._swap(replace(self.live, hold=None))
                return
            if snapshot_id not in self._loaded:
                raise ServingError(f"Snapshot {snapshot_id} is not loaded here; loaded are {', '.join(self.loaded) or 'none'}. Nothing was changed.")
            if self.live.log.seq > epoch:
                raise ServingError(f"The log has {self.live.log.seq} decisions, more than {epoch}. Nothing was changed; look at /v1/status and decide again.")
            held = Hold(snapshot_id, epoch, why, datetime.now(UTC).isoformat(timespec="milliseconds"))
            self._swap(replace(self.live, hold=held))

    def _read_log(self) -> None:
        try:
            state = self._log.state()
        except (OSError, EvershelfError, msgspec.MsgspecError) as error:
            self.problems[_LOG] = f"cannot be read: {error}"
            return
        with self._swapping:
            if state.seq < self.live.log.seq:  # the log only grows: the storage is not there, or not the one it was
                self.problems[_LOG] = f"has {state.seq} decisions, and had {self.live.log.seq} before; kept what was known"
                return
            self.problems.pop(_LOG, None)
            if state.seq > self.live.log.seq:
                hold = self.live.hold if self.live.hold and state.seq <= self.live.hold.epoch else None
                self._swap(replace(self.live, log=state, hold=hold))

    def _swap(self, live: Live) -> None:
        """Put a new state in place: live in one assignment, then remembered on disk when it decides something. A full disk never delays a rollback."""
        decided = (live.log, live.hold) != (self.live.log, self.live.hold)
        log = live.log
        self.live = Live(
            log=log,
            hold=live.hold,
            stable=self._find(log.stable, log),
            canary=self._find(log.canary, log),
            last_good=next((found for name in log.last_good if (found := self._find(name, log))), None),
            held=self._find(live.hold.snapshot_id, log) if live.hold else None,
        )
        if decided or not self._saved:
            self._save()

    def _find(self, name: str | None, log: LiveState) -> Loaded | None:
        """Return a snapshot; while it is a copy without forgotten shoppers that is not loaded yet, the one whose place it takes (they are strangers anyway)."""
        return next((self._loaded[one] for one in _with_originals(name, log) if one in self._loaded), None)

    def _save(self) -> None:
        """Remember on disk what was decided; what the disk does not take is tried again with every look at the log."""
        try:
            storage.replace(self._state_file, msgspec.json.encode(_Remembered(self.live.log, self.live.hold)))
        except OSError as error:
            if self._saved:
                logger.error("%s cannot be written; what was decided is live, and lost with this process: %s", self._state_file, error)
            self._saved = False
            self.problems[_STATE_FILE] = f"cannot be written: {error}"
        else:
            self._saved = True
            self.problems.pop(_STATE_FILE, None)

    def _wanted(self) -> list[str]:
        """Return what must be loaded, most urgent first; of last-good the best that can be."""
        live = self.live
        named = [live.hold.snapshot_id if live.hold else None, live.log.stable, live.log.canary]
        wanted = list(dict.fromkeys(name for name in named if name))
        for name in live.log.last_good:
            if name not in wanted:
                wanted.append(name)
            if name in self._loaded:
                break
        return wanted

    def _missing(self) -> list[str]:
        now = time.monotonic()
        return [name for name in self._wanted() if name not in self._loaded and self._retry_at.get(name, 0.0) <= now]

    def _load_missing(self, *, copy: bool) -> None:
        while missing := self._missing() if copy else self._at_hand():
            name = missing[0]
            try:
                loaded = self._load(name, copy=copy)
            except (EvershelfError, OSError) as error:
                logger.error("snapshot %s cannot be used: %s", name, error)
                self.problems[name] = str(error)
                self._retry_at[name] = time.monotonic() + (_RETRY if copy else 0.0)
                if not copy and not isinstance(error, SnapshotOfOtherVersion):
                    shutil.rmtree(self._copies / name, ignore_errors=True)  # damaged here; fetched again as soon as storage can be reached
                continue
            self.problems.pop(name, None)
            with self._swapping:
                self._loaded[name] = loaded
                self._opened[name] = weakref.ref(loaded)
                self._swap(self.live)

    def _at_hand(self) -> list[str]:
        """Return what of the missing this disk has, or of a redacted copy that it does not have, the original."""
        on_disk = (next((one for one in _with_originals(name, self.live.log) if (self._copies / one).is_dir()), None) for name in self._missing())
        return [name for name in on_disk if name and name not in self._loaded]

    def _load(self, name: str, *, copy: bool) -> Loaded:
        opened = self._opened.get(name)
        if opened and (still_used := opened()):
            return still_used  # put away a moment ago, and a request still reads it; the same files cannot be opened twice
        folder = self._copies / name
        if copy:
            snapshot.copy(self._source / name, folder)
        else:
            snapshot.verify(folder)
        store = SnapshotStore(folder)
        return Loaded(store, self._ladder(self.live.log.registrations.get(name, 0) if store.manifest.has(MODEL) else None))

    def _forget_unneeded(self) -> None:
        """Close what is no longer needed, and remove its copy once no request uses it."""
        if not self._loading.acquire(blocking=False):
            return  # something is being copied: its folder must not look unneeded
        try:
            with self._swapping:
                wanted = self._wanted()
                if any(name not in self._loaded for name in wanted):
                    return  # keep what there is until everything is in place
                for name in self._loaded.keys() - set(wanted):
                    del self._loaded[name]
            for folder in self._copies.iterdir():
                opened = self._opened.get(folder.name)
                if folder.name not in wanted and (opened is None or opened() is None):
                    self._opened.pop(folder.name, None)
                    shutil.rmtree(folder, ignore_errors=True)
            for name in self.problems.keys() - set(wanted) - {_LOG, _STATE_FILE}:
                self.problems.pop(name, None)
        finally:
            self._loading.release()
