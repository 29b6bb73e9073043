"""The circuit breaker: a server that is down, or refuses the login, is not tried once for each of its databases.

The breaker of a connection opens after several connection failures in a row. While it is open, one attempt per
`retry_delay` is let through. When as many of them as the load has retries have failed, the connection is given up, and
its waiting jobs fail with the reason. A refused login opens it at once, and so does a failure of TLS. Where a probe
needs no login, a refused one gives the connection up: it would be refused for every database, and servers lock an
account after a few.

A connection that has not yet worked gets one job while others can use the workers: fifty databases behind a wrong
password cost one refused login. A server that hangs occupies one worker, and not for long: its job is put off while
others need the worker, and it yields to them for a time. Where a connection can be probed without a worker, no job
starts before a probe has succeeded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from dwhctl.core.errors import (
    AttemptError,
    ConfigError,
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
    from dwhctl.project.connections import Connection
    from dwhctl.runtime.slots import Slot, Slots


_PROBE_PAUSE_SECONDS = 0.2
#: A source that did not answer yields to the others for so many times as long as it was waited for.
_YIELD_TIMES = 4
#: Failures that the next database of the server would have as well.
_REFUSED = (LoginRefusedError, TlsError)
_NOT_CONNECTED = (ConnectError, LoginRefusedError)
#: Failures that do not show that the connection works.
_NEUTRAL = (
    WorkerDiedError,
    QuarantinedError,
    TimedOutError,
    DatabaseMissingError,
    SourceBusyError,
    ConfigError,
)


class ConnectionJob(Protocol):
    """What reads from its first connection and writes to its second, which may be the same.

    `retry_delay` is the time between two attempts while a breaker is open.
    """

    @property
    def connections(self) -> tuple[str, str]: ...

    @property
    def retry_delay(self) -> timedelta: ...


@dataclass(slots=True)
class _Connection:
    failures: int = 0
    reason: Failure | None = None
    #: When the next attempt is let through while the breaker is open, and whether one is running.
    next_trial: float = 0.0
    trials: int = 0
    on_trial: bool = False
    works: bool = False
    jobs: int = 0
    started_at: float = 0.0
    put_off: int = 0
    yields_until: float = 0.0
    probed: bool = False
    probing: bool = False
    next_probe: float = 0.0


class CircuitBreaker:
    """The breakers of a run's connections. Methods that change them return messages about breakers that changed."""

    def __init__(self, with_probe: Collection[str] = (), failures_in_a_row: int = 3) -> None:
        self._connections: dict[str, _Connection] = {}
        self._with_probe = with_probe
        self._most_failures = failures_in_a_row

    def reason(self, name: str) -> Failure | None:
        """Return why the connection's breaker is open; None when it is closed."""
        return self._of(name).reason

    def may_start(self, job: ConnectionJob, now: float) -> bool:
        """Return whether each of the job's connections is usable, or due for another attempt."""
        return all(self._is_usable(name, now) for name in job.connections)

    def login_known(self, name: str) -> bool | None:
        """Return whether the login was accepted; None when that is not known."""
        state = self._of(name)
        if state.reason is not None and state.reason.is_a(LoginRefusedError):
            return False
        return True if state.works else None

    def works(self, name: str) -> bool:
        """Return whether the connection has worked, and has not failed since."""
        return self._of(name).works

    def is_first_choice(self, job: ConnectionJob, now: float = inf) -> bool:
        """Return whether the source has worked, or runs no job now and need not yield to the others any more."""
        source = self._of(job.connections[0])
        return source.works or (not source.jobs and now >= source.yields_until)

    def was_asked_before(self, job: ConnectionJob, moment: float) -> bool:
        """Return whether the last job of the source started before a moment: it would have been refused by now."""
        return self._of(job.connections[0]).started_at < moment

    def next_probe(self, name: str) -> float | None:
        """Return when the connection is probed or tried next; None when that is running, or not needed."""
        state = self._of(name)
        if state.on_trial or state.probing:
            return None
        if state.reason is not None:
            return state.next_trial
        return state.next_probe if self._lacks_probe(name) else None

    def to_probe(self, names: Iterable[str], now: float) -> list[str]:
        """Return which of these connections to probe now, and count them as being probed."""
        due = [name for name in names if self._lacks_probe(name) and self._probe_is_due(self._of(name), now)]
        for name in due:
            self._of(name).probing = True
        return due

    def probed(self, name: str, failure: Failure | None, now: float, delay: float) -> list[str]:
        """Record the result of a probe."""
        state = self._of(name)
        state.probing = False
        state.next_probe = now + _PROBE_PAUSE_SECONDS
        state.probed = failure is None
        if failure is None:
            return []
        state.on_trial = state.reason is not None
        return self.failed(name, failure, now, delay)

    def started(self, job: ConnectionJob, now: float) -> None:
        """Record the start of a job: where a breaker is open, it is the attempt that is let through."""
        for name in job.connections:
            self._of(name).on_trial = self._of(name).reason is not None
        source = self._of(job.connections[0])
        source.jobs += 1
        source.started_at = now

    def not_asked(self, job: ConnectionJob) -> None:
        """Record that a started job ended without using its connections."""
        self._of(job.connections[0]).jobs -= 1
        for name in job.connections:
            self._of(name).on_trial = False

    def put_off(self, job: ConnectionJob, now: float) -> None:
        """Record that a started job was ended, because its source did not answer and others need the worker."""
        self.not_asked(job)
        source = self._of(job.connections[0])
        source.put_off += 1
        self._yield_to_others(source, now)
        source.started_at = 0.0

    def times_put_off(self, name: str) -> int:
        """Return how often a job of the source was put off since it has worked."""
        return self._of(name).put_off

    def finished(
        self, job: ConnectionJob, failure: Failure | None, now: float, *, used_target: bool = True
    ) -> list[str]:
        """Record the end of a job. Without rows it has not used its target."""
        source, target = job.connections
        delay = job.retry_delay.total_seconds()
        self._of(source).jobs -= 1
        if failure is not None and failure.is_a(*_NOT_CONNECTED) and failure.connection == target != source:
            # A worker connects to its target when the source has given rows.
            return [*self.connected(source), *self.failed(target, failure, now, delay)]
        if failure is None and used_target:
            return [*self.connected(source), *self.connected(target)]
        self._of(target).on_trial &= source == target
        if failure is not None and failure.is_a(*_NOT_CONNECTED, *_NEUTRAL):
            if failure.is_a(*_NOT_CONNECTED) and not self.works(source):
                self._yield_to_others(self._of(source), now)
            return self.failed(source, failure, now, delay)
        return self.connected(source)

    @staticmethod
    def _yield_to_others(state: _Connection, now: float) -> None:
        # The start is not known of a job that began before the connection last worked, or before another was put off.
        if state.started_at:
            state.yields_until = now + _YIELD_TIMES * (now - state.started_at)

    def target_refused(self, job: ConnectionJob, failure: Failure, now: float) -> list[str]:
        """Record a failure of the parent at the target of a job."""
        if not failure.is_a(*_NOT_CONNECTED):
            return []
        return self.failed(job.connections[1], failure, now, job.retry_delay.total_seconds())

    def connected(self, name: str) -> list[str]:
        """Record that the connection works."""
        before = self._of(name)
        self._connections[name] = _Connection(works=True, probed=True, jobs=before.jobs)
        return [f"connection {name} works again"] if before.reason is not None else []

    def failed(self, name: str, failure: Failure, now: float, delay: float) -> list[str]:
        """Record a failure that does not show that the connection works."""
        state = self._of(name)
        state.works = state.probed = False
        if state.on_trial:
            state.trials += 1
            state.on_trial = False
            state.next_trial = now + delay
        if not failure.is_a(*_NOT_CONNECTED):
            return []
        state.failures += 1
        opens = failure.is_a(*_REFUSED) or state.failures >= self._most_failures
        if state.reason is not None or not opens:
            return []
        state.reason, state.next_trial = failure, now + delay
        return [f"connection {name} is parked: {failure.message}"]

    def is_given_up(self, name: str, retries: int) -> bool:
        """Return whether its login is refused, or it was tried as often as the load retries."""
        state = self._of(name)
        if state.reason is None or state.on_trial or state.probing:
            return False
        is_refused = name in self._with_probe and state.reason.is_a(LoginRefusedError)
        return is_refused or state.trials >= retries

    def _is_usable(self, name: str, now: float) -> bool:
        state = self._of(name)
        may_try = state.reason is None or (not state.on_trial and now >= state.next_trial)
        return may_try and not self._lacks_probe(name)

    def _lacks_probe(self, name: str) -> bool:
        return name in self._with_probe and not self._of(name).probed

    @staticmethod
    def _probe_is_due(state: _Connection, now: float) -> bool:
        due = state.next_trial if state.reason else state.next_probe
        return not (state.probing or state.on_trial) and now >= due

    def _of(self, name: str) -> _Connection:
        return self._connections.setdefault(name, _Connection())


class Probed(Struct, frozen=True):
    """The result of a probe."""

    connection: str
    failure: Failure | None = None


class Prober:
    """Probes sources, each in a daemon thread, which passes a Probed to `notify`."""

    def __init__(
        self, connections: Mapping[str, Connection], slots: Slots, notify: Callable[[Probed], None]
    ) -> None:
        self._connections = connections
        self._slots = slots
        self._notify = notify

    def probe(self, name: str) -> None:
        """Probe under a slot of the connection. If other runs use all slots, the server is taken to be up."""
        slot = self._slots.try_take(name)
        if slot is None:
            self._notify(Probed(name))
            return
        threading.Thread(target=self._probe, args=(name, slot), name="prober", daemon=True).start()

    def _probe(self, name: str, slot: Slot) -> None:
        connection, failure = self._connections[name], None
        try:
            system_of(connection).probe(connection)
        except Exception as error:
            # Every error is a result: the loop would wait without end for a probe without one.
            reason = f"connection {name} cannot be reached: {type(error).__name__}: {error}"
            is_known = isinstance(error, AttemptError)
            failure = Failure.of(error if is_known else ConnectError(reason, connection=name))
        finally:
            slot.release()
        self._notify(Probed(name, failure))
