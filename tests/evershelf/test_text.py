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
        ("நாய் உணவு 5 kg", "நாய் உணவு 5kg"),  # letters keep their marks
        ("நாய்_உணவு", "நாய் உணவு"),
        ("\u0643\u0650\u062a\u064e\u0627\u0628", "\u0643\u062a\u0627\u0628"),  # Arabic with its vowels, and without
        ("İskele 1", "iskele 1"),
        ("i\u0307skele", "iskele"),  # lower case already, as a browser writes it
        ("λε\u0390δη", "λε\u0390δη"),
        ("caf\u00b4e e\u0301te", "caf e éte"),  # a mark without a letter
        (None, ""),
    ],
)
def test_a_measure_is_one_word_however_it_is_written(text: str | None, read: str) -> None:
    assert normalized_query(text) == read


def test_the_number_of_a_measure() -> None:
    assert [number_of(word) for word in ("65w", "1.5l", "65", "w", "mp3", "10x20")] == ["65", "1.5", None, None, None, None]


@given(
    st.text(alphabet="0123456789.,-\"' /wlgincmb_é\u201d", max_size=16)
    | st.text(alphabet="iİIhg1_ \u0307\u0301\u0331\u036a\u0345\u064b\u0640\u0654\u0390\u1fb3\u0627\u0ba8\u0bbe\u0bcd", max_size=8)
    | st.text(max_size=40)
)
def test_the_words_of_words_are_the_same_words(text: str) -> None:
    assert words(normalized_query(text)) == words(text)  # a list stored under one is found under the other


@pytest.mark.parametrize("text", ["1" * 100_000, "1 " * 50_000, "1" + " " * 100_000, "1," * 50_000, "1 " + "-" * 100_000])
def test_no_text_takes_long(text: str) -> None:
    started = time.perf_counter()
    words(text)
    assert time.perf_counter() - started < 2  # a slow machine; what is quadratic takes minutes
