"""The lake's tables, the same for every shop."""

from collections.abc import Mapping
from dataclasses import dataclass

EVENT_TYPES = ("search", "impression", "click", "view", "cart", "purchase")
TRANSACTION_CLASSES = ("kept", "cancelled", "bulk")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Spark SQL type, its meaning, whether a row without it goes to quarantine, and the unit of its values."""

    type: str
    meaning: str
    required: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One lake table. `version` rises when a column changes; `key` names a row; `partition` is the column each atomic commit replaces.

    without: what goes dark, sooner or later, when the table is lost; the snapshots that answer today hold copies of what they need.
    """

    name: str
    meaning: str
    without: str
    version: int
    key: tuple[str, ...]
    partition: str
    columns: Mapping[str, Column]

    def spark_schema(self) -> str:
        """Return the table as a Spark DDL string."""
        return ", ".join(f"`{name}` {column.type}" for name, column in self.columns.items())


_WHEN = {
    "landing_dt": Column("date", "day on which the row was dropped", required=True, unit="day of the shop's calendar"),
    "dt": Column("date", "day that the row belongs to", required=True, unit="day of the shop's calendar"),
}

EVENTS = Table(
    name="events",
    meaning="What shoppers did, and what Evershelf showed them",
    without="recommendations and query lists stay as they are and age, no model can be trained, and promotions lack clicks to judge by; A_U is 0",
    version=1,
    key=("event_id",),
    partition="dt",
    columns={
        "event_id": Column("string", "names the event once, however often it is delivered", required=True),
        "event_time": Column("timestamp", "when it happened", required=True, unit="UTC"),
        "received_at": Column("timestamp", "when the shop's systems received it", required=True, unit="UTC"),
        **_WHEN,
        "user_id": Column("string", "pseudonym (keyed hash) of the shopper; null for a guest"),
        "session_id": Column("string", "one visit"),
        "type": Column("string", "one of " + ", ".join(EVENT_TYPES), required=True),
        "item_id": Column("string", "the item; null for a search"),
        "query": Column("string", "what was searched for"),
        "position": Column("int", "place in the list that was shown", unit="1 is first"),
        "quantity": Column("int", "how many", unit="pieces"),
        "price": Column("double", "price of one piece", unit="`currency`"),
        "currency": Column("string", "money of `price`", unit="ISO 4217 code"),
        "request_id": Column("string", "the Evershelf answer that showed the item"),
        "snapshot_id": Column("string", "the snapshot that gave that answer"),
        "rung": Column("string", "the rung that gave that answer"),
        "arm": Column("string", "stable or canary"),
        "slate": Column("array<string>", "item ids of that answer, first to last"),
        "propensity": Column("double", "probability with which the item was shown at its position", unit="0 to 1"),
    },
)

PRODUCTS = Table(
    name="products",
    meaning="The catalogue: the newest row of an item is how it is sold now",
    without="no new snapshot can be built: titles, prices, stock, search and every list stay as they are; A_P is 0",
    version=1,
    key=("item_id",),
    partition="dt",
    columns={
        "item_id": Column("string", "the item", required=True),
        **_WHEN,
        "title": Column("string", "name shown to shoppers", required=True),
        "description": Column("string", "longer text"),
        "brand": Column("string", "brand"),
        "category_path": Column("string", "categories from the widest to the narrowest, joined by ' > '"),
        "price": Column("double", "price of one piece", unit="`currency`"),
        "currency": Column("string", "money of `price`", unit="ISO 4217 code"),
        "stock": Column("int", "how many can be sold; null when unknown", unit="pieces"),
        "image": Column("string", "address of the picture"),
        "address": Column("string", "address of the product page"),
        "attributes": Column("map<string,string>", "sparse further attributes"),
        "valid_from": Column("timestamp", "when this description began to hold", required=True, unit="UTC"),
    },
)

ORDERS = Table(
    name="orders",
    meaning="Order lines, and what became of them",
    without="the transaction class is not learned any more; A_T is 0",
    version=1,
    key=("order_id", "line_id"),
    partition="dt",
    columns={
        "order_id": Column("string", "the order", required=True),
        "line_id": Column("string", "the line within the order", required=True),
        "ordered_at": Column("timestamp", "when it was ordered", required=True, unit="UTC"),
        **_WHEN,
        "user_id": Column("string", "pseudonym (keyed hash) of the shopper; null for a guest"),
        "item_id": Column("string", "the item", required=True),
        "quantity": Column("int", "how many, always positive", required=True, unit="pieces"),
        "price": Column("double", "price of one piece", required=True, unit="`currency`"),
        "currency": Column("string", "money of `price`", required=True, unit="ISO 4217 code"),
        "cancelled_at": Column("timestamp", "when it was cancelled; null when kept", unit="UTC"),
        "returned_at": Column("timestamp", "when it was returned; null when kept", unit="UTC"),
        "transaction_class": Column("string", "one of " + ", ".join(TRANSACTION_CLASSES), required=True),
    },
)

QUARANTINE = Table(
    name="quarantine",
    meaning="Rows that broke a rule, as they landed",
    without="no answer; rejected rows can only be looked up in landing",
    version=1,
    key=("landing_dt", "source", "row_id"),
    partition="landing_dt",
    columns={
        "landing_dt": Column("date", "day on which the row was dropped", required=True, unit="day of the shop's calendar"),
        "source": Column("string", "landing folder that the row came from", required=True),
        "row_id": Column("string", "hash of the raw row and its place in the file", required=True),
        "reason": Column("string", "name of the first rule that the row broke", required=True),
        "raw": Column("string", "the row as it landed, JSON", required=True),
    },
)

RECONCILIATION = Table(
    name="reconciliation",
    meaning="What became of every landed row, per landing day and source",
    without="no answer; which days are published is not known, so they must be run again",
    version=1,
    key=("landing_dt", "source"),
    partition="landing_dt",
    columns={
        "landing_dt": Column("date", "day on which the rows were dropped", required=True, unit="day of the shop's calendar"),
        "source": Column("string", "landing folder that the rows came from", required=True),
        "outcome": Column("string", "published, held, or closed when the shop never opens on such a day", required=True),
        "why": Column("string", "why the day was held back or is closed; null when published"),
        "rows_in": Column("bigint", "rows that landed", required=True, unit="rows"),
        "rows_clean": Column("bigint", "rows that reached a table", required=True, unit="rows"),
        "rows_quarantined": Column("bigint", "rows in quarantine", required=True, unit="rows"),
        "rows_deduplicated": Column("bigint", "rows dropped as repetitions", required=True, unit="rows"),
        "reasons": Column("map<string,bigint>", "quarantined rows per reason", required=True, unit="rows"),
        "code_version": Column("string", "version of Evershelf that published the day", required=True),
    },
)

INTERESTS = Table(
    name="interests",
    meaning="What each shopper was interested in at the end of a day: the categories and brands of what they chose, decayed, with the evidence",
    without="no answer; who is interested in what can be worked out again from events and products",
    version=1,
    key=("user_id", "kind", "tag"),
    partition="dt",
    columns={
        "dt": Column("date", "day up to whose end actions count", required=True, unit="day of the shop's calendar"),
        "user_id": Column("string", "pseudonym (keyed hash) of the shopper", required=True),
        "kind": Column("string", "category or brand", required=True),
        "tag": Column("string", "the category path or the brand", required=True),
        "position": Column("int", "place among the shopper's tags of this kind", required=True, unit="1 is strongest"),
        "weight": Column("double", "actions, by their kind and half as much after each half-life", required=True, unit="clicks of this moment"),
        "share": Column("double", "part of all the shopper's weight of this kind", required=True, unit="0 to 1"),
        "actions": Column("map<string,bigint>", "evidence: how often each type of action", required=True, unit="events"),
        "items": Column("array<string>", "evidence: the items that weigh most, heaviest first", required=True),
        "first_at": Column("timestamp", "evidence: the first action", required=True, unit="UTC"),
        "last_at": Column("timestamp", "evidence: the newest action", required=True, unit="UTC"),
    },
)

LABELS = Table(
    name="labels",
    meaning="Categories, brands and prices that the catalogue leaves out, filled in by rules or the model; what the catalogue gives is never here",
    without="items without a category or brand are in no list of one, as if nothing were known; they can be worked out again from products and a model",
    version=1,
    key=("item_id", "kind"),
    partition="dt",
    columns={
        "dt": Column("date", "day up to which descriptions count", required=True, unit="day of the shop's calendar"),
        "item_id": Column("string", "the item", required=True),
        "kind": Column("string", "category, brand or price", required=True),
        "text": Column("string", "the category path or the brand; null for a price"),
        "price": Column("double", "the price of one piece; null for the other kinds", unit="`currency`"),
        "currency": Column("string", "money of `price`", unit="ISO 4217 code"),
        "source": Column("string", "the rule and its version, or the model, that says so", required=True),
        "confidence": Column("double", "share of its guesses that were right that day on items whose value is known", required=True, unit="0 to 1"),
    },
)

LAKE_TABLES = {table.name: table for table in (EVENTS, PRODUCTS, ORDERS, INTERESTS, LABELS, QUARANTINE, RECONCILIATION)}
