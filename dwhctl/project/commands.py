"""The commands that messages propose to run.

Messages wait in a table that others may write to, and people copy commands out of them. So what is sent is checked
again: `is_proposed` knows no command that changes more than a load or a refresh does by itself.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: The commands that a message proposes, each with the options that it proposes them with.
PROPOSED: dict[str, frozenset[str]] = {
    "load": frozenset({"--date", "--shard", "--only-missing", "--only-failed"}),
    "backfill": frozenset({"-s", "-e", "--shard", "--only-missing", "--only-failed"}),
    "refresh-reports": frozenset({"--date"}),
    "report": frozenset({"--days"}),
    "config": frozenset(),
}
#: A name or a date needs no quotes.
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)


def is_proposed(command: str, root: Path) -> bool:
    """Tell whether dwhctl proposes such a command in the messages of the project in that folder."""
    try:
        program, name, *words = shlex.split(command)
    except ValueError:
        return False
    if program != "dwhctl" or name not in PROPOSED or shlex.join([program, name, *words]) != command:
        return False
    for before, word in pairwise(["", *words]):
        if before == "--project":
            fits = word == str(root)
        elif word.startswith("-"):
            fits = word == "--project" or word in PROPOSED[name]
        else:
            fits = _PLAIN.fullmatch(word) is not None
        if not fits:
            return False
    return True


def in_project(command: str, project: Path | None) -> str:
    """Return the command with the project's folder, where one is given."""
    return f"{command} --project {shlex.quote(str(project))}" if project is not None and command else command
