"""Stage one slice in Vertica: one session, one COPY that pulls the batches as it sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from dwhctl.columns import Kind
from dwhctl.engines.vertica import literal, quote
from dwhctl.engines.vertica_copy import OPTIONS, CopyEncoder
from dwhctl.engines.vertica_errors import (
    MISSING,
    MISSING_COLUMN,
    is_sqlstate,
    rejection,
)
from dwhctl.errors import AttemptError, StagingError, ValueRefusedError
from dwhctl.targets.contract import Stage
from dwhctl.targets.vertica_names import TOKEN, TableName
from dwhctl.targets.vertica_publication import gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from dwhctl.columns import Column
    from dwhctl.engines.vertica import Session

#: How many suspects of doubled keys are looked at.
_SUSPECTS = 10


class VerticaStage(Stage):
    """The rows of one slice in the group's staging table, under their token.

    It connects when there is something to write, and commits when its block is left without an error: what is left by
    an error is rolled back with the session. It never makes the table: where it is gone, the run is dead.
    """

    def __init__(self, session: Session, table: TableName, token: str, columns: Sequence[Column]) -> None:
        self._session = session
        self._table = table
        self._token = token
        self._columns = columns
        self._written = False

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        encoder = CopyEncoder(self._columns, self._token)
        stream = BatchStream(batches, encoder, self._session.has_refused)
        self._session.open()
        try:
            self._session.copy(self._copy_statement(), stream)
        except AttemptError as error:
            if stream.failure is None:
                raise self._in_words(error) from error
        if stream.failure is not None:
            raise stream.failure
        if stream.stopped:
            raise StagingError(f"{self._table}: the server broke the COPY off without an error")
        self._check_counts(stream.rows)
        self._written = True
        return stream.bytes

    def _copy_statement(self) -> str:
        columns = [
            quote(column.name) + (" FORMAT 'hex'" if column.kind is Kind.BINARY else "")
            for column in self._columns
        ]
        return (
            f"COPY {self._table.sql} ({', '.join([*columns, TOKEN])}) FROM STDIN {OPTIONS}"
            f" ENFORCELENGTH ABORT ON ERROR STREAM NAME {literal(f'dwhctl-{self._token}')} NO COMMIT"
        )

    def _in_words(self, error: AttemptError) -> AttemptError:
        if is_sqlstate(error, MISSING):
            return gone(self._table)
        if is_sqlstate(error, (MISSING_COLUMN,)):
            return StagingError(
                f"the staging table {self._table} is older than a column of its target: {error}"
            )
        if (rejected := rejection(error)) is not None:
            row, reason = rejected
            return ValueRefusedError(f"row {row} of the slice: Vertica refused it: {reason}")
        return error

    def _check_counts(self, sent: int) -> None:
        ((accepted, rejected),) = self._session.query(
            "SELECT GET_NUM_ACCEPTED_ROWS(), GET_NUM_REJECTED_ROWS()"
        )
        if (accepted, rejected) != (sent, 0):
            raise StagingError(
                f"{sent} rows were sent to {self._table}, {accepted} were taken and {rejected} rejected"
            )

    def doubled_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first: eight bytes a row for the warehouse to compare."""
        staged = f"FROM {self._table.sql} WHERE {TOKEN} = {literal(self._token)}"
        suspects = self._session.query(
            f"SELECT hash_id {staged} GROUP BY hash_id HAVING COUNT(*) > 1 LIMIT {_SUSPECTS}"
        )
        if not suspects:
            return None
        names = ", ".join(map(quote, key))
        ids = ", ".join(str(int(hash_id)) for (hash_id,) in suspects)
        self._session.query("SET TIME ZONE TO 'UTC'")
        found = self._session.query(
            f"SELECT {names} {staged} AND hash_id IN ({ids}) GROUP BY {names} HAVING COUNT(*) > 1 LIMIT 1"
        )
        return tuple(found[0]) if found else None

    def discard(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is None and self._written:
                self._session.query("COMMIT")
        finally:
            self._session.close()


class BatchStream:
    """What COPY reads its bytes from: it pulls a batch when the one before is sent.

    An exception out of the batches is kept in `failure`; the driver, which tells it to the server, gets another. The
    driver does not look for an answer before the stream has ended: it ends early when the server `has_refused`.
    """

    def __init__(
        self, batches: Iterator[pa.RecordBatch], encoder: CopyEncoder, has_refused: Callable[[], bool]
    ) -> None:
        self._pieces = self._encoded(batches, encoder)
        self._has_refused = has_refused
        self.stopped = False
        self.rows = 0
        self.bytes = 0
        self.failure: Exception | None = None

    def read(self, _size: int) -> bytes:
        """Give some bytes, about as many as one message to the server takes; none at the end."""
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

    def _encoded(self, batches: Iterator[pa.RecordBatch], encoder: CopyEncoder) -> Iterator[bytes]:
        for batch in batches:
            yield from encoder.pieces(batch)
            self.rows += batch.num_rows
