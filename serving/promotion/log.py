"""The promotion log: append-only, one immutable record per decision, the only source of truth for what is live.

State is the fold of the records in order of their sequence numbers, never of clocks. A record is put in place by an operation that fails when the
name exists; of two writers that race for a number one loses and looks again.
"""

import getpass
import re
import socket
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import msgspec

from evershelf import storage
from evershelf.errors import StorageError
from evershelf.storage import Place
from evershelf.telemetry import PROMOTION_DECISIONS, metrics
from serving.errors import PromotionRefused

Kind = Literal["registered", "warming", "canary", "promoted", "rejected", "rolled_back", "pinned", "frozen", "redacted"]
_NAME = re.compile(r"(\d{6})\.json")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision. `seq` numbers the log from 1; a snapshot's registration number is the `seq` of its `registered` record.

    `share` is the canary's share of shoppers; `to` the snapshot that a rollback went back to, or the copy without forgotten shoppers that takes this one's
    place; `on` whether a pin or a freeze starts or ends.
    """

    seq: int
    kind: Kind
    snapshot_id: str
    at: str
    author: str
    why: str
    share: float | None = None
    to: str | None = None
    on: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """What is live after `seq` decisions.

    Attributes:
        stable: the snapshot most shoppers get.
        canary: the one on trial, with `canary_share` of the shoppers (0 while it only warms up).
        been_stable: every snapshot that was ever stable and never rolled back, newest promotion first, stable included.
        registrations: snapshot id to registration number, which is also its version in the model server.
        out: rejected or rolled-back snapshots; never a target again.
        pinned: promotions are refused until the pin is taken off.
        frozen: promotions are refused, automatic rollbacks too.
        copies: redacted snapshot to the copy that took its place in all of the above, with its registration number: the model is the same.
    """

    seq: int = 0
    stable: str | None = None
    canary: str | None = None
    canary_share: float = 0.0
    been_stable: tuple[str, ...] = ()
    registrations: dict[str, int] = field(default_factory=dict)
    out: frozenset[str] = frozenset()
    pinned: bool = False
    frozen: bool = False
    since: str = ""
    copies: dict[str, str] = field(default_factory=dict)

    def current(self, snapshot_id: str) -> str:
        """Return what a snapshot is called now."""
        while snapshot_id in self.copies:
            snapshot_id = self.copies[snapshot_id]
        return snapshot_id

    @property
    def last_good(self) -> tuple[str, ...]:
        """Return the candidates for last-good, best first; the first that verifies is it."""
        return tuple(snapshot for snapshot in self.been_stable if snapshot != self.stable)

    def after(self, record: Record) -> "LiveState":
        """Return the state that one more record leads to."""
        snapshot, state = record.snapshot_id, replace(self, seq=record.seq)
        match record.kind:
            case "registered":
                return replace(state, registrations={**self.registrations, snapshot: record.seq})
            case "warming":
                return replace(state, canary=snapshot, canary_share=0.0)
            case "canary":
                return replace(state, canary=snapshot, canary_share=record.share or 0.0)
            case "promoted":
                been = (snapshot, *(other for other in self.been_stable if other != snapshot))
                return replace(state, stable=snapshot, canary=None, canary_share=0.0, been_stable=been, since=record.at)
            case "rejected":
                state = replace(state, out=self.out | {snapshot})
                return replace(state, canary=None, canary_share=0.0) if snapshot == self.canary else state
            case "rolled_back":
                been = tuple(other for other in self.been_stable if other != snapshot)
                out = self.out | {snapshot} | ({self.canary} if self.canary else set())
                return replace(state, stable=record.to, canary=None, canary_share=0.0, been_stable=been, out=out, since=record.at)
            case "redacted":
                return self._redacted(state, snapshot, record.to or "")
            case "pinned":
                return replace(state, pinned=record.on)
            case "frozen":
                return replace(state, frozen=record.on)

    @staticmethod
    def _redacted(state: "LiveState", old: str, new: str) -> "LiveState":
        def renamed(snapshot: str | None) -> str | None:
            return new if snapshot == old else snapshot

        return replace(
            state,
            stable=renamed(state.stable),
            canary=renamed(state.canary),
            been_stable=tuple(new if snapshot == old else snapshot for snapshot in state.been_stable),
            registrations={**state.registrations, **({new: state.registrations[old]} if old in state.registrations else {})},
            out=state.out | {old} | ({new} if old in state.out else set()),
            copies={**state.copies, old: new},
        )


class PromotionLog:
    """The log in one folder."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self._known: dict[int, Record] = {}  # a record never changes, and whoever follows the log reads it several times a second

    def records(self, after: int = 0) -> list[Record]:
        """Return the records with a sequence number above `after`, in order."""
        if not self.folder.is_dir():
            return []
        numbers = sorted(int(match[1]) for child in self.folder.iterdir() if (match := _NAME.fullmatch(child.name)))
        for number in numbers:
            if number > after and number not in self._known:
                self._known[number] = msgspec.json.decode(self._path(number).read_bytes(), type=Record)
        return [self._known[number] for number in numbers if number > after]

    def state(self) -> LiveState:
        state = LiveState()
        for record in self.records():
            state = state.after(record)
        return state

    def append(
        self,
        kind: Kind,
        snapshot_id: str,
        why: str,
        *,
        expected: LiveState | None = None,
        share: float | None = None,
        to: str | None = None,
        on: bool = True,
    ) -> Record:
        """Append one decision.

        Args:
            expected: the state that the decision was taken on; when given, a record that came since refuses it.

        Raises:
            PromotionRefused: somebody else decided first.
            StorageError: the log's folder cannot hold records.
        """
        while True:
            last = expected.seq if expected else self.state().seq
            record = Record(
                seq=last + 1,
                kind=kind,
                snapshot_id=snapshot_id,
                at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                author=f"{getpass.getuser()}@{socket.gethostname()}",
                why=why,
                share=share,
                to=to,
                on=on,
            )
            try:
                storage.create(self._path(record.seq), msgspec.json.format(msgspec.json.encode(record)))
            except FileExistsError:
                if not self._path(record.seq).exists():  # it is the folder's own name that is taken, and trying again would not end
                    raise StorageError(
                        f"The promotion log {self.folder} is no folder. '{kind}' of {snapshot_id} was not recorded; what is live stays live."
                    ) from None
                if expected:
                    raise PromotionRefused(
                        f"Decision {record.seq} came first, so '{kind}' of {snapshot_id} was not recorded. Look at `evershelf status` and decide again."
                    ) from None
                continue
            metrics().incr(PROMOTION_DECISIONS.format(kind=kind))
            return record

    def _path(self, number: int) -> Place:
        return self.folder / f"{number:06d}.json"
