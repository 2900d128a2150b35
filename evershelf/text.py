"""How text becomes words, the same in training, in candidates and in serving."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def words(text: str | None) -> list[str]:
    """Return the words of a text: compatibility-normalised, lower case, letters and digits only, in order."""
    return _WORD.findall(unicodedata.normalize("NFKC", text or "").casefold())


def normalized_query(text: str | None) -> str:
    """Return the form of a query under which its candidates are stored."""
    return " ".join(words(text))
