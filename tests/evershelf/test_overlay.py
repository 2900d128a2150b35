"""Overlays are written whole, the newest counts, and older ones go."""

import threading
import time
from pathlib import Path

import pytest

from evershelf import overlay
from evershelf.errors import StorageError
from evershelf.overlay import Change, Overlay, encoded
from evershelf.storage import Place, replace

MADE = Overlay(12.5, {"i1": Change("2026-03-02", 1.5, "GBP", 0)}, {"2026-03-02": {"i1": 3}}, {"u": encoded([("i1", 2, 1.25)])})


def test_an_overlay_is_read_as_it_was_written(shared: Place) -> None:
    assert overlay.names(shared) == []
    found = overlay.read(shared, overlay.write(shared, MADE))
    assert (found.made_at, found.changes, found.chosen) == (MADE.made_at, MADE.changes, MADE.chosen)
    assert found.actions("u") == [("i1", 2, 1.25)] and found.actions("nobody") == []


def test_a_large_one_is_read_without_holding_other_threads_up(tmp_path: Path) -> None:
    shoppers = {f"{number:032x}": encoded([(f"item-{place}", 2, 1.5) for place in range(20)]) for number in range(20_000)}
    large = Overlay(1.0, {f"item-{number}": Change("2026-03-02", 1.5, "GBP", 1) for number in range(50_000)}, {}, shoppers)
    name = overlay.write(tmp_path, large)
    gaps, reading = [0.0], threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while not reading.is_set():
            time.sleep(0.001)
            gaps.append((now := time.monotonic()) - last)
            last = now

    beating = threading.Thread(target=beat)
    beating.start()
    started = time.monotonic()
    found = overlay.read(tmp_path, name)
    took = time.monotonic() - started
    reading.set()
    beating.join()
    assert found.shoppers == shoppers and found.changes == large.changes
    assert sorted(gaps)[-1] < took / 2  # one call of the decoder would hold all of it


def test_the_newest_is_the_last_one_and_two_are_kept(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [overlay.write(shared, MADE)]
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock was put back
    written += [overlay.write(shared, MADE) for _ in range(3)]
    assert overlay.names(shared) == written[-2:] == sorted(written)[-2:]


@pytest.mark.parametrize("damaged", [b"", b"nonsense", None])
def test_a_damaged_one_says_so(shared: Place, damaged: bytes | None) -> None:
    name = overlay.write(shared, MADE)
    content = (shared / name).read_bytes()
    replace(shared / name, content[:-12] if damaged is None else damaged)
    with pytest.raises(StorageError, match="damaged"):
        overlay.read(shared, name)
    assert list(overlay.kept(shared)) == [(name, None)]
