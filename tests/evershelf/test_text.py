"""Text becomes the same words wherever it is read."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evershelf.text import normalized_query, number_of, words


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("65W USB-C", "65w usb c"),
        ("65 watt, usb c", "65w usb c"),
        ("1,5 l", "1.5l"),
        ("1.50 litres", "1.5l"),
        ("0.125 l", "0.125l"),
        ("1,000 W", "1000w"),
        ('15.6" laptop', "15.6in laptop"),
        ("15.6-inch laptop", "15.6in laptop"),
        ('"iphone 15"', "iphone 15"),
        ("2 in 1", "2 in 1"),
        ("USB 3.0", "usb 3 0"),
        ("10x20 mugs", "10x20 mugs"),
        ("Straße ½", "strasse 1 2"),
        (None, ""),
    ],
)
def test_a_measure_is_one_word_however_it_is_written(text: str | None, read: str) -> None:
    assert normalized_query(text) == read


def test_the_number_of_a_measure() -> None:
    assert [number_of(word) for word in ("65w", "1.5l", "65", "w", "mp3", "10x20")] == ["65", "1.5", None, None, None, None]


@given(st.text(alphabet="0123456789.,-\"' /wlgincmb_é\u201d", max_size=16) | st.text(max_size=40))
def test_the_words_of_words_are_the_same_words(text: str) -> None:
    assert words(normalized_query(text)) == words(text)  # a list stored under one is found under the other


@pytest.mark.parametrize("text", ["1" * 100_000, "1 " * 50_000, "1" + " " * 100_000, "1," * 50_000, "1 " + "-" * 100_000])
def test_no_text_takes_long(text: str) -> None:
    started = time.perf_counter()
    words(text)
    assert time.perf_counter() - started < 2  # a slow machine; what is quadratic takes minutes
