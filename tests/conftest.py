"""What every test shares: an installation of its own, in a temporary folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evershelf import pseudonyms, telemetry
from evershelf.settings import load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point Evershelf at an empty home; settings that the test then sets in the environment need `load_settings.cache_clear()`."""
    monkeypatch.setenv("EVERSHELF_HOME", str(tmp_path / "home"))
    _forget()
    yield tmp_path / "home"
    _forget()


def _forget() -> None:
    load_settings.cache_clear()
    pseudonyms._key.cache_clear()
    telemetry.metrics.cache_clear()
