"""Write to Vertica: stage by COPY into a table of the publish group, publish in one transaction.

Each piece of work has a session of its own. Its label begins with the run's, so that a later run can end the sessions
that a dead run, or a lost connection, left on the server.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import AttemptError, TargetError, TargetRefusedError
from dwhctl.project.templates import at_statement
from dwhctl.systems.base.fingerprint import literal, quote_name
from dwhctl.systems.base.inspection import Inspection
from dwhctl.systems.base.publication import Publication
from dwhctl.systems.base.staging import TOKEN, is_plain_id, run_label, stage_label, staging_prefix
from dwhctl.systems.base.target import (
    ColumnWarning,
    Refresh,
    Stage,
    StagingGroup,
    Statement,
    TableColumns,
    Target,
)
from dwhctl.systems.vertica import catalog, types
from dwhctl.systems.vertica.catalog import (
    COLUMN_EXISTS,
    EXISTS_ALREADY,
    MISSING,
    TableName,
    described_column,
    is_sqlstate,
)
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.publication import (
    VerticaInspection,
    VerticaPublication,
    VerticaRefresh,
    publish_statements,
    refresh_statements,
)
from dwhctl.systems.vertica.staging import VerticaStage

if TYPE_CHECKING:
    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.vertica.system import VerticaConnection

#: The timeout once the run is being stopped, when it still counts what was published.
_LAST_TIMEOUT = timedelta(seconds=5)
#: How many etl_ids one query counts.
_IDS_AT_ONCE = 5_000
_TOKEN_TYPE = "VARCHAR(64)"  # noqa: S105
_IF_NOT_EXISTS = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)


class VerticaTarget(Target):
    """A Vertica database. Any thread may use it; `timeout` bounds every wait for an answer."""

    def __init__(self, connection: VerticaConnection, timeout: timedelta, label: str) -> None:
        self._connection = connection
        self._timeout = timeout
        self._label = label
        self._lock = threading.Lock()
        self._clients: set[VerticaClient] = set()
        self._in_doubt: set[str] = set()
        self._interrupted = False

    def run_statements(self, statements: Sequence[str]) -> None:
        with self._transaction("create") as client:
            for statement in statements:
                with at_statement(statement):
                    _create(client, statement)
                client.query("COMMIT")

    def columns(self, table: str) -> Sequence[Column]:
        with self._connected("columns") as client:
            return catalog.described(client, TableName.of(table))

    def warnings(self, table: str) -> Sequence[ColumnWarning]:
        with self._connected("warnings") as client:
            return list(catalog.table_warnings(client, TableName.of(table)))

    def declaration(self, column: Column) -> str:
        return types.declaration(column)

    def create_table(self, table: NewTable) -> Sequence[str]:
        return types.create_table(table)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        name = TableName.of(table)
        with self._connected("alter") as client:
            # Vertica compares names without case.
            known = {column.lower() for column, _, _ in catalog.existing_columns(client, name)}
            for new in columns:
                if new.name.lower() in known:
                    continue
                try:
                    client.query(
                        f"ALTER TABLE {name.sql} ADD COLUMN {quote_name(new.name)} {types.declaration(new)}"
                    )
                except TargetRefusedError as error:
                    # Another run added it at the same moment.
                    if not is_sqlstate(error, (COLUMN_EXISTS, EXISTS_ALREADY)):
                        raise
            client.query("COMMIT")

    def open_group(self, group: StagingGroup) -> None:
        with self._connected("open") as client:
            declared = catalog.existing_columns(client, TableName.of(group.table))
            # Names and types only: staging has no constraints and defaults.
            columns = ", ".join(f"{quote_name(name)} {type_}" for name, type_, _ in declared)
            client.query(
                f"CREATE TABLE IF NOT EXISTS {self._staging(group).sql} ({columns}, {TOKEN} {_TOKEN_TYPE})"
            )

    def drop_group(self, group: StagingGroup) -> None:
        with self._connected("drop") as client:
            # All its slices have ended: a session that still works there has lost its connection.
            catalog.end_sessions(client, stage_label(group), and_longer=True)
            try:
                client.query(f"DROP TABLE IF EXISTS {self._staging(group).sql} CASCADE")
            except TargetRefusedError as error:
                # Its schema does not exist either.
                if not is_sqlstate(error, MISSING):
                    raise

    def drop_run(self, run_id: str) -> None:
        """Drop what the run staged, and end its sessions, so that none stages or commits any more."""
        if not is_plain_id(run_id):
            return  # no run has such labels and tables, and another run's could match
        with self._connected("drop", last=True) as client:
            catalog.end_sessions(client, run_label(run_id), and_longer=True)
            prefix = staging_prefix(run_id)
            left = _rows_if_there(
                client,
                "SELECT table_schema, table_name FROM v_catalog.tables"
                f" WHERE LEFT(LOWER(table_name), {len(prefix)}) = {literal(prefix)}",
            )
            for schema, table in left:
                client.query(f"DROP TABLE IF EXISTS {TableName(schema, table).sql} CASCADE")

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        client = VerticaClient(self._connection, f"{stage_label(group)}:{token}", self._timeout)
        return VerticaStage(client, self._staging(group), token, columns)

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        name = TableName.of(table)
        with self._transaction("publish", timeout) as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            yield VerticaPublication(client, name, bounds, self._staging, self._doubt)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        with self._transaction("refresh", timeout) as client:
            yield VerticaRefresh(client, TableName.of(table), source)

    @contextmanager
    def _transaction(self, what: str, timeout: timedelta | None = None) -> Iterator[VerticaClient]:
        with self._connected(what, timeout) as client:
            self._settle(client)
            try:
                yield client
            except AttemptError:
                # The server may still run a statement whose answer did not come, and hold its locks.
                self._doubt(client.label)
                raise

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        name = TableName.of(table)
        with self._connected("inspect") as client:
            bounds = described_column(client, name, slice_by) if slice_by else None
            yield VerticaInspection(client, name, bounds)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        schema = self._connection.staging_schema or TableName.of(columns.table).schema
        return publish_statements(TableName(schema, "<staging table>"), slice, columns)

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
                    f"SELECT etl_id, COUNT(*) FROM {TableName.of(table).sql}"
                    f" WHERE etl_id IN ({ids}) GROUP BY etl_id",
                )
                found.update((int(etl_id), int(count)) for etl_id, count in rows)
        return found

    def highest_etl_id(self, table: str) -> int:
        with self._connected("count") as client:
            rows = _rows_if_there(client, f"SELECT MAX(etl_id) FROM {TableName.of(table).sql}")
        return int(rows[0][0] or 0) if rows else 0

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            running = list(self._clients)
        for client in running:
            client.interrupt()

    def version(self) -> str:
        with self._connected("version") as client:
            return str(client.query("SELECT version()")[0][0])

    def _staging(self, group: StagingGroup) -> TableName:
        return catalog.staging_table(group, self._connection.staging_schema)

    def _doubt(self, label: str) -> None:
        with self._lock:
            self._in_doubt.add(label)

    def _settle(self, client: VerticaClient) -> None:
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
    ) -> Iterator[VerticaClient]:
        """Connect for one piece of work. With `last` it is done, with a short timeout, after an interrupt too."""
        timeout = timeout or self._timeout
        label = f"{self._label}:{what}:{uuid.uuid4().hex[:12]}"
        with self._lock:
            if self._interrupted and not last:
                raise TargetError("interrupted")
            timeout = min(timeout, _LAST_TIMEOUT) if self._interrupted else timeout
            client = VerticaClient(self._connection, label, timeout)
            if not self._interrupted:
                self._clients.add(client)
        try:
            client.open()
            yield client
        finally:
            client.close()
            with self._lock:
                self._clients.discard(client)


def _create(client: VerticaClient, statement: str) -> None:
    try:
        client.query(statement)
    except TargetRefusedError as error:
        # Another run created it at the same moment.
        if not (is_sqlstate(error, (EXISTS_ALREADY,)) and _IF_NOT_EXISTS.search(statement)):
            raise


def _rows_if_there(client: VerticaClient, sql: str) -> list[list[Any]]:
    try:
        return client.query(sql)
    except TargetRefusedError as error:
        if is_sqlstate(error, MISSING):
            return []
        raise
