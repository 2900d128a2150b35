"""What goes over the wire: answers, events, status. The OpenAPI document is made from these."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from evershelf.contracts.rungs import Rung

Arm = Literal["stable", "canary", "last_good"]
EventType = Literal["search", "impression", "click", "view", "cart", "purchase"]

MAX_USER_ID_BYTES = 256
MAX_QUERY_BYTES = 512
MAX_ITEM_ID_BYTES = 256
MAX_K = 100
MAX_RECENT = 50
MAX_EVENTS = 500
MAX_BODY_BYTES = 1_000_000


class AnswerItem(Struct, frozen=True, gc=False):
    """One item of an answer. `propensity`: probability (0 to 1) with which this item stands at this position, given this answer's rung."""

    item_id: str
    position: int
    title: str
    price: float | None
    currency: str | None
    category_path: str | None
    image: str | None
    score: float
    propensity: float


class Skipped(Struct, frozen=True, gc=False):
    """A better rung that did not answer, and why."""

    rung: Rung
    why: str


class Understood(Struct, frozen=True, gc=False):
    """How a query was read.

    `text` is what was searched for: the query without a price. `corrected` names the words that no item has, and what they were read as. `price_from`,
    `price_to` (both included) and `currency` are what the items were to cost; `filter_dropped` is true when nothing that was found costs that, and items of
    other prices are shown instead. `category` is the likeliest category path.
    """

    text: str
    corrected: dict[str, str]
    price_from: float | None
    price_to: float | None
    currency: str | None
    filter_dropped: bool
    category: str | None


class Answer(Struct, frozen=True, gc=False):
    """An answer, and where it came from.

    `served_by` is the rung; `arm` who this shopper's snapshot is for; `data_as_of` the last day of data in it; `overlay_age_s` null without an overlay;
    `expected_quality` that rung's offline quality relative to `live` (1.0); `matched` false when nothing matches what was asked for and popular items
    are shown instead; `understood` how the query was read, null when this is no search.
    """

    request_id: str
    served_by: Rung
    snapshot_id: str
    arm: Arm
    data_as_of: str
    overlay_age_s: float | None
    expected_quality: float
    matched: bool
    items: list[AnswerItem]
    skipped: list[Skipped]
    understood: Understood | None = None


_Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Event(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event as the front end reports it: the events contract without what the door adds (received_at, landing_dt, dt). `user_id` is the shop's own id."""

    event_id: Annotated[str, Meta(min_length=1, max_length=128)]
    event_time: Annotated[datetime, Meta(tz=True)]
    type: EventType
    user_id: _Name | None = None
    session_id: _Name | None = None
    item_id: _Name | None = None
    query: Annotated[str, Meta(max_length=512)] | None = None
    position: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    price: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    currency: str | None = None
    request_id: _Name | None = None
    snapshot_id: _Name | None = None
    rung: Rung | None = None
    arm: Arm | None = None
    slate: Annotated[list[_Name], Meta(max_length=200)] | None = None
    propensity: Annotated[float, Meta(gt=0, le=1)] | None = None


class LandedEvent(Event, frozen=True, kw_only=True):
    """An event as it is journalled: `user_id` is a pseudonym now."""

    received_at: datetime


class Accepted(Struct, frozen=True):
    """Acknowledges events: they are on this gateway's disk."""

    accepted: int


class Problem(Struct, frozen=True):
    """Why a request was refused: a short name, and what is wrong and allowed."""

    error: str
    detail: str


class HoldWish(Struct, frozen=True, forbid_unknown_fields=True):
    """Break-glass: serve this loaded snapshot until the log knows more than `epoch` decisions; `snapshot_id` null lifts it."""

    snapshot_id: str | None
    epoch: Annotated[int, Meta(ge=0)] = 0
    why: str = ""


class Hold(Struct, frozen=True):
    snapshot_id: str
    epoch: int
    why: str
    at: str


Tombstone = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class RungStatus(Struct, frozen=True):
    state: Literal["closed", "open"]
    answers: int


class Latency(Struct, frozen=True):
    """Histogram: `counts[i]` answers took at most `bounds[i]` ms (and more than the bound before); the last count is beyond all bounds."""

    bounds: list[float]
    counts: list[int]


class SnapshotAnswers(Struct, frozen=True):
    """What one snapshot answered since this process started. Shown and clicks come from the events posted here; `best` is the highest rung that it has here."""

    arm: Arm
    requests: int
    errors: int
    empty: int
    by_rung: dict[str, int]
    latency_ms: Latency
    shown: int
    clicks: int
    best: Rung = "live"


class EventCounts(Struct, frozen=True):
    """Events; `shed` counts posts that were turned away because the gateway was full."""

    accepted: int
    shipped: int
    waiting: int
    shed: int


class OverlayStatus(Struct, frozen=True):
    """What nearline added last: how old it is, and how many items' descriptions and shoppers it tells of."""

    age_s: float
    items: int
    shoppers: int


class Status(Struct, frozen=True):
    """One gateway's state. Counters only grow while the process lives.

    `requests` counts valid requests for an answer that were let in, answered or not; `shed` those that were turned away because the gateway was full;
    `forgotten` the tombstones that it goes by; `overlay` null without one that is young enough.
    """

    name: str
    seq: int
    stable: str | None
    canary: str | None
    canary_share: float
    last_good: str | None
    held: Hold | None
    loaded: list[str]
    problems: dict[str, str]
    uptime_s: float
    rungs: dict[str, RungStatus]
    answers: dict[str, SnapshotAnswers]
    requests: int
    shed: int
    events: EventCounts
    forgotten: int = 0
    overlay: OverlayStatus | None = None


class Tried(Struct, frozen=True):
    """A rung in the order of the ladder: `outcome` is 'answered', or why it was passed over; `ms` null when it was not asked."""

    rung: Rung
    outcome: str
    ms: float | None


class Origins(Struct, frozen=True):
    """One list that candidates came from, in words, and how many of them are on it; an item may be on several."""

    origin: str
    words: str
    items: int


class Moved(Struct, frozen=True):
    """What the ranking model made of one thing that it knows of the shopper: an item touched before, or a word of the query.

    `effect` is how much higher the item scores because of it, beside the other candidates, in standard deviations of all candidates' scores; measured by
    ranking again without it. `place_without` is where the item stands then.
    """

    item_id: str | None
    word: str | None
    words: str
    effect: float
    place_without: int


class WhyItem(Struct, frozen=True):
    """Why one item was shown. `reasons` can be shown to the shopper; `ranked`, what the ranker did with it, is for the shop's own people, '' without ranking.

    `retrieved_at` and `ranked_at` are its places before and after ranking, null without.
    """

    item_id: str
    title: str
    position: int
    propensity: float
    reasons: list[str]
    ranked: str
    retrieved_at: int | None
    ranked_at: int | None
    moved_by: list[Moved]


class Why(Struct, frozen=True):
    """One recent answer explained. `user` is a pseudonym, `ms` the whole time in the gateway, `retrieval_ms` the part that finding candidates took.

    `candidates`, `origins` and the reasons are worked out when this is asked, with the snapshot that answered: null and empty when it is not loaded any more,
    which `note` then says; so is `understood`, which is null of what is no search, too. `same_order` tells whether ranking again gave the order that was shown.
    `unable` are snapshots that should have answered first.
    """

    request_id: str
    gateway: str
    at: str
    endpoint: str
    user: str | None
    query: str
    item_id: str
    category: str
    k: int
    recent_events: int
    snapshot_id: str
    arm: Arm
    unable: list[str]
    served_by: Rung
    expected_quality: float
    matched: bool
    ms: float
    retrieval_ms: float | None
    rungs: list[Tried]
    candidates: int | None
    origins: list[Origins]
    same_order: bool | None
    items: list[WhyItem]
    note: str
    understood: Understood | None = None


encode = msgspec.json.Encoder().encode
