"""Stage one slice in PostgreSQL: one session, one binary COPY that reads the batches as it sends them.

Into the group's staging table, or into the target's table in a transaction that the parent ends.
"""

from __future__ import annotations

import binascii
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING

import pgpq
import pyarrow as pa
from pgpq import encoders, schema

from dwhctl.core.columns import Kind
from dwhctl.core.errors import AttemptError, StagingError, ValueRefusedError
from dwhctl.core.faults import reach
from dwhctl.core.sql import quote_name, quote_path
from dwhctl.core.waiting import ahead
from dwhctl.systems.base.server import ServerStage
from dwhctl.systems.base.staging import TOKEN, BatchStream, delete_sql, gone, slice_conditions
from dwhctl.systems.base.target import DirectStage
from dwhctl.systems.postgres import catalog
from dwhctl.systems.postgres.errors import MISSING, MISSING_COLUMN, copy_place, lacks_partition, sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagingGroup
    from dwhctl.systems.postgres.copy_client import CopyClient

_UUID_OCTETS = 16
#: About how many bytes of a batch are encoded at a time: a message, which the server reads to its end before it takes
#: the rows in it.
_PIECE_BYTES = 2**18
#: How many pieces one thread hands to the other at once, and how many times as many are encoded ahead.
_PIECES_AT_ONCE, _AHEAD = 4, 8
#: How many times as many are encoded before there is a thread for it: most slices have no more.
_ALONE = 2


class BinaryEncoder:
    """Writes the rows of batches of these columns in the format of a binary COPY, with the token's number if any."""

    def __init__(self, columns: Sequence[Column], token: str | None) -> None:
        self._columns = columns
        self._names = [column.name for column in columns]
        fields = [pa.field(str(number), _sent_type(column)) for number, column in enumerate(columns)]
        marks = [] if token is None else [pa.field("token", pa.int64())]
        self._schema = pa.schema([*fields, *marks])
        builders = {
            field.name: pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field) for field in self._schema
        }
        for field, column in zip(fields, columns, strict=True):
            if column.declared == "jsonb":
                builders[field.name] = encoders.StringEncoderBuilder.new_with_output(field, schema.Jsonb())
        self._encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(self._schema, builders)
        self._token = None if token is None else pa.scalar(catalog.token_number(token), pa.int64())

    def begin(self) -> bytes:
        """Return what comes before the rows."""
        return self._encoder.write_header()

    def pieces(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield a batch's bytes, a message at a time. Raise ValueError when its columns differ."""
        if batch.schema.names != self._names:
            raise ValueError(f"the batch has the columns {batch.schema.names}, not {self._names}")
        rows = max(1, batch.num_rows * _PIECE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            arrays = [_sent(array, column) for array, column in zip(part.columns, self._columns, strict=True)]
            if self._token is not None:
                arrays.append(pa.repeat(self._token, part.num_rows))
            yield self._encoder.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def end(self) -> bytes:
        """Return what comes after the rows."""
        return self._encoder.finish()


def _sent_type(column: Column) -> pa.DataType:
    if column.kind is Kind.UUID:
        return pa.binary(_UUID_OCTETS)
    return pa.string() if pa.types.is_decimal256(column.type) else column.type


def _sent(array: pa.Array, column: Column) -> pa.Array:
    if column.kind is Kind.UUID:
        return _uuids(array)
    return array.cast(pa.string()) if pa.types.is_decimal256(column.type) else array


def _uuids(array: pa.Array) -> pa.Array:
    """Return uuids as their sixteen octets."""
    import pyarrow.compute as pc  # the run imports this module too, and encodes nothing

    digits = pc.replace_substring(pc.fill_null(array, "0" * 32), "-", "")
    octets = binascii.unhexlify(
        pc.binary_join(pa.ListArray.from_arrays([0, len(digits)], digits), "")[0].as_py()
    )
    values = pa.Array.from_buffers(pa.binary(_UUID_OCTETS), len(array), [None, pa.py_buffer(octets)])
    return pc.if_else(pc.is_valid(array), values, pa.scalar(None, pa.binary(_UUID_OCTETS)))


class _BinaryStream(BatchStream):
    """The bytes of a binary COPY, with header and trailer. Of many a thread encodes ahead of what is sent. Close it."""

    def __init__(
        self, batches: Iterator[pa.RecordBatch], encoder: BinaryEncoder, has_refused: Callable[[], bool]
    ) -> None:
        super().__init__(batches, encoder, has_refused)
        self._ahead = ahead(_together(self._framed(encoder, self._pieces)), _AHEAD, after=_ALONE)
        self._pieces = chain.from_iterable(self._ahead)

    def close(self) -> None:
        """End the thread."""
        self._ahead.close()

    @staticmethod
    def _framed(encoder: BinaryEncoder, pieces: Iterator[bytes]) -> Iterator[bytes]:
        yield encoder.begin()
        # The encoder holds small pieces back, and an empty one would end the stream.
        yield from (piece for piece in pieces if piece)
        yield encoder.end()


def _together(pieces: Iterator[bytes]) -> Iterator[list[bytes]]:
    while some := list(islice(pieces, _PIECES_AT_ONCE)):
        yield some


class PostgresStage(ServerStage["CopyClient"]):
    """The rows of one slice in the group's staging table, under the number of their token."""

    def __init__(
        self,
        client: CopyClient,
        group: StagingGroup,
        schema: str | None,
        token: str,
        columns: Sequence[Column],
    ) -> None:
        super().__init__(client, token, columns)
        self._group = group
        self._schema = schema
        self._mark: str | None = token
        self._table = self._where = ""
        self._rows = 0

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        encoder = BinaryEncoder(self._columns, self._mark)
        self._client.open()
        self._begin()
        with closing(_BinaryStream(batches, encoder, self._client.has_refused)) as stream:
            self._copy(stream)
        self._written = True
        return stream.bytes

    def _copy(self, stream: _BinaryStream) -> None:
        marks = [] if self._mark is None else [TOKEN]
        names = ", ".join(quote_name(name) for name in (*(column.name for column in self._columns), *marks))
        sql = catalog.copy_sql(self._table, names)
        accepted = self._sent(stream, lambda: self._client.copy_in(sql, stream))
        if stream.stopped or accepted != stream.rows:
            raise self._not_taken(stream.rows, accepted, stopped=stream.stopped)
        self._rows = accepted

    def _not_taken(self, sent: int, taken: int, *, stopped: bool) -> AttemptError:  # noqa: ARG002 - for a subclass
        return StagingError(f"{sent} rows were sent to {self._table}, {taken} were taken")

    def _begin(self) -> None:
        """Begin the transaction, and set the table that is copied into."""
        self._table = catalog.staging_table(self._client, self._group, self._schema)
        self._where = f"{TOKEN} = {catalog.token_number(self._token)}"
        self._client.query("BEGIN")

    def _translate_error(self, error: AttemptError) -> AttemptError:
        if sqlstate(error) in MISSING:
            return gone(self._table)
        if sqlstate(error) == MISSING_COLUMN:
            return StagingError(
                f"the staging table {self._table} is older than a column of its target: {error}"
            )
        row, column = copy_place(error)
        if (
            row is not None
            and sqlstate(error).startswith(("22", "23"))
            and not lacks_partition(error.__cause__)
        ):
            where = f"column {column}, row {row}" if column else f"row {row}"
            return ValueRefusedError(f"{where} of the slice: PostgreSQL refused it: {error}")
        return error

    def _staged(self) -> str:
        return f"{self._table} WHERE {self._where}"

    def _shown(self, name: str) -> str:
        return f"CAST({quote_name(name)} AS text)"

    def _commit(self) -> None:
        super()._commit()
        self._client.finish()


_TEMPORARY = "dwhctl_rows"


class DirectPostgresStage(PostgresStage, DirectStage):
    """The replacement of one slice in the target's table: DELETE of its old rows, COPY of the new ones, no COMMIT.

    What COPY cannot write (a view, a table with rules or row-level security, a value that is sent as text) goes through
    a temporary table. Other sessions read the table meanwhile, and write rows of other slices.
    """

    def __init__(
        self,
        client: CopyClient,
        group: StagingGroup,
        token: str,
        columns: Sequence[Column],
        slice: Slice,
        slice_by: str | None,
    ) -> None:
        super().__init__(client, group, None, token, columns)
        by = next((one for one in columns if slice_by and one.name.lower() == slice_by.lower()), None)
        (self._of_slice,) = slice_conditions([slice], by)
        self._mark = None
        self._insert = ""
        self._count = f"SELECT COUNT(*) FROM {quote_path(group.table)} WHERE {self._of_slice}"
        self._may_move = False

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        size = super().write(batches)
        if self._insert:
            rows = self._client.run(self._insert)
            if rows != self._rows:
                raise catalog.lost_rows(self._group.table, self._rows, rows)
        if self._may_move:
            ((found,),) = self._client.query(f"{catalog.FIRE_DEFERRED}; {self._count}")
            if found != self._rows:
                raise catalog.moved_rows(self._group.table, self._rows, found)
        self.written = self._rows
        return size

    def _begin(self) -> None:
        target = quote_path(self._group.table)
        reach("direct.delete")
        takes_copy, may_keep, self._may_move = catalog.write_ways(self._client, target, after="BEGIN; ")
        # A trigger or rule need not count what it deletes.
        held = self._client.query(self._count)[0][0] if may_keep else None
        deleted = self._client.run(delete_sql(target, self._of_slice))
        self.held = deleted if held is None else held
        self._table, self._where = target, self._of_slice
        as_text = any(pa.types.is_decimal256(column.type) for column in self._columns)
        if may_keep and self._client.query(self._count)[0][0]:
            raise catalog.kept_rows(self._group.table)
        if as_text or not takes_copy:
            self._copy_first(target)

    def _copy_first(self, target: str) -> None:
        """Copy into a temporary table, from which the rows are inserted."""
        sent = {column.name for column in self._columns}
        declared = catalog.existing_columns(self._client, self._group.table)
        written = [one for one in declared if one.name in sent]
        self._table, self._where = f"pg_temp.{_TEMPORARY}", "true"
        staged = ", ".join(f"{quote_name(one.name)} {one.staged}" for one in written)
        self._client.query(f"CREATE TEMPORARY TABLE {_TEMPORARY} ({staged}) ON COMMIT DROP")
        names = ", ".join(quote_name(one.name) for one in written)
        values = ", ".join(f"CAST({quote_name(one.name)} AS {one.base})" for one in written)
        self._insert = f"INSERT INTO {target} ({names}) SELECT {values} FROM {self._table}"

    def _not_taken(self, sent: int, taken: int, *, stopped: bool) -> AttemptError:
        if stopped or self._insert:
            return super()._not_taken(sent, taken, stopped=stopped)
        return catalog.lost_rows(self._group.table, sent, taken)

    def _translate_error(self, error: AttemptError) -> AttemptError:
        return error if sqlstate(error) in (*MISSING, MISSING_COLUMN) else super()._translate_error(error)

    def commit(self) -> None:
        try:
            self._commit()
        finally:
            self._client.close()

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is not None:
            self.discard()
