"""Make a real round trip over each connection, in each way in which the project uses it; find what travels in clear."""

from __future__ import annotations

import importlib
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from dwhctl.core.errors import AttemptError, ConfigError, DwhctlError, InternalError, TargetBusyError
from dwhctl.core.secrets import Secret
from dwhctl.core.words import one_line
from dwhctl.project.connections import (
    BEYOND,
    SYSTEMS,
    Connection,
    EmbeddedConnection,
    NetworkConnection,
    TlsWords,
    is_local,
)
from dwhctl.project.loads import Load, Report
from dwhctl.project.model import Alert, AppriseAlert, EmailAlert, Project, WebhookAlert
from dwhctl.project.names import find_connection
from dwhctl.runtime.circuit_breaker import CircuitBreaker
from dwhctl.runtime.fanout import FanOut, RemoteCheck
from dwhctl.runtime.slots import slots_of
from dwhctl.sessions import REPORT_TIMEOUT
from dwhctl.systems.base.system import ANSWER_TIMEOUT, SourceOptions, TargetOptions, system_of
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.client import translate_error
from dwhctl.systems.sqlite.system import SqliteConnection

_CONNECTIONS_AT_ONCE = 8
_SLOT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The result of one round trip; the fields are the columns of the listing, and of the JSON result."""

    connection: str
    """The connection."""
    type: str
    """Its type."""
    database: str | None
    """The database; null when the connection has only one."""
    ok: bool
    """Whether it answered."""
    latency_ms: float | None = None
    """How long that took."""
    version: str | None = None
    """The version of the server."""
    reason: str | None = None
    """Why it did not answer, or was not tried."""


class _NotThereYet(Exception):  # noqa: N818 - no error: the first load makes the file
    pass


class _Trip(RemoteCheck[RoundTrip]):
    """One way to use a connection: `go` makes the round trip and returns the version."""

    def __init__(self, connection: Connection, database: str | None, go: Callable[[], str]) -> None:
        super().__init__(connection.name, lambda _: self._go(go), alone=True)
        self.slot_seconds = _SLOT_SECONDS
        self._shown = (connection.name, connection.type, database)
        self._is_tried = False

    def _go(self, go: Callable[[], str]) -> RoundTrip:
        self._is_tried = True
        started = time.perf_counter()
        try:
            version = go()
        except _NotThereYet:
            return RoundTrip(
                *self._shown, ok=True, reason="the file is not there yet: the first load makes it"
            )
        except AttemptError:
            raise
        except DwhctlError as error:
            return RoundTrip(*self._shown, ok=False, reason=one_line(str(error)))
        latency = round((time.perf_counter() - started) * 1000, 1)
        return RoundTrip(*self._shown, ok=True, latency_ms=latency, version=version)

    def trip(self) -> RoundTrip:
        if self.answer is not None:
            return self.answer
        is_refused = isinstance(self.failure, TargetBusyError)
        reason = one_line(str(self.failure))
        shown = reason if self._is_tried or is_refused else f"not tried: {reason}"
        return RoundTrip(*self._shown, ok=False, reason=shown)


def round_trips(project: Project, names: Sequence[str] = ()) -> list[RoundTrip]:
    """Try the named connections, or all. Raise UsageError for a name that the project does not have."""
    for name in names:
        find_connection(project, name)
    chosen = [found for found in project.connections.values() if not names or found.name in names]
    _import_drivers(chosen)
    trips = [trip for connection in chosen for trip in _trips(project, connection)]
    # After a connection failure the other databases of the server are not tried: fifty refusals lock an account.
    FanOut(slots_of(project), _CONNECTIONS_AT_ONCE, CircuitBreaker(failures_in_a_row=1)).run(trips)
    return [trip.trip() for trip in trips]


def _import_drivers(connections: Sequence[Connection]) -> None:
    # The time that an import takes is no latency of the connection.
    for driver in {SYSTEMS[connection.type].driver for connection in connections} - {""}:
        with suppress(ModuleNotFoundError):  # the round trip says so
            importlib.import_module(driver)


def _trips(project: Project, connection: Connection) -> Iterator[_Trip]:
    """Yield the ways in which the project uses the connection, or could use an unused one."""
    shards = [s for group in project.shard_groups.values() for s in group if s.connection == connection.name]
    today = datetime.now(project.zone).date()
    sessions = project.sessions_connection == connection.name
    target = any(load.target == connection.name for load in project.loads.values())
    if not shards and not target and not sessions:
        system = SYSTEMS[connection.type]
        sessions, target = system.is_sessions, system.is_target
        if system.is_source and (database := getattr(connection, "database", None)):
            yield _source_trip(connection, database)
    if sessions:
        yield _Trip(connection, None, lambda: _sessions_version(connection))
    if target:
        yield _Trip(connection, None, lambda: _target_version(project, connection))
    if SYSTEMS[connection.type].takes_endpoint:
        # One for all accounts, and counted by the rate limit.
        yield _Trip(connection, None, lambda: _source_version(connection, "", "UTC", project.state_dir))
        return
    for shard in (shard for shard in shards if not shard.has_ended(today)):
        yield _source_trip(connection, shard.database, shard.zone)


def _source_trip(connection: Connection, database: str, zone: str = "UTC") -> _Trip:
    return _Trip(connection, database, lambda: _source_version(connection, database, zone))


def _source_version(connection: Connection, database: str, zone: str, state_dir: Path | None = None) -> str:
    # Connected or not, a server may be silent for this time.
    timeout: timedelta | None = getattr(connection, "connect_timeout", None)
    seconds = timeout.total_seconds() if timeout is not None else None
    options = SourceOptions(zone, seconds, state_dir=state_dir)
    with system_of(connection).open_source(connection, database, options) as source:
        return source.version()


def _target_version(project: Project, connection: Connection) -> str:
    if isinstance(connection, EmbeddedConnection):
        if (problem := connection.warehouse_problem()) is not None:
            raise DwhctlError(f"{connection.path} {problem}, and no shard is in it")
        if not connection.path.exists():
            raise _NotThereYet
    timeout: timedelta = getattr(connection, "connect_timeout", ANSWER_TIMEOUT)
    return system_of(connection).open_target(connection, TargetOptions(project.state_dir, timeout)).version()


def _sessions_version(connection: Connection) -> str:
    if isinstance(connection, PostgresConnection):
        return _postgres_version(connection)
    if not isinstance(connection, SqliteConnection):
        raise InternalError(f"connection {connection.name}: {connection.type} keeps no sessions")
    if not connection.path.exists():
        raise _NotThereYet
    with (
        translate_error(connection.path, "opening the file"),
        closing(sqlite3.connect(f"{connection.path.as_uri()}?mode=ro", uri=True)) as db,
    ):
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return f"SQLite {sqlite3.sqlite_version}"


def _postgres_version(connection: PostgresConnection) -> str:
    from dwhctl.systems.postgres.client import connect

    with closing(connect(connection, "SELECT 1", connection.answer_timeout or REPORT_TIMEOUT)) as db:
        return f"PostgreSQL {db.info.parameter_status('server_version')}"


_MOST_NAMES = 5


def in_clear(project: Project) -> Iterator[str]:
    """Yield the connections whose password and rows travel in clear beyond this machine."""
    for words, word, names in _by_word(project):
        if word == words.off:
            yield f"{names}: {words.setting(word)}: password and rows travel in clear; {_remedy(words)}"
        elif word == words.local:
            yield f"{names}: {_half_way(words)}; {_remedy(words)}"
    for connection in project.connections.values():
        if (key := connection.in_clear()) is not None:
            yield f'connection {connection.name}: {key}: login and rows travel in clear; write "https://..."'
    yield from _of_environment(project)
    for alert in project.alerts.values():
        yield from _transport_of_alert(alert)
    works: list[Load | Report] = [*project.loads.values(), *project.reports.values()]
    for work in works:
        if work.ping_url is not None and _is_clear(_url(work.ping_url)):
            yield f'{work.ping_url.place}: the address, which is the secret, travels in clear; write "https://..."'


def unchecked(project: Project) -> Iterator[str]:
    """Yield the connections that send a password over TLS without checking the server's certificate."""
    for words, word, names in _by_word(project):
        if word != BEYOND:
            continue
        yield f"{names}: encrypted, but the server's certificate is not checked; {_remedy(words)}"


def _by_word(project: Project) -> Iterator[tuple[TlsWords, str, str]]:
    """Yield every TLS word in use beyond this machine, with the connections that have it."""
    groups: dict[tuple[TlsWords, str], list[str]] = defaultdict(list)
    for connection in project.connections.values():
        if isinstance(connection, NetworkConnection) and not connection.is_local:
            groups[connection.tls_words, _effective(connection)].append(connection.name)
    for (words, word), names in groups.items():
        yield words, word, _listed(names)


def _effective(connection: NetworkConnection) -> str:
    # libpq checks a certificate by the authorities that it is given, whatever the word.
    given = isinstance(connection, PostgresConnection) and connection.sslrootcert is not None
    return "verify-ca" if given and connection.tls == BEYOND else connection.tls


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES + 1
    shown = [*names[: _MOST_NAMES - 1], f"{more} more"] if more > 1 else names
    return f"connections {', '.join(shown)}" if len(names) > 1 else f"connection {names[0]}"


def _half_way(words: TlsWords) -> str:
    if words.local == "request":
        return f"{words.setting(words.local)}: rows travel in clear, and the password where the server has no TLS"
    return f"{words.setting(words.local)}: password and rows travel in clear where the server has no TLS"


def _remedy(words: TlsWords) -> str:
    if words.ca_key is None:
        return f"write {words.setting(BEYOND)}"
    needs = f" and {words.needs}" if words.needs else ""
    return f"write {words.setting(words.checked[-1])} with {words.ca_key}{needs}"


def _of_environment(project: Project) -> Iterator[str]:
    word = os.environ.get("PGSSLMODE")
    names = [
        found.name
        for found in project.connections.values()
        if isinstance(found, PostgresConnection) and found.sslmode is None and word not in (None, found.tls)
    ]
    if names:
        yield f"environment: PGSSLMODE is not read; write sslmode in {_listed(names)}"


def _transport_of_alert(alert: Alert) -> Iterator[str]:
    place = f"config/dwhctl.toml: alerts.{alert.name}"
    if isinstance(alert, EmailAlert):
        if alert.security == "none" and alert.password is not None and not is_local(alert.host):
            yield f'{place}.security: "none": the password travels in clear; write "starttls" or "tls"'
        return
    if isinstance(alert, AppriseAlert):
        return
    if isinstance(alert, WebhookAlert):
        if _is_clear(_url(alert.url)):
            yield f'{place}.url: the address, which is the secret, travels in clear; write "https://..."'
    elif _is_clear(_url(alert.api_base)):
        yield f'{place}.api_base: the token travels in clear; write "https://..."'
    proxy = _url(alert.proxy)
    if proxy is not None and proxy.password and _is_clear(proxy):
        yield f'{place}.proxy: the password travels in clear to the proxy; write "https://..." if the proxy has TLS'


def _is_clear(url: SplitResult | None) -> bool:
    return url is not None and url.scheme == "http" and not is_local(url.hostname or "")


def _url(address: Secret | str | None) -> SplitResult | None:
    try:
        text = address.reveal() if isinstance(address, Secret) else address
        return urlsplit(text.strip()) if text is not None else None
    except (ConfigError, ValueError):
        return None  # reported where secrets are read
