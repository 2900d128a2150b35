"""The way back: last-good is loaded everywhere already, so going back is one record and one call to each gateway.

When the promotion log cannot be written (its storage is gone), every gateway gets a break-glass order instead, which it keeps through restarts until the log
knows a newer decision; `<home>/rollback.pending.json` remembers what the log must still get, and the next `evershelf rollback` writes it.
"""

import time
from dataclasses import dataclass, field

import msgspec

from evershelf import snapshot as snapshots
from evershelf import storage
from evershelf.errors import EvershelfError
from evershelf.progress import Say
from evershelf.settings import Settings, load_settings
from evershelf.storage import Place, at
from serving.errors import PromotionRefused
from serving.gateway.answers import Status
from serving.promotion.gateways import Gateways, Reached, answering
from serving.promotion.log import LiveState, PromotionLog
from serving.promotion.promoter import align, forget
from serving.promotion.served_models import ServedModels

PENDING = "rollback.pending.json"
_TIMEOUT_S = 2.0  # for one call
_CONFIRM_S = 5.0  # for all gateways to answer with the target
_POLL_S = 0.05


class Pending(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A rollback that gateways follow and the log does not know yet."""

    from_: str
    to: str
    epoch: int
    why: str
    at: str


@dataclass(slots=True)
class Rollback:
    """What a rollback did. `seconds` until the last gateway answered with the target; `gateways` maps each to 'ok' or what is wrong with it."""

    from_: str
    to: str
    recorded: bool
    seconds: float = 0.0
    gateways: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return all(state == "ok" for state in self.gateways.values())


def roll_back(to: str | None, why: str, say: Say, *, reconcile: bool = False) -> Rollback:
    """Put last-good back everywhere. A break-glass rollback that the log still lacks is recorded instead.

    Args:
        to: a snapshot that was stable before; last-good when None.
        reconcile: only give the log the record of an earlier break-glass rollback.

    Raises:
        PromotionRefused: there is nothing to go back to.
    """
    settings = load_settings()
    started = time.monotonic()
    log = PromotionLog(at(settings.url("promotions"), patient=False))
    gateways = Gateways(timeout=_TIMEOUT_S)
    try:
        reached = gateways.status()
        if (settings.home / PENDING).exists() and (recorded := _reconcile(settings, log, gateways, say, only=reconcile)):
            return recorded
        state = _readable_state(log, answering(reached))
        if state is None:
            return _break_glass(settings, gateways, answering(reached), to, why, started, say)
        target = _target(state, to, answering(reached), at(settings.url("snapshots"), patient=False))
        assert state.stable is not None
        try:
            log.append("rolled_back", state.stable, why, expected=state, to=target)
        except (OSError, EvershelfError) as error:
            if isinstance(error, PromotionRefused):
                raise
            say(f"the promotion log cannot be written: {error}")
            return _break_glass(settings, gateways, answering(reached), target, why, started, say)
        result = Rollback(from_=state.stable, to=target, recorded=True)
        _confirm(gateways, gateways.follow(), result, log.state().seq, started)
        _align(settings, log, say)
        forget(filter(None, [state.stable, state.canary]), settings, say)
        return result
    finally:
        gateways.close()


def _readable_state(log: PromotionLog, statuses: list[Status]) -> LiveState | None:
    """Return the log's state; None when it cannot be read or has lost decisions that gateways know."""
    try:
        state = log.state()
    except (OSError, EvershelfError, msgspec.MsgspecError):
        return None
    return None if any(status.seq > state.seq for status in statuses) else state


def _target(state: LiveState, to: str | None, statuses: list[Status], store: Place) -> str:
    """Return where to go: what every gateway has loaded was verified there; anything else is verified now."""
    if state.stable is None:
        raise PromotionRefused("Nothing was ever promoted, so there is nothing to go back from. Nothing was changed.")
    if to and to not in state.last_good:
        raise PromotionRefused(
            f"{to} is no target: it is live, was never stable, or was rolled back. Nothing was changed. Targets: {', '.join(state.last_good) or 'none'}."
        )
    candidates = (to,) if to else state.last_good
    for candidate in candidates:
        if statuses and all(candidate in status.loaded for status in statuses):
            return candidate
        try:
            snapshots.verify(store / candidate)
        except (EvershelfError, OSError):
            continue
        return candidate
    raise PromotionRefused(
        f"There is nothing to go back to: {state.stable} stays live. Stable before, and damaged now: {', '.join(candidates) or 'none'}. Promote a better one."
    )


def _break_glass(settings: Settings, gateways: Gateways, statuses: list[Status], to: str | None, why: str, started: float, say: Say) -> Rollback:
    """Order every gateway to serve last-good without the log."""
    known = max(statuses, key=lambda status: status.seq, default=None)
    target = to or (known.last_good if known else None)
    if known is None or known.stable is None or target is None:
        raise PromotionRefused("The promotion log cannot be used, and no gateway knows a snapshot to go back to. Nothing was changed; bring the storage back.")
    say("break-glass: the gateways get the order directly, and the log must get its record later")
    pending = Pending(from_=known.stable, to=target, epoch=known.seq, why=why, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    result = Rollback(from_=known.stable, to=target, recorded=False)
    for url, status in gateways.hold(target, known.seq, why).items():
        held = not isinstance(status, str) and status.held and status.held.snapshot_id == target
        result.gateways[url] = "ok" if held else status if isinstance(status, str) else "it did not take the order"
    result.seconds = round(time.monotonic() - started, 3)
    try:
        storage.replace(settings.home / PENDING, msgspec.json.encode(pending))
    except (OSError, EvershelfError) as error:  # a full disk, perhaps the log's too; the gateways have their order already
        say(f"warning: {PENDING} cannot be written ({error}), so `--reconcile` will not find this rollback. Roll back again when there is space.")
    return result


def _reconcile(settings: Settings, log: PromotionLog, gateways: Gateways, say: Say, *, only: bool) -> Rollback | None:
    """Give the log the record of a break-glass rollback; None when it needs none and more than that (`only`) was asked for."""
    started = time.monotonic()
    file = settings.home / PENDING
    pending = msgspec.json.decode(file.read_bytes(), type=Pending)
    state = _readable_state(log, answering(gateways.status()))
    if state is None:
        raise PromotionRefused(
            f"The promotion log still cannot be used, so the rollback to {pending.to} is not recorded. Gateways keep the order; try again later."
        )
    if state.stable == pending.from_:
        log.append("rolled_back", pending.from_, f"{pending.why} (break-glass at {pending.at})", expected=state, to=pending.to)
        say(f"recorded the rollback of {pending.at}")
    else:
        say(f"the log has moved on to {state.stable}; the rollback of {pending.at} needs no record")
        if not only:
            file.unlink()
            return None
    result = Rollback(from_=pending.from_, to=log.state().stable or "", recorded=True)
    _confirm(gateways, gateways.follow(), result, log.state().seq, started)
    file.unlink()
    _align(settings, log, say)
    forget({pending.from_} & log.state().out, settings, say)
    return result


def _confirm(gateways: Gateways, reached: Reached, result: Rollback, seq: int, started: float) -> None:
    """Poll until every gateway answers with the target, or time is up."""
    while True:
        result.gateways = {url: _answers_with(status, result.to, seq) for url, status in reached.items()}
        result.seconds = round(time.monotonic() - started, 3)
        if result.complete or result.seconds > _CONFIRM_S:
            return
        time.sleep(_POLL_S)
        reached = gateways.status()


def _answers_with(status: Status | str, target: str, seq: int) -> str:
    if isinstance(status, str):
        return status
    if status.seq < seq or status.stable != target:
        return f"it still serves {status.stable}"
    if status.held:
        return f"it is held at {status.held.snapshot_id}"
    return "ok" if target in status.loaded else f"it has not loaded {target}"


def _align(settings: Settings, log: PromotionLog, say: Say) -> None:
    """Let the model server unload what was rolled back. It has the target loaded already, so nothing waits for this."""
    models = ServedModels(settings)
    try:
        align(models, at(settings.url("snapshots")), log.state(), settings)
    except (EvershelfError, OSError) as error:
        say(f"warning: {error}")
    finally:
        models.close()
