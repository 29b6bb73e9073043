"""Ad hoc statements on a Vertica database."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import UsageError
from dwhctl.systems.base.source import Cursor, StatementResult, refuse_unclear_lines
from dwhctl.systems.vertica.client import VerticaClient

if TYPE_CHECKING:
    from dwhctl.systems.vertica.system import VerticaConnection

#: Source: https://docs.vertica.com/24.4.x/en/sql-reference/statements/set-statements/set-session-characteristics-as-transaction
#: "Setting the transaction session mode to read-only does not prevent all write operations": so the first word counts
#: as well.
_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
_SKIPPED = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_INTO = re.compile(r"\binto\b", re.IGNORECASE)
_FOR_EVER = timedelta(days=7)
#: Where the server may see the end of a comment, or of a text with a semicolon in it, before or after this reader.
_UNCLEAR_COMMENT = re.compile(r"/\*(?:(?!\*/).)*/\*", re.DOTALL)
_UNCLEAR_TEXT = re.compile(r"[\\\[$#`]")


class VerticaCursor(Cursor):
    """A Vertica session. Read only is the session's transactions, and what begins with a word that reads.

    The driver sends whatever it is given, several statements too: what may be read as several is refused. A
    meta-function with an effect of its own (CLOSE_SESSION, DROP_PARTITIONS) is not held back.
    """

    reading = frozenset({"SELECT", "WITH", "SHOW", "EXPLAIN", "AT", "VALUES"})

    def __init__(self, connection: VerticaConnection, *, write: bool, timeout: timedelta | None) -> None:
        super().__init__(write=write)
        self._session = VerticaClient(connection, f"dwhctl-query:{os.getpid()}", timeout or _FOR_EVER)

    def statements(self, sql: str) -> list[str]:
        """Split into statements; without `write` refuse INTO, and what may be read in another way."""
        statements = super().statements(sql)
        for statement in () if self.write else statements:
            if _INTO.search(_SKIPPED.sub(" ", statement)):
                raise UsageError("INTO does more than read; --write lets a statement write")
            refuse_unclear_lines(statement)
            if _UNCLEAR_COMMENT.search(statement):
                raise UsageError(
                    "a comment within a comment can be read in several ways; leave it out, or use --write"
                )
            if ";" in statement and (sign := _UNCLEAR_TEXT.search(statement)):
                raise UsageError(
                    f"a semicolon beside {sign[0]} may be read as the end of a statement;"
                    " write CHR(59) in its place, or use --write"
                )
        return statements

    def open(self) -> None:
        self._session.open()
        if not self.write:
            self._session.query(_READ_ONLY)
            # It holds for transactions that begin after it, and that statement may have begun one.
            self._session.query("ROLLBACK")

    def begin(self) -> None:
        """Nothing to do: without autocommit every statement is part of a transaction."""

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        for columns, batches in self._session.answers(sql, rows):
            yield StatementResult(columns, batches)

    def commit(self) -> None:
        self._session.query("COMMIT")

    def interrupt(self) -> None:
        self._session.interrupt()

    def close(self) -> None:
        self._session.close()
