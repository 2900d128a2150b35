"""What is live, since when, how good, and whether someone must act."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from evershelf import snapshot as snapshots
from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.rungs import RUNGS
from evershelf.contracts.snapshot import EVALUATION
from evershelf.errors import EvershelfError, SnapshotDamaged, StorageError
from evershelf.settings import Settings, load_settings
from evershelf.storage import Place, at
from serving.errors import ModelServerError
from serving.gateway.answers import Status
from serving.promotion.gateways import Gateways, Reached, answering, missing
from serving.promotion.log import LiveState, PromotionLog
from serving.promotion.promoter import has_model, last_good
from serving.promotion.rollback import PENDING
from serving.tf_serving.client import ModelServerAdmin

if TYPE_CHECKING:
    from evershelf.tables import TableState

OUTDONE = 0.02  # share; less is within what the estimate errs
HEADS = {"U": "events", "P": "products", "T": "orders"}  # head -> the table that it learns from


@dataclass(frozen=True, slots=True)
class Overview:
    """`problems` need somebody; an empty list says that nobody must act.

    `models` is version -> state in the model server, None when it is away; `rungs` the answers of each rung; `quality` what stable's manifest expects of each,
    relative to `live`, {} when it cannot be read.
    """

    state: LiveState
    last_good: str | None
    data_age_days: int | None
    reached: Reached
    models: dict[int, str] | None
    rungs: dict[str, int]
    quality: dict[str, float]
    figures: "Figures"
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        state = self.state
        return {
            "stable": state.stable,
            "since": state.since or None,
            "canary": state.canary,
            "canary_share": state.canary_share,
            "last_good": self.last_good,
            "data_age_days": self.data_age_days,
            "pinned": state.pinned,
            "frozen": state.frozen,
            "decisions": state.seq,
            "rungs": self.rungs,
            "expected_quality": self.quality,
            "availability": self.figures.availability,
            "accuracy": self.figures.accuracy,
            "a_times_p": self.figures.a_times_p,
            "table_age_days": self.figures.table_age_days,
            "table_health": self.figures.table_health,
            "models": self.models,
            "gateways": {url: status if isinstance(status, str) else msgspec.to_builtins(status) for url, status in self.reached.items()},
            "problems": self.problems,
        }


def look() -> Overview:
    """Look at the log, the gateways and the model server. Whatever is away is a problem that is named, never an error."""
    settings = load_settings()
    store = at(settings.url("snapshots"), patient=False)
    problems: list[str] = []
    try:
        state = PromotionLog(at(settings.url("promotions"), patient=False)).state()
    except (OSError, EvershelfError, msgspec.MsgspecError) as error:
        state = LiveState()
        problems.append(f"the promotion log cannot be read: {error}; gateways go on with what they know")
    gateways = Gateways(timeout=2.0)
    try:
        reached = gateways.status()
    finally:
        gateways.close()
    statuses = answering(reached)
    models = _models(settings)
    try:
        target = last_good(state, store)
    except StorageError as error:
        target = None
        problems.append(f"the snapshots cannot be read: {error}")
    age = _data_age_days(state.stable)
    tables = head_tables()
    problems += [f"the table {name} is lost: {state.why}; without it {state.without}" for name, state in tables.items() if state.health == "lost"]
    problems += _problems(settings, state, target, age, reached) + _of_models(state, target, store, models) + _outdone(store, state.stable)
    return Overview(
        state=state,
        last_good=target,
        data_age_days=age,
        reached=reached,
        models=models,
        rungs={rung: sum(status.rungs[rung].answers for status in statuses if rung in status.rungs) for rung in RUNGS},
        quality=_expected_quality(store, state.stable),
        figures=figures(statuses, store, state.stable, settings.gateway.deadline, tables, state.current),
        problems=problems,
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares, 0 to 1, over what the gateways answered since they started; None where it is not known.

    availability: "answers" is A, the share of valid requests (shed ones too) answered within the deadline; "U", "P", "T" are A_U, A_P, A_T: A when that head's
        table is healthy now and the head was measured, 0 when it is stale or lost or was not.
    accuracy: P_U, P_P, P_T of the evaluation that stable carries.
    a_times_p: per head A x P; "answers" is the mean over valid requests of the quality of the rung that answered relative to `live`, 0 when unanswered.
    table_age_days: days since the newest published day of each head's table.
    table_health: of each head's table, as `evershelf tables` shows it; None when the lake cannot be read from here.
    """

    availability: dict[str, float | None]
    accuracy: dict[str, float | None]
    a_times_p: dict[str, float | None]
    table_age_days: dict[str, int | None]
    table_health: dict[str, str | None]


def figures(
    statuses: Sequence[Status],
    store: Place,
    stable: str | None,
    deadline: timedelta,
    tables: Mapping[str, "TableState"],
    current: Callable[[str], str] = str,
) -> Figures:
    """Work out A, P and A x P. A latency is known by its bucket only: an answer counts as in time when its whole bucket is.

    Args:
        current: what a snapshot that answered is called now; a redacted one is stored under the name of its copy.
    """
    valid, in_time, quality = sum(status.requests + status.shed for status in statuses), 0, 0.0
    measured = True
    for status in statuses:
        for snapshot_id, answers in status.answers.items():
            within = bisect_right(answers.latency_ms.bounds, deadline.total_seconds() * 1000)
            in_time += sum(answers.latency_ms.counts[:within])
            try:
                of_rung = snapshots.read_manifest(store / current(snapshot_id)).rung_quality
            except (SnapshotDamaged, StorageError):
                measured = False  # its quality is not known here
                continue
            quality += sum(count * of_rung.get(rung, 0.0) for rung, count in answers.by_rung.items())
    found = _accuracies(store, stable)
    accuracy = {head: found.get(f"P_{head}") for head in HEADS}
    available = in_time / valid if valid else None
    availability: dict[str, float | None] = {"answers": available}
    products: dict[str, float | None] = {}
    for head, table in HEADS.items():
        right = accuracy[head]
        unknown = available is None or table not in tables
        availability[head] = None if unknown else available if tables[table].health == "healthy" and right is not None else 0.0
        products[head] = None if available is None or right is None else available * right
    products["answers"] = quality / valid if valid and measured else None
    ages = {table: tables[table].age_days if table in tables else None for table in HEADS.values()}
    return Figures(availability, accuracy, products, ages, {table: tables[table].health if table in tables else None for table in HEADS.values()})


def head_tables() -> dict[str, "TableState"]:
    """Return how the heads' tables are; what cannot be known from here, such as on a host without a Delta reader or beside no lake at all, is left out."""
    try:
        from evershelf.tables import table_state  # a host that only serves has no Delta reader
    except ModuleNotFoundError:
        return {}
    states = (table_state(LAKE_TABLES[name]) for name in HEADS.values())
    return {state.table: state for state in states if state.health != "absent"}


def _expected_quality(store: Place, stable: str | None) -> dict[str, float]:
    try:
        return dict(snapshots.read_manifest(store / (stable or "none")).rung_quality)
    except (SnapshotDamaged, StorageError):
        return {}


def _accuracies(store: Place, stable: str | None) -> dict[str, float]:
    try:
        return {name: float(measured["accuracy"]) for name, measured in _evaluation(store, stable)["heads"].items() if measured}
    except (KeyError, TypeError, AttributeError):
        return {}


def _outdone(store: Place, stable: str | None) -> list[str]:
    """Return a problem when stable's model is worth less to shoppers than the lists that are made from it: `live` should not stand above them then."""
    clicks = _evaluation(store, stable).get("rung_clicks") or {}
    live, lists = clicks.get("live", 0.0), clicks.get("stored", 0.0)
    if lists <= live * (1 + OUTDONE):
        return []
    more = lists / max(live, 1e-9) - 1
    return [f"stable's lists are expected to earn {more:.0%} more clicks than its model, which answers first: look at the model's evaluation"]


def _evaluation(store: Place, stable: str | None) -> dict[str, Any]:
    try:
        return dict(msgspec.json.decode((store / (stable or "none") / EVALUATION).read_bytes()))
    except (OSError, StorageError, msgspec.MsgspecError, TypeError, ValueError):
        return {}


def _data_age_days(stable: str | None) -> int | None:
    return (datetime.now(UTC).date() - date.fromisoformat(stable[:10])).days if stable else None


def _models(settings: Settings) -> dict[int, str] | None:
    admin = ModelServerAdmin(f"{settings.model_server.host}:{settings.model_server.port}", timeout=2.0)
    try:
        return {version: status.state for version, status in admin.status().items()}
    except ModelServerError:
        return None
    finally:
        admin.close()


def _of_models(state: LiveState, target: str | None, store: Place, models: dict[int, str] | None) -> list[str]:
    """Return what is wrong with the model server, for those that it ranks for: not for a snapshot with the shop's own ranker."""
    wanted = {"stable": state.stable, "the canary": state.canary, "last-good": target}
    with suppress(StorageError):  # named already
        wanted = {name: snapshot_id for name, snapshot_id in wanted.items() if snapshot_id and has_model(store / snapshot_id)}
    if models is None:
        who = "; it is needed for " + ", ".join(wanted) if "stable" not in wanted else ": gateways rank in their own process"
        return [f"the model server is away{who}"] if wanted or not state.stable else []
    if "stable" in wanted and models.get(state.registrations[state.stable or ""]) != "AVAILABLE":
        return ["the model server has not loaded stable's model: gateways rank in their own process"]
    return []


def _problems(settings: Settings, state: LiveState, target: str | None, age: int | None, reached: Reached) -> list[str]:
    found = []
    if state.stable is None:
        found.append("nothing was promoted yet: build a snapshot and promote it")
    elif target is None:
        found.append("there is no last-good: a rollback has no target until the next promotion")
    if age is not None and age * 24 > settings.gateway.max_snapshot_age.total_seconds() / 3600:
        found.append(f"the data is {age} days old: see why no newer snapshot was promoted")
    if (settings.home / PENDING).exists():
        found.append("a break-glass rollback is not in the log yet: run `evershelf rollback` when the storage is back")
    found += [f"gateway {url}: {problem}" for url, problem in missing(reached).items()]
    for status in answering(reached):
        found += [f"gateway {status.name}: {what}: {why}" for what, why in status.problems.items()]
        found += [f"gateway {status.name}: rung {rung} is taken out for now" for rung, circuit in status.rungs.items() if circuit.state == "open"]
        if status.held:
            found.append(f"gateway {status.name} is held at {status.held.snapshot_id}: {status.held.why}")
        if status.seq < state.seq:
            found.append(f"gateway {status.name} knows {status.seq} of {state.seq} decisions")
    names = Counter(status.name for status in answering(reached))
    found += [f"{count} gateways are called {name}: give each its own name" for name, count in names.items() if count > 1]
    return found
