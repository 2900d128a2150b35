"""A source that was not asked, or had nothing to be asked, is neither proven well nor kept from being probed."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np

from evershelf.contracts.rungs import Rung
from serving.errors import SourceUnavailable
from serving.gateway.ladder import Ladder, NothingToSay
from serving.gateway.question import Question, Ranked

QUESTION = cast("Question", SimpleNamespace(store=SimpleNamespace(snapshot_id="a"), spent={}))


class _Live:
    name: ClassVar[Rung] = "live"
    share: ClassVar[float | None] = 0.5
    error: Exception = SourceUnavailable("down")

    async def rank(self, question: Question, timeout: float) -> Ranked:
        raise self.error


class _Popular:
    name: ClassVar[Rung] = "popular"
    share: ClassVar[float | None] = None

    async def rank(self, question: Question, timeout: float) -> Ranked:
        return Ranked(np.array([1], np.uint32), np.array([1.0], np.float32))


def _ask(ladder: Ladder, seconds: float = 1.0) -> str:
    _, _, skipped = asyncio.run(ladder.answer(QUESTION, time.monotonic() + seconds))
    return skipped[0].why


def _opened() -> tuple[_Live, Ladder, Any]:
    live = _Live()
    ladder = Ladder([live, _Popular()])
    breaker = ladder.rungs[0][1]
    breaker.shortest_rest = breaker.longest_rest = 0.0
    for _ in range(breaker.failures_allowed):
        assert _ask(ladder) == "down"
    assert breaker.state == "open"
    return live, ladder, breaker


def test_a_source_with_nothing_to_say_does_not_close_its_breaker() -> None:
    live, ladder, breaker = _opened()
    live.error = NothingToSay("nothing")
    assert _ask(ladder) == _ask(ladder) == "nothing"  # the second is let through: the first probe was taken back
    assert breaker.state == "open"


def test_nothing_to_say_between_failures_does_not_hide_them() -> None:
    live = _Live()
    ladder = Ladder([live, _Popular()])
    breaker = ladder.rungs[0][1]
    for number in range(2 * breaker.failures_allowed):
        live.error = NothingToSay("nothing") if number % 2 else SourceUnavailable("down")
        _ask(ladder)
    assert breaker.state == "open"


def test_a_probe_that_had_no_time_left_does_not_keep_the_next_out() -> None:
    _, ladder, _ = _opened()
    assert _ask(ladder, seconds=-1.0) == "no time was left"
    assert _ask(ladder) == "down"
