"""Stage in a table of the publish group: what the targets on servers share.

Their connections and labels; the names of staging tables, by which a later run finds what a dead run left; the SQL of a
publication; the conditions of slices; and the bytes of a COPY.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from abc import abstractmethod
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from dwhctl.core.columns import Kind
from dwhctl.core.errors import AttemptError, StagingError, TargetError, TargetRefusedError
from dwhctl.project.templates import at_statement
from dwhctl.systems.base.fingerprint import literal, quote_name
from dwhctl.systems.base.target import DELETE, HELD, INSERT, STAGED, Statement, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagingGroup, TableColumns

#: The column of a staging table with the token of the attempt that staged the row.
TOKEN = "dwhctl_token"  # noqa: S105
_DIGEST_OCTETS = 8


def is_plain_id(run_id: str) -> bool:
    """Return whether labels and staging tables of this run id cannot be taken for those of another run."""
    return re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", run_id) is not None


def staging_prefix(run_id: str) -> str:
    """Return the prefix of the names of a run's staging tables, which no other run has."""
    return f"dwhctl_{_plain(run_id)}__"


def staging_name(group: StagingGroup, octets: int) -> str:
    """Return the name of a group's staging table: at most `octets` octets long, and the same for no other group."""
    prefix, rest = staging_prefix(group.run_id), _plain(group.name)
    if len(prefix) + len(rest) > octets:
        digest = hashlib.blake2b(group.name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
        rest = rest[: max(0, octets - len(prefix) - len(digest) - 1)] + "_" + digest
    return prefix + rest


def run_label(run_id: str) -> str:
    """Return the prefix of the labels of a run's sessions; a colon follows it."""
    return f"dwhctl:{run_id}"


def stage_label(group: StagingGroup) -> str:
    """Return the prefix of the labels of the sessions that stage in a group; a colon follows it."""
    return f"{run_label(group.run_id)}:stage:{_plain(group.name)}"


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())


def conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[tuple[str, str]]:
    """Yield, for each pair of bounds, a condition of the shards, and one of the bounds ("" for none).

    A column that is a name has no known type: its bounds are the placeholders `<start>` and `<end>`.
    """
    by_bounds: dict[str, list[str]] = {}
    for slice in slices:
        by_bounds.setdefault(_bounds(slice, slice_by), []).append(slice.shard)
    for bounds, shards in by_bounds.items():
        yield of_shards(shards), bounds


def literals(texts: Sequence[str]) -> str:
    """Return texts as a list for IN."""
    return ", ".join(map(literal, texts))


def of_shards(shards: Sequence[str]) -> str:
    """Return the condition of the rows of these shards."""
    return f"etl_source IN ({literals(shards)})"


def _bounds(slice: Slice, slice_by: Column | str | None) -> str:
    if slice_by is None:
        return ""
    if isinstance(slice_by, str):
        return _between(slice_by, "<start>", "<end>")
    kind = slice_by.kind
    zoned = kind is Kind.TIMESTAMPTZ
    start, end = (slice.start_at, slice.end_at) if zoned else (slice.start, slice.end)
    if start is None or end is None:
        raise TargetError(f"the slice {slice.day} of {slice.shard} has no bounds")
    return _between(slice_by.name, _moment(start, kind), _moment(end, kind))


def _between(column: str, start: str, end: str) -> str:
    return f"{quote_name(column)} >= {start} AND {quote_name(column)} < {end}"


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        # The first date whose midnight is not before the bound.
        bound += timedelta(days=1) - timedelta(microseconds=1)
        return f"DATE {literal(bound.date().isoformat())}"
    type_ = "TIMESTAMPTZ" if kind is Kind.TIMESTAMPTZ else "TIMESTAMP"
    return f"{type_} {literal(bound.isoformat(sep=' '))}"


def slice_conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[str]:
    """Yield the condition of the slices' rows for each pair of bounds."""
    for shards, bounds in conditions(slices, slice_by):
        yield f"{shards} AND {bounds}" if bounds else shards


def held_sql(table: str, where: str) -> str:
    """Return the query of the number of rows by shard."""
    return f"SELECT etl_source, COUNT(*) FROM {table} WHERE {where} GROUP BY etl_source"


def staged_sql(staging: str, tokens: str) -> str:
    """Return the query of the number of staged rows by token."""
    return f"SELECT {TOKEN}, COUNT(*) FROM {staging} WHERE {TOKEN} IN ({tokens}) GROUP BY {TOKEN}"


def delete_sql(table: str, where: str) -> str:
    """Return the statement that deletes rows."""
    return f"DELETE FROM {table} WHERE {where}"


def insert_sql(table: str, staging: str, names: str, tokens: str, values: str = "") -> str:
    """Return the statement that inserts the staged rows of these tokens; `values` is what is selected for `names`."""
    return (
        f"INSERT INTO {table} ({names}) SELECT {values or names} FROM {staging} WHERE {TOKEN} IN ({tokens})"
    )


def publication_sql(
    table: str, staging: str, slice: Slice, columns: TableColumns, token: str
) -> Iterator[Statement]:
    """Yield the statements of a publication of one slice between BEGIN and COMMIT, to be shown."""
    (where,) = slice_conditions([slice], columns.slice_by)
    yield Statement(held_sql(table, where), about=HELD)
    yield Statement(staged_sql(staging, token), about=STAGED)
    yield Statement(delete_sql(table, where), about=DELETE)
    yield Statement(insert_sql(table, staging, columns.listed(quote_name), token), about=INSERT)


def gone(table: object) -> StagingError:
    """Return the error of a staging table that does not exist: its run has ended, or was ended."""
    return StagingError(f"the staging table {table} is gone: the run that made it has ended")


#: How many duplicate hash_ids are checked for a duplicate key.
CANDIDATES = 10


class Encoder(Protocol):
    """Writes the rows of batches for COPY."""

    def pieces(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield a batch's bytes, about a megabyte at a time. Raise ValueError when its columns differ."""


class BatchStream:
    """The bytes of a COPY: it reads a batch when the one before is sent.

    An exception of the batches is kept in `failure`; the driver, which sends its text to the server, gets another. The
    driver reads no answer before the stream ends, so the stream ends early when the server `has_refused`.
    """

    def __init__(
        self, batches: Iterator[pa.RecordBatch], encoder: Encoder, has_refused: Callable[[], bool]
    ) -> None:
        self._pieces = self._encoded(batches, encoder)
        self._has_refused = has_refused
        self.stopped = False
        self.rows = 0
        self.bytes = 0
        self.failure: Exception | None = None

    def read(self, _size: int) -> bytes:
        """Return about as many bytes as one message to the server holds; none at the end."""
        if self._has_refused():
            self.stopped = True
            return b""
        try:
            piece = next(self._pieces, b"")
        except Exception as error:
            self.failure = error
            raise RuntimeError("the rows ended by an error") from None
        self.bytes += len(piece)
        return piece

    def _encoded(self, batches: Iterator[pa.RecordBatch], encoder: Encoder) -> Iterator[bytes]:
        for batch in batches:
            yield from encoder.pieces(batch)
            self.rows += batch.num_rows


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
AnyClient = TypeVar("AnyClient", bound=ServerClient)

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
            for statement in statements:
                with at_statement(statement):
                    self._create(client, statement)

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
            except AttemptError as error:
                # The server may still run a statement whose answer did not come, and hold its locks.
                if self.holds_locks or not error.permanent:
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
