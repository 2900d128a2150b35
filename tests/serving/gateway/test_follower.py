"""Following goes on whatever the local disk does. In this process, without snapshots."""

import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evershelf import storage
from serving.errors import NoSourceAnswered
from serving.gateway.answers import Hold
from serving.gateway.following import Follower, Live, Loaded
from serving.promotion.log import LiveState, PromotionLog
from tests.serving.conftest import eventually

FIRST, SECOND = "2026-03-01-11111111", "2026-03-01-22222222"


class _Log(PromotionLog):
    """A log whose first reading fails in a way that nobody foresaw."""

    surprise: Exception | None = None

    def state(self) -> LiveState:
        surprise, self.surprise = self.surprise, None
        if surprise:
            raise surprise
        return super().state()


@pytest.fixture
def log(home: Path) -> _Log:
    log = _Log(home / "promotions")
    log.append("registered", FIRST, "test")
    log.append("promoted", FIRST, "test")
    return log


@pytest.fixture
def follower(home: Path, log: _Log) -> Iterator[Follower]:
    follower = Follower(home / "gateway", log, home / "snapshots", lambda version: pytest.fail("nothing can be loaded"))
    (home / "gateway").mkdir()
    yield follower
    follower.stop()


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _loaded(name: str) -> Loaded:
    return Loaded(cast("Any", SimpleNamespace(snapshot_id=name)), cast("Any", None))


def test_a_full_disk_keeps_no_decision_from_being_followed(home: Path, log: _Log, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(storage, "replace", _full)
        follower.follow()
        assert follower.live.log.stable == FIRST and "No space left" in follower.problems["state file"]
    follower.follow()  # the disk has room again, and nothing was decided since
    assert "state file" not in follower.problems and FIRST in (home / "gateway" / "state.json").read_text()


def test_an_unreadable_state_file_does_not_keep_it_from_starting(home: Path, log: _Log, follower: Follower) -> None:
    (home / "gateway" / "state.json").write_bytes(b'{"log":')
    follower.start(60)
    assert follower.live.log.stable == FIRST


def test_an_unreadable_state_file_is_named_while_the_log_is_away(home: Path, follower: Follower, log: _Log) -> None:
    (home / "gateway" / "state.json").write_bytes(b"\xff")
    log.surprise = OSError("away")
    follower.start(60)
    assert follower.problems.keys() == {"state file", "promotion log"}


def test_following_survives_any_error_of_its_first_look(follower: Follower, log: _Log) -> None:
    log.surprise = RuntimeError("unforeseen")
    follower.start(0.01)
    eventually(lambda: follower.live.log.stable == FIRST)


def test_a_hold_that_cannot_be_loaded_serves_last_good_and_nothing_else() -> None:
    hold = Hold("gone", 4, "break-glass", "2026-03-01T00:00:00Z")
    live = Live(LiveState(canary=SECOND, canary_share=1.0), hold, _loaded(FIRST), _loaded(SECOND), _loaded("good"))
    loaded, arm = live.assign("anybody")
    assert (loaded.snapshot_id, arm) == ("good", "last_good")
    with pytest.raises(NoSourceAnswered, match="held on snapshot gone"):
        Live(hold=hold, stable=_loaded(FIRST)).assign("anybody")
