"""Ad hoc statements on a ClickHouse server."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import UsageError
from dwhctl.core.sql import first_word
from dwhctl.systems.base.source import Cursor, StatementResult, refuse_unclear_lines
from dwhctl.systems.clickhouse.client import ClickHouseClient, end_queries

if TYPE_CHECKING:
    from dwhctl.systems.clickhouse.system import ClickHouseConnection

#: The driver asks for a format of its own.
_FORMAT = re.compile(r"\bFORMAT\s+([A-Za-z]\w*)\s*\Z", re.IGNORECASE)
_INTERRUPT_TIMEOUT = timedelta(seconds=2)


class ClickHouseCursor(Cursor):
    """A ClickHouse server. Without `write` each query runs with `readonly = 2`: the server refuses what writes.

    Source: https://clickhouse.com/docs/operations/settings/permissions-for-queries
    """

    reading = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"})

    def __init__(self, connection: ClickHouseConnection, *, write: bool, timeout: timedelta | None) -> None:
        super().__init__(write=write)
        self._connection = connection
        self._label = f"dwhctl-query:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._client = ClickHouseClient(connection, self._label, timeout, readonly=not write)

    def statements(self, sql: str) -> list[str]:
        statements = super().statements(sql)
        for statement in () if self.write else statements:
            refuse_unclear_lines(statement)
        for statement in statements:
            if first_word(statement) in self.reading and (form := _FORMAT.search(statement)):
                raise UsageError(f"leave FORMAT {form[1]} out; --format json or csv writes the answer so")
        return statements

    def open(self) -> None:
        self._client.open()

    def begin(self) -> None:
        """Do nothing: ClickHouse has no transactions, and each statement stands for itself."""

    def execute(self, sql: str, rows: int) -> Iterator[StatementResult]:
        if first_word(sql) not in self.reading:
            yield StatementResult(changed=self._client.run(sql))
            return
        blocks = self._client.stream(sql)
        columns, _ = next(blocks)
        yield StatementResult(columns, _batches(blocks, rows))

    def commit(self) -> None:
        """Do nothing: each statement is committed already."""

    def interrupt(self) -> None:
        self._client.interrupt()
        killer = ClickHouseClient(
            self._connection, f"dwhctl-kill:{uuid.uuid4().hex[:12]}", _INTERRUPT_TIMEOUT
        )
        try:
            killer.open()
            end_queries(killer, self._label)
        except Exception:  # noqa: S110 - the wait here has ended, and the server's own limits end the query
            pass
        finally:
            killer.close()

    def close(self) -> None:
        self._client.close()


def _batches(
    blocks: Iterator[tuple[Any, Sequence[Sequence[Any]]]], rows: int
) -> Iterator[Sequence[Sequence[Any]]]:
    for _, block in blocks:
        for start in range(0, len(block), rows):
            yield block[start : start + rows]
