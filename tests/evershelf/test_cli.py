"""The commands keep their names, and a foreseeable mistake shows no stack trace."""

import subprocess
import sys
from pathlib import Path

import pytest

from evershelf.cli import COMMANDS

EVERSHELF = Path(sys.executable).with_name("evershelf")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    arguments = [command, "lake_daily", "--help"] if command == "run" else [command, "--help"]
    result = subprocess.run([EVERSHELF, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "sage:" in result.stdout


def test_a_wrong_setting_is_an_error_of_one_line_without_a_stack_trace(tmp_path: Path) -> None:
    environment = {"EVERSHELF_HOME": str(tmp_path), "EVERSHELF_GATEWAY__PORT": "none", "PATH": "/usr/bin:/bin"}
    result = subprocess.run([EVERSHELF, "serve"], capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert "gateway.port = 'none'" in result.stderr
    assert "Traceback" not in result.stderr
