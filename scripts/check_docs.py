"""Check that every relative link in the Markdown files leads somewhere, and that the README names only commands that exist."""

import re
import subprocess
import sys
from pathlib import Path

from evershelf.cli import COMMANDS

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
COMMAND = re.compile(r"`evershelf ([a-z][a-z-]*)")


def problems(page: Path) -> list[str]:
    text = page.read_text()
    broken = [f"{page.relative_to(ROOT)}: link to {target} leads nowhere" for target in LINK.findall(text) if not (page.parent / target).exists()]
    unknown = [f"{page.relative_to(ROOT)}: `evershelf {name}` is no command" for name in COMMAND.findall(text) if name not in COMMANDS]
    return broken + unknown


if __name__ == "__main__":
    tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [problem for name in tracked.stdout.split() for problem in problems(ROOT / name)]
    print("\n".join(found) or "docs: every link leads somewhere, every command exists")
    sys.exit(bool(found))
