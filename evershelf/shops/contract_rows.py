"""Raw rows that already have the shape of a contract: what gateways ship, and what the simulated shop drops."""

from evershelf.contracts import EVENT_TYPES, EVENTS, ORDERS, PRODUCTS
from evershelf.contracts.tables import Table
from evershelf.shops.adapter import LONGEST_ID, NO_LINE, Feed, Source

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
TOO_LONG = "length(coalesce(`{0}`, '')) > " + str(LONGEST_ID)

EVENT_RULES = {
    **UNREADABLE,
    "missing key": "coalesce(event_id, '') = ''",
    "bad time": "dt IS NULL OR try_cast(received_at AS timestamp) IS NULL",
    "unknown type": "type IS NULL OR type NOT IN (" + ", ".join(f"'{kind}'" for kind in EVENT_TYPES) + ")",
    "field too long": " OR ".join(TOO_LONG.format(name) for name in ("event_id", "user_id", "session_id", "item_id", "query")),
    "missing item": "type <> 'search' AND coalesce(item_id, '') = ''",
    "missing query": "type = 'search' AND trim(coalesce(query, '')) = ''",
    "unknown currency": "currency IS NOT NULL AND currency NOT IN ({currencies})",
    "price not positive": "price IS NOT NULL AND NOT coalesce(try_cast(price AS double) BETWEEN 1e-9 AND 1e9, false)",
    "quantity not positive": "quantity IS NOT NULL AND NOT coalesce(try_cast(quantity AS int) > 0, false)",
    "position not positive": "position IS NOT NULL AND NOT coalesce(try_cast(position AS int) > 0, false)",
    "propensity outside 0 to 1": "propensity IS NOT NULL AND NOT coalesce(try_cast(propensity AS double) BETWEEN 0 AND 1, false)",
}
ORDER_RULES = {
    **UNREADABLE,
    "missing key": "coalesce(order_id, '') = '' OR coalesce(line_id, '') = ''",
    "bad time": "dt IS NULL OR cancelled_at IS NOT NULL AND try_cast(cancelled_at AS timestamp) IS NULL"
    " OR returned_at IS NOT NULL AND try_cast(returned_at AS timestamp) IS NULL",
    "field too long": " OR ".join(TOO_LONG.format(name) for name in ("order_id", "line_id", "user_id", "item_id")),
    "missing item": "coalesce(item_id, '') = ''",
    "unknown currency": "currency IS NULL OR currency NOT IN ({currencies})",
    "price not positive": "NOT coalesce(try_cast(price AS double) BETWEEN 1e-9 AND 1e9, false)",
    "quantity not positive": "NOT coalesce(try_cast(quantity AS int) > 0, false)",
}
PRODUCT_RULES = {
    **UNREADABLE,
    "missing key": "coalesce(item_id, '') = ''",
    "bad time": "dt IS NULL",
    "field too long": TOO_LONG.format("item_id"),
    "missing title": "trim(coalesce(title, '')) = ''",
    "unknown currency": "price IS NOT NULL AND (currency IS NULL OR currency NOT IN ({currencies}))",
    "price not positive": "price IS NOT NULL AND NOT coalesce(try_cast(price AS double) BETWEEN 1e-9 AND 1e9, false)",
}


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
    free_text=("title", "description"),
)
PRODUCT_FEED = Feed(family="products", table="products", columns=same_columns(PRODUCTS))
