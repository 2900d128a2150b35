"""What the lexical index finds, in a real one."""

import gc
import shutil
import weakref
from pathlib import Path

import pytest

from evershelf.lexical import FIELDS, Lexical, Synonyms, read_synonyms, write_lexical
from evershelf.text import Language

TITLES = [
    "Wireless headphones",
    "Headphones with cable",
    "Leather sofa",
    "Velvet couch",
    "Smartphone 128 GB",
    "Case for a mobile phone",
    "USB-C charger 65 W",
    "Café table",
    "Monitor 27 inch",
    "Logitech mouse",
]


def index(folder: Path, titles: list[str] = TITLES, language: Language = "english", synonyms: Synonyms | None = None) -> Lexical:
    texts: dict[str, list[str | None]] = {field: [None] * len(titles) for field in FIELDS}
    write_lexical(folder / "index", texts | {"title": titles}, language, synonyms)
    shutil.copytree(folder / "index", folder / "moved")  # whatever it needs to be read lies in its folder
    return Lexical(folder / "moved")


def found(lexical: Lexical, text: str) -> list[int]:
    return list(map(int, lexical.search(text, 40)[0]))


@pytest.mark.parametrize(
    ("typed", "read", "items"),
    [
        ("headphnoes", "headphones", {0, 1}),  # a transposition is one edit
        ("haedphnoes", "headphones", {0, 1}),  # of eight letters on, two
        ("sofu", "sofa", {2}),
        ("sofo", "sofa", {2}),
        ("kafe", "café", {7}),
    ],
)
def test_a_word_that_no_item_has_is_read_as_the_nearest(tmp_path: Path, typed: str, read: str, items: set[int]) -> None:
    lexical = index(tmp_path)
    assert lexical.corrected(typed) == {typed: read}
    assert set(found(lexical, typed)) == items
    assert set(lexical.matching_words(typed, 20).values()) == {(read,)}


@pytest.mark.parametrize("typed", ["headphone", "cafe", "sfa", "mousy mouse"[6:], "129gb", "64w", "hedhpnoes"])
def test_what_is_there_is_short_has_a_number_or_is_too_far_off_is_read_as_it_is(tmp_path: Path, typed: str) -> None:
    assert index(tmp_path).corrected(typed) == {}


def test_a_guess_counts_less_than_a_word_that_is_there(tmp_path: Path) -> None:
    lexical = index(tmp_path, ["cheat", *["headphones"] * 30, "headphones cheat", *["mug"] * 300])
    numbers = found(lexical, "cheap headphones")  # 'cheat' is by far the rarest word
    assert numbers[0] == 31
    assert 0 not in numbers[:30]


def test_synonyms_are_found_behind_the_word_itself_and_one_way_where_it_says_so(tmp_path: Path) -> None:
    rules = read_synonyms("# furniture\nsofa, couch\n\nmobile phone, smartphone  # two words\ntable => desk, monitor\n")
    lexical = index(tmp_path, synonyms=rules)
    assert found(lexical, "Sofas") == [2, 3]
    assert found(lexical, "couch") == [3, 2]
    assert found(lexical, "smartphone") == [4, 5]
    assert set(found(lexical, "a mobile phone")) == {4, 5}
    assert found(lexical, "table") == [7, 8]
    assert found(lexical, "monitor") == [8]


def test_a_word_with_synonyms_is_no_typo(tmp_path: Path) -> None:
    lexical = index(tmp_path, synonyms=read_synonyms("mousse => table"))
    assert lexical.corrected("mousse") == {}
    assert found(lexical, "mousse") == [7]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sofa", "line 2 has no comma"),
        ("a => b => c", "line 2 has more than one =>"),
        ("sofa, , couch", "line 2 has a part"),
        ("=> b", "line 2 has a part"),
        (f"sofa => b, long {'x' * 41}", "line 2 has a word of more than 40 characters"),
        (f"{'x' * 41}, sofa", "line 2 has a word of more than 40 characters"),
    ],
)
def test_a_line_of_synonyms_that_cannot_be_read_is_named(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_synonyms(f"a, b\n{line}\nc, d")


def test_synonyms_of_which_no_word_is_left_are_none(tmp_path: Path) -> None:
    lexical = index(tmp_path, synonyms={"sofa": ["", "x" * 60, "couch"], "": ["sofa"], "x" * 60: ["sofa"]})
    assert found(lexical, "sofa") == [2, 3]
    assert found(lexical, "x" * 60) == []


def test_words_that_lose_their_endings_alike_share_their_synonyms(tmp_path: Path) -> None:
    lexical = index(tmp_path, synonyms=read_synonyms("sofa => couch\nsofas => table"))
    assert found(lexical, "sofa")[0] == 2 and set(found(lexical, "sofas")) == {2, 3, 7}


def test_synonyms_of_several_words_may_hold_a_measure(tmp_path: Path) -> None:
    titles = ["27 inch monitor", "monitor 27 inch", "34 inch ultrawide", "mug"]
    lexical = index(tmp_path, titles, synonyms=read_synonyms('big screen => 27" monitor\nscreen => monitor 27 inch\nwide screen => 34 monitor, 34" ultrawide'))
    assert found(lexical, "big screen") == [0]
    assert found(lexical, "screen") == [1]
    assert found(lexical, "wide screen") == [2]


def test_a_word_of_forty_letters_is_found_in_any_alphabet(tmp_path: Path) -> None:
    titles = ["водонепроницаемостью", "ж" * 40, "x" * 41, "நாய்கள்", "கிண்ணம்"]
    assert found(index(tmp_path, titles), "водонепроницаемостью") == [0]
    lexical = Lexical(tmp_path / "index")
    assert found(lexical, "ж" * 40) == [1]
    assert found(lexical, "x" * 41) == []
    assert lexical.corrected("நாய்கல்") == {"நாய்கல்": "நாய்கள்"}


def test_a_closed_index_is_freed_at_once(tmp_path: Path) -> None:
    lexical = index(tmp_path)
    assert found(lexical, "sofa") == [2]
    closed = weakref.ref(lexical)
    gc.disable()
    try:
        del lexical
        assert closed() is None
    finally:
        gc.enable()


def test_a_reading_that_is_forgotten_is_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evershelf.lexical._REMEMBERED", 2)
    lexical = index(tmp_path)
    for _ in range(2):
        assert set(found(lexical, "sofa couch monitor mouse")) == {2, 3, 8, 9}


def test_measures_are_found_however_they_are_written_and_by_their_number(tmp_path: Path) -> None:
    lexical = index(tmp_path)
    for query in ("65w charger", "usb c 65-watt", "65 W"):
        assert found(lexical, query)[0] == 6
    assert found(lexical, '27"') == found(lexical, "27 monitor") == found(lexical, "27 zoll") == [8]


def test_words_lose_the_endings_of_their_language_and_the_folder_says_which_it_is(tmp_path: Path) -> None:
    titles = ["Häuser aus Holz", "Lampe"]
    (tmp_path / "german").mkdir()
    german, english = index(tmp_path / "german", titles, "german"), index(tmp_path, titles)
    assert german.language == "german"
    assert found(german, "haus") == [0]
    assert found(english, "holz haus") == [0] and english.language == "english"
    assert found(german, "HAUSER") == [0]  # as without an umlaut on the keyboard


def test_a_query_without_words_finds_nothing(tmp_path: Path) -> None:
    lexical = index(tmp_path)
    assert found(lexical, "((\U0001f56f AND") == []
    assert found(lexical, "x" * 500) == []
    assert lexical.matching_words("", 5) == {}
