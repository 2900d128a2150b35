"""What nearline knows that no snapshot has yet: one file per batch, of which the newest counts.

<overlays>/<milliseconds since 1970>.msgpack.gz

It is kept by the day that each thing belongs to, so that every snapshot takes from it what is newer than its own data (`serving/gateway/overlays.py`). It is
never the only copy of anything: the next batch writes it anew from the landing.
"""

import gzip
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec

from evershelf import storage
from evershelf.errors import StorageError
from evershelf.settings import load_settings
from evershelf.storage import Place, at

_SUFFIX = ".msgpack.gz"
PIECE = 500
_KEPT = 2  # the newest, and the one that somebody may be reading

Action = tuple[str, int, float]  # item id, place of the type in EVENT_TYPES, seconds since 1970


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the newest description of an item says. `dt` is its day, ISO; a `stock` of None is not known, and counts as some."""

    dt: str
    price: float | None
    currency: str | None
    stock: int | None


class Overlay(msgspec.Struct, frozen=True):
    """One batch's content.

    Attributes:
        made_at: seconds since 1970.
        changes: item id -> its newest description.
        chosen: day (ISO) -> item id -> how often it was clicked, viewed, put into a cart or bought.
        shoppers: pseudonym -> what that shopper did, newest last, as `encoded` gives it; `actions` decodes it.
    """

    made_at: float
    changes: Mapping[str, Change]
    chosen: Mapping[str, Mapping[str, int]]
    shoppers: Mapping[str, bytes]

    def actions(self, pseudonym: str) -> list[Action]:
        found = self.shoppers.get(pseudonym)
        return _decode_actions(found) if found is not None else []


class _Stored(msgspec.Struct, array_like=True):
    """An overlay in pieces of PIECE entries, each a dict of its own, encoded."""

    made_at: float
    changes: list[bytes]
    chosen: dict[str, list[bytes]]
    shoppers: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_decode_actions = msgspec.msgpack.Decoder(list[Action]).decode
_changes, _counts, _shoppers = (msgspec.msgpack.Decoder(dict[str, kind]) for kind in (Change, int, bytes))  # type: ignore[valid-type]  # a kind is a type


def encoded(actions: Sequence[Action]) -> bytes:
    return _encode(actions)


def _pieces(content: Mapping[str, Any]) -> list[bytes]:
    entries = iter(content.items())
    return [_encode(dict(some)) for some in iter(lambda: list(islice(entries, PIECE)), [])]


def _joined(decoder: msgspec.msgpack.Decoder[Any], pieces: Sequence[bytes]) -> dict[str, Any]:
    """Decode piece by piece: one call would keep a gateway's other threads, which answer shoppers, waiting for its whole length."""
    joined: dict[str, Any] = {}
    for piece in pieces:
        joined |= decoder.decode(piece)
        time.sleep(0)
    return joined


def folder(*, patient: bool = True) -> Place:
    return at(load_settings().url("overlays"), patient=patient)


def names(place: Place) -> list[str]:
    """Return the overlays that are there, oldest first."""
    return sorted(child.name for child in place.iterdir() if child.name.endswith(_SUFFIX)) if place.is_dir() else []


def write(place: Place, overlay: Overlay) -> str:
    """Put an overlay in place, whole or not at all, and take the older ones away.

    Raises:
        OSError, StorageError: the storage did not take it; the one before counts on.
    """
    known = names(place)
    # later than the one before, whatever the clock says
    number = max(int(time.time() * 1000), *(int(name.removesuffix(_SUFFIX)) + 1 for name in known[-1:]), 0)
    name = f"{number:015d}{_SUFFIX}"
    chosen = {day: _pieces(counts) for day, counts in overlay.chosen.items()}
    stored = _Stored(overlay.made_at, _pieces(overlay.changes), chosen, _pieces(overlay.shoppers))
    storage.create(place / name, gzip.compress(_encode(stored), compresslevel=1, mtime=0))
    for old in known[: len(known) + 1 - _KEPT]:
        (place / old).unlink(missing_ok=True)
    return name


def read(place: Place, name: str) -> Overlay:
    """Read an overlay.

    Raises:
        StorageError: it is damaged, or taken away meanwhile.
        OSError: it cannot be read now.
    """
    try:
        stored = _decode(gzip.decompress((place / name).read_bytes()))
        chosen = {day: _joined(_counts, pieces) for day, pieces in stored.chosen.items()}
        return Overlay(stored.made_at, _joined(_changes, stored.changes), chosen, _joined(_shoppers, stored.shoppers))
    except (msgspec.MsgspecError, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StorageError(f"{place / name} is damaged: {error}. Answers go on without it, and the next batch replaces it.") from None


def kept(place: Place) -> Iterator[tuple[str, Overlay | None]]:
    """Yield every overlay that is there; None for one that cannot be read."""
    for name in names(place):
        overlay = None
        with suppress(OSError, StorageError):
            overlay = read(place, name)
        yield name, overlay
