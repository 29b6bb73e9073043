"""What the targets on servers share: connections with labels, staging, the transactions, the inspection."""

from __future__ import annotations

import re
import threading
import uuid
from abc import abstractmethod
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from dwhctl.core.errors import AttemptError, TargetError, TargetRefusedError
from dwhctl.core.sql import quote_name
from dwhctl.project.query import at_statement
from dwhctl.systems.base.inspection import Inspection
from dwhctl.systems.base.staging import (
    CANDIDATES,
    STANDARD,
    AnyClient,
    Literals,
    UncertainCommitError,
    conditions,
    delete_sql,
    held_sql,
    insert_sql,
    is_plain_id,
    of_shards,
    slice_conditions,
    staged_sql,
)
from dwhctl.systems.base.target import (
    DELETE,
    HELD,
    INSERT,
    STAGED,
    Narrowing,
    Refresh,
    Stage,
    Statement,
    TableColumns,
    Target,
    refresh_sql,
    refused_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.staging import BatchStream


class ServerClient(Protocol):
    """One connection to a server, used by one thread, except for `interrupt`."""

    @property
    def label(self) -> str:
        """What the server calls the session, or its queries."""

    def open(self) -> None:
        """Connect. Raise AttemptError."""

    def query(self, sql: str, /) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows. Raise AttemptError."""

    def interrupt(self) -> None:
        """Fail every wait of this connection at once and from now on. Called from another thread."""

    def close(self) -> None:
        """End the session. Idempotent."""


AnyServer = TypeVar("AnyServer")
Sent = TypeVar("Sent")

#: The timeout once the run is being stopped, when it still counts what was published.
_LAST_TIMEOUT = timedelta(seconds=5)
#: How many etl_ids one query counts.
_IDS_AT_ONCE = 5_000
_IF_NOT_EXISTS = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)


class ServerTarget(Target, Generic[AnyServer, AnyClient]):
    """A target on a server. Any thread may use it; `timeout` limits every wait for an answer.

    Each piece of work has a connection of its own. Its label begins with the run's, so that a later run can end the
    sessions that a dead run, or a lost connection, left on the server.
    """

    #: Whether a session may hold locks for a moment after a statement of it was refused.
    holds_locks: ClassVar[bool] = True

    def __init__(self, connection: AnyServer, timeout: timedelta, label: str) -> None:
        self._connection = connection
        self._timeout = timeout
        self._label = label
        self._lock = threading.Lock()
        self._clients: set[AnyClient] = set()
        self._in_doubt: set[str] = set()
        self._interrupted = False

    @abstractmethod
    def _client(self, label: str, timeout: timedelta) -> AnyClient:
        """Return a client that is not open yet."""

    @abstractmethod
    def _end(self, client: AnyClient, label: str) -> None:
        """End the other sessions with this label, and wait until they are gone. Raise TargetError."""

    @abstractmethod
    def _drop_run(self, client: AnyClient, run_id: str) -> None:
        """End the run's sessions, and drop its tables."""

    @abstractmethod
    def _sql_name(self, table: str) -> str:
        """Return a table's name for a statement."""

    @abstractmethod
    def _is_missing(self, error: TargetRefusedError) -> bool:
        """Return whether a statement was refused because a table or its schema does not exist."""

    def _exists_already(self, error: TargetRefusedError) -> bool:  # noqa: ARG002
        """Return whether a statement was refused because what it creates exists already."""
        return False

    def run_statements(self, statements: Sequence[str]) -> None:
        with self._writing("create") as client:
            if len(statements) > 1 and self._ran_together(client, statements):
                return
            for statement in statements:
                with at_statement(statement):
                    self._create(client, statement)

    def _ran_together(self, client: AnyClient, statements: Sequence[str]) -> bool:  # noqa: ARG002
        """Run statements by one message, where the server runs all or none. Return whether they succeeded."""
        return False

    def _create(self, client: AnyClient, statement: str) -> None:
        """Run a statement and commit."""
        try:
            client.query(statement)
        except TargetRefusedError as error:
            # Another run created it at the same moment.
            if not (self._exists_already(error) and _IF_NOT_EXISTS.search(statement)):
                raise

    def drop_run(self, run_id: str) -> None:
        """Drop what the run staged, and end its sessions, so that none stages or commits any more."""
        if not is_plain_id(run_id):
            return  # no run has such labels and tables, and another run's could match
        with self._connected("drop", last=True) as client:
            self._drop_run(client, run_id)

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
                rows = self._rows_if_there(
                    client,
                    f"SELECT etl_id, COUNT(*) FROM {self._sql_name(table)} WHERE etl_id IN ({ids}) GROUP BY etl_id",
                )
                found.update((int(etl_id), int(count)) for etl_id, count in rows)
        return found

    def highest_etl_id(self, table: str) -> int:
        with self._connected("count") as client:
            rows = self._rows_if_there(client, f"SELECT max(etl_id) FROM {self._sql_name(table)}")
        return int(rows[0][0] or 0) if rows else 0

    def _rows_if_there(self, client: AnyClient, sql: str) -> Sequence[Sequence[Any]]:
        """Query a table that may not exist yet."""
        try:
            return client.query(sql)
        except TargetRefusedError as error:
            if self._is_missing(error):
                return []
            raise

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            running = list(self._clients)
        for client in running:
            client.interrupt()

    def _doubt(self, label: str) -> None:
        with self._lock:
            self._in_doubt.add(label)

    def _settle(self, client: AnyClient) -> None:
        """End the sessions that may still commit, so that the warehouse changes no more."""
        with self._lock:
            labels = sorted(self._in_doubt)
        for label in labels:
            self._end(client, label)
            with self._lock:
                self._in_doubt.discard(label)

    @contextmanager
    def _writing(self, what: str, timeout: timedelta | None = None) -> Iterator[AnyClient]:
        """Connect for statements that write, once no lost session can."""
        with self._connected(what, timeout) as client:
            self._settle(client)
            try:
                yield client
            except (AttemptError, UncertainCommitError) as error:
                # The server may still run a statement whose answer did not come, and hold its locks.
                if self.holds_locks or not isinstance(error, AttemptError) or not error.permanent:
                    self._doubt(client.label)
                raise

    @contextmanager
    def _connected(
        self, what: str, timeout: timedelta | None = None, *, last: bool = False
    ) -> Iterator[AnyClient]:
        """Connect for one piece of work. With `last` it is done, with a short timeout, after an interrupt too."""
        timeout = timeout or self._timeout
        label = f"{self._label}:{what}:{uuid.uuid4().hex[:12]}"
        with self._lock:
            if self._interrupted and not last:
                raise TargetError("interrupted")
            timeout = min(timeout, _LAST_TIMEOUT) if self._interrupted else timeout
            client = self._client(label, timeout)
            if not self._interrupted:
                self._clients.add(client)
        try:
            client.open()
            yield client
        finally:
            client.close()
            with self._lock:
                self._clients.discard(client)


class ServerStage(Stage, Generic[AnyClient]):
    """The rows of one slice in the group's staging table, under their token.

    It connects to write, commits when its block ends without an error, and else rolls back. It never creates the table:
    where that is missing, the run has ended.
    """

    count: ClassVar[str] = "COUNT(*)"

    def __init__(self, client: AnyClient, token: str, columns: Sequence[Column]) -> None:
        self._client = client
        self._token = token
        self._columns = columns
        self._written = False

    @abstractmethod
    def _staged(self) -> str:
        """Return the table and the condition of the slice's rows in it, for FROM."""

    def _shown(self, name: str) -> str:
        """Return the SQL of a key column's value."""
        return quote_name(name)

    def _before_keys(self) -> None:
        """Prepare the session to return values of the key."""

    def duplicate_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first: the warehouse compares eight bytes a row."""
        staged, twice = f"FROM {self._staged()}", f"HAVING {self.count} > 1 LIMIT"
        candidates = self._client.query(f"SELECT hash_id {staged} GROUP BY hash_id {twice} {CANDIDATES}")
        if not candidates:
            return None
        shown, names = (", ".join(map(form, key)) for form in (self._shown, quote_name))
        ids = ", ".join(str(int(hash_id)) for (hash_id,) in candidates)
        self._before_keys()
        found = self._client.query(
            f"SELECT {shown} {staged} AND hash_id IN ({ids}) GROUP BY {names} {twice} 1"
        )
        return tuple(found[0]) if found else None

    def _sent(self, stream: BatchStream, copy: Callable[[], Sent]) -> Sent:
        """Run the COPY of a stream. Raise what ended the stream, else what the server's error means."""
        try:
            sent = copy()
        except AttemptError as error:
            if stream.failure is None:
                raise self._translate_error(error) from error
        if stream.failure is not None:
            raise stream.failure
        return sent

    def _translate_error(self, error: AttemptError) -> AttemptError:
        return error

    def _commit(self) -> None:
        self._client.query("COMMIT")

    def discard(self) -> None:
        self._client.close()

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is None and self._written:
                self._commit()
        finally:
            self._client.close()


def publication_sql(
    table: str, staging: str, slice: Slice, columns: TableColumns, token: str
) -> Iterator[Statement]:
    """Yield the statements of a publication of one slice between BEGIN and COMMIT, to be shown."""
    (where,) = slice_conditions([slice], columns.slice_by)
    yield Statement(held_sql(table, where), about=HELD)
    yield Statement(staged_sql(staging, token), about=STAGED)
    yield Statement(delete_sql(table, where), about=DELETE)
    yield Statement(insert_sql(table, staging, columns.listed(quote_name), token), about=INSERT)


def known_types(pair: Narrowing) -> tuple[Column, Column]:
    """Return the columns of the source and the table. Raise TypeError for one whose type is not known."""
    if pair.source.known is None or pair.table.known is None:
        raise TypeError(f"{pair.table.name}: only known types are narrowed")
    return pair.source.known, pair.table.known


class ServerRefresh(Refresh, Generic[AnyClient]):
    """One transaction in one session: DELETE and INSERT. `table` is for messages, `sql_name` for statements."""

    def __init__(self, client: AnyClient, table: str, sql_name: str, source: RowSource) -> None:
        self._client = client
        self._table = table
        self._sql_name = sql_name
        self._source = source

    @staticmethod
    @abstractmethod
    def checked(number: int, pair: Narrowing) -> str:
        """Return the SQL of a narrowed column's value, or of an error where it does not fit."""

    @abstractmethod
    def _inserted(self, sql: str) -> int:
        """Run the INSERT and return the number of rows."""

    def delete(self) -> None:
        self._client.query(f"DELETE FROM {self._sql_name}")

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = TableColumns(self._table, names=columns, narrowed=narrowed)
        try:
            return self._inserted(refresh_sql(self._sql_name, self._source, wanted, self.checked)[1])
        except AttemptError as error:
            if (refused := refused_value(str(error), self._table, narrowed)) is not None:
                raise refused from error
            raise

    def commit(self) -> None:
        self._client.query("COMMIT")


class ServerInspection(Inspection, Generic[AnyClient]):
    """Reads a table over one connection. `table` is its name for a statement, `slice_by` the column that slices it.

    Values are literals: nothing is bound.
    """

    literals: ClassVar[Literals] = STANDARD

    def __init__(self, dialect: str, client: AnyClient, table: str, slice_by: Column | None) -> None:
        super().__init__(dialect, table, sliced=slice_by is not None)
        self._client = client
        self._slice_by = slice_by

    def _ask(self, sql: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:  # noqa: ARG002
        return self._client.query(sql)

    def _conditions(self, slices: Sequence[Slice]) -> Iterator[tuple[str, str, dict[str, object]]]:
        for shards, bounds in conditions(slices, self._slice_by, self.literals):
            yield shards, bounds, {}

    def _of_shards(self, shards: Sequence[str]) -> tuple[str, dict[str, object]]:
        return of_shards(shards, self.literals), {}

    def _texts(self, texts: Sequence[str]) -> tuple[list[str], dict[str, object]]:
        return [self.literals.text(text) for text in texts], {}
