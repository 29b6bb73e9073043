"""A real round trip over a connection, in each way in which the project uses it."""

from __future__ import annotations

import importlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from dwhctl.core.errors import ConfigError, ConnectError, DwhctlError, InternalError, LoginRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.core.words import one_line
from dwhctl.project.connections import BEYOND, SYSTEMS, NetworkConnection, TlsWords, is_local
from dwhctl.project.loads import Load, Report
from dwhctl.project.model import Alert, EmailAlert, Project
from dwhctl.project.names import find_connection
from dwhctl.runtime.slots import slots_of
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from dwhctl.project.connections import Connection
    from dwhctl.runtime.slots import Slots


_CONNECTIONS_AT_ONCE = 8
_SLOT_SECONDS = 30.0
#: After these the other databases of the server are not tried: fifty refusals lock an account.
_ENDS_ALL = (ConnectError, LoginRefusedError)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What came of one round trip."""

    connection: str
    type: str
    database: str | None
    ok: bool
    latency_ms: float | None = None
    version: str | None = None
    reason: str | None = None

    def row(self) -> tuple[object, ...]:
        """Give the trip as a line of the listing."""
        return (
            self.connection,
            self.type,
            self.database,
            self.ok,
            self.latency_ms,
            self.version,
            self.reason,
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to use a connection: `go` makes the round trip and gives the version."""

    database: str | None
    go: Callable[[], str]


class _NotThereYet(Exception):  # noqa: N818 - no error: the first load makes the file
    pass


def round_trips(project: Project, names: Sequence[str] = ()) -> list[RoundTrip]:
    """Try the named connections, or all. Raise UsageError for a name that the project does not have."""
    for name in names:
        find_connection(project, name)
    chosen = [each for each in project.connections.values() if not names or each.name in names]
    _import_drivers(chosen)
    with ThreadPoolExecutor(_CONNECTIONS_AT_ONCE) as pool:
        slots = slots_of(project)
        trips = pool.map(lambda connection: _try_all(project, connection, slots), chosen)
        return [trip for of_one in trips for trip in of_one]


def _import_drivers(connections: Sequence[Connection]) -> None:
    # The time that an import takes is no latency of the connection.
    for driver in {SYSTEMS[connection.type].driver for connection in connections} - {""}:
        importlib.import_module(driver)


def _try_all(project: Project, connection: Connection, slots: Slots) -> list[RoundTrip]:
    trips: list[RoundTrip] = []
    ended: DwhctlError | None = None
    for way in _ways(project, connection):
        if ended is None:
            trip, error = _try(connection, way, slots)
            ended = error if isinstance(error, _ENDS_ALL) else None
        else:
            reason = f"not tried: {one_line(str(ended))}"
            trip = RoundTrip(connection.name, connection.type, way.database, ok=False, reason=reason)
        trips.append(trip)
    return trips


def _try(connection: Connection, way: _Way, slots: Slots) -> tuple[RoundTrip, DwhctlError | None]:
    try:
        with slots.held(connection.name, wait=_SLOT_SECONDS):
            started = time.perf_counter()
            version = way.go()
    except _NotThereYet:
        reason = "the file is not there yet: the first load makes it"
        return RoundTrip(connection.name, connection.type, way.database, ok=True, reason=reason), None
    except DwhctlError as error:
        reason = one_line(str(error))
        return RoundTrip(connection.name, connection.type, way.database, ok=False, reason=reason), error
    latency = round((time.perf_counter() - started) * 1000, 1)
    return RoundTrip(connection.name, connection.type, way.database, True, latency, version), None


def _ways(project: Project, connection: Connection) -> Iterator[_Way]:
    """Give the ways in which the project uses the connection, or could use an unused one."""
    shards = [s for group in project.shard_groups.values() for s in group if s.connection == connection.name]
    today = datetime.now(project.zone).date()
    sessions = project.sessions_connection == connection.name
    target = any(load.target == connection.name for load in project.loads.values())
    if not shards and not target and not sessions:
        system = SYSTEMS[connection.type]
        sessions, target = system.is_sessions, system.is_target
        if system.is_source and (database := getattr(connection, "database", None)):
            yield _source_way(connection, database)
    if sessions:
        yield _Way(None, lambda: _sessions_version(connection))
    if target:
        yield _Way(None, lambda: _target_version(project, connection))
    if SYSTEMS[connection.type].takes_endpoint:
        # One for all accounts, and counted by the rate limit.
        yield _Way(None, lambda: _source_version(connection, "", "UTC", project.state_dir))
        return
    for shard in (one for one in shards if not one.has_ended(today)):
        yield _source_way(connection, shard.database, shard.zone)


def _source_way(connection: Connection, database: str, zone: str = "UTC") -> _Way:
    return _Way(database, lambda: _source_version(connection, database, zone))


def _source_version(connection: Connection, database: str, zone: str, state_dir: Path | None = None) -> str:
    from dwhctl.systems.base.system import system_of

    timeout = _timeout(connection)
    seconds = timeout.total_seconds() if timeout is not None else None
    with system_of(connection).open_source(
        connection, database, zone, seconds, state_dir=state_dir
    ) as source:
        return source.version()


def _timeout(connection: Connection) -> timedelta | None:
    """How long a server that lets us in may be silent: as long as one that does not let us in."""
    timeout: timedelta | None = getattr(connection, "connect_timeout", None)
    return timeout


def _target_version(project: Project, connection: Connection) -> str:
    from dwhctl.systems.base.system import system_of

    if isinstance(connection, DuckdbConnection):
        if connection.is_folder:
            raise DwhctlError(f"{connection.path} is a folder of databases, and no shard names one of them")
        if not connection.path.exists():
            raise _NotThereYet
    timeout = _timeout(connection)
    if timeout is None:
        return system_of(connection).open_target(connection, project.state_dir).version()
    return system_of(connection).open_target(connection, project.state_dir, timeout).version()


def _sessions_version(connection: Connection) -> str:
    if isinstance(connection, SqliteConnection):
        return _sqlite_version(connection)
    if isinstance(connection, PostgresConnection):
        return _postgres_version(connection)
    raise InternalError(f"connection {connection.name}: {connection.type} keeps no sessions")


def _sqlite_version(connection: SqliteConnection) -> str:
    import sqlite3

    from dwhctl.systems.sqlite.client import translate_error

    if not connection.path.exists():
        raise _NotThereYet
    with translate_error(connection.path, "opening the file"):
        db = sqlite3.connect(f"{connection.path.as_uri()}?mode=ro", uri=True)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            db.close()
    return f"SQLite {sqlite3.sqlite_version}"


def _postgres_version(connection: PostgresConnection) -> str:
    from dwhctl.sessions import REPORT_TIMEOUT
    from dwhctl.systems.postgres.client import connect

    db = connect(connection, "SELECT 1", connection.answer_timeout or REPORT_TIMEOUT)
    try:
        return f"PostgreSQL {db.info.parameter_status('server_version')}"
    finally:
        db.close()


_MOST_NAMES = 5


def in_clear(project: Project) -> Iterator[str]:
    """Say what travels in clear beyond this machine."""
    for words, word, names in _by_word(project):
        if word == words.off:
            yield f'{names}: {words.key} = "{word}": password and rows travel in clear; {_remedy(words)}'
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
    """Say which servers get a password over TLS without a check of who they are."""
    for words, word, names in _by_word(project):
        if word != BEYOND:
            continue
        said = f"{names}: encrypted, but the server's certificate is not checked"
        if words.ca_key is None:
            yield f"{said}: dwhctl has no key for it; dwhctl docs security#tls says what the driver can do"
        else:
            yield f"{said}; {_remedy(words)}"


def _by_word(project: Project) -> Iterator[tuple[TlsWords, str, str]]:
    """Give every TLS word in use beyond this machine, with the names of the connections that have it."""
    groups: dict[tuple[TlsWords, str], list[str]] = defaultdict(list)
    for one in project.connections.values():
        if isinstance(one, NetworkConnection) and not one.is_local:
            groups[one.tls_words, _effective(one)].append(one.name)
    for (words, word), names in groups.items():
        yield words, word, _listed(names)


def _effective(connection: NetworkConnection) -> str:
    # libpq checks a certificate by the authorities that it is given, whatever the word.
    given = isinstance(connection, PostgresConnection) and connection.sslrootcert is not None
    return "verify-ca" if given and connection.tls == BEYOND else connection.tls


def _listed(names: list[str]) -> str:
    shown = (
        names
        if len(names) <= _MOST_NAMES
        else [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"]
    )
    return f"connections {', '.join(shown)}" if len(names) > 1 else f"connection {names[0]}"


def _half_way(words: TlsWords) -> str:
    if words.ca_key is None:
        return f'{words.key} = "{words.local}": rows travel in clear, and the password where the server has no TLS'
    return f'{words.key} = "{words.local}": password and rows travel in clear where the server has no TLS'


def _remedy(words: TlsWords) -> str:
    if words.ca_key is None:
        return f'write {words.key} = "{BEYOND}"'
    return f'write {words.key} = "{words.checked[-1]}" with {words.ca_key}'


def _of_environment(project: Project) -> Iterator[str]:
    word = os.environ.get("PGSSLMODE")
    names = [
        each.name
        for each in project.connections.values()
        if isinstance(each, PostgresConnection) and each.sslmode is None and word not in (None, each.tls)
    ]
    if names:
        yield f"environment: PGSSLMODE is not read; write sslmode in {_listed(names)}"


def _transport_of_alert(alert: Alert) -> Iterator[str]:
    place = f"config/dwhctl.toml: alerts.{alert.name}"
    if isinstance(alert, EmailAlert):
        if alert.security == "none" and alert.password is not None and not is_local(alert.host):
            yield f'{place}.security: "none": the password travels in clear; write "starttls" or "tls"'
        return
    if _is_clear(_split(alert.api_base)):
        yield f'{place}.api_base: the token travels in clear; write "https://..."'
    proxy = _url(alert.proxy)
    if proxy is not None and proxy.password and _is_clear(proxy):
        yield f'{place}.proxy: the password travels in clear to the proxy; write "https://..." if the proxy has TLS'


def _is_clear(url: SplitResult | None) -> bool:
    return url is not None and url.scheme == "http" and not is_local(url.hostname or "")


def _url(secret: Secret | None) -> SplitResult | None:
    try:
        return _split(secret.reveal()) if secret is not None else None
    except ConfigError:
        return None  # it is told of where secrets are read


def _split(text: str) -> SplitResult | None:
    try:
        return urlsplit(text.strip())
    except ValueError:
        return None
