"""How text becomes words, the same in training, in candidates and in serving."""

import re
import unicodedata
from typing import Literal

# whose stems tantivy knows
Language = Literal[
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian",
    "italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
]  # fmt: skip

_SPELLINGS = {  # how a unit is written in the end, and how else it is written
    "w": "watt watts",
    "kw": "kilowatt kilowatts",
    "v": "volt volts",
    "wh": "",
    "kwh": "",
    "mah": "",
    "hz": "hertz",
    "khz": "",
    "mhz": "",
    "ghz": "",
    "kb": "",
    "mb": "megabyte megabytes",
    "gb": "gigabyte gigabytes",
    "tb": "terabyte terabytes",
    "mp": "megapixel megapixels",
    "mbps": "",
    "gbps": "",
    "rpm": "",
    "dpi": "",
    "lm": "lumen lumens",
    "db": "decibel decibels",
    "bit": "",
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches zoll",
    "ft": "foot feet",
    "mg": "milligram milligrams milligramm",
    "g": "gram grams gramm",
    "kg": "kilo kilos kilogram kilograms kilogramm kgs",
    "lb": "lbs",
    "oz": "ounce ounces",
    "ml": "milliliter milliliters millilitre millilitres",
    "cl": "centiliter centiliters centilitre centilitres",
    "l": "liter liters litre litres ltr",
}
UNITS = {spelling: unit for unit, others in _SPELLINGS.items() for spelling in (unit, *others.split())}  # each spelling, and how it is written in the end
_APART = "|".join(spelling for spelling in UNITS if spelling != "in")  # which is a word besides: a unit only right behind its number
_MARKS = "".join(sign for sign in map(chr, range(0x300, 0x10000)) if unicodedata.category(sign).startswith("M"))  # part of the letter before them
_VOWELS = "\u0610-\u061a\u064b-\u065f\u0670"  # of Arabic: seldom written
_OPTIONAL = re.compile(f"(?<=i)[\u0307{_VOWELS}]+|[{_VOWELS}]+")  # the dot is left of Turkish \u0130
_DIGIT, _PLAIN = re.compile(r"\d"), re.compile(rf"[^\W_]++(?:[{_MARKS}]++[^\W_]*+)*+")
_WORD = re.compile(rf"(\d++(?:[.,]\d{{1,3}}+)?)(?:(in)|[\W_]*+({_APART}))(?![^\W_]|[{_MARKS}])|{_PLAIN.pattern}")
_MEASURE = re.compile(rf"(\d+(?:\.\d+)?)(?:{'|'.join(_SPELLINGS)})")
_INCHES = re.compile(r'(?<=\d)(?:"|\u201d|\'\'|\u2032\u2032)')
_QUOTED = re.compile(r'(?:^|[\s(])["\u201d]\S')


def words(text: str | None) -> list[str]:
    """Return the words of a text: compatibility-normalised, lower case, letters with their marks and digits only, in order.

    A number and its unit are one word, written in one way: '65 W', '65-watt' are '65w'; '1,5 l', '1.50 litres' are '1.5l'; 15.6" is '15.6in'. The words of
    words joined by spaces are the same words.
    """
    plain = unicodedata.normalize("NFKC", text or "").casefold()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKC", _OPTIONAL.sub("", plain))  # lower case may come apart: Greek \u0390
    if not _DIGIT.search(plain):
        return _PLAIN.findall(plain)
    if not _QUOTED.search(plain):
        plain = _INCHES.sub(" inch ", plain)
    return [_decimal(found[1]) + UNITS[found[2] or found[3]] if found[1] else found[0] for found in _WORD.finditer(plain)]


def number_of(word: str) -> str | None:
    """Return the number of a word that is a number and its unit, None of any other."""
    found = _MEASURE.fullmatch(word)
    return found[1] if found else None


def normalized_query(text: str | None) -> str:
    """Return the form of a query under which its candidates are stored."""
    return " ".join(words(text))


def _decimal(number: str) -> str:
    """Return a number with a point for its decimals, without zeros at the end; three digits behind a point or comma are thousands."""
    whole, _, rest = number.replace(",", ".").partition(".")
    if len(rest) == 3 and len(whole) <= 3 and not whole.startswith("0"):
        return whole + rest
    return f"{whole}.{rest.rstrip('0')}".rstrip(".")
