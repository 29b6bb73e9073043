"""Ad hoc statements on a Vertica database."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.engines.vertica import Session
from dwhctl.errors import UsageError
from dwhctl.runs.cursors.contract import Answer, Cursor, first_word

if TYPE_CHECKING:
    from dwhctl.project.model import VerticaConnection

#: Source: https://docs.vertica.com/24.4.x/en/sql-reference/statements/set-statements/set-session-characteristics-as-transaction
#: "Setting the transaction session mode to read-only does not prevent all write operations": so the first word counts
#: as well.
_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
_READING = frozenset({"SELECT", "WITH", "SHOW", "EXPLAIN", "AT", "VALUES"})
_SKIPPED = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_INTO = re.compile(r"\binto\b", re.IGNORECASE)
_FOR_EVER = timedelta(days=7)


class VerticaCursor(Cursor):
    """A Vertica session. Read only is the session's transactions, and what begins with a word that reads.

    A meta-function with an effect of its own (CLOSE_SESSION, DROP_PARTITIONS) is not held back.
    """

    def __init__(self, connection: VerticaConnection, *, write: bool, patience: timedelta | None) -> None:
        super().__init__(write=write)
        self._session = Session(connection, f"dwhctl-query:{os.getpid()}", patience or _FOR_EVER)

    def statements(self, sql: str) -> list[str]:
        """Split into statements; without `write` those that do not begin as reading does are refused."""
        statements = super().statements(sql)
        if not self.write:
            for statement in statements:
                word = first_word(statement)
                if word not in _READING or _INTO.search(_SKIPPED.sub(" ", statement)):
                    what = word if word not in _READING else "INTO"
                    raise UsageError(f"{what} does more than read; --write lets a statement write")
        return statements

    def open(self) -> None:
        self._session.open()
        if not self.write:
            self._session.query(_READ_ONLY)
            # It holds for transactions that begin after it, and that statement may have begun one.
            self._session.query("ROLLBACK")

    def begin(self) -> None:
        """Nothing to do: without autocommit every statement is part of a transaction."""

    def execute(self, sql: str, rows: int) -> Iterator[Answer]:
        for columns, batches in self._session.answers(sql, rows):
            yield Answer(columns, batches)

    def commit(self) -> None:
        self._session.query("COMMIT")

    def interrupt(self) -> None:
        self._session.interrupt()

    def close(self) -> None:
        self._session.close()
