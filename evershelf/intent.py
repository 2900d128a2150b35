"""What a query says besides what is searched for: '65w usb-c charger under 30' wants a price of at most 30.

Only a number right behind a word of the table below is a price, or a range with a currency; 'over ear', 'size 30' and 'up to 12 bottles' are none. What cannot
be told is left to be searched for: to hide what fits costs more than to show what is too dear.
"""

import re
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

from evershelf.text import UNITS, normalized_query


class _Words(NamedTuple):
    """How a language says it, in regular expressions: up to a price, from one on, between two; `counted` makes a number before it no price.

    What is as often said of an age, a size or a number of things is apart: behind `last`, a number is a price when it ends the query or has a currency; behind
    `unsure_upto` and `unsure_on`, only with a currency.
    """

    upto: str
    unsure_upto: str
    on: str
    last: str
    unsure_on: str
    between: tuple[tuple[str, str], ...]
    before: str
    counted: str


_LANGUAGES = {
    "english": _Words(
        upto=r"under|below|beneath|(?:less|cheaper|(?:no|not) more) than|at most|maximum",
        unsure_upto=r"up to",
        on=r"above|more than|minimum",
        last=r"at least|(?:starting )?from",
        unsure_on=r"over",
        between=(("between", "and|to"), ("from", "to|and"), ("", "to")),
        before=r"for|price|priced|costing",
        counted=r"years?|yrs?|months?|weeks?|days?|hours?|hrs?|min(?:ute)?s?|sec(?:ond)?s?|people|persons?|players?|guests?|seats?|pieces?|pcs|packs?|cups?|users?"
        r"|devices?|sheets?|pages?|degrees?|percent|mph|kmh|kids?",
    ),
    "german": _Words(
        upto=r"unter|höchstens|maximal|(?:weniger|günstiger|billiger|nicht mehr) als",
        unsure_upto=r"bis(?: zu)?",
        on=r"minimal|(?:mehr|teurer) als",
        last=r"mindestens",
        unsure_on=r"über|ab",
        between=(("zwischen", "und|bis"), ("von", "bis"), ("", "bis")),
        before=r"für|preis",
        counted=r"jahren?|jahre|monaten?|wochen?|tagen?|stunden?|std|minuten?|min|sekunden?|personen?|spielern?|gästen?|stück|teilen?|tassen|geräten?|blatt|seiten?"
        r"|grad|prozent|kmh|kindern?|pfund",
    ),
}
_NEITHER = _Words("(?!)", "(?!)", "(?!)", "(?!)", "(?!)", (), "(?!)", "(?!)")  # of a language whose words are not known, signs and currencies are
_DOLLARS = ("USD", "CAD", "AUD", "NZD", "SGD", "HKD")
_CURRENCIES = {
    "€": ("EUR",),
    "eur": ("EUR",),
    "euro": ("EUR",),
    "euros": ("EUR",),
    "£": ("GBP",),
    "gbp": ("GBP",),
    "pound": ("GBP",),
    "pounds": ("GBP",),
    "$": _DOLLARS,
    "usd": ("USD",),
    "dollar": _DOLLARS,
    "dollars": _DOLLARS,
    "chf": ("CHF",),
    "franken": ("CHF",),
}
_AMOUNT = r"[0-9]{1,3}(?:[.,'][0-9]{3})+(?:[.,][0-9]{1,2})?|[0-9]{1,7}(?:[.,][0-9]{1,2})?"
_THOUSANDS = re.compile(r"[.,'](?=[0-9]{3})")
_DIGIT = re.compile("[0-9]")
_SIGNS = ("c1", "c2", "c3", "c4")
_WEIGHTS = ("pound", "pounds")
_YEARS = range(1900, 2100)


class Wanted(NamedTuple):
    """A query that was understood: `text` is what is searched for, the prices are included, `currency` is the one that was named."""

    text: str
    price_from: float | None = None
    price_to: float | None = None
    currency: str | None = None

    @property
    def priced(self) -> bool:
        return self.price_from is not None or self.price_to is not None


def understand(text: str, language: str, currencies: Collection[str]) -> Wanted:
    """Read a query.

    Args:
        currencies: of the shop; a sign that several currencies have means one of these.
    """
    wanted = Wanted(text)
    cue, *patterns = _patterns(language)
    for pattern in patterns if _DIGIT.search(text) and cue.search(text) else ():
        for found in pattern.finditer(wanted.text):
            if (read := _price(found, wanted, currencies)) is not None:
                wanted = read
                break  # one of each kind: a second one is not read as a price
    return wanted._replace(text=" ".join(wanted.text.split())) if wanted.priced else wanted


def searched_for(text: str | None, language: str, currencies: Collection[str]) -> str:
    """Return what a query searches for besides a price, in the form of `normalized_query`: what a model learns from and is told."""
    return normalized_query(understand(text or "", language, currencies).text)


def _price(found: re.Match[str], wanted: Wanted, currencies: Collection[str]) -> Wanted | None:
    """Return what is wanted with this price too; None when it is none."""
    part = found.groupdict()
    sign = next((part[name].lower() for name in _SIGNS if part.get(name)), None)
    low, high = (_amount(part[name]) if part.get(name) else None for name in ("low", "high"))
    years = low in _YEARS and (high is None or high in _YEARS)  # 'posters from 1960'
    if not sign and (part.get("counted") or years or not part["word"]):
        return None
    if sign in _WEIGHTS and "GBP" not in currencies:
        return None
    if low is not None and high is not None and low > high:
        low, high = high, low
    if (low is not None and wanted.price_from is not None) or (high is not None and wanted.price_to is not None):
        return None
    known = _CURRENCIES[sign] if sign else ()
    currency = next((name for name in known if name in currencies), known[0]) if known else wanted.currency
    rest = f"{wanted.text[: found.start()]} {wanted.text[found.end() :]}"
    return Wanted(rest, wanted.price_from if low is None else low, wanted.price_to if high is None else high, currency)


def _amount(written: str) -> float:
    return float(_THOUSANDS.sub("", written).replace(",", "."))


@cache
def _patterns(language: str) -> tuple[re.Pattern[str], ...]:
    """Return what finds that there may be a price; and what finds ranges, a highest and a lowest price.

    Their groups are word (which makes it a price without a currency), low, high, c1 to c4 (currencies) and counted (which makes it no price).
    """
    say = _LANGUAGES.get(language, _NEITHER)
    sign = "|".join(re.escape(name) for name in sorted(_CURRENCIES, key=len, reverse=True))
    units = "|".join(unit for unit in UNITS if unit != "in")

    def amount(name: str, before: str, behind: str) -> str:
        return rf"(?:(?P<{before}>{sign})\s*)?(?P<{name}>{_AMOUNT})(?:\s*(?P<{behind}>{sign})(?![^\W_]))?(?![0-9]|[.,'][0-9])"

    begin = rf"(?<![^\W_])(?:(?:{say.before})\s+)?"
    end = rf"(?P<counted>in|\s*(?:[%°\"\u201d]|{units}|{say.counted}|km/h))?(?![^\W_]|\s*[-\u2013]\s*[0-9])"
    ranges = [
        begin
        + (rf"(?P<word>{word})\s+" if word else "(?P<word>)")
        + amount("low", "c1", "c2")
        + rf"\s*(?:{to}|[-\u2013])\s*"
        + amount("high", "c3", "c4")
        + end
        for word, to in (*say.between, ("", "-"))
    ]
    # 'air max 90' is a shoe, 'pro max' a phone, '10 min' a time
    upto = rf"(?:(?P<word>(?:{say.upto})[\s:]+|(?<!air )(?<!pro )(?<!vapor )max[.\s:]+|[<≤]=?\s*)|(?:{say.unsure_upto})[\s:]+)"
    ends = r"(?=[0-9.,']++\W*+$)"
    on = rf"(?:(?P<word>(?:{say.on})[\s:]+|(?:{say.last})[\s:]+{ends}|(?<![0-9] )min[.\s:]+|[>≥]=?\s*)|(?:{say.last}|{say.unsure_on})[\s:]+)"
    alone = [begin + upto + amount("high", "c1", "c2") + end, begin + on + amount("low", "c1", "c2") + end]
    single = (say.upto, say.unsure_upto, say.on, say.last, say.unsure_on)
    spoken = "|".join(word for word in (*single, *(word for word, _ in say.between), "max", "min") if word)
    cue = rf"(?<![^\W_])(?:{spoken})(?![^\W_])|[<≤>≥]|{sign}"
    return tuple(re.compile(pattern.replace(" ", r"\s"), re.IGNORECASE) for pattern in (cue, *ranges, *alone))
