"""The lake's tables, the same for every shop."""

from collections.abc import Mapping
from dataclasses import dataclass

EVENT_TYPES = ("search", "impression", "click", "view", "cart", "purchase")
TRANSACTION_CLASSES = ("kept", "cancelled", "bulk")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Spark SQL type, its meaning (with the unit), and whether a row without it goes to quarantine."""

    type: str
    meaning: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One lake table. `version` rises when a column changes; `key` names a row; `partition` is the column each atomic commit replaces."""

    name: str
    version: int
    key: tuple[str, ...]
    partition: str
    columns: Mapping[str, Column]

    def spark_schema(self) -> str:
        """Return the table as a Spark DDL string."""
        return ", ".join(f"`{name}` {column.type}" for name, column in self.columns.items())


_WHEN = {
    "landing_dt": Column("date", "day on which the row was dropped", required=True),
    "dt": Column("date", "the shop's own calendar day that the row belongs to", required=True),
}

EVENTS = Table(
    name="events",
    version=1,
    key=("event_id",),
    partition="dt",
    columns={
        "event_id": Column("string", "names the event once, however often it is delivered", required=True),
        "event_time": Column("timestamp", "when it happened, UTC", required=True),
        "received_at": Column("timestamp", "when the shop's systems received it, UTC", required=True),
        **_WHEN,
        "user_id": Column("string", "pseudonym (keyed hash) of the shopper; null for a guest"),
        "session_id": Column("string", "one visit"),
        "type": Column("string", "one of " + ", ".join(EVENT_TYPES), required=True),
        "item_id": Column("string", "the item; null for a search"),
        "query": Column("string", "what was searched for"),
        "position": Column("int", "place in the list that was shown, 1 is first"),
        "quantity": Column("int", "pieces"),
        "price": Column("double", "price of one piece, in `currency`"),
        "currency": Column("string", "ISO 4217 code"),
        "request_id": Column("string", "the Evershelf answer that showed the item"),
        "snapshot_id": Column("string", "the snapshot that gave that answer"),
        "rung": Column("string", "the rung that gave that answer"),
        "arm": Column("string", "stable or canary"),
        "slate": Column("array<string>", "item ids of that answer, first to last"),
        "propensity": Column("double", "probability with which the item was shown at its position, 0 to 1"),
    },
)

PRODUCTS = Table(
    name="products",
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
        "price": Column("double", "price of one piece, in `currency`"),
        "currency": Column("string", "ISO 4217 code"),
        "stock": Column("int", "pieces that can be sold; null when unknown"),
        "image": Column("string", "address of the picture"),
        "address": Column("string", "address of the product page"),
        "attributes": Column("map<string,string>", "sparse further attributes"),
        "valid_from": Column("timestamp", "when this description began to hold, UTC", required=True),
    },
)

ORDERS = Table(
    name="orders",
    version=1,
    key=("order_id", "line_id"),
    partition="dt",
    columns={
        "order_id": Column("string", "the order", required=True),
        "line_id": Column("string", "the line within the order", required=True),
        "ordered_at": Column("timestamp", "when it was ordered, UTC", required=True),
        **_WHEN,
        "user_id": Column("string", "pseudonym (keyed hash) of the shopper; null for a guest"),
        "item_id": Column("string", "the item", required=True),
        "quantity": Column("int", "pieces, always positive", required=True),
        "price": Column("double", "price of one piece, in `currency`", required=True),
        "currency": Column("string", "ISO 4217 code", required=True),
        "cancelled_at": Column("timestamp", "when it was cancelled, UTC; null when kept"),
        "returned_at": Column("timestamp", "when it was returned, UTC; null when kept"),
        "transaction_class": Column("string", "one of " + ", ".join(TRANSACTION_CLASSES), required=True),
    },
)

QUARANTINE = Table(
    name="quarantine",
    version=1,
    key=("landing_dt", "source", "row_id"),
    partition="landing_dt",
    columns={
        "landing_dt": Column("date", "day on which the row was dropped", required=True),
        "source": Column("string", "landing folder that the row came from", required=True),
        "row_id": Column("string", "hash of the raw row and its place in the file", required=True),
        "reason": Column("string", "name of the first rule that the row broke", required=True),
        "raw": Column("string", "the row as it landed, JSON", required=True),
    },
)

RECONCILIATION = Table(
    name="reconciliation",
    version=1,
    key=("landing_dt", "source"),
    partition="landing_dt",
    columns={
        "landing_dt": Column("date", "day on which the rows were dropped", required=True),
        "source": Column("string", "landing folder that the rows came from", required=True),
        "outcome": Column("string", "published or held", required=True),
        "why": Column("string", "why the day was held back; null when published"),
        "rows_in": Column("bigint", "rows that landed", required=True),
        "rows_clean": Column("bigint", "rows that reached a table", required=True),
        "rows_quarantined": Column("bigint", "rows in quarantine", required=True),
        "rows_deduplicated": Column("bigint", "rows dropped as repetitions", required=True),
        "reasons": Column("map<string,bigint>", "quarantined rows per reason", required=True),
        "code_version": Column("string", "version of Evershelf that published the day", required=True),
    },
)

LAKE_TABLES = {table.name: table for table in (EVENTS, PRODUCTS, ORDERS, QUARANTINE, RECONCILIATION)}
