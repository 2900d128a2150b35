"""A UK gift shop's order lines, one CSV file per day (UCI "Online Retail", Chen, Sain and Guo 2012).

Purchases become orders and events, one invoice is one visit. Cancellations (InvoiceNo `C…`) become cancelled orders and no event. The files have no
catalogue: an item's title is its newest description of the day, its price the median. They have no categories either: the category is *derived* from the
title by the keywords below, the first that matches, else `Other`; it is a help for popular lists, not the shop's own word.
"""

from evershelf.shops.adapter import LONGEST_ID, Adapter, Feed, Source
from evershelf.shops.contract_rows import EVENT_FEED, GATEWAY, UNREADABLE

# derived category -> words of a title, the most telling first
CATEGORIES = {
    "Christmas": "CHRISTMAS|XMAS|ADVENT|SANTA|REINDEER|SNOWMAN|BAUBLE|NATIVITY",
    "Easter": "EASTER",
    "Jewellery": "NECKLACE|EARRINGS?|BRACELET|RING|BROOCH|DIAMANTE|HAIR|BLING|PENDANT|PHONE CHARM",
    "Bags": "BAGS?|SHOPPER|RUCKSACK|BACKPACK|PURSE|SATCHEL|LUGGAGE",
    "Lighting": "LIGHTS?|LAMP|LANTERN|CHANDELIER|T-LIGHTS?|NIGHT LIGHT",
    "Candles": "CANDLES?|CANDLESTICK|INCENSE|TEALIGHT|SCENTED",
    "Cards and Wrap": "CARDS?|WRAP|GIFT TAGS?|RIBBONS?|TISSUES|ENVELOPES?|STICKERS?|PAPER CHAIN",
    "Baking": "CAKE|CAKESTAND|CAKE CASES|BAKING|COOKIE|JELLY|MUFFIN|RECIPE",
    "Textiles": "CUSHION|COVER|BLANKET|THROW|QUILT|TOWEL|RUG|HOT WATER|WARMER|DOILY|SCARF|SLIPPERS|SOCKS|GLOVES|UMBRELLA|PONCHO",
    "Kitchen": "MUG|CUPS?|TEA|TEAPOT|TEACUP|PLATES?|BOWLS?|JUG|TRAY|CUTLERY|LUNCH|"
    "BOTTLE|JAR|TIN|TINS|COASTERS?|NAPKINS|APRON|KITCHEN|PANTRY|GLASS|EGG|FORK|SPOON|SNACK|DINER",
    "Party": "PARTY|BUNTING|BALLOONS?|BIRTHDAY|GARLAND|CONFETTI",
    "Stationery": "NOTEBOOK|PENCILS?|PEN|PENS|JOURNAL|ERASERS?|RULER|STAMP|ALBUM|CALENDAR|LETTER|MEMO|CLIPBOARD|CHALKBOARD|BLACKBOARD",
    "Toys and Games": "TOY|TOYS|GAME|GAMES|DOLL|DOLLY|PUZZLE|SPACEBOY|CHILDRENS|KIDS|SKIPPING|DOMINOES|TEDDY|SOFT TOY|FELTCRAFT|PLAY|DINOSAUR",
    "Garden": "GARDEN|PLANT|PLANTER|FLOWER POT|POT|SEEDS?|BIRD|WATERING|TROWEL|PARASOL|PICNIC",
    "Clocks and Frames": "CLOCK|FRAMES?|MIRROR|PHOTO|PICTURE",
    "Signs": "SIGN|SIGNS|DOORMAT|PLAQUE|POSTER|WALL ART",
    "Storage": "BOX|BOXES|CABINET|DRAWERS?|BASKET|STORAGE|HOLDER|HOOKS?|RACK|HANGER|CASE|CHEST|SHELF",
    "Decoration": "DECORATION|ORNAMENT|HEARTS?|STAR|WREATH|FLOWERS?|KNOB|MAGNETS?|MOBILE|FIGURINE|HANGING|BUTTERFLY|ROSES?|TREE|BELLS?",
}


def derived_category(title: str) -> str:
    """Return SQL that gives the category of a title; `title` is SQL itself."""
    cases = " ".join(f"WHEN upper({title}) RLIKE '\\\\b({words})\\\\b' THEN '{category}'" for category, words in CATEGORIES.items())
    return f"CASE {cases} ELSE 'Other' END"


CANCELLED = "InvoiceNo LIKE 'C%'"
WHEN = "to_utc_timestamp(try_cast(InvoiceDate AS timestamp), '{timezone}')"  # the shop writes its own wall-clock time
WHOLE_LINE = "sha2(concat_ws('\\u0001', InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country), 256)"
TOO_LONG = " OR ".join(f"length(coalesce({name}, '')) > {LONGEST_ID}" for name in ("InvoiceNo", "StockCode", "Description", "CustomerID"))

LINES = Source(
    name="lines",
    file="{day}.csv",
    format="csv",
    columns=dict.fromkeys(("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"), "string"),
    user_column="CustomerID",
    family="lines",
    typed={
        "key": WHOLE_LINE,  # nothing numbers the lines of an invoice: the same line twice is the same line
        "invoice": "InvoiceNo",
        "cancelled": CANCELLED,
        "item": "upper(trim(StockCode))",
        "title": "nullif(trim(regexp_replace(Description, '\\\\s+', ' ')), '')",
        "pieces": "try_cast(Quantity AS int)",
        "price": "try_cast(UnitPrice AS double)",
        "at": WHEN,
        "user_id": "CustomerID",
        "dt": "to_date(try_cast(InvoiceDate AS timestamp))",
    },
    rules={
        **UNREADABLE,
        "missing key": "coalesce(InvoiceNo, '') = '' OR coalesce(StockCode, '') = ''",
        "bad time": "dt IS NULL",
        "field too long": TOO_LONG,
        "adjustment of accounts": "InvoiceNo LIKE 'A%'",
        "not a product": "NOT upper(trim(StockCode)) RLIKE '^[0-9]{5}[A-Z]{0,2}$'",  # POST, DOT, M, D, S, BANK CHARGES, AMAZONFEE, CRUK, PADS, gift_…
        "price not positive": "NOT coalesce(try_cast(UnitPrice AS double) BETWEEN 1e-9 AND 1e9, false)",
        "quantity not positive": f"NOT coalesce(CASE WHEN {CANCELLED} THEN try_cast(Quantity AS int) < 0 ELSE try_cast(Quantity AS int) > 0 END, false)",
    },
    must_have=("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"),
    free_text=("Description",),
)

ADAPTER = Adapter(
    name="online_retail",
    sources=(LINES, GATEWAY),
    feeds=(
        Feed(
            family="lines",
            table="orders",
            columns={
                "order_id": "invoice",
                "line_id": "substring(key, 1, 32)",
                "ordered_at": "at",
                "user_id": "user_id",
                "item_id": "item",
                "quantity": "abs(pieces)",
                "price": "price",
                "currency": "'GBP'",
                "cancelled_at": "CASE WHEN cancelled THEN at END",
                "transaction_class": "CASE WHEN cancelled THEN 'cancelled' WHEN pieces >= {bulk_quantity} THEN 'bulk' ELSE 'kept' END",
            },
        ),
        Feed(
            family="lines",
            table="events",
            where="NOT cancelled",
            columns={
                "event_id": "concat('line-', substring(key, 1, 32))",
                "event_time": "at",
                "received_at": "at",
                "user_id": "user_id",
                "session_id": "invoice",
                "type": "'purchase'",
                "item_id": "item",
                "quantity": "pieces",
                "price": "price",
                "currency": "'GBP'",
            },
        ),
        Feed(
            family="lines",
            table="products",
            where="NOT cancelled AND title IS NOT NULL",
            per=("item",),
            columns={
                "item_id": "item",
                "title": "max_by(title, struct(at, key))",
                "category_path": derived_category("max_by(title, struct(at, key))"),
                "price": "percentile(price, 0.5)",
                "currency": "'GBP'",
                "valid_from": "min(at)",
            },
        ),
        EVENT_FEED,
    ),
)
