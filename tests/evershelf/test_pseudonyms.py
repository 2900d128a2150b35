"""Raw ids go no further than the door."""

from pathlib import Path

import pytest

from evershelf import pseudonyms
from evershelf.settings import load_settings


def test_a_pseudonym_is_stable_within_an_installation_and_different_in_another(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pseudonyms.pseudonym("shopper-1")
    assert pseudonyms.pseudonym("shopper-1") == first
    assert pseudonyms.pseudonym("shopper-2") != first
    assert len(first) == 32
    monkeypatch.setenv("EVERSHELF_HOME", str(tmp_path / "other"))
    load_settings.cache_clear()
    pseudonyms._key.cache_clear()
    assert pseudonyms.pseudonym("shopper-1") != first


def test_the_key_survives_a_restart_and_only_its_owner_reads_it(home: Path) -> None:
    first = pseudonyms.pseudonym("shopper-1")
    pseudonyms._key.cache_clear()
    assert pseudonyms.pseudonym("shopper-1") == first
    assert (home / "user.key").stat().st_mode & 0o077 == 0


def test_an_id_has_one_pseudonym_however_a_system_writes_it(home: Path) -> None:
    assert len({pseudonyms.pseudonym(user) for user in ("17850", " 17850", "17850.0", "17850.00")}) == 1
    assert pseudonyms.pseudonym("1785.5") != pseudonyms.pseudonym("1785")
