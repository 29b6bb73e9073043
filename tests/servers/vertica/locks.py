"""Table locks: their modes, who holds them, who waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.servers.vertica.problems import VerticaError, lock_failure

#: Pairs of modes that two sessions may hold at once (docs: "Lock modes"; IV beside I: "Constraint Enforcement and
#: Locking").
_TOGETHER = {
    frozenset({"S"}),
    frozenset({"I"}),
    frozenset({"I", "IV"}),
    frozenset({"U"}),
    *(frozenset({"U", mode}) for mode in ("S", "I", "SI", "X", "IV")),
}


@dataclass(frozen=True)
class Hold:
    """A lock that a session has, or waits for."""

    session: int
    table: str
    mode: str
    granted: bool
    owner: str


class Locks:
    """All table locks of the server. Who waits is served in the order of asking, who holds already goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holds: list[Hold] = []

    def acquire(
        self, session: int, owner: str, table: str, mode: str, timeout: float, stop: Callable[[], None]
    ) -> None:
        """Wait for a lock, at most so many seconds; `stop` raises when the statement is to end."""
        asked = Hold(session, table, mode, granted=False, owner=owner)
        until = time.monotonic() + timeout
        with self._changed:
            if self._has(session, table, mode):
                return
            self._holds.append(asked)
            try:
                self._wait(asked, until, stop)
            finally:
                self._holds.remove(asked)
                self._changed.notify_all()
            self._holds.append(Hold(session, table, mode, granted=True, owner=owner))

    def _wait(self, asked: Hold, until: float, stop: Callable[[], None]) -> None:
        while (other := self._in_the_way(asked)) is not None:
            stop()
            left = until - time.monotonic()
            if left <= 0:
                raise self._failure(asked, other)
            self._changed.wait(left)
        stop()

    @staticmethod
    def _failure(asked: Hold, other: Hold) -> VerticaError:
        return lock_failure(asked.mode, asked.table, f"{other.mode} held by [{other.owner}]")

    def _has(self, session: int, table: str, mode: str) -> bool:
        mine = {hold.mode for hold in self._holds if hold.session == session and hold.table == table}
        return mode in mine or "O" in mine or ("X" in mine and mode in ("I", "IV"))

    def _in_the_way(self, asked: Hold) -> Hold | None:
        others = [hold for hold in self._holds if hold.table == asked.table and hold.session != asked.session]
        holds_already = any(
            hold.granted and hold.session == asked.session and hold.table == asked.table
            for hold in self._holds
        )
        for hold in others:
            if not hold.granted and (holds_already or self._asked_later(hold, asked)):
                continue
            if frozenset({hold.mode, asked.mode}) not in _TOGETHER:
                return hold
        return None

    def _asked_later(self, hold: Hold, asked: Hold) -> bool:
        return self._holds.index(hold) > self._holds.index(asked)

    def release_one(self, session: int, table: str, mode: str) -> None:
        """Let go of one lock before the transaction ends."""
        with self._changed:
            self._holds = [
                hold
                for hold in self._holds
                if not hold.granted or (hold.session, hold.table, hold.mode) != (session, table, mode)
            ]
            self._changed.notify_all()

    def release(self, session: int) -> None:
        """Let go of all locks of a session."""
        with self._changed:
            self._holds = [hold for hold in self._holds if hold.session != session or not hold.granted]
            self._changed.notify_all()

    def wake(self) -> None:
        """Let everyone who waits look again (whether it is to stop)."""
        with self._changed:
            self._changed.notify_all()

    def all(self) -> list[Hold]:
        """Every lock, granted or asked for."""
        with self._changed:
            return list(self._holds)
