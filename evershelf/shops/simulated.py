"""The simulated shop drops files that already have the contracts' shape (`evershelf simulate`)."""

from evershelf.shops.adapter import Adapter
from evershelf.shops.contract_rows import EVENT_FEED, GATEWAY, ORDER_FEED, ORDER_SOURCE, PRODUCT_FEED, PRODUCT_SOURCE, event_source

ADAPTER = Adapter(
    name="simulator",
    sources=(event_source("events", file="{day}/events.jsonl", required=True), ORDER_SOURCE, PRODUCT_SOURCE, GATEWAY),
    feeds=(EVENT_FEED, ORDER_FEED, PRODUCT_FEED),
)
