"""Write to Vertica: stage by COPY into a table of the publish group, publish in one transaction.

Each piece of work has a session of its own, which is closed when the work is done. A session's label begins with the
run's, so that what a dead run, or a lost connection, left behind on the server can be ended by whoever comes next.
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
from dwhctl.systems.base.inspection import Inspection
from dwhctl.systems.base.target import ColumnWarning, Publication, Refresh, Stage, StagingGroup, Target
from dwhctl.systems.vertica import types as types
from dwhctl.systems.vertica.catalog import (
    TOKEN,
    TableName,
    concerns,
    described,
    described_column,
    end_sessions,
    existing_columns,
    is_plain_id,
    names_of,
    run_label,
    stage_label,
    staging_prefix,
    staging_table,
)
from dwhctl.systems.vertica.client import VerticaClient, literal, quote
from dwhctl.systems.vertica.errors import COLUMN_EXISTS, EXISTS_ALREADY, MISSING, is_sqlstate
from dwhctl.systems.vertica.publication import (
    VerticaInspection,
    VerticaPublication,
    VerticaRefresh,
    publish_statements,
    refresh_statements,
)
from dwhctl.systems.vertica.staging import VerticaStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.target import Statement, TableColumns
    from dwhctl.systems.vertica.system import VerticaConnection

#: How long anything is waited for once the run is being stopped: what stands in the warehouse is still looked up then.
_LAST_TIMEOUT = timedelta(seconds=5)
#: How many etl_ids are asked for at a time.
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
        self._open_sessions: set[VerticaClient] = set()
        self._in_doubt: set[str] = set()
        self._interrupted = False

    def run_statements(self, statements: Sequence[str]) -> None:
        with self._session("create") as session:
            try:
                for statement in statements:
                    with at_statement(statement):
                        _create(session, statement)
                    session.query("COMMIT")
            except AttemptError:
                # The server may go on with a statement whose answer was not waited for.
                self._doubt(session.label)
                raise

    def columns(self, table: str) -> Sequence[Column]:
        with self._session("columns") as session:
            return described(session, TableName.of(table))

    def concerns(self, table: str) -> Sequence[ColumnWarning]:
        with self._session("concerns") as session:
            return list(concerns(session, TableName.of(table)))

    def declaration(self, column: Column) -> str:
        return types.declaration(column)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        name = TableName.of(table)
        with self._session("alter") as session:
            known = names_of(existing_columns(session, name))
            for new in columns:
                if new.name.lower() in known:
                    continue
                try:
                    session.query(
                        f"ALTER TABLE {name.sql} ADD COLUMN {quote(new.name)} {types.declaration(new)}"
                    )
                except TargetRefusedError as error:
                    # Another run added it at the same moment.
                    if not is_sqlstate(error, (COLUMN_EXISTS, EXISTS_ALREADY)):
                        raise
            session.query("COMMIT")

    def open_group(self, group: StagingGroup) -> None:
        with self._session("open") as session:
            declared = existing_columns(session, TableName.of(group.table))
            # Names and types only: a constraint or default of the target has no business in staging.
            columns = ", ".join(f"{quote(name)} {type_}" for name, type_, _ in declared)
            session.query(
                f"CREATE TABLE IF NOT EXISTS {self._staging(group).sql} ({columns}, {TOKEN} {_TOKEN_TYPE})"
            )

    def drop_group(self, group: StagingGroup) -> None:
        with self._session("drop") as session:
            # All its slices have reported: who is still at work there lost its connection.
            end_sessions(session, stage_label(group), and_longer=True)
            try:
                session.query(f"DROP TABLE IF EXISTS {self._staging(group).sql} CASCADE")
            except TargetRefusedError as error:
                # Its schema is not there either.
                if not is_sqlstate(error, MISSING):
                    raise

    def drop_run(self, run_id: str) -> None:
        """Also end the run's sessions, so that none of them stages or commits any more."""
        if not is_plain_id(run_id):
            return  # no run labels its sessions or names its tables so, and another run's could fit
        with self._session("drop", last=True) as session:
            end_sessions(session, run_label(run_id), and_longer=True)
            prefix = staging_prefix(run_id)
            left = _rows_if_there(
                session,
                "SELECT table_schema, table_name FROM v_catalog.tables"
                f" WHERE LEFT(LOWER(table_name), {len(prefix)}) = {literal(prefix)}",
            )
            for schema, table in left:
                session.query(f"DROP TABLE IF EXISTS {TableName(schema, table).sql} CASCADE")

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        session = VerticaClient(self._connection, f"{stage_label(group)}:{token}", self._timeout)
        return VerticaStage(session, self._staging(group), token, columns)

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        name = TableName.of(table)
        with self._session("publish", timeout) as session:
            self._settle(session)
            bounds = described_column(session, name, slice_by) if slice_by else None
            try:
                # Leaving without a commit closes the session, which rolls back.
                yield VerticaPublication(session, name, bounds, self._staging, self._doubt)
            except AttemptError:
                # The server may go on with a statement whose answer was not waited for, and hold its locks.
                self._doubt(session.label)
                raise

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        name = TableName.of(table)
        with self._session("inspect") as session:
            yield VerticaInspection(
                session, name, described_column(session, name, slice_by) if slice_by else None
            )

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        with self._session("refresh", timeout) as session:
            self._settle(session)
            try:
                # Leaving without a commit closes the session, which rolls back.
                yield VerticaRefresh(session, TableName.of(table), source)
            except AttemptError:
                # The server may go on with a statement whose answer was not waited for, and hold its locks.
                self._doubt(session.label)
                raise

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        schema = self._connection.staging_schema or TableName.of(columns.table).schema
        return publish_statements(TableName(schema, "<staging table>"), slice, columns)

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        return refresh_statements(source, columns)

    def settle(self) -> None:
        with self._lock:
            nothing = not self._in_doubt
        if nothing:
            return
        with self._session("settle", last=True) as session:
            self._settle(session)

    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        found: dict[int, int] = {}
        with self._session("look", last=True) as session:
            self._settle(session)
            for start in range(0, len(etl_ids), _IDS_AT_ONCE):
                ids = ", ".join(str(int(one)) for one in etl_ids[start : start + _IDS_AT_ONCE])
                rows = _rows_if_there(
                    session,
                    f"SELECT etl_id, COUNT(*) FROM {TableName.of(table).sql}"
                    f" WHERE etl_id IN ({ids}) GROUP BY etl_id",
                )
                found.update((int(etl_id), int(count)) for etl_id, count in rows)
        return found

    def highest_etl_id(self, table: str) -> int:
        with self._session("look") as session:
            rows = _rows_if_there(session, f"SELECT MAX(etl_id) FROM {TableName.of(table).sql}")
        return int(rows[0][0] or 0) if rows else 0

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            running = list(self._open_sessions)
        for session in running:
            session.interrupt()

    def version(self) -> str:
        with self._session("version") as session:
            return str(session.query("SELECT version()")[0][0])

    def _staging(self, group: StagingGroup) -> TableName:
        return staging_table(group, self._connection.staging_schema)

    def _doubt(self, label: str) -> None:
        with self._lock:
            self._in_doubt.add(label)

    def _settle(self, session: VerticaClient) -> None:
        """End the sessions that may still be committing, so that what is there now is all that will be."""
        with self._lock:
            labels = sorted(self._in_doubt)
        for label in labels:
            end_sessions(session, label)
            with self._lock:
                self._in_doubt.discard(label)

    @contextmanager
    def _session(
        self, what: str, timeout: timedelta | None = None, *, last: bool = False
    ) -> Iterator[VerticaClient]:
        """Open a session for one piece of work. With `last` the work is done, in short time, after an interrupt too."""
        timeout = timeout or self._timeout
        label = f"{self._label}:{what}:{uuid.uuid4().hex[:12]}"
        with self._lock:
            if self._interrupted and not last:
                raise TargetError("interrupted")
            session = VerticaClient(
                self._connection, label, min(timeout, _LAST_TIMEOUT) if self._interrupted else timeout
            )
            if not (last and self._interrupted):
                self._open_sessions.add(session)
        try:
            session.open()
            yield session
        finally:
            session.close()
            with self._lock:
                self._open_sessions.discard(session)


def _create(session: VerticaClient, statement: str) -> None:
    try:
        session.query(statement)
    except TargetRefusedError as error:
        # Another run made it at the same moment.
        if not (is_sqlstate(error, (EXISTS_ALREADY,)) and _IF_NOT_EXISTS.search(statement)):
            raise


def _rows_if_there(session: VerticaClient, sql: str) -> list[list[Any]]:
    """Query a table that need not be there yet."""
    try:
        return session.query(sql)
    except TargetRefusedError as error:
        if is_sqlstate(error, MISSING):
            return []
        raise
