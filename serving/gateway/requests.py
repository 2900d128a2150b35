"""Read requests, and refuse what cannot be answered with words that say why. Nothing here knows a snapshot."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from serving.gateway.answers import MAX_ITEM_ID_BYTES, MAX_K, MAX_QUERY_BYTES, MAX_RECENT, MAX_USER_ID_BYTES

_MAX_CATEGORY_BYTES = 512
_DEFAULT_K = 10


class Refused(Exception):
    """A request that gets a 4xx: `status`, a short name, and what is wrong and allowed."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        self.status, self.error, self.detail = status, error, detail
        super().__init__(detail)


def parameters(query_string: bytes) -> dict[str, str]:
    """Return the parameters of a request; of one that is given twice, the last.

    Raises:
        Refused: it is not valid UTF-8.
    """
    try:
        return dict(parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50))
    except UnicodeDecodeError:
        raise Refused(400, "invalid_encoding", "The parameters are not valid UTF-8, percent-encoded.") from None
    except ValueError:
        raise Refused(400, "too_many_parameters", "There are more than 50 parameters.") from None


def text(given: Mapping[str, str], name: str, longest: int, *, required: bool) -> str:
    """Return a parameter of at most `longest` bytes, '' when absent and not required."""
    value = given.get(name, "").strip()
    if not value and required:
        raise Refused(400, f"missing_{name}", f"The parameter {name} is missing or empty; it is required, with 1 to {longest} bytes.")
    if (size := len(value.encode())) > longest:
        raise Refused(400, f"{name}_too_long", f"The parameter {name} has {size} bytes; allowed are {longest}.")
    if "\0" in value:
        raise Refused(400, f"invalid_{name}", f"The parameter {name} holds a NUL character.")
    return value


def user_id(given: Mapping[str, str], *, required: bool) -> str:
    return text(given, "user_id", MAX_USER_ID_BYTES, required=required)


def session_id(given: Mapping[str, str]) -> str:
    return text(given, "session_id", MAX_USER_ID_BYTES, required=False)


def query(given: Mapping[str, str]) -> str:
    return text(given, "q", MAX_QUERY_BYTES, required=True)


def item_id(given: Mapping[str, str]) -> str:
    return text(given, "item_id", MAX_ITEM_ID_BYTES, required=True)


def category(given: Mapping[str, str]) -> str:
    return text(given, "category", _MAX_CATEGORY_BYTES, required=False)


def recent(given: Mapping[str, str]) -> list[str]:
    """Return the item ids of `recent=item,item`, newest last."""
    items = [item for item in given.get("recent", "").split(",") if item]
    if len(items) > MAX_RECENT:
        raise Refused(400, "recent_too_long", f"The parameter recent names {len(items)} items; allowed are {MAX_RECENT}.")
    if any(len(item.encode()) > MAX_ITEM_ID_BYTES for item in items):
        raise Refused(400, "recent_too_long", f"The parameter recent has an item id of more than {MAX_ITEM_ID_BYTES} bytes.")
    return items


def k(given: Mapping[str, str]) -> int:
    value = given.get("k", "")
    if not value:
        return _DEFAULT_K
    if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_K):
        raise Refused(400, "invalid_k", f"The parameter k is {value[:40]!r}; allowed are whole numbers from 1 to {MAX_K}.")
    return int(value)
