"""Card numbers, e-mail addresses and phone numbers are masked; what a shop is full of comes through."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evershelf import free_text
from evershelf.errors import InvalidSettings
from evershelf.free_text import MASK, masked, masked_query
from evershelf.settings import load_settings
from evershelf.text import words


@pytest.fixture(autouse=True)
def regions() -> None:
    free_text._regions.cache_clear()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("4111 1111 1111 1111", MASK),  # the test numbers that the issuers publish
        ("my card 5555555555554444 please", f"my card {MASK} please"),
        ("2223-0031-2200-3222", MASK),
        ("3782 822463 10005", MASK),
        ("378282246310005", MASK),
        ("3056 930902 5904", MASK),
        ("6011\u00a01111\u00a01111\u00a01117", MASK),
        ("3530111333300000", MASK),
        ("6200000000000005", MASK),
        ("ann.o'neil+sales@mail.shop.example.", f"{MASK}."),
        ("red mug for ann@shop.example, blue for bob@shop.example", f"red mug for {MASK}, blue for {MASK}"),
        ("jürgen@müller.example", MASK),
        ("+44 7911 123456", MASK),
        ("ring +49 (0)30 901820 or 020 7946 0958", f"ring {MASK} or {MASK}"),
        ("07911123456", MASK),
        ("+1 212-555-1234", MASK),
    ],
)
def test_what_names_a_person_is_masked_and_nothing_beside_it(text: str, safe: str) -> None:
    assert masked(text) == safe
    assert masked(safe) == safe


@pytest.mark.parametrize(
    "text",
    [
        "iphone 13 128gb",
        "4006381333931",  # EAN of a pen; begins like a Visa card
        "4407123456787",  # German EAN that begins like a British number with its country code
        "9780199535569",
        "0199535566",  # ISBN-10
        "978-0-19-953556-9",
        "036000291452",  # UPC
        "40170725",  # EAN-8
        "10614141000415",  # GTIN-14
        "35-209900-176148-1",  # IMEI, which passes Luhn
        "4111 1111 1111 1112",  # no card: the last digit is wrong
        "9111111111111111",  # no issuer has it
        "bosch 0 601 9H5 200",
        "lego 10497 75192 42100",
        "gb 128 256 512 1024 2048",
        "100 x 200 x 300 mm 1500 w",
        "1920x1080 144hz",
        "12.99 13.99 14.99 1,299.00",
        "2026-11-26 10:53:49",
        "1 2 3 4 5 6 7 8 9 10",
        "B08N5WRWNW",
        "item-00217",
        "@home 5 @ 2 for 1",
        "SET OF 3 CAKE TINS PANTRY DESIGN 22720",
        "",
    ],
)
def test_what_a_shop_is_full_of_comes_through(text: str) -> None:
    assert masked(text) == text


def test_few_article_numbers_are_taken_for_a_card_or_a_phone_number() -> None:
    """A thousand EANs as shops have them, with their check digit."""
    random.seed(7)
    taken = 0
    for _ in range(1000):
        digits = [int(digit) for digit in random.choice(["400", "440", "501", "360", "871", "690", "978"]) + f"{random.randrange(10**9):09d}"]
        ean = "".join(map(str, digits)) + str(-sum(digit * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10)
        taken += masked(f"ean {ean}") != f"ean {ean}"
    assert taken == 0


def test_a_mask_is_no_word() -> None:
    assert words(f"red {MASK} mug") == ["red", "mug"]


def test_other_regions_write_their_numbers_otherwise(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert masked("030 901820") == "030 901820"
    monkeypatch.setenv("EVERSHELF_PRIVACY__PHONE_REGIONS", '["GB", "DE"]')
    load_settings.cache_clear()
    free_text._regions.cache_clear()
    assert masked("030 901820") == MASK
    monkeypatch.setenv("EVERSHELF_PRIVACY__PHONE_REGIONS", '["XX"]')
    load_settings.cache_clear()
    free_text._regions.cache_clear()
    with pytest.raises(InvalidSettings, match="XX"):
        masked("030 901820")


@given(st.text(alphabet="0123456789 -.+()@abc", max_size=60))
def test_masking_again_changes_nothing(text: str) -> None:
    once = masked(text)
    assert masked(once) == once


@pytest.mark.parametrize("text", ["a" * 200_000 + " @", "!" * 200_000 + " @", "a@" * 100_000, "1" * 200_000, "a.b@c." * 30_000, "4111 " * 2_000])
def test_a_text_that_was_made_to_hold_the_door_up_does_not(text: str) -> None:
    started = time.process_time()
    masked(text)
    assert time.process_time() - started < 5


def test_a_query_of_nothing_but_numbers_costs_little_and_keeps_none() -> None:
    assert masked_query("12/34/5 6" * 56).count(MASK) and not any(one.isdigit() for one in masked_query("12/34/5 6" * 56))
    assert masked_query("iphone 13 4006381333931") == "iphone 13 4006381333931"
