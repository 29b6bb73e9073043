"""Which line of a file an error of a server is about: from the line of a statement back through the rendering."""

from __future__ import annotations

import re
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from dwhctl.errors import AttemptError, ConfigError

from .templates import source_text
from .words import shown_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: What messages name: in quotes, or as DuckDB does without.
_NAMED = re.compile(r"\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|with name (\S{1,200}) ")
#: What follows is a proposal, and not what is wrong.
_PROPOSAL = re.compile(r"did you mean|candidate", re.IGNORECASE)


def named_line(sql: str, message: str, told: int | None = None) -> int | None:
    """Return the line of the statement, from 1, that has what the message names.

    `told` is the line that the server tells. It decides where several lines have the name; a first line does not,
    for some errors come with that whatever line is wrong.
    """
    lines = sql.split("\n")
    for name in map("".join, _NAMED.findall(_PROPOSAL.split(message)[0])):
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        found = [number for number, line in enumerate(lines, 1) if word.search(line)]
        if len(found) == 1:
            return found[0]
        if told in found and told != 1:
            return told
    return None


def place_of(
    path: Path, root: Path, rendered: str, statement: str, line: int | None, render: str = ""
) -> str:
    """Say where a line of a statement is, as `sql/orders/extract.sql (line 3)`, as far as that is known.

    `rendered` is the file's text as rendered, which the statement is a part of; `render` is the command that shows it.
    """
    shown = shown_path(path, root)
    at = rendered.find(statement)
    if line is None or not statement or at < 0:
        return shown
    number = rendered.count("\n", 0, at) + line
    try:
        found = _line_in_file(source_text(path, root).split("\n"), rendered.split("\n"), number)
    except ConfigError:
        return shown
    if found is not None:
        return f"{shown} (line {found})"
    return (
        f"{shown} (line {line} of the SQL that {render} shows)"
        if render
        else f"{shown} (line {number}, rendered)"
    )


def _line_in_file(source: Sequence[str], rendered: Sequence[str], number: int) -> int | None:
    """Return the file's line that became this line; None where the rendering added or took away lines around it."""
    for tag, i1, i2, j1, j2 in _blocks(source, rendered):
        if j1 < number <= j2:
            return number - j1 + i1 if tag == "equal" or i2 - i1 == j2 - j1 else None
    return None


def _blocks(source: Sequence[str], rendered: Sequence[str]) -> Iterator[tuple[str, int, int, int, int]]:
    yield from SequenceMatcher(None, source, rendered, autojunk=False).get_opcodes()


@contextmanager
def at_statement(statement: str) -> Iterator[None]:
    """Keep with an error which statement of the user's it is about, and the line of it that the message names."""
    try:
        yield
    except AttemptError as error:
        error.statement = statement
        error.line = named_line(statement, str(error), error.line)
        raise
