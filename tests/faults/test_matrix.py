"""A slice of the fault matrix: each fault that needs no Airflow once, at a step at which it hurts, on a real HDFS. `make faults` runs all of it."""

from collections.abc import Iterator

import pytest

from tests.faults.matrix import FAULTS, STEPS, Case, Matrix, every_case, matrix

SLICE = (
    Case("driver", "commit", 2),
    Case("datanode", "data write", 2),
    Case("disk full", "quarantine write", 2),
    Case("corrupt block", "vacuum", 2),
    Case("namenode", "vacuum", 2),
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    work = tmp_path_factory.mktemp("faults")
    with matrix(work, work / "undisturbed") as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first one makes the undisturbed lake too
@pytest.mark.parametrize("case", SLICE, ids=lambda case: case.name)
def test_a_fault_at_a_step_changes_no_table_and_shows_nobody_half_a_day(cases: Matrix, case: Case) -> None:
    result = cases.run(case)
    assert result.passed, result


def test_the_matrix_has_every_fault_at_every_step() -> None:
    cases = every_case()
    assert len(cases) == len({case.name for case in cases}) == len(FAULTS) * len(STEPS) * 3
    assert set(SLICE) <= set(cases)
