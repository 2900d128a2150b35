"""Shoppers' ids become keyed hashes at the door; raw ids are never stored."""

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from functools import cache

from evershelf import storage
from evershelf.settings import load_settings

_SPREADSHEET = re.compile(r"^(\d+)\.0+$")


@cache
def _key(name: str) -> bytes:
    configured: str = getattr(load_settings().privacy, f"{name}_key").get_secret_value()
    return (configured or shared_secret(f"{name}.key")).encode()


def shared_secret(name: str) -> str:
    """Return the secret kept in a file of the installation's home, made on first use and readable by its owner alone."""
    path = load_settings().home / name
    with suppress(FileExistsError):  # made earlier, or by a process that was a moment faster
        storage.create(path, secrets.token_hex(32).encode(), mode=0o600)
    return path.read_text().strip()


def pseudonym(user_id: str) -> str:
    """Return the keyed hash (HMAC-SHA-256, 32 hex digits) that stands for a shopper's id everywhere behind the door.

    It is that of the id as every system writes it, without blanks around it: spreadsheets turn 17850 into 17850.0.
    """
    return _hashed(_key("user"), user_id)


def pseudonyms_ever(user_id: str) -> list[str]:
    """Return the pseudonym of an id, and those that it had under former keys."""
    former = (key.get_secret_value().encode() for key in load_settings().privacy.former_user_keys)
    return [pseudonym(user_id), *(_hashed(key, user_id) for key in former)]


def tombstone(pseudonym: str) -> str:
    """Return the name of a forgotten shopper's tombstone (64 hex digits): a hash of the pseudonym under a key of its own, for not even the pseudonym stays."""
    return hmac.digest(_key("tombstone"), pseudonym.encode(), "sha256").hex()


def _hashed(key: bytes, user_id: str) -> str:
    plain = _SPREADSHEET.sub(r"\1", user_id.strip())
    return hmac.new(key, plain.encode(), hashlib.sha256).hexdigest()[:32]
