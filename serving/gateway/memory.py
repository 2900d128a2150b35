"""What this gateway answered last, for `evershelf why`: bounded memory, lost with the process, never on disk."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from operator import attrgetter

import msgspec

from evershelf.contracts.rungs import Rung
from evershelf.free_text import masked_query
from serving.gateway.answers import Answer, Arm, Skipped
from serving.gateway.question import Kind, Question, RecentEvent

_ITEM_ID, _PROPENSITY = attrgetter("item_id"), attrgetter("propensity")  # this is on the way of every answer
_BYTES_EACH = 2_000  # on average at most; a usual answer of ten items takes a quarter of it


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One answer, and what the same question can be put with again. `spent` is Question.spent, `unable` are snapshots that could not answer it.

    `items` are the ids of those shown, in order, `propensities` theirs. `user` is a pseudonym.
    """

    at: float
    kind: Kind
    k: int
    user: str | None
    query: str
    item_id: str
    category: str
    recent: list[RecentEvent]
    snapshot_id: str
    arm: Arm
    served_by: Rung
    expected_quality: float
    matched: bool
    items: list[str]
    propensities: list[float]
    skipped: list[Skipped]
    spent: dict[str, float]
    milliseconds: float
    unable: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Remembered).decode


class AnswerMemory:
    """The newest `most` answers, as bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._bytes = 0
        self._by_id: OrderedDict[str, bytes] = OrderedDict()

    def add(self, question: Question, answer: Answer, milliseconds: float, unable: list[str]) -> None:
        if not self.most:
            return
        remembered = Remembered(
            question.now,
            question.kind,
            question.k,
            question.user,
            masked_query(question.text),
            question.item_id,
            question.category,
            list(question.recent),
            answer.snapshot_id,
            answer.arm,
            answer.served_by,
            answer.expected_quality,
            answer.matched,
            [*map(_ITEM_ID, answer.items)],
            [*map(_PROPENSITY, answer.items)],
            answer.skipped,
            question.spent,
            milliseconds,
            unable,
        )
        self._by_id[answer.request_id] = content = _encode(remembered)
        self._bytes += len(content)
        while len(self._by_id) > self.most or self._bytes > self.most * _BYTES_EACH:
            self._bytes -= len(self._by_id.popitem(last=False)[1])

    def answers(self) -> Iterator[tuple[str, str | None]]:
        """Return the request id and the shopper of each answer of now; they may be gone through on any thread."""
        now = list(self._by_id.items())
        return ((request_id, _decode(content).user) for request_id, content in now)

    def drop(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._bytes -= len(self._by_id.pop(request_id, b""))

    def find(self, request_id: str) -> Remembered | None:
        content = self._by_id.get(request_id)
        return _decode(content) if content else None
