"""Parked connections: a server that is down, or refuses the login, is not asked once for each of its databases.

A connection is parked after three connect failures in a row, at once after a refused login. While it is parked
one slice per `retry_delay` is let through to probe it. It is given up, and its waiting slices fail with the
reason, when as many probes as the load has retries have failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.errors import ConnectError, LoginRefusedError

if TYPE_CHECKING:
    from dwhctl.runs.values import Failure

_FAILURES_IN_A_ROW = 3


@dataclass(slots=True)
class _Connection:
    failures: int = 0
    reason: Failure | None = None
    next_probe: float = 0.0
    probes: int = 0
    probing: bool = False


class Parking:
    """Which connections are parked."""

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}

    def reason(self, name: str) -> Failure | None:
        """Say why the connection is parked; None when it is not."""
        return self._of(name).reason

    def may_start(self, name: str, now: float) -> bool:
        """Tell whether a slice may start: it is not parked, or a probe is due."""
        one = self._of(name)
        return one.reason is None or (not one.probing and now >= one.next_probe)

    def next_probe(self, name: str) -> float | None:
        """Give the time of the next probe of a parked connection."""
        one = self._of(name)
        return one.next_probe if one.reason is not None and not one.probing else None

    def started(self, name: str) -> None:
        """Take note that a slice starts: on a parked connection it is the probe."""
        one = self._of(name)
        one.probing = one.reason is not None

    def not_asked(self, name: str) -> None:
        """Take note that a started slice never got as far as the connection."""
        self._of(name).probing = False

    def connected(self, name: str) -> bool:
        """Take note that the connection works; tell whether that ends its parking."""
        was_parked = self._of(name).reason is not None
        self._connections[name] = _Connection()
        return was_parked

    def failed(self, name: str, failure: Failure, now: float, delay: float) -> bool:
        """Take note of a failure that does not show the connection to work; tell whether that parks it now."""
        one = self._of(name)
        refused = failure.error_class == LoginRefusedError.__name__
        if one.probing:
            one.probes += 1
            one.probing = False
            one.next_probe = now + delay
        if not refused and failure.error_class != ConnectError.__name__:
            return False
        one.failures += 1
        if one.reason is not None:
            return False
        if refused or one.failures >= _FAILURES_IN_A_ROW:
            one.reason, one.next_probe = failure, now + delay
            return True
        return False

    def is_given_up(self, name: str, retries: int) -> bool:
        """Tell whether the connection was probed as often as the load retries."""
        one = self._of(name)
        return one.reason is not None and not one.probing and one.probes >= retries

    def _of(self, name: str) -> _Connection:
        return self._connections.setdefault(name, _Connection())
