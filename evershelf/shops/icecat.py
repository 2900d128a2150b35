"""Icecat's catalogue as querqy/chorus packs it: zip files of JSON arrays, one object per product, with thousands of sparse attributes.

A delivery is a dump: all products as they are on that day. Prices are whole numbers of cents and name no currency, so it is the shop's first one. Attributes
keep their own names, `attr_t_` for text, `attr_n_` for numbers, `attr_b_` for yes and no. The files have no categories: an item's is its type of product, where
it has one in words. There are no shoppers and no orders in them: events come from the gateways alone.
"""

from evershelf.shops.adapter import LONGEST_ID, Adapter, Feed, Source
from evershelf.shops.contract_rows import EVENT_FEED, GATEWAY, UNREADABLE

CENTS = "try_cast(price AS bigint)"

CATALOGUE = Source(
    name="catalogue",
    file="*.json.zip",
    format="json.zip",
    columns={
        **dict.fromkeys(("id", "name", "title", "short_description", "supplier", "price", "img_500x500", "img_high"), "string"),
        "rest": "map<string,string>",
    },
    rest="rest",
    user_column="",
    family="catalogue",
    typed={
        "key": "id",
        "item": "id",
        "title": "trim(title)",
        "description": "nullif(trim(short_description), '')",
        "brand": "nullif(trim(supplier), '')",
        "category": "CASE WHEN rest['attr_t_product_type'] RLIKE '[A-Za-z]' THEN trim(rest['attr_t_product_type']) END",
        "price": f"{CENTS} / 100",
        "image": "coalesce(nullif(`img_500x500`, ''), nullif(img_high, ''))",
        "attributes": "map_filter(rest, (k, v) -> k NOT LIKE 'img%' AND v IS NOT NULL)",
        "dt": "landing_dt",
    },
    rules={
        **UNREADABLE,
        "missing key": "coalesce(id, '') = ''",
        "field too long": f"length(id) > {LONGEST_ID}",
        "missing title": "trim(coalesce(title, '')) = ''",
        "price not in whole cents": f"price IS NOT NULL AND {CENTS} IS NULL",
        "price not positive": f"price IS NOT NULL AND NOT {CENTS} BETWEEN 1 AND 100000000000",
    },
    must_have=("id", "title", "price"),
    free_text=("title", "short_description"),
)

ADAPTER = Adapter(
    name="icecat",
    sources=(CATALOGUE, GATEWAY),
    feeds=(
        Feed(
            family="catalogue",
            table="products",
            columns={
                "item_id": "item",
                "title": "title",
                "description": "description",
                "brand": "brand",
                "category_path": "category",
                "price": "price",
                "currency": "CASE WHEN price IS NOT NULL THEN {currency} END",
                "image": "image",
                "attributes": "attributes",
                "valid_from": "to_utc_timestamp(CAST(dt AS timestamp), '{timezone}')",
            },
        ),
        EVENT_FEED,
    ),
)
