"""Release one snapshot: verify, register, load, ask golden queries, try it on growing shares of the shoppers, promote or reject it.

Only one promoter runs at a time; what it has decided stands in the promotion log, so a promoter that died is resumed by the next one (same snapshot) or
cleared away (another one). Whatever goes wrong, everything is put back: gateways and model server follow the log.
"""

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from evershelf import snapshot as snapshots
from evershelf.contracts.snapshot import MODEL
from evershelf.errors import EvershelfError, SnapshotDamaged
from evershelf.progress import Say
from evershelf.settings import Settings, load_settings
from evershelf.storage import Place, at
from serving.errors import PromotionRefused, ServingError
from serving.gateway.answers import Status
from serving.gateway.counters import BOUNDS_MS
from serving.promotion import golden, judge
from serving.promotion.gateways import Gateways, Reached, answering, missing
from serving.promotion.log import LiveState, PromotionLog
from serving.promotion.served_models import LoadFailed, ServedModels

LOCK = "promote.lock"
_POLL_S = 0.1


class Unfit(ServingError):
    """The snapshot itself is at fault: it is rejected and never tried again."""


@dataclass(slots=True)
class Promotion:
    """How a promotion ended. `stages` has one entry per canary share: share, verdict, why, seconds."""

    snapshot_id: str
    outcome: str = ""  # promoted, rejected, already stable
    why: str = ""
    seconds: float = 0.0
    stages: list[dict[str, object]] = field(default_factory=list)


def promote(snapshot_id: str, why: str, say: Say) -> Promotion:
    """Promote or reject one snapshot.

    Args:
        why: the reason, for the log.
        say: told about progress, one line at a time.

    Raises:
        PromotionRefused: frozen, pinned, unknown, rejected before, another promoter is at work, or somebody decided otherwise meanwhile.
        SnapshotDamaged: the snapshot does not verify; nothing was changed.
        ServingError: the model server or a gateway is not there; nothing was changed, and the snapshot may be tried again.
    """
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.home / LOCK, timeout=0):
            return _Promoter(settings, snapshot_id, why, say).run()
    except Timeout:
        raise PromotionRefused(f"Another promotion is under way, so {snapshot_id} was not tried. Wait for it; `evershelf status` shows it.") from None


def last_good(state: LiveState, store: Place) -> str | None:
    """Return the newest snapshot, other than stable, that was stable, was never rolled back, and still verifies."""
    for snapshot_id in state.last_good:
        try:
            snapshots.verify(store / snapshot_id)
        except (SnapshotDamaged, OSError):
            continue
        return snapshot_id
    return None


class _Promoter:
    def __init__(self, settings: Settings, snapshot_id: str, why: str, say: Say) -> None:
        self.settings, self.snapshot_id, self.why, self.say = settings, snapshot_id, why, say
        self.store = at(settings.url("snapshots"))
        self.folder = self.store / snapshot_id
        self.log = PromotionLog(at(settings.url("promotions")))
        self.models = ServedModels(settings)
        self.gateways = Gateways()
        self.notes: list[str] = []
        self.result = Promotion(snapshot_id)

    @cached_property
    def _has_model(self) -> bool:
        return has_model(self.folder)

    def run(self) -> Promotion:
        started = time.monotonic()
        try:
            self._run()
        finally:
            self.models.close()
            self.gateways.close()
            self.result.seconds = round(time.monotonic() - started, 3)
        return self.result

    def _run(self) -> None:
        state = self._allowed(self.log.state())
        if state.stable == self.snapshot_id:
            self.result.outcome, self.result.why = "already stable", "it is stable already; nothing was done"
            return
        self.say(f"verifying {self.snapshot_id}")
        snapshots.verify(self.folder)
        if state.canary and state.canary != self.snapshot_id:
            self.say(f"rejecting {state.canary}, which an interrupted promotion left on trial")
            self.log.append("rejected", state.canary, "its promotion was interrupted, and another snapshot came", expected=state)
        elif state.canary:
            self.say(f"resuming the interrupted promotion at {state.canary_share:.0%}")
        if self.snapshot_id not in state.registrations:
            self.log.append("registered", self.snapshot_id, self.why)
        state = self.log.state()
        try:
            self._load(state)
            if state.stable is None:
                self._promote(state, "nothing was stable before, so there was nothing to compare it with")
            else:
                self._try_out(state)
        except (Unfit, LoadFailed, golden.GoldenDiffers) as error:
            self._reject(str(error))
        except BaseException as error:
            self._put_back(error)
            raise

    def _allowed(self, state: LiveState) -> LiveState:
        if state.frozen:
            raise PromotionRefused(f"Promotions are frozen, so {self.snapshot_id} was not tried. `evershelf freeze --off` allows them again.")
        if state.pinned:
            raise PromotionRefused(f"{state.stable} is pinned, so {self.snapshot_id} was not tried. `evershelf pin --off` takes the pin off.")
        if self.snapshot_id in state.out:
            raise PromotionRefused(f"{self.snapshot_id} was rejected or rolled back before and is never a target again. Build another snapshot.")
        if not (self.folder / "manifest.json").is_file():
            raise PromotionRefused(f"There is no snapshot {self.snapshot_id} in {self.store}. Nothing was changed; `evershelf snapshots` lists them.")
        for status in answering(self.gateways.status()):
            if status.seq > state.seq:
                raise PromotionRefused(
                    f"Gateway {status.name} knows {status.seq} decisions and the promotion log has {state.seq}: the log was lost or is another one. "
                    f"{self.snapshot_id} was not tried, and what is live stays live; bring the log back."
                )
        return state

    def _load(self, state: LiveState) -> None:
        """Load the candidate beside stable and last-good, ask the golden queries, and write Redis."""
        held = _wanted(state, self.store, self.snapshot_id)
        for snapshot_id, version in held.items():
            self.models.publish(self.store / snapshot_id, version)
        mine, versions = held.get(self.snapshot_id), list(held.values())
        if mine is None:
            self.say("its ranker is the shop's own, which only gateways run")
        else:
            self.say(f"loading model version {mine} beside {len(held) - 1} others")
        if held:  # an empty list would unload everything
            self.models.hold(versions, _labels(state, held), self.settings.promotion.load_timeout)
        with snapshots.at_hand(self.folder) as folder:
            asked = golden.check(folder, mine, self.models.admin)
            self.say(f"{asked} golden queries gave the offline scores, from {'' if mine is None else 'the model server and from '}the local ranker")
            if held:
                self.models.remember(versions)
            self._write_redis(folder)

    def _write_redis(self, folder: Path) -> None:
        from serving.stores import redis_store

        try:
            count = redis_store.write(folder, self.settings.redis)
        except ServingError as error:
            self.notes.append("Redis does not hold it: the stored rung is skipped")
            self.say(f"warning: {error}")
        else:
            self.say(f"wrote {count} entries to Redis")

    def _try_out(self, state: LiveState) -> None:
        reached = self.gateways.status()
        if lost := missing(reached):
            raise ServingError(f"{_named(lost)}. A release needs every gateway; nothing was changed. Start it, or take it out of gateway.urls.")
        if state.canary is None:
            self.log.append("warming", self.snapshot_id, self.why, expected=state)
            state = self.log.state()
        self._wait_for_gateways(state, "load it")
        for share in self.settings.promotion.shares:
            if share < state.canary_share:
                continue  # passed before an interruption
            self.log.append("canary", self.snapshot_id, self.why, expected=state, share=share)
            state = self.log.state()
            self._wait_for_gateways(state, f"give it {share:.0%} of the shoppers")
            self._judge(state, share)
        self._promote(state, "; ".join([f"passed {', '.join(f'{share:.0%}' for share in self.settings.promotion.shares)}", *self.notes]))

    def _wait_for_gateways(self, state: LiveState, what: str) -> None:
        """Wait until every gateway knows the log's state and has the candidate loaded.

        Raises:
            Unfit: one does not get there.
        """
        self.say(f"waiting for {len(self.gateways.urls)} gateways to {what}")
        timeout = self.settings.promotion.load_timeout.total_seconds()
        deadline = time.monotonic() + timeout
        reached = self.gateways.follow()
        while not_ready := {url: why for url, status in reached.items() if (why := self._not_ready(status, state))}:
            if time.monotonic() > deadline:
                raise Unfit(f"did not get every gateway to {what} in {timeout:.0f} s: {_named(not_ready)}")
            self._undisturbed(state)
            time.sleep(_POLL_S)
            reached = self.gateways.status()

    def _not_ready(self, status: Status | str, state: LiveState) -> str:
        if isinstance(status, str):
            return status
        if status.seq < state.seq:
            return f"it knows {status.seq} of {state.seq} decisions"
        if not self._has_model and "local_model" not in status.rungs:
            return "its gateway.rungs lack local_model, where alone the shop's own ranker ranks"
        return "" if self.snapshot_id in status.loaded else status.problems.get(self.snapshot_id, "it has not loaded it")

    def _judge(self, state: LiveState, share: float) -> None:
        """Wait until a stage passes.

        Raises:
            Unfit: it failed, or there was no verdict in time.
        """
        assert state.stable is not None
        promotion = self.settings.promotion
        started, look = time.monotonic(), 1
        before = self._complete(self.gateways.status())
        verdict = judge.Verdict("inconclusive", "nothing was counted yet")
        while True:
            time.sleep(promotion.judge_interval.total_seconds())
            self._undisturbed(state)
            now = self._complete(self.gateways.status())
            stable, canary = (judge.counted(before, now, snapshot_id) for snapshot_id in (state.stable, self.snapshot_id))
            lasted = time.monotonic() - started
            early, late = lasted < promotion.min_stage.total_seconds(), lasted > promotion.stage_timeout.total_seconds()
            if stable is None or canary is None:  # a gateway is away or started anew: what was counted so far says nothing
                verdict, before = judge.judge(stable, canary, promotion), now
            elif late or (not early and canary.requests >= promotion.min_requests * 2 ** (look - 1)):
                verdict = self._compare(stable, canary, now, state.stable, look)
                look += verdict.outcome == "inconclusive" and stable.requests >= promotion.min_requests
            if verdict.outcome != "inconclusive" or late:
                break
        seconds = round(time.monotonic() - started, 3)
        self.result.stages.append({"share": share, "verdict": verdict.outcome, "why": verdict.why, "seconds": seconds})
        self.say(f"{share:.0%}: {verdict.outcome}, {verdict.why}")
        if verdict.outcome == "inconclusive":
            raise Unfit(f"no verdict at {share:.0%} within {promotion.stage_timeout}: {verdict.why}")
        if verdict.outcome == "fail":
            raise Unfit(f"failed at {share:.0%}: {verdict.why}")

    def _compare(self, stable: judge.ArmCounts, canary: judge.ArmCounts, now: Sequence[Status], stable_id: str, look: int) -> judge.Verdict:
        ours, theirs = (judge.best_rungs(now, snapshot_id) for snapshot_id in (self.snapshot_id, stable_id))
        in_time = bisect_right(BOUNDS_MS, self.settings.gateway.deadline.total_seconds() * 1000)
        ranks, fast = bool(ours & {"live", "local_model"}), None if ours == theirs else in_time
        return judge.judge(stable, canary, self.settings.promotion, look, ranks=ranks, fast=fast)

    def _complete(self, reached: Reached) -> Sequence[Status]:
        """Return every gateway's status, or none when one is away: a comparison that lacks a gateway is no comparison."""
        return [] if missing(reached) else answering(reached)

    def _undisturbed(self, state: LiveState) -> None:
        if self.log.state().seq != state.seq:
            raise PromotionRefused(f"Another decision came while {self.snapshot_id} was on trial; the trial ended. Look at `evershelf status`.")

    def _promote(self, state: LiveState, why: str) -> None:
        retired = [] if (old := last_good(state, self.store)) is None else [old]
        self.log.append("promoted", self.snapshot_id, "; ".join(filter(None, [self.why, why])), expected=state)
        state = self.log.state()
        self.result.outcome, self.result.why = "promoted", why
        self.say(f"promoted {self.snapshot_id}: {why}")
        for url, problem in missing(self.gateways.follow()).items():
            self.say(f"warning: {url}: {problem}; it follows when it reads the log")
        self._align(state)
        forget(retired, self.settings, self.say)

    def _reject(self, why: str) -> None:
        self.log.append("rejected", self.snapshot_id, why)
        self.result.outcome, self.result.why = "rejected", why
        self.say(f"rejected {self.snapshot_id}: {why}")
        self.gateways.follow()
        self._align(self.log.state())
        forget([self.snapshot_id], self.settings, self.say)

    def _put_back(self, error: BaseException) -> None:
        """End a promotion that broke off; a trial that was under way cannot go on without its judge."""
        state = self.log.state()
        if state.canary == self.snapshot_id:
            self.log.append("rejected", self.snapshot_id, f"its promotion broke off: {str(error) or type(error).__name__}")
        self.say(f"putting everything back: {str(error) or type(error).__name__}")
        self.gateways.follow()
        self._align(self.log.state())

    def _align(self, state: LiveState) -> None:
        """Make the model server hold stable and last-good again; the log has decided already, so a failure here only warns."""
        try:
            align(self.models, self.store, state, self.settings)
        except (EvershelfError, OSError) as error:
            self.say(f"warning: {error}")


def align(models: ServedModels, store: Place, state: LiveState, settings: Settings) -> None:
    """Make the model server hold what the log says, no more and no less, also after it restarts; where that is nothing, it keeps what it has.

    Raises:
        ModelServerError: it is away or refuses; gateways go on with the local ranker.
    """
    versions = _wanted(state, store, state.canary)
    if not versions:
        return  # nothing was ever stable, or nothing that the model server can rank with: an empty list would unload everything
    for snapshot_id, version in versions.items():
        models.publish(store / snapshot_id, version)
    models.remember(list(versions.values()))
    models.hold(list(versions.values()), _labels(state, versions), settings.promotion.load_timeout)
    models.drop_others(list(versions.values()))


def forget(snapshot_ids: Iterable[str], settings: Settings, say: Say) -> None:
    """Remove lists that nobody needs any more from Redis."""
    from redis import RedisError

    from serving.stores import redis_store

    for snapshot_id in snapshot_ids:
        try:
            redis_store.drop(snapshot_id, settings.redis)
        except (RedisError, OSError) as error:
            say(f"warning: {snapshot_id} stays in Redis: {error}")


def _wanted(state: LiveState, store: Place, candidate: str | None) -> dict[str, int]:
    """Return snapshot -> model version of all that the model server must load."""
    wanted = [snapshot_id for snapshot_id in (state.stable, last_good(state, store), candidate) if snapshot_id]
    return {snapshot_id: state.registrations[snapshot_id] for snapshot_id in wanted if has_model(store / snapshot_id)}


def has_model(folder: Place) -> bool:
    """Return whether the model server ranks with a snapshot, too."""
    try:
        return snapshots.read_manifest(folder).has(MODEL)
    except SnapshotDamaged:  # what it was loaded from was verified before
        return (folder / MODEL).is_dir()


def _labels(state: LiveState, held: Mapping[str, int]) -> dict[str, int]:
    """Return the labels for people and other clients; gateways ask for numbers."""
    return {"stable": held[state.stable]} if state.stable and state.stable in held else {}


def _named(problems: dict[str, str]) -> str:
    return "; ".join(f"{url}: {problem}" for url, problem in problems.items())
