"""Snapshots, overlays and Redis: what gateways answer from is replaced by copies without the forgotten, and never missing meanwhile."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb

from evershelf import overlay, storage
from evershelf import snapshot as snapshots
from evershelf.contracts.snapshot import MANIFEST, STORE
from evershelf.errors import SnapshotDamaged
from evershelf.snapshot import Manifest
from evershelf.storage import ASIDE, Place
from serving.errors import ServingError
from serving.promotion.gateways import Gateways, answering, missing
from serving.promotion.log import LiveState, PromotionLog
from serving.promotion.promoter import LOCK
from serving.promotion.rollback import PENDING
from serving.redaction.found import Redaction
from serving.redaction.tables import drop_abandoned
from serving.stores import layout, redis_store

FROM = "redacted_from"  # in a copy's lineage: the original
_MAP_SIZE = 1 << 38  # address space that LMDB may grow into, not disk
_POLL_S = 0.2


def redact_redis(run: Redaction) -> None:
    """Drop the forgotten's entries of every snapshot, on disk too.

    Raises:
        ServingError: Redis is away.
    """
    if "stored" in run.settings.gateway.rungs:  # else this installation has no Redis
        run.removed["redis"] += redis_store.forget(run.gone.covers, run.settings.redis)


def drop_overlays(run: Redaction) -> None:
    """Delete the overlays that tell of somebody forgotten, or cannot be read; nearline writes the next one without them within a minute."""
    place = overlay.folder()
    drop_abandoned(place)
    for name, found in overlay.kept(place):
        if found is None or any(map(run.gone.covers, found.shoppers)):
            (place / name).unlink(missing_ok=True)
            run.removed["overlays"] += 1


def redact_snapshots(run: Redaction) -> None:
    """Seal a copy of each snapshot that holds something of the forgotten, put it in its place in the promotion log, and delete the original."""
    store, log = storage.at(run.settings.url("snapshots")), PromotionLog(storage.at(run.settings.url("promotions")))
    gateways = Gateways()
    try:
        with _no_promotion(run):
            drop_abandoned(store)
            _replace_all(run, store, log, gateways)
    finally:
        gateways.close()


def _no_promotion(run: Redaction) -> AbstractContextManager[None]:
    """Wait for a promotion that is under way: a record of anybody else would end its trial."""
    return storage.turn(run.settings.home / LOCK, lambda: run.say("A promotion is under way; waiting for it to end."))


def _replace_all(run: Redaction, store: Place, log: PromotionLog, gateways: Gateways) -> None:
    state = log.state()
    _drop_unrecorded(store, state)
    holding = [name for name in snapshots.stored_snapshots(store) if _holds(run, store / name)]
    stale = {name for name in holding if name in state.copies and _is_whole(store / state.current(name))}
    if (todo := [name for name in holding if name not in stale]) and (why := _held(run, gateways)):
        run.problem(f"{len(todo)} snapshots still hold something of forgotten shoppers, which gateways do not answer with: {why}. Then run it again.")
        todo = []
    for name in sorted(todo, key=lambda name: _rank(state, name)):
        try:
            copy = _seal_without(run, store, name)
        except SnapshotDamaged as error:
            run.problem(f"snapshot {name} holds something of forgotten shoppers and cannot be copied: {error} It is never served; remove its folder.")
            continue
        if copy != (now := state.current(name)):  # it is the same when the copy was lost and the original came back
            _write_redis(run, store / copy, state, now)
            if why := _held(run, gateways):  # since the first look
                run.problem(f"{name} was not replaced: {why}. Then run it again.")
                break
            log.append("redacted", now, "a copy without forgotten shoppers", to=copy)
            run.snapshots[name] = copy
            state = log.state()
    state = log.state()
    late = _late_copies(run, state, gateways)
    for name in [*stale, *todo]:
        copy = state.current(name)
        if copy == name or copy in late or not (name in stale or _is_whole(store / copy)):
            continue  # the next run finds it again
        storage.remove(store / name)
        run.removed["snapshots"] += 1
        _drop_redis(run, name)


def _drop_unrecorded(store: Place, state: LiveState) -> None:
    """Remove copies that a run sealed and did not live to record; never one whose original is gone: a log that is lost or old does not know it."""
    for name in snapshots.stored_snapshots(store):
        if name in state.copies.values() or name in state.copies:
            continue
        try:
            original = snapshots.read_manifest(store / name).lineage.get(FROM)
            if original and _is_whole(store / str(original)):
                storage.remove(store / name)
        except SnapshotDamaged:
            continue


def _is_whole(folder: Place) -> bool:
    try:
        snapshots.verify(folder)
    except SnapshotDamaged:
        return False
    return True


@contextmanager
def _lists(folder: Place) -> Iterator[lmdb.Transaction]:
    """Open a snapshot's lists; LMDB maps files of this machine only."""
    with tempfile.TemporaryDirectory(prefix="evershelf-") as temporary:
        file = folder / STORE
        if not isinstance(file, Path):
            with file.open() as source, Path(temporary, STORE).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            file = Path(temporary, STORE)
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as lists, lists.begin() as reading:
            yield reading


def _holds(run: Redaction, folder: Place) -> bool:
    """Tell whether a snapshot has lists of somebody who was forgotten. One that cannot be read is named and left alone: nothing ever serves it."""
    try:
        with _lists(folder) as reading:
            cursor = reading.cursor()
            return cursor.set_range(layout.USERS) and any(_is_gone(run, bytes(key)) for key in cursor.iternext(values=False))
    except (lmdb.Error, OSError) as error:
        run.problem(f"snapshot {folder.name} cannot be read ({error}), so nobody knows who is in it. It is never served; remove its folder.")
        return False


def _is_gone(run: Redaction, key: bytes) -> bool:
    return key.startswith(layout.USERS) and run.gone.covers(key.removeprefix(layout.USERS).decode(errors="replace"))


def _held(run: Redaction, gateways: Gateways) -> str:
    """Return why no record may be written now: any record ends a break-glass hold, and with it the rollback that it stands for."""
    if (run.settings.home / PENDING).exists():
        return "a break-glass rollback waits for its record; `evershelf rollback --reconcile` writes it"
    held = [status.name for status in answering(gateways.status()) if status.held]
    return f"the gateways {', '.join(held)} are held; lift the hold" if held else ""


def _rank(state: LiveState, name: str) -> int:
    """What answers comes first."""
    now = state.current(name)
    live = (state.stable, state.canary, *state.been_stable)
    return live.index(now) if now in live else len(live)


def _seal_without(run: Redaction, store: Place, name: str) -> str:
    """Seal a copy of a snapshot; the same people taken out give the same copy, with the same id.

    Raises:
        SnapshotDamaged: the original is not as it was sealed.
    """
    manifest = snapshots.verify(store / name)
    content = run.settings.home / f"{ASIDE}redacted"
    shutil.rmtree(content, ignore_errors=True)  # of a run that was killed
    try:
        storage.fetch(store / name, content)
        for old in (MANIFEST, STORE):
            (content / old).unlink()
        with (
            _lists(store / name) as reading,
            lmdb.open(str(content / STORE), subdir=False, lock=False, map_size=_MAP_SIZE) as after,
            after.begin(write=True) as writing,
        ):
            for key, value in reading.cursor():
                if _is_gone(run, bytes(key)):
                    run.removed["snapshots: shoppers"] += 1
                else:
                    writing.put(key, value, append=True)
        about = {field: getattr(manifest, field) for field in Manifest.__struct_fields__ if field not in ("files", "contracts", "lineage")}
        try:
            return snapshots.seal(content, store, **about, lineage={**manifest.lineage, FROM: name})
        except FileExistsError as there:  # the name is its checksum
            return Path(str(there)).name
    finally:
        shutil.rmtree(content, ignore_errors=True)


def _write_redis(run: Redaction, folder: Place, state: LiveState, original: str) -> None:
    """Have the copy's lists in Redis before gateways ask for them, where the original's are."""
    if original not in (state.stable, state.canary, *state.last_good[:1]):
        return
    try:
        with snapshots.at_hand(folder) as here:
            redis_store.write(here, run.settings.redis)
    except ServingError as error:
        run.say(f"warning: {error} The rung `stored` is skipped until the next promotion.")


def _drop_redis(run: Redaction, name: str) -> None:
    from redis import RedisError

    try:
        redis_store.drop(name, run.settings.redis)
    except (RedisError, OSError) as error:
        run.say(f"warning: the lists of {name} stay in Redis, without the forgotten: {error}")


def _late_copies(run: Redaction, state: LiveState, gateways: Gateways) -> set[str]:
    """Wait until every gateway answers from the copies, and return those that one has not loaded; one that is away follows when it is back."""
    deadline = time.monotonic() + run.settings.promotion.load_timeout.total_seconds()
    wanted = {name for name in (state.stable, *state.last_good[:1]) if name and name in state.copies.values()}
    reached = gateways.follow() if wanted else {}
    while late := [status.name for status in answering(reached) if not wanted <= set(status.loaded)]:
        if time.monotonic() > deadline:
            run.problem(
                f"the gateways {', '.join(late)} have not loaded {', '.join(sorted(wanted))} yet; they go on with the originals, which stay. Run it again."
            )
            break
        time.sleep(_POLL_S)
        reached = gateways.status()
    for url, why in missing(reached).items():
        run.say(f"warning: {url}: {why}; it follows when it reads the log")
    return wanted if late else set()
