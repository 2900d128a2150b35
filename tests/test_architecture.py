"""The house: imports point one way, and light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_point_one_way() -> None:
    result = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_contracts_import_only_the_standard_library() -> None:
    allowed = {*sys.stdlib_module_names, "evershelf"}
    for path in (ROOT / "evershelf" / "contracts").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
                assert not name.startswith("evershelf.") or name.startswith("evershelf.contracts"), f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("serving.gateway.commands", ("tensorflow", "pyspark", "airflow", "pandas", "pyarrow")),
        ("serving.promotion.commands", ("tensorflow", "pyspark", "airflow", "pandas")),
        ("plugins.steps", ("tensorflow", "pyspark", "pandas", "pyarrow")),
    ],
)
def test_light_parts_import_nothing_heavy(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(name for name in {forbidden!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
