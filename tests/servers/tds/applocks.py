"""Application locks: sp_getapplock and sp_releaseapplock (docs: the two procedures)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import TdsError

_MODES = ("shared", "update", "intentshared", "intentexclusive", "exclusive")
#: Modes that two sessions may hold of one resource (docs: "Lock compatibility").
_TOGETHER = {
    "intentshared": {"intentshared", "shared", "update", "intentexclusive"},
    "shared": {"intentshared", "shared", "update"},
    "update": {"intentshared", "shared"},
    "intentexclusive": {"intentshared", "intentexclusive"},
    "exclusive": set(),
}
_LOOK = 0.1
#: Return codes: granted at once, granted after a wait, timed out, a wrong call.
_GRANTED, _WAITED, _TIMED_OUT, _WRONG = 0, 1, -1, -999


@dataclass
class _Held:
    """A session's holds of a resource: how often, by owner."""

    mode: str
    owners: Counter[str] = field(default_factory=Counter)


class ApplicationLocks:
    """The application locks of a server; a resource belongs to its database."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._held: dict[tuple[str, str], dict[int, _Held]] = {}

    def take(
        self, session: int, resource: tuple[str, str], mode: str, owner: str, timeout: float | None,
        check: Callable[[], None],
    ) -> int:  # fmt: skip
        """Wait for a resource; the return code."""
        mode = mode.casefold()
        if mode not in _MODES or owner not in ("session", "transaction"):
            return _WRONG
        until = None if timeout is None else time.monotonic() + timeout
        waited = False
        with self._free:
            while not self._is_free(session, resource, mode):
                if until is not None and time.monotonic() >= until:
                    return _TIMED_OUT
                waited = True
                self._free.wait(_LOOK if until is None else min(_LOOK, max(0.001, until - time.monotonic())))
                check()
            mine = self._held.setdefault(resource, {}).setdefault(session, _Held(mode))
            mine.mode = max(mine.mode, mode, key=_MODES.index)
            mine.owners[owner] += 1
        return _WAITED if waited else _GRANTED

    def _is_free(self, session: int, resource: tuple[str, str], mode: str) -> bool:
        others = (held for number, held in self._held.get(resource, {}).items() if number != session)
        return all(held.mode in _TOGETHER[mode] for held in others)

    def release(self, session: int, resource: tuple[str, str], owner: str) -> int:
        """Give one hold back. Raises 1223 where there is none."""
        with self._free:
            mine = self._held.get(resource, {}).get(session)
            if mine is None or not mine.owners[owner]:
                raise TdsError(
                    1223,
                    f"Cannot release the application lock (Database Principal: 'public', Resource: '{resource[1]}') "
                    "because it is not currently held.",
                )
            mine.owners[owner] -= 1
            self._forget(session, resource)
        return _GRANTED

    def release_all(self, session: int, owner: str | None = None) -> None:
        """Give back what a session holds: all of it, or that of its transaction."""
        if not self._held:
            return
        with self._free:
            for resource in [key for key, held in self._held.items() if session in held]:
                owners = self._held[resource][session].owners
                for each in [owner] if owner else list(owners):
                    owners[each] = 0
                self._forget(session, resource)

    def _forget(self, session: int, resource: tuple[str, str]) -> None:
        if not any(self._held[resource][session].owners.values()):
            del self._held[resource][session]
            if not self._held[resource]:
                del self._held[resource]
        self._free.notify_all()
