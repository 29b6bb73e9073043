"""Parked connections: a server that is down, or refuses the login, is not asked once for each of its databases.

A connection is parked after three connect failures in a row, at once after a refused login or a failure of TLS.
While it is parked one slice per `retry_delay` is let through to probe it. It is given up, and its waiting slices fail
with the reason, when as many probes as the load has retries have failed.

A connection that has not yet shown to work has one slice under way while others can use the workers: fifty
databases behind a wrong password cost one refused login, and a server that hangs one worker. Where one can probe
without a worker, nothing starts before the server has given a sign of life.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    QuarantinedError,
    SourceBusyError,
    TimedOutError,
    TlsError,
    WorkerDiedError,
)
from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.system import system_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from dwhctl.load.queue import SliceJob
    from dwhctl.project.connections import Connection
    from dwhctl.runtime.slots import Slot, Slots


_FAILURES_IN_A_ROW = 3
_KNOCK_PAUSE_SECONDS = 0.2
#: Failures that the next database of the server would meet as well.
_REFUSED = (LoginRefusedError, TlsError)
_AT_THE_DOOR = (ConnectError, LoginRefusedError)
#: Failures that do not show that the connection works.
_NEUTRAL = (WorkerDiedError, QuarantinedError, TimedOutError, DatabaseMissingError, SourceBusyError)


@dataclass(slots=True)
class _Connection:
    failures: int = 0
    reason: Failure | None = None
    next_probe: float = 0.0
    probes: int = 0
    probing: bool = False
    works: bool = False
    flying: int = 0
    asked_at: float = 0.0
    awake: bool = False
    knocking: bool = False
    next_knock: float = 0.0


class CircuitBreaker:
    """Which connections are parked: those that slices are read from, and those that they are written to."""

    def __init__(self, knockable: Collection[str] = ()) -> None:
        self._connections: dict[str, _Connection] = {}
        self._with_probe = knockable

    def reason(self, name: str) -> Failure | None:
        """Say why the connection is parked; None when it is not."""
        return self._of(name).reason

    def may_start(self, job: SliceJob, now: float) -> bool:
        """Tell whether a slice may start: none of its connections is parked, or a probe is due."""
        return all(self._is_open(name, now) for name in job.connections)

    def login_known(self, name: str) -> bool | None:
        """Tell whether the connection's login was let in or refused; None when nobody knows."""
        one = self._of(name)
        if one.reason is not None and one.reason.is_a(LoginRefusedError):
            return False
        return True if one.works else None

    def is_first_choice(self, job: SliceJob) -> bool:
        """Tell whether its source has shown to work, or nobody is asking it now."""
        one = self._of(job.connection)
        return one.works or not one.flying

    def was_asked_before(self, job: SliceJob, moment: float) -> bool:
        """Tell whether its source was last asked before a moment: it would have refused by now."""
        return self._of(job.connection).asked_at < moment

    def next_probe(self, name: str) -> float | None:
        """Give the time of the next probe of a parked connection, or of the next probe."""
        one = self._of(name)
        if one.probing or one.knocking:
            return None
        if one.reason is not None:
            return one.next_probe
        return one.next_knock if self._is_asleep(name) else None

    def to_probe(self, names: Iterable[str], now: float) -> list[str]:
        """Say at which of these connections to probe now; it is taken for done."""
        due = [name for name in names if self._is_asleep(name) and self._may_probe(self._of(name), now)]
        for name in due:
            self._of(name).knocking = True
        return due

    def probed(self, name: str, failure: Failure | None, now: float, delay: float) -> Iterator[str]:
        """Take note of what came of knocking; give what is to be told."""
        one = self._of(name)
        one.knocking = False
        one.next_knock = now + _KNOCK_PAUSE_SECONDS
        one.awake = failure is None
        if failure is not None:
            one.probing = one.reason is not None
            yield from self.failed(name, failure, now, delay)

    def started(self, job: SliceJob, now: float) -> None:
        """Take note that a slice starts: on a parked connection it is the probe."""
        for name in job.connections:
            one = self._of(name)
            one.probing = one.reason is not None
        source = self._of(job.connection)
        source.flying += 1
        source.asked_at = now

    def not_asked(self, job: SliceJob) -> None:
        """Take note that a started slice never got as far as its connections."""
        self._of(job.connection).flying -= 1
        for name in job.connections:
            self._of(name).probing = False

    def landed(
        self, job: SliceJob, failure: Failure | None, now: float, *, used_target: bool = True
    ) -> Iterator[str]:
        """Take note of how an attempt of a worker ended; give what is to be told.

        A worker whose slice had no rows has not used its target.
        """
        source, target = job.connection, job.planned.load.target
        self._of(source).flying -= 1
        if failure is None:
            yield from self.connected(source)
            if used_target:
                yield from self.connected(target)
            else:
                self._of(target).probing = False
        elif failure.is_a(*_AT_THE_DOOR) and failure.connection == target != source:
            # A worker turns to its target when the source has given rows.
            yield from self.connected(source)
            yield from self.failed(target, failure, now, _delay(job))
        else:
            self._of(target).probing = False
            if failure.is_a(*_AT_THE_DOOR, *_NEUTRAL):
                yield from self.failed(source, failure, now, _delay(job))
            else:
                yield from self.connected(source)

    def target_refused(self, job: SliceJob, failure: Failure, now: float) -> Iterator[str]:
        """Take note of what the parent met with at the target of a job."""
        if failure.is_a(*_AT_THE_DOOR):
            yield from self.failed(job.planned.load.target, failure, now, _delay(job))

    def connected(self, name: str) -> Iterator[str]:
        """Take note that the connection works; tell it when that ends its breaker."""
        was_parked = self._of(name).reason is not None
        self._connections[name] = _Connection(works=True, awake=True, flying=self._of(name).flying)
        if was_parked:
            yield f"connection {name} works again"

    def failed(self, name: str, failure: Failure, now: float, delay: float) -> Iterator[str]:
        """Take note of a failure that does not show the connection to work; tell it when that parks it now."""
        one = self._of(name)
        one.works = one.awake = False
        if one.probing:
            one.probes += 1
            one.probing = False
            one.next_probe = now + delay
        if not failure.is_a(*_AT_THE_DOOR):
            return
        one.failures += 1
        refused = failure.is_a(*_REFUSED)
        if one.reason is None and (refused or one.failures >= _FAILURES_IN_A_ROW):
            one.reason, one.next_probe = failure, now + delay
            yield f"connection {name} is parked: {failure.message}"

    def is_given_up(self, name: str, retries: int) -> bool:
        """Tell whether the connection was probed as often as the load retries."""
        one = self._of(name)
        return one.reason is not None and not (one.probing or one.knocking) and one.probes >= retries

    def _is_open(self, name: str, now: float) -> bool:
        one = self._of(name)
        if self._is_asleep(name):
            return False
        return one.reason is None or (not one.probing and now >= one.next_probe)

    def _is_asleep(self, name: str) -> bool:
        return name in self._with_probe and not self._of(name).awake

    @staticmethod
    def _may_probe(one: _Connection, now: float) -> bool:
        return not (one.knocking or one.probing) and now >= (one.next_probe if one.reason else one.next_knock)

    def _of(self, name: str) -> _Connection:
        return self._connections.setdefault(name, _Connection())


def _delay(job: SliceJob) -> float:
    return job.planned.load.retry_delay.total_seconds()


@dataclass(frozen=True, slots=True)
class Probed:
    """A source gave a sign of life, or none."""

    connection: str
    failure: Failure | None = None


class Prober:
    """Knocks at sources, each in a thread that nobody waits for. `tell` takes a Probed for each, in that thread."""

    def __init__(
        self, connections: Mapping[str, Connection], slots: Slots, tell: Callable[[Probed], None]
    ) -> None:
        self._connections = connections
        self._slots = slots
        self._tell = tell

    def probe(self, name: str) -> None:
        """Knock, under a slot of the connection. Where other runs use all of them it is there."""
        slot = self._slots.try_take(name)
        if slot is None:
            self._tell(Probed(name))
            return
        threading.Thread(target=self._probe, args=(name, slot), name="prober", daemon=True).start()

    def _probe(self, name: str, slot: Slot) -> None:
        failure = None
        try:
            system_of(self._connections[name]).probe(self._connections[name])
        except AttemptError as error:
            failure = Failure.of(error)
        except Exception as error:
            # Whatever it was: a probe without an answer would be waited for without end.
            reason = f"connection {name} cannot be reached: {type(error).__name__}: {error}"
            failure = Failure.of(ConnectError(reason, connection=name))
        finally:
            slot.release()
        self._tell(Probed(name, failure))
