"""What shoppers did since the snapshot, as far as this gateway was told: bounded memory, lost with the process, never the only copy."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

from evershelf.contracts import EVENT_TYPES
from serving.gateway.question import RecentEvent

_SHOPPERS = 50_000
_EVENTS_EACH = 20
_TELLING = {"click", "view", "cart", "purchase"}  # a shown item says nothing of its shopper


class RecentEvents:
    """The newest events of the shoppers seen last."""

    def __init__(self) -> None:
        self._by_user: OrderedDict[str, deque[RecentEvent]] = OrderedDict()

    def add(self, user: str, event_type: str, item_id: str, time: float) -> None:
        if event_type not in _TELLING:
            return
        events = self._by_user.setdefault(user, deque(maxlen=_EVENTS_EACH))
        self._by_user.move_to_end(user)
        events.append(RecentEvent(item_id, EVENT_TYPES.index(event_type), time))
        if len(self._by_user) > _SHOPPERS:
            self._by_user.popitem(last=False)

    def shoppers(self) -> list[str]:
        return list(self._by_user)

    def drop(self, users: Iterable[str]) -> None:
        for user in users:
            self._by_user.pop(user, None)

    def of(self, user: str) -> Sequence[RecentEvent]:
        """Return a shopper's events, newest last."""
        return sorted(self._by_user.get(user, ()), key=lambda event: event.time)
