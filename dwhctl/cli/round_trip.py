"""A real round trip over a connection, in each way in which the project uses it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dwhctl.cli.output import one_line
from dwhctl.errors import ConnectError, DwhctlError, InternalError, LoginRefusedError
from dwhctl.project.connections import (
    SYSTEMS,
    DuckdbConnection,
    MssqlConnection,
    PostgresConnection,
    SqliteConnection,
)
from dwhctl.project.names import find_connection
from dwhctl.runs.slots import slots_of

if TYPE_CHECKING:
    from datetime import timedelta

    from dwhctl.project.model import Connection, Project
    from dwhctl.runs.slots import Slots

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
    drivers = {
        "duckdb": "dwhctl.engines.duckdb",
        "mssql": "pymssql",
        "postgres": "psycopg2",
        "vertica": "vertica_python",
    }
    for kind in {connection.type for connection in connections} & drivers.keys():
        importlib.import_module(drivers[kind])


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
        sessions, target = system.sessions, system.target
        if isinstance(connection, MssqlConnection):
            yield _source_way(connection, connection.database)
    if sessions:
        yield _Way(None, lambda: _sessions_version(connection))
    if target:
        yield _Way(None, lambda: _target_version(project, connection))
    for shard in (one for one in shards if not one.has_ended(today)):
        yield _source_way(connection, shard.database, shard.zone)


def _source_way(connection: Connection, database: str, zone: str = "UTC") -> _Way:
    return _Way(database, lambda: _source_version(connection, database, zone))


def _source_version(connection: Connection, database: str, zone: str) -> str:
    from dwhctl.sources import open_source

    patience = _patience(connection)
    seconds = patience.total_seconds() if patience is not None else None
    with open_source(connection, database, zone, seconds) as source:
        return source.version()


def _patience(connection: Connection) -> timedelta | None:
    """How long a server that lets us in may be silent: as long as one that does not let us in."""
    patience: timedelta | None = getattr(connection, "connect_timeout", None)
    return patience


def _target_version(project: Project, connection: Connection) -> str:
    from dwhctl.targets import open_target

    if isinstance(connection, DuckdbConnection):
        if connection.is_folder:
            raise DwhctlError(f"{connection.path} is a folder of databases, and no shard names one of them")
        if not connection.path.exists():
            raise _NotThereYet
    patience = _patience(connection)
    if patience is None:
        return open_target(connection, project.state_dir).version()
    return open_target(connection, project.state_dir, patience).version()


def _sessions_version(connection: Connection) -> str:
    if isinstance(connection, SqliteConnection):
        return _sqlite_version(connection)
    if isinstance(connection, PostgresConnection):
        return _postgres_version(connection)
    raise InternalError(f"connection {connection.name}: {connection.type} keeps no sessions")


def _sqlite_version(connection: SqliteConnection) -> str:
    import sqlite3

    from dwhctl.sessions.sqlite_link import in_words

    if not connection.path.exists():
        raise _NotThereYet
    with in_words(connection.path, "opening the file"):
        db = sqlite3.connect(f"{connection.path.as_uri()}?mode=ro", uri=True)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            db.close()
    return f"SQLite {sqlite3.sqlite_version}"


def _postgres_version(connection: PostgresConnection) -> str:
    from dwhctl.sessions import REPORT_TIMEOUT
    from dwhctl.sessions.postgres_link import connect

    db = connect(connection, "SELECT 1", connection.answer_timeout or REPORT_TIMEOUT)
    try:
        return f"PostgreSQL {db.info.parameter_status('server_version')}"
    finally:
        db.close()
