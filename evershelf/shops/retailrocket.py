"""RetailRocket's shoppers: what was viewed, put into the cart and bought, one Parquet file (as HKUDS/SSLRec gives it).

A row is a shopper, an item, what happened and when, in unix seconds; nothing numbers it, so the same four are the same event. The file is split into the
shop's calendar days. It holds no text, prices or quantities: an item's title is its number, *made here* so that the item can be shown at all, and there are no
orders.
"""

from evershelf.shops.adapter import LONGEST_ID, Adapter, Feed, Source
from evershelf.shops.contract_rows import EVENT_FEED, GATEWAY, UNREADABLE

SECONDS = "try_cast(ts AS bigint)"
AT = f"CASE WHEN {SECONDS} BETWEEN 0 AND 253402300799 THEN timestamp_seconds({SECONDS}) END"  # beyond the calendar Spark would stop the whole day
TYPES = {"view": "view", "cart": "cart", "buy": "purchase"}

ACTIONS = Source(
    name="actions",
    file="events.parquet",
    format="parquet",
    day_column="ts",
    columns=dict.fromkeys(("user", "item", "event", "ts"), "string"),
    user_column="user",
    family="actions",
    typed={
        "key": "sha2(concat_ws('\\u0001', user, item, event, ts), 256)",
        "at": AT,
        "user": "user",
        "item": "item",
        "type": "element_at(map(" + ", ".join(f"'{theirs}', '{ours}'" for theirs, ours in TYPES.items()) + "), event)",
        "dt": f"to_date(from_utc_timestamp({AT}, '{{timezone}}'))",
    },
    rules={
        **UNREADABLE,
        "missing user": "coalesce(user, '') = ''",
        "missing item": "coalesce(item, '') = ''",
        "field too long": f"length(item) > {LONGEST_ID}",
        "unknown type": "event IS NULL OR event NOT IN (" + ", ".join(f"'{theirs}'" for theirs in TYPES) + ")",
        "bad time": "dt IS NULL",
    },
    must_have=("user", "item", "event", "ts"),
)

ADAPTER = Adapter(
    name="retailrocket",
    sources=(ACTIONS, GATEWAY),
    feeds=(
        Feed(
            family="actions",
            table="events",
            columns={
                "event_id": "concat('action-', substring(key, 1, 32))",
                "event_time": "at",
                "received_at": "at",
                "user_id": "user",
                "type": "type",
                "item_id": "item",
            },
        ),
        Feed(
            family="actions",
            table="products",
            per=("item",),
            columns={"item_id": "item", "title": "concat('Item ', item)", "valid_from": "min(at)"},
        ),
        EVENT_FEED,
    ),
)
