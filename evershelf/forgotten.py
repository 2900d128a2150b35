"""Who was forgotten: one tombstone per shopper, which names nobody and is never taken away.

<forgotten>/<tombstone>.json    `evershelf.pseudonyms.tombstone`, and when

Tombstones outlive what they are about: data that come back from an older backup are found by them and redacted again. So they are kept apart from the data.
"""

from datetime import UTC, datetime

import msgspec

from evershelf import storage
from evershelf.errors import StorageError
from evershelf.pseudonyms import tombstone
from evershelf.settings import load_settings
from evershelf.storage import at

_SUFFIX = ".json"


class Forgotten(frozenset[str]):
    """Some tombstones; a pseudonym is asked for by `covers`."""

    def covers(self, pseudonym: object) -> bool:
        """Tell whether a pseudonym's shopper was forgotten; costs a microsecond once anybody was."""
        return bool(self) and isinstance(pseudonym, str) and tombstone(pseudonym) in self


def add(name: str) -> bool:
    """Put a tombstone up, durably; False when it stood already.

    Raises:
        StorageError: there is no folder for it, and none can be made.
    """
    place = at(load_settings().url("forgotten"), patient=False) / f"{name}{_SUFFIX}"
    try:
        storage.create(place, msgspec.json.encode({"at": datetime.now(UTC).isoformat()}))
    except FileExistsError:
        if not place.exists():  # it is the folder's own name that is taken
            raise StorageError(f"{place.parent} is no folder, so nobody was added to the forgotten. Gateways go by what they know.") from None
        return False
    return True


def changed_at(*, patient: bool = True) -> float | None:
    """Return when the list of tombstones changed last (seconds since 1970, by its storage's clock); None while there is none."""
    folder = at(load_settings().url("forgotten"), patient=patient)
    return folder.stat().st_mtime if folder.is_dir() else None


def read(*, patient: bool = True) -> Forgotten:
    """Read every tombstone.

    Args:
        patient: whether to wait for a storage that is not ready.

    Raises:
        OSError, StorageError: they cannot be read now; that nobody was forgotten would be a guess.
    """
    folder = at(load_settings().url("forgotten"), patient=patient)
    if not folder.is_dir():
        return Forgotten()
    return Forgotten(child.name.removesuffix(_SUFFIX) for child in folder.iterdir() if not child.name.startswith(storage.ASIDE))
