"""A price in a query is a filter; a number that is no price stays a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evershelf.intent import Wanted, understand

CURRENCIES = ("GBP", "EUR", "USD")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("65w usb-c charger under 30", ("65w usb-c charger", None, 30, None)),
        ("headphones below 30 €", ("headphones", None, 30, "EUR")),
        ("laptop less than $2000 in black", ("laptop in black", None, 2000, "USD")),
        ("max 50 lamp", ("lamp", None, 50, None)),
        ("desk up to £1,299.99", ("desk", None, 1299.99, "GBP")),
        ("watch over 100 euros", ("watch", 100, None, "EUR")),
        ("watch above 100", ("watch", 100, None, None)),
        ("watch at least 100", ("watch", 100, None, None)),
        ("watch from $100 black", ("watch black", 100, None, "USD")),
        ("dumbbell under 20 pounds", ("dumbbell", None, 20, "GBP")),
        ("mug from 20 to 40", ("mug", 20, 40, None)),
        ("mug between 40 and 20 euros", ("mug", 20, 40, "EUR")),
        ("20-40 € mug", ("mug", 20, 40, "EUR")),
        ("lamp from 20 under 50", ("lamp", 20, 50, None)),
        ("Nike Air Max 90 under £120", ("Nike Air Max 90", None, 120, "GBP")),
        ("iphone 12 under 500", ("iphone 12", None, 500, None)),
        ("under 30", ("", None, 30, None)),
    ],
)
def test_a_price_is_understood(query: str, wanted: tuple[str, float | None, float | None, str | None]) -> None:
    assert understand(query, "english", CURRENCIES) == wanted


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("Lampe unter 29,99", ("Lampe", None, 29.99, None)),
        ("laptop bis zu 1.000 Euro", ("laptop", None, 1000, "EUR")),
        ("Uhr ab 100 €", ("Uhr", 100, None, "EUR")),
        ("Becher zwischen 20 und 40", ("Becher", 20, 40, None)),
        ("20 bis 40 € Becher", ("Becher", 20, 40, "EUR")),
        ("Becher bis 20 Euro", ("Becher", None, 20, "EUR")),
        ("Uhr mindestens 100", ("Uhr", 100, None, None)),
        ("Spiel ab 18 Jahren", ("Spiel ab 18 Jahren", None, None, None)),
        ("puzzle ab 6", ("puzzle ab 6", None, None, None)),
        ("kinder ab 3", ("kinder ab 3", None, None, None)),
        ("Spiel über 18", ("Spiel über 18", None, None, None)),
        ("Regal bis zu 12 Flaschen", ("Regal bis zu 12 Flaschen", None, None, None)),
        ("Hantel unter 20 Pfund", ("Hantel unter 20 Pfund", None, None, None)),
        ("über kopf regal", ("über kopf regal", None, None, None)),
    ],
)
def test_a_price_is_understood_in_german(query: str, wanted: tuple[str, float | None, float | None, str | None]) -> None:
    assert understand(query, "german", CURRENCIES) == wanted


@pytest.mark.parametrize(
    "query",
    [
        "size 30 jeans",
        "over ear headphones",
        "under desk treadmill",
        "under armour shoes",
        "iphone 12",
        "iphone pro max 256",
        "air max 90",
        "from sony",
        "posters from 1960",
        "mug 20-40",
        "mug 20 to 40",
        "ssd under 500gb",
        "laptop under 2 kg",
        "bike under 12 years",
        "tent for up to 5 people",
        "rack for up to 12 bottles",
        "up to 128",
        "over 18 game",
        "watch over 100",
        "at least 12 bottles",
        "toys from 3 years",
        "lego from 4 plus",
        'tv up to 55"',
        "up to 50% off",
        "ages under 12-15",
        "10 min 50",
        "under 30k",
        "30 €",
    ],
)
def test_what_is_no_price_stays_what_it_is(query: str) -> None:
    assert understand(query, "english", CURRENCIES) == Wanted(query)


@pytest.mark.parametrize("query", ["dumbbell under 20 pounds", "dumbbells between 10 and 20 pounds", "10-20 pound dumbbell"])
def test_pounds_are_a_weight_where_the_shop_has_another_currency(query: str) -> None:
    assert understand(query, "english", ("USD", "EUR")) == Wanted(query)
    assert understand(query, "english", CURRENCIES).currency == "GBP"


def test_a_sign_of_many_currencies_means_the_shop_s_own_and_signs_are_understood_in_any_language() -> None:
    assert understand("mug under $20", "english", ("AUD",)).currency == "AUD"
    assert understand("mug under $20", "english", ("EUR",)).currency == "USD"
    assert understand("mug 20-40 €", "french", CURRENCIES) == ("mug", 20, 40, "EUR")


_SAID = st.sampled_from(["under", "below", "max", "at most", "less than"])
_TEXT = st.text(alphabet="abcdefgh ", min_size=1, max_size=20).map(lambda text: f"thing {text} thing")


@given(_TEXT, _SAID, st.integers(0, 9_999_999), st.sampled_from(["", " €", "€", " gbp"]), _TEXT)
def test_every_price_is_read_and_only_it_is_taken_out(before: str, said: str, price: int, currency: str, behind: str) -> None:
    wanted = understand(f"{before} {said} {price}{currency} {behind}", "english", CURRENCIES)
    assert wanted.price_to == price and wanted.price_from is None
    assert wanted.text.split() == [*before.split(), *behind.split()]


@given(st.text(max_size=60) | st.text(alphabet="under fomtax-€$.,0123456789", max_size=60))
def test_any_text_is_read_and_no_word_is_added(query: str) -> None:
    for language in ("english", "german", "french"):
        wanted = understand(query, language, CURRENCIES)
        if not wanted.priced:
            assert wanted == Wanted(query)
        else:
            assert len(wanted.text) < len(query)
            assert all(price is None or 0 <= price < 1e12 for price in (wanted.price_from, wanted.price_to))
