"""Check, without a network, that the locks hold what pyproject.toml asks for, agree with each other, carry hashes, and name no address."""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ROLES = ("gateway", "spark", "training", "airflow")
PIN = re.compile(r"^([a-zA-Z0-9._-]+)==([^\s;\\]+)(.*?)\\?$", re.MULTILINE)


def pins(lock: str) -> set[tuple[str, str]]:
    return {(canonicalize_name(name), version) for name, version, _ in PIN.findall((ROOT / "requirements" / lock).read_text())}


def problems() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything, found = pins("all.txt"), []
    for role in ROLES:
        locked = pins(f"{role}.txt")
        found += [f"{role}.txt pins {name}=={version}, all.txt does not" for name, version in sorted(locked - everything)]
        found += _unmet(f"{role}.txt", locked, project["dependencies"] + project["optional-dependencies"][role])
    found += _unmet("all.txt", everything, [text for extra in project["optional-dependencies"].values() for text in extra])
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        if "://" in text:
            found.append(f"{path.name} names an address")
        if PIN.search(text) and any("--hash=" not in block for block in re.split(r"\n(?=[a-zA-Z])", text) if PIN.match(block)):
            found.append(f"{path.name} has a pin without a hash")
    return found


def _unmet(lock: str, locked: set[tuple[str, str]], wanted: list[str]) -> list[str]:
    found = []
    for requirement in map(Requirement, wanted):
        versions = [version for name, version in locked if name == canonicalize_name(requirement.name)]
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            found.append(f"{lock} does not satisfy {requirement}: run `make lock`")
    return found


if __name__ == "__main__":
    wrong = problems()
    print("\n".join(wrong) or "locks: complete, consistent, hashed, without addresses")
    sys.exit(bool(wrong))
