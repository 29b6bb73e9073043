"""The SQL that a source runs, with its bounds, and the line of it that an error is about.

Workers import this module: it imports no Jinja.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct, field

from dwhctl.core.errors import AttemptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from dwhctl.project.endpoint import Request


class Query(Struct, frozen=True):
    """SQL with `:start` and `:end`, and the values of those that it uses.

    `slice_by` is the column of the bounds. If its type has instants, the source binds `instants`, the same bounds in
    UTC: a clock that is set back shows some times twice, and `binds` do not say which is meant. An HTTP source has a
    `request` in place of SQL.
    """

    sql: str
    binds: dict[str, datetime]
    slice_by: str | None = None
    instants: dict[str, datetime] = field(default_factory=dict)
    request: Request | None = None


#: The name in a message: in quotes, or as DuckDB writes it.
_NAMED = re.compile(r"\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|with name (\S{1,200}) ")
#: A proposal follows, which is not the error.
_PROPOSAL = re.compile(r"did you mean|candidate", re.IGNORECASE)


def named_line(sql: str, message: str, server_line: int | None = None) -> int | None:
    """Return the line of the statement, from 1, with the name that the message quotes.

    `server_line` is the line in the server's message. It decides if several lines have the name, unless it is 1: some
    errors always have that line.
    """
    lines = sql.split("\n")
    for name in map("".join, _NAMED.findall(_PROPOSAL.split(message)[0])):
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        found = [number for number, line in enumerate(lines, 1) if word.search(line)]
        if len(found) == 1:
            return found[0]
        if server_line in found and server_line != 1:
            return server_line
    return None


@contextmanager
def at_statement(statement: str) -> Iterator[None]:
    """Add the statement to an error in the block, and the line that the message is about."""
    try:
        yield
    except AttemptError as error:
        error.statement = statement
        error.line = named_line(statement, str(error), error.line)
        raise
