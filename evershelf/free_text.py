"""What people type or paste into free text by mistake is masked before it is stored: card numbers, e-mail addresses, phone numbers.

A mask is MASK, which is no word: the search, the lists per query and the model's vocabulary see the rest of the text as if nothing else had been typed.
Numbers that a shop is full of must come through: sizes, prices, article numbers (EAN, UPC, GTIN, ISBN).
"""

import re
from functools import cache

from phonenumbers import SUPPORTED_REGIONS, Leniency, PhoneNumberMatcher

from evershelf.errors import InvalidSettings
from evershelf.settings import load_settings

MASK = "***"

# Every quantifier below is possessive or bounded: a text of a megabyte is read once, whatever it holds.
_PERHAPS = re.compile(r"[@\uff20]|\d(?:\D{0,3}\d){6}")  # without one of these there is nothing to mask; \uff20 is the wide @
_EMAIL = re.compile(r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]++[@\uff20](?:[\w-]{1,63}\.){1,8}[\w-]{2,63}")
_CARD_GROUPS = r"(?<!\d)(?:\d{4}@\d{4}@\d{4}@\d{2,4}(?:@\d{1,3})?|\d{4}@\d{6}@\d{4,5}|\d{14,19})(?!\d)"
_CARD = re.compile(_CARD_GROUPS.replace("@", r"[\s.\-\u2010-\u2015]{0,2}"))
# Issuer -> first digits and lengths, by the ranges that ISO/IEC 7812 gave out. Visa's 13 digits are gone since long, and would take a tenth of all German EANs.
_ISSUED = re.compile(
    r"4(?:\d{15}|\d{17,18})"  # Visa
    r"|(?:5[1-5]\d{4}|222[1-9]\d\d|22[3-9]\d{3}|2[3-6]\d{4}|27[01]\d{3}|2720\d\d)\d{10}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[689]\d)\d{11}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|81\d\d)\d{12,15}"  # Discover, UnionPay
    r"|(?:50[0-9]\d|5[6-9]\d\d|6[37]\d\d)\d{12,15}"  # Maestro
)
MOST_DIGITS = 24  # of a query; two article numbers
_DIGIT, _DIGITS = re.compile(r"\d"), re.compile(r"\d+")
_UNBROKEN = re.compile(r"\d{8,14}")


def masked(text: str) -> str:
    """Return a text with MASK in place of every card number, e-mail address and phone number.

    Phone numbers are found as Google's libphonenumber finds them: in international form, and as the regions of `privacy.phone_regions` write them at home.

    Raises:
        InvalidSettings: `privacy.phone_regions` names a region that nobody phones in.
    """
    if not _PERHAPS.search(text):
        return text
    text = _EMAIL.sub(MASK, text)
    text = _CARD.sub(lambda found: MASK if _is_card(re.sub(r"\D", "", found[0])) else found[0], text)
    for region in _regions():
        if not _PERHAPS.search(text):
            break
        for found in reversed(list(PhoneNumberMatcher(text, region, Leniency.VALID))):
            if not _is_article(found.raw_string):
                text = text[: found.start] + MASK + text[found.end :]
    return text


def masked_query(text: str) -> str:
    """Return a query masked within a fraction of a millisecond: of one with more digits than anybody searches for, no digit is left."""
    return masked(_DIGITS.sub(MASK, text) if len(_DIGIT.findall(text)) > MOST_DIGITS else text)


@cache
def _regions() -> tuple[str, ...]:
    regions = load_settings().privacy.phone_regions
    if unknown := set(regions) - SUPPORTED_REGIONS:
        raise InvalidSettings(f"privacy.phone_regions names {', '.join(sorted(unknown))}, which is no region such as GB, DE or US. Nothing was taken in.")
    return regions


def _is_card(digits: str) -> bool:
    """Tell whether an issuer gives out such numbers, and the last digit is the right one (Luhn)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return _ISSUED.fullmatch(digits) is not None and (sum(map(int, digits[-1::-2])) + sum(value - 9 * (value > 9) for value in doubled)) % 10 == 0


def _is_article(raw: str) -> bool:
    """Tell whether an unbroken run of digits is an article number: GTIN-8, -12, -13, -14 or ISBN-10, by its check digit."""
    if not _UNBROKEN.fullmatch(raw):
        return False
    digits = [int(digit) for digit in raw]
    if len(digits) == 10:
        return sum(weight * digit for weight, digit in zip(range(10, 0, -1), digits, strict=True)) % 11 == 0
    return len(digits) in (8, 12, 13, 14) and (sum(digits[-1::-2]) + 3 * sum(digits[-2::-2])) % 10 == 0
