"""What docker-compose.yml and the Dockerfiles name exists. No Docker engine is needed."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types of its own

from evershelf.cli import COMMANDS
from evershelf.settings import PREFIX, Settings

CHECKOUT = Path(__file__).parents[2]
DOCKERFILES = sorted((CHECKOUT / "deploy").glob("Dockerfile.*"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text()))


def test_every_file_that_compose_names_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert ("image" in service) or ("build" in service), name
        if "build" in service:
            assert (CHECKOUT / service["build"]["dockerfile"]).is_file(), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (CHECKOUT / source).is_file() if source.startswith("./") else source in compose["volumes"], f"{name}: {volume}"


def test_every_command_of_compose_is_one_of_evershelf(compose: dict[str, Any]) -> None:
    commands = [service["command"] for service in compose["services"].values() if service.get("command", [""])[0] == "evershelf"]
    assert commands
    assert all(command[1] in COMMANDS for command in commands)


def test_every_setting_in_compose_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable in service.get("environment", {}):
            if variable.startswith(PREFIX):
                section, _, setting = variable.removeprefix(PREFIX).lower().partition("__")
                field = Settings.model_fields[section]
                assert not setting or setting in field.annotation.model_fields, f"{name}: {variable}"  # type: ignore[union-attr]  # a section is a class


def test_ports_are_published_on_the_loopback_address_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_services_wait_only_for_services_that_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])


def test_gateway_waits_for_nothing_that_it_can_do_without(compose: dict[str, Any]) -> None:
    assert compose["services"]["gateway"]["depends_on"] == ["statsd"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_file_that_a_dockerfile_copies_exists_and_is_not_ignored(dockerfile: Path) -> None:
    ignored = (CHECKOUT / ".dockerignore").read_text()
    for source in re.findall(r"^COPY (.+) \S+$", dockerfile.read_text(), re.MULTILINE):
        for name in source.split():
            assert (CHECKOUT / name).exists(), name
            assert f"!{name.split('/')[0]}" in ignored, name
