"""Shoppers' ids become keyed hashes at the door; raw ids are never stored."""

import hashlib
import hmac
import secrets
from contextlib import suppress
from functools import cache

from evershelf import storage
from evershelf.settings import load_settings


@cache
def _key() -> bytes:
    settings = load_settings()
    if configured := settings.privacy.user_key.get_secret_value():
        return configured.encode()
    return shared_secret("user.key").encode()


def shared_secret(name: str) -> str:
    """Return the secret kept in a file of the installation's home, made on first use and readable by its owner alone."""
    path = load_settings().home / name
    with suppress(FileExistsError):  # made earlier, or by a process that was a moment faster
        storage.create(path, secrets.token_hex(32).encode(), mode=0o600)
    return path.read_text().strip()


def pseudonym(user_id: str) -> str:
    """Return the keyed hash (HMAC-SHA-256, 32 hex digits) that stands for a shopper's id everywhere behind the door."""
    return hmac.new(_key(), user_id.encode(), hashlib.sha256).hexdigest()[:32]
