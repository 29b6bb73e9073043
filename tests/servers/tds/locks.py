"""Exclusive locks on tables: writers hold them to the end of their transaction, readers wait for them.

Finer locks than a table's, and shared locks that outlive a statement, are not modelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from .errors import error

Table = tuple[str, str]
_LOOK = 0.1


class Locks:
    """The locks of a server; sessions are numbers."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._owners: dict[Table, int] = {}
        self._waits: dict[int, int] = {}

    def write(self, session: int, table: Table, timeout: float | None, check: Callable[[], None]) -> None:
        """Take a table for a session. Raises 1222 after the timeout (seconds, None: never), 1205 in a deadlock."""
        with self._free:
            self._wait(session, (table,), timeout, check)
            self._owners[table] = session

    def read(
        self, session: int, tables: Iterable[Table], timeout: float | None, check: Callable[[], None]
    ) -> None:
        """Wait until no other session holds any of the tables."""
        if not self._owners:
            return
        with self._free:
            self._wait(session, tuple(tables), timeout, check)

    def release(self, session: int) -> None:
        """Give back everything that a session holds."""
        with self._free:
            self._owners = {table: owner for table, owner in self._owners.items() if owner != session}
            self._free.notify_all()

    def _wait(
        self, session: int, tables: tuple[Table, ...], timeout: float | None, check: Callable[[], None]
    ) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while (owner := self._other(session, tables)) is not None:
                self._waits[session] = owner
                if self._deadlocked(session):
                    raise error(1205, session)
                if until is not None and time.monotonic() >= until:
                    raise error(1222)
                self._free.wait(_LOOK if until is None else min(_LOOK, max(0.001, until - time.monotonic())))
                check()
        finally:
            self._waits.pop(session, None)

    def _other(self, session: int, tables: tuple[Table, ...]) -> int | None:
        owners = (self._owners.get(table) for table in tables)
        return next((owner for owner in owners if owner is not None and owner != session), None)

    def _deadlocked(self, session: int) -> bool:
        at = self._waits.get(session)
        for _ in range(len(self._waits) + 1):
            if at is None or at == session:
                return at == session
            at = self._waits.get(at)
        return False
