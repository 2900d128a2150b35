"""Every DAG is parsed by Airflow itself and does what its run-book says."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

CHECKOUT = Path(__file__).parents[2]

# In a process of its own: Airflow reads its configuration from the environment when it is imported.
PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dags = {
    name: {
        "doc": dag.doc_md,
        "timetable": type(dag.timetable).__name__,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "deadlines": [alert.callback.path for alert in (dag.deadline if isinstance(dag.deadline, list) else [dag.deadline]) if alert],
        "tasks": [[task.task_id, list(getattr(task, "arguments", [])), task.pool, task.retries] for task in dag.topological_sort()],
    }
    for name, dag in bag.dags.items()
}
modules = [name for name in ("pyspark", "tensorflow") if name in sys.modules]
print(json.dumps({"errors": bag.import_errors, "dags": dags, "heavy": modules}))
"""


class Parsed(msgspec.Struct):
    errors: dict[str, str]
    dags: dict[str, dict[str, object]]
    heavy: list[str]


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "EVERSHELF_HOME": str(home / "home"),
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run([sys.executable, "-c", PARSE, str(CHECKOUT / "dags")], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Parsed)


@pytest.mark.slow
def test_every_dag_parses_without_spark_and_tensorflow(parsed: Parsed) -> None:
    assert parsed.errors == {}
    assert set(parsed.dags) == {path.stem for path in (CHECKOUT / "dags").glob("[a-z]*.py")}
    assert parsed.heavy == []


@pytest.mark.slow
def test_every_dag_carries_a_run_book(parsed: Parsed) -> None:
    for name, dag in parsed.dags.items():
        for heading in ("Runs:", "Re-run:", "On failure:"):
            assert heading in str(dag["doc"]), name


@pytest.mark.slow
def test_scheduled_dags_have_data_intervals_and_run_one_at_a_time(parsed: Parsed) -> None:
    scheduled = {name for name, dag in parsed.dags.items() if dag["timetable"] == "CronDataIntervalTimetable"}
    assert scheduled == {"lake_daily", "train_model", "tune_model", "build_snapshot", "maintain_lake", "interests", "labels", "redact", "retention"}
    assert {dag["max_active_runs"] for dag in parsed.dags.values()} == {1}


@pytest.mark.slow
def test_scheduled_dags_have_a_deadline(parsed: Parsed) -> None:
    alerting = {name for name, dag in parsed.dags.items() if dag["deadlines"] == ["plugins.deadlines.missed"]}
    assert alerting == {"lake_daily", "train_model", "tune_model", "build_snapshot", "maintain_lake", "interests", "labels", "redact", "retention"}


@pytest.mark.slow
def test_drivers_and_trainings_wait_for_each_other_in_a_pool(parsed: Parsed) -> None:
    pools = {task: pool for dag in parsed.dags.values() for task, _, pool, _ in dag["tasks"]}  # type: ignore[attr-defined]  # JSON
    assert {task for task, pool in pools.items() if pool == "spark"} == {
        "lake_daily",
        "train",
        "tune",
        "fine-tune",
        "candidates",
        "interests",
        "labels",
        "redact",
    }


@pytest.mark.slow
def test_promotion_and_rollback_are_never_tried_again_by_themselves(parsed: Parsed) -> None:
    for name in ("promote_snapshot", "rollback"):
        assert [retries for _, _, _, retries in parsed.dags[name]["tasks"]] == [0]  # type: ignore[attr-defined]  # JSON
