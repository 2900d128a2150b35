import json
from datetime import timedelta
from pathlib import Path

import pytest

from evershelf import snapshot
from evershelf.contracts.rungs import RUNGS
from evershelf.tables import Health, TableState
from serving.gateway.answers import EventCounts, Latency, SnapshotAnswers, Status
from serving.promotion.overview import _outdone, figures, head_tables

DEADLINE = timedelta(milliseconds=150)


@pytest.fixture
def stable(tmp_path: Path) -> tuple[Path, str]:
    """A store with one snapshot: popular is worth half of live, and two of its three heads were measured."""
    (tmp_path / "content").mkdir()
    heads = {"P_U": {"accuracy": 0.6}, "P_P": {"accuracy": 0.9}, "P_T": None}
    (tmp_path / "content" / "evaluation.json").write_text(json.dumps({"heads": heads}))
    about = {"data_as_of": "2026-01-01", "created_at": "", "shop": "simulator", "model_id": "m", "lineage": {}, "model_card": {}}
    quality = dict.fromkeys(RUNGS, 1.0) | {"popular": 0.5}
    return tmp_path / "store", snapshot.seal(tmp_path / "content", tmp_path / "store", rung_quality=quality, **about)


def tables(**health: Health) -> dict[str, TableState]:
    return {name: TableState(table=name, where="", health=how, age_days=1, without="") for name, how in health.items()}


HEALTHY = tables(events="healthy", products="healthy", orders="healthy")


def answered(snapshot_id: str, *, shed: int = 0) -> Status:
    """Eight requests: six in time (two by popular), one late, one that nobody answered."""
    latency = Latency([10.0, 150.0, 500.0], [4, 2, 1, 0])
    answers = SnapshotAnswers("stable", 8, 1, 0, {"live": 5, "popular": 2}, latency, 0, 0)
    return Status("one", 1, snapshot_id, None, 0.0, None, None, [], {}, 1.0, {}, {snapshot_id: answers}, 8, shed, EventCounts(0, 0, 0, 0))


def test_available_is_answered_in_time_and_quality_counts_the_rung(stable: tuple[Path, str]) -> None:
    store, snapshot_id = stable
    found = figures([answered(snapshot_id, shed=2)], store, snapshot_id, DEADLINE, HEALTHY)
    assert found.availability == {"answers": 0.6, "U": 0.6, "P": 0.6, "T": 0.0}  # the head T was not measured
    assert found.accuracy == {"U": 0.6, "P": 0.9, "T": None}
    assert found.a_times_p == {"U": pytest.approx(0.36), "P": pytest.approx(0.54), "T": None, "answers": pytest.approx(0.6)}


def test_a_stale_or_lost_table_makes_its_head_unavailable_and_one_that_cannot_be_seen_unknown(stable: tuple[Path, str]) -> None:
    store, snapshot_id = stable
    found = figures([answered(snapshot_id)], store, snapshot_id, DEADLINE, tables(events="stale", orders="healthy"))
    assert found.availability == {"answers": 0.75, "U": 0.0, "P": None, "T": 0.0}
    assert found.table_health == {"events": "stale", "products": None, "orders": "healthy"}
    assert figures([answered(snapshot_id)], store, snapshot_id, DEADLINE, tables(products="lost")).availability["P"] == 0.0


def test_nothing_is_claimed_before_the_first_request(stable: tuple[Path, str]) -> None:
    found = figures([], *stable, DEADLINE, HEALTHY)
    assert set(found.availability.values()) == set(found.a_times_p.values()) == {None}


def test_beside_no_lake_nothing_is_known_of_its_tables_and_a_lost_one_is_named(home: Path) -> None:
    assert head_tables() == {}
    log = home / "lake" / "events" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020}.json").write_text("nonsense")
    assert {name: state.health for name, state in head_tables().items()} == {"events": "lost"}


def test_a_model_that_its_own_lists_outdo_needs_somebody(tmp_path: Path) -> None:
    def problems(live: float, stored: float) -> list[str]:
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / "evaluation.json").write_text(json.dumps({"rung_clicks": {"live": live, "stored": stored, "popular": 0.1}}))
        return _outdone(tmp_path, "some")

    assert not problems(1.0, 0.9)
    assert not problems(1.0, 1.01)
    (problem,) = problems(1.0, 1.06)
    assert "6% more clicks" in problem
    assert not _outdone(tmp_path, "none")
