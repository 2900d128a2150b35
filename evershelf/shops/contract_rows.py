"""Raw rows that already have the shape of a contract: what gateways ship, and what the simulated shop drops."""

from evershelf.contracts import EVENTS, ORDERS, PRODUCTS
from evershelf.contracts.tables import Table
from evershelf.shops.adapter import NO_LINE, Feed, Source
from evershelf.shops.row_rules import row_rules

DAYS = ("dt", "landing_dt")
NESTED = ("array<string>", "map<string,string>")
DT = "to_date(from_utc_timestamp({time}, '{{timezone}}'))"


def raw_columns(table: Table, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Read everything as text first, so that a wrong type is a row's mistake and not the file's."""
    return {name: column.type if column.type in NESTED else "string" for name, column in table.columns.items() if name not in (*DAYS, *without)}


def typed_columns(table: Table, *, time: str, key: str, without: tuple[str, ...] = ()) -> dict[str, str]:
    casts = {
        name: f"`{name}`" if column.type in NESTED or column.type == "string" else f"try_cast(`{name}` AS {column.type})"
        for name, column in table.columns.items()
        if name not in (*DAYS, *without)
    }
    return {**casts, "dt": DT.format(time=f"try_cast(`{time}` AS timestamp)"), "key": key}


UNREADABLE = {"unreadable line": f"{NO_LINE} IS NOT NULL"}
EVENT_RULES = {**UNREADABLE, **row_rules(EVENTS)}
ORDER_RULES = {**UNREADABLE, **row_rules(ORDERS)}
PRODUCT_RULES = {**UNREADABLE, **row_rules(PRODUCTS)}


def event_source(name: str, *, file: str, required: bool) -> Source:
    return Source(
        name=name,
        file=file,
        format="jsonl",
        columns=raw_columns(EVENTS),
        user_column="user_id",
        family="events",
        typed=typed_columns(EVENTS, time="event_time", key="event_id"),
        rules=EVENT_RULES,
        must_have=("event_id", "event_time", "received_at", "type"),
        free_text=("query",),
        required=required,
    )


def same_columns(table: Table, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    return {name: f"`{name}`" for name in table.columns if name not in (*DAYS, *without)}


GATEWAY = event_source("gateway", file="", required=False)  # every shop has it: what shoppers did with Evershelf's own answers
EVENT_FEED = Feed(family="events", table="events", columns=same_columns(EVENTS))

TRANSACTION_CLASS = (
    "CASE WHEN cancelled_at IS NOT NULL OR returned_at IS NOT NULL THEN 'cancelled' WHEN quantity >= {bulk_quantity} THEN 'bulk' ELSE 'kept' END"
)
ORDER_SOURCE = Source(
    name="orders",
    file="{day}/orders.jsonl",
    format="jsonl",
    columns=raw_columns(ORDERS, without=("transaction_class",)),
    user_column="user_id",
    family="orders",
    typed=typed_columns(ORDERS, time="ordered_at", key="concat_ws('\\u0001', order_id, line_id)", without=("transaction_class",)),
    rules=ORDER_RULES,
    must_have=("order_id", "line_id", "ordered_at", "item_id", "quantity", "price", "currency"),
)
ORDER_FEED = Feed(family="orders", table="orders", columns={**same_columns(ORDERS, without=("transaction_class",)), "transaction_class": TRANSACTION_CLASS})
PRODUCT_SOURCE = Source(
    name="products",
    file="{day}/products.jsonl",
    format="jsonl",
    columns=raw_columns(PRODUCTS),
    user_column="",
    family="products",
    typed=typed_columns(PRODUCTS, time="valid_from", key="item_id"),
    rules=PRODUCT_RULES,
    must_have=("item_id", "title", "valid_from"),
    rest="attributes",  # a new column is kept; where shoppers' ids may be among what nobody announced, it stays outside
    free_text=("title", "description"),
)
PRODUCT_FEED = Feed(family="products", table="products", columns=same_columns(PRODUCTS))
