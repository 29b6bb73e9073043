"""Write to PostgreSQL: stage by a binary COPY into an UNLOGGED table of the publish group, publish in one transaction.

Each piece of work has a session of its own. Its label, the application_name, begins with the run's, so that a later run
can end the sessions that a dead run, or a lost connection, left on the server.
"""

from __future__ import annotations

import re
import threading
import uuid
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import AttemptError, TargetError, TargetRefusedError
from dwhctl.project.templates import at_statement
from dwhctl.systems.base.fingerprint import quote_name, quote_path
from dwhctl.systems.base.inspection import Inspection
from dwhctl.systems.base.publication import Publication
from dwhctl.systems.base.staging import TOKEN, is_plain_id, run_label
from dwhctl.systems.base.target import ColumnWarning, DirectStage, Refresh, Stage, StagingGroup, Target
from dwhctl.systems.postgres import catalog, types
from dwhctl.systems.postgres.copy_client import CopyClient
from dwhctl.systems.postgres.errors import EXISTS_ALREADY, MISSING, is_sqlstate
from dwhctl.systems.postgres.publication import (
    BEGIN,
    PostgresInspection,
    PostgresPublication,
    PostgresRefresh,
    lock_sql,
    publish_statements,
    refresh_statements,
)
from dwhctl.systems.postgres.staging import DirectPostgresStage, PostgresStage, staged_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.target import Statement, TableColumns
    from dwhctl.systems.postgres.system import PostgresConnection

#: The timeout once the run is being stopped, when it still counts what was published.
_LAST_TIMEOUT = timedelta(seconds=5)
#: How many etl_ids one query counts.
_IDS_AT_ONCE = 5_000
_TOKEN_TYPE = "bigint"  # noqa: S105
_IF_NOT_EXISTS = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)
_SETTINGS = "SET TimeZone = 'UTC'"


class PostgresTarget(Target):
    """A PostgreSQL database. Any thread may use it; `timeout` bounds every wait for an answer."""

    writes_directly = True

    def __init__(self, connection: PostgresConnection, timeout: timedelta, label: str) -> None:
        self._connection = connection
        self._timeout = timeout
        self._label = label
        self._schema = connection.staging_schema
        self._lock = threading.Lock()
        self._clients: set[CopyClient] = set()
        self._in_doubt: set[str] = set()
        self._of_thread = threading.local()
        self._interrupted = False

    @contextmanager
    def session(self) -> Iterator[None]:
        with self._connected("session") as client:
            self._of_thread.client = client
            try:
                yield
            finally:
                self._of_thread.client = None

    def run_statements(self, statements: Sequence[str]) -> None:
        with self._settled("create") as client:
            for statement in statements:
                with at_statement(statement):
                    _create(client, statement)

    def columns(self, table: str) -> Sequence[Column]:
        with self._connected("columns") as client:
            return catalog.described(client, table)

    def warnings(self, table: str) -> Sequence[ColumnWarning]:
        with self._connected("warnings") as client:
            return list(catalog.table_warnings(client, table, self._schema))

    def declaration(self, column: Column) -> str:
        return types.declaration(column)

    def create_table(self, table: NewTable) -> Sequence[str]:
        return types.create_table(table)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        with self._connected("alter") as client:
            # dwhctl compares names without case.
            known = {one.name.lower() for one in catalog.existing_columns(client, table)}
            for new in columns:
                if new.name.lower() not in known:
                    client.query(
                        f"ALTER TABLE {quote_path(table)} ADD COLUMN IF NOT EXISTS"
                        f" {types.small(new.name)} {types.declaration(new)}"
                    )

    def open_group(self, group: StagingGroup) -> None:
        with self._connected("open") as client:
            declared = catalog.existing_columns(client, group.table)
            # Names and types only: staging has no constraints and defaults.
            columns = "".join(
                f"{quote_name(one.name)} {staged_type(one)}, " for one in declared if not one.is_generated
            )
            table = catalog.staging_table(client, group, self._schema)
            _create(client, f"CREATE UNLOGGED TABLE IF NOT EXISTS {table} ({columns}{TOKEN} {_TOKEN_TYPE})")

    def drop_group(self, group: StagingGroup) -> None:
        with self._connected("drop") as client:
            # All its slices have ended: a session that still works there has lost its connection.
            catalog.end_sessions(client, catalog.group_label(group), and_longer=True)
            client.query(f"DROP TABLE IF EXISTS {catalog.staging_table(client, group, self._schema)}")

    def drop_run(self, run_id: str) -> None:
        """Drop what the run staged, and end its sessions, so that none stages or commits any more."""
        if not is_plain_id(run_id):
            return  # no run has such labels and tables, and another run's could match
        with self._connected("drop", last=True) as client:
            catalog.end_sessions(client, run_label(run_id), and_longer=True)
            for table in catalog.staging_tables(client, run_id):
                client.query(f"DROP TABLE IF EXISTS {table}")

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        return PostgresStage(self._stage_client(group, token), group, self._schema, token, columns)

    def write_slice(
        self, group: StagingGroup, token: str, columns: Sequence[Column], slice: Slice, slice_by: str | None
    ) -> DirectStage:
        return DirectPostgresStage(self._stage_client(group, token), group, token, columns, slice, slice_by)

    def distrust(self, group: StagingGroup, token: str) -> None:
        self._doubt(_stage_label(group, token))

    def _stage_client(self, group: StagingGroup, token: str) -> CopyClient:
        timeout = self._timeout.total_seconds()
        return CopyClient(self._connection, _stage_label(group, token), timeout, _SETTINGS, target=True)

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        with self._transaction("publish", table, timeout) as client:
            bounds = catalog.described_column(client, table, slice_by) if slice_by else None
            yield PostgresPublication(client, table, bounds, self._schema, self._doubt)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        with self._transaction("refresh", table, timeout) as client:
            yield PostgresRefresh(client, table, source)

    @contextmanager
    def _transaction(self, what: str, table: str, timeout: timedelta) -> Iterator[CopyClient]:
        """Begin a transaction that alone writes to the table; leaving the block without a commit rolls back."""
        with self._settled(what, timeout) as client:
            catalog.existing_columns(client, table)
            client.query(f"{BEGIN}; {lock_sql(quote_path(table))}")
            yield client

    @contextmanager
    def _settled(self, what: str, timeout: timedelta | None = None) -> Iterator[CopyClient]:
        with self._connected(what, timeout) as client:
            self._settle(client)
            try:
                yield client
            except AttemptError:
                # The server may still run a statement whose answer did not come, and hold its locks.
                self._doubt(client.label or "")
                raise

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        with self._connected("inspect") as client:
            bounds = catalog.described_column(client, table, slice_by) if slice_by else None
            yield PostgresInspection(client, table, bounds)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        *before, _ = columns.table.split(".")
        schema = self._schema or (before[-1] if before else None)
        staging = f"{quote_name(schema)}.{quote_name('<staging table>')}" if schema else '"<staging table>"'
        return publish_statements(staging, slice, columns)

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        return refresh_statements(source, columns)

    def settle(self) -> None:
        if self._in_doubt:
            with self._connected("settle", last=True) as client:
                self._settle(client)

    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        found: dict[int, int] = {}
        with self._connected("count", last=True) as client:
            self._settle(client)
            for start in range(0, len(etl_ids), _IDS_AT_ONCE):
                ids = ", ".join(str(int(etl_id)) for etl_id in etl_ids[start : start + _IDS_AT_ONCE])
                rows = _rows_if_there(
                    client,
                    f"SELECT etl_id, COUNT(*) FROM {quote_path(table)} WHERE etl_id IN ({ids}) GROUP BY etl_id",
                )
                found.update((int(etl_id), int(count)) for etl_id, count in rows)
        return found

    def highest_etl_id(self, table: str) -> int:
        with self._connected("count") as client:
            rows = _rows_if_there(client, f"SELECT MAX(etl_id) FROM {quote_path(table)}")
        return int(rows[0][0] or 0) if rows else 0

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            running = list(self._clients)
        for client in running:
            client.interrupt()

    def version(self) -> str:
        with self._connected("version") as client:
            return f"PostgreSQL {client.query('SHOW server_version')[0][0]}"

    def _doubt(self, label: str) -> None:
        with self._lock:
            self._in_doubt.add(label)

    def _settle(self, client: CopyClient) -> None:
        """End the sessions that may still commit, so that the warehouse changes no more."""
        with self._lock:
            labels = sorted(self._in_doubt)
        for label in labels:
            catalog.end_sessions(client, label)
            with self._lock:
                self._in_doubt.discard(label)

    @contextmanager
    def _connected(
        self, what: str, timeout: timedelta | None = None, *, last: bool = False
    ) -> Iterator[CopyClient]:
        """Connect for one piece of work. With `last` it is done, with a short timeout, after an interrupt too.

        In a `session` of this thread the connection is the session's.
        """
        if (shared := getattr(self._of_thread, "client", None)) is not None:
            yield shared
            return
        timeout = timeout or self._timeout
        label = catalog.label(f"{self._label}:{what}:{uuid.uuid4().hex[:12]}")
        with self._lock:
            if self._interrupted and not last:
                raise TargetError("interrupted")
            timeout = min(timeout, _LAST_TIMEOUT) if self._interrupted else timeout
            client = CopyClient(self._connection, label, timeout.total_seconds(), _SETTINGS, target=True)
            if not self._interrupted:
                self._clients.add(client)
        try:
            client.open()
            yield client
        finally:
            client.close()
            with self._lock:
                self._clients.discard(client)


def _stage_label(group: StagingGroup, token: str) -> str:
    return catalog.label(f"{catalog.group_label(group)}:{token}")


def _create(client: CopyClient, statement: str) -> None:
    try:
        client.query(statement)
    except TargetRefusedError as error:
        # Another run created it at the same moment.
        if not (is_sqlstate(error, EXISTS_ALREADY) and _IF_NOT_EXISTS.search(statement)):
            raise


def _rows_if_there(client: CopyClient, sql: str) -> list[tuple[Any, ...]]:
    """Query a table that may not exist yet."""
    try:
        return client.query(sql)
    except TargetRefusedError as error:
        if is_sqlstate(error, MISSING):
            return []
        raise
