"""Everything the shared part raises on purpose. Each says what happened, what it means for serving, and what to do.

EvershelfError
├── InvalidSettings      the process refuses to start; what runs keeps running
├── DayHeldBack          one landing day is not published; the tables keep what they had
├── StorageError         a file system did not do what was asked; nothing half-done is visible
├── SnapshotDamaged      a snapshot is refused; the one that is live stays live
└── CommandFailed        a command or process that Evershelf started did not do its work
"""

import re

_NOT_FOR_PEOPLE = re.compile(r"^\s*at [\w.$/]+\(.*\)$|\x1b\[\d+m|↳", re.MULTILINE)  # the frames of a Java stack; colours and arrows


def in_one_line(error: Exception) -> str:
    """Return what a library says in several lines, such as Delta of its storage."""
    return " ".join(_NOT_FOR_PEOPLE.sub("", str(error)).split())


class EvershelfError(Exception):
    """Base of every foreseeable mistake. The command line prints it without a stack trace and exits with `exit_code`."""

    exit_code = 1


class InvalidSettings(EvershelfError):
    exit_code = 2


class DayHeldBack(EvershelfError):
    """`day` (ISO date) and `reason` name what was held back and why."""

    exit_code = 3

    def __init__(self, day: str, reason: str) -> None:
        self.day, self.reason = day, reason
        super().__init__(f"{day} is held back: {reason}. The tables keep what they had; deliver the day again and re-run it.")


class StorageError(EvershelfError):
    pass


class SnapshotDamaged(EvershelfError):
    pass


class SnapshotOfOtherVersion(SnapshotDamaged):
    """It may be whole, but another version of the code wrote it."""


class CommandFailed(EvershelfError):
    pass
