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
#: "Setting the transaction session mode to read-only does not prevent all write operations": so the first word is
#: checked as well.
_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
_SKIPPED = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_INTO = re.compile(r"\binto\b", re.IGNORECASE)
_NO_TIMEOUT = timedelta(days=7)
#: Where the server may end a comment, or a text with a semicolon in it, elsewhere than dwhctl does.
_UNCLEAR_COMMENT = re.compile(r"/\*(?:(?!\*/).)*/\*", re.DOTALL)
_UNCLEAR_TEXT = re.compile(r"[\\\[$#`]")


class VerticaCursor(Cursor):
    """A Vertica session. Without `write` its transactions are read-only, and a statement begins with a word that reads.

    The driver would send several statements at once: text that may be several is refused. A meta-function with an
    effect of its own (CLOSE_SESSION, DROP_PARTITIONS) is not prevented.
    """

    reading = frozenset({"SELECT", "WITH", "SHOW", "EXPLAIN", "AT", "VALUES"})

    def __init__(self, connection: VerticaConnection, *, write: bool, timeout: timedelta | None) -> None:
        super().__init__(write=write)
        self._client = VerticaClient(connection, f"dwhctl-query:{os.getpid()}", timeout or _NO_TIMEOUT)

    def statements(self, sql: str) -> list[str]:
        """Split into statements; without `write` refuse INTO and ambiguous text."""
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
        self._client.open()
        if not self.write:
            self._client.query(_READ_ONLY)
            # It applies to later transactions, and the statement may have begun one.
            self._client.query("ROLLBACK")

    def begin(self) -> None:
        """Do nothing: without autocommit every statement is part of a transaction."""

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        for columns, batches in self._client.results(sql, rows):
            yield StatementResult(columns, batches)

    def commit(self) -> None:
        self._client.query("COMMIT")

    def interrupt(self) -> None:
        self._client.interrupt()

    def close(self) -> None:
        self._client.close()
