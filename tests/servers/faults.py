"""The faults of the protocol servers: what goes wrong, for whom, how often."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

KINDS = (
    "refuse_login",
    "hang_accept",
    "hang_login",
    "hang_query",
    "error",
    "reset",
    "close",
    "deadlock",
    "slow",
    "lost_before_commit",
    "lost_after_commit",
    "late_commit",
)


@dataclass
class Fault:
    """What goes wrong, for whom, how often."""

    kind: str
    database: str | None = None
    statement: str | None = None
    application: str | None = None
    times: int | None = None
    after_rows: int = 0
    after_bytes: int = 0
    seconds: float = 0.0
    error: tuple[object, ...] = ()
    struck: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")

    def fits(self, database: str | None, statement: str | None, application: str | None) -> bool:
        """Whether it concerns this statement (None: there is none yet, as at login)."""
        if self.times is not None and self.struck >= self.times:
            return False
        if self.database is not None and (database or "").casefold() != self.database.casefold():
            return False
        return _found(self.statement, statement) and _found(self.application, application)


def _found(pattern: str | None, text: str | None) -> bool:
    return pattern is None or (
        text is not None and re.search(pattern, text, re.IGNORECASE | re.DOTALL) is not None
    )


class Faults:
    """The faults that are switched on; any thread may change them at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Switch a fault on."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Switch it off; nothing happens when it is off."""
        with self._lock:
            self._faults = [each for each in self._faults if each is not fault]

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._faults = []

    def find(
        self,
        *kinds: str,
        database: str | None = None,
        statement: str | None = None,
        application: str | None = None,
    ) -> Fault | None:
        """The first fault of these kinds that fits, not yet counted: `strike` counts it where it strikes."""
        with self._lock:
            return self._find(kinds, database, statement, application)

    def strike(self, fault: Fault) -> bool:
        """Count a strike of a fault found before; False when others used it up or it was switched off since."""
        with self._lock:
            on = any(each is fault for each in self._faults)
            if not on or (fault.times is not None and fault.struck >= fault.times):
                return False
            fault.struck += 1
            return True

    def take(
        self,
        *kinds: str,
        database: str | None = None,
        statement: str | None = None,
        application: str | None = None,
    ) -> Fault | None:
        """Find and strike in one."""
        with self._lock:
            fault = self._find(kinds, database, statement, application)
            if fault is not None:
                fault.struck += 1
            return fault

    def _find(
        self, kinds: tuple[str, ...], database: str | None, statement: str | None, application: str | None
    ) -> Fault | None:
        fitting = (each for each in self._faults if each.kind in kinds)
        return next((each for each in fitting if each.fits(database, statement, application)), None)
