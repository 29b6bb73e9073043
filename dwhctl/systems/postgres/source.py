"""Read a shard that is a PostgreSQL database: COPY ... TO STDOUT as CSV, parsed into batches of the declared types.

`copy_out` has the thread that reads the COPY ahead. Every statement is a transaction of its own, REPEATABLE READ and
READ ONLY: an answer is one state of the database.
"""

from __future__ import annotations

import binascii
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from dwhctl.core.columns import Kind
from dwhctl.core.errors import QueryError, SourceError, ValueRefusedError
from dwhctl.core.sql import literal, quote_name, replace_binds, split_statements
from dwhctl.project.query import at_statement
from dwhctl.systems.base.source import SqlSource, closed_on_error
from dwhctl.systems.postgres import catalog, types
from dwhctl.systems.postgres.copy_client import CopyClient
from dwhctl.systems.postgres.copy_out import CopyOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from dwhctl.core.columns import Column
    from dwhctl.project.query import Query
    from dwhctl.systems.postgres.system import PostgresConnection

_READ_ONLY = "SET default_transaction_read_only = on; SET default_transaction_isolation = 'repeatable read'"
#: Nothing reads them, and each would end a block of rows.
_NO_NOTICES = "SET client_min_messages = error"
_SHOWN_OCTETS = 80


class PostgresSource(SqlSource):
    """One database of a PostgreSQL server, over a connection of its own.

    `timeout` is the seconds without an answer after which the server is given up. With None the caller limits the time.
    """

    dialect = "postgres"
    #: PostgreSQL does not describe which columns of an answer may be NULL.
    declares_null = False
    bounds_bytes = True

    def __init__(
        self,
        connection: PostgresConnection,
        database: str,
        zone: str,
        timeout: float | None = None,
        *,
        keep: bool = False,
    ) -> None:
        own = connection.model_copy(update={"database": database})
        # PostgreSQL compares naive values with a timestamptz column in the session's time zone.
        settings = f"{_READ_ONLY}; {_NO_NOTICES}; SET TimeZone = {literal(zone)}"
        self._client = CopyClient(own, None, timeout, settings, target=False, keep=keep)
        self._described: dict[str, list[Column]] = {}
        self._copy: CopyOut | None = None
        with closed_on_error(self):
            self._client.open()

    def columns(self, query: Query) -> Sequence[Column]:
        """Let PostgreSQL describe the query, which returns no row for it."""
        sql = _one_statement(query.sql)
        if sql not in self._described:
            with at_statement(sql):
                # The query begins in the first line, so that the lines of errors are its own.
                described = self._client.described(
                    f"SELECT * FROM ({_bound(query, sql)}\n) AS extract LIMIT 0"
                )
                if not described:
                    raise QueryError("the extract returns no columns")
                names = catalog.type_names(self._client, {column.type_code for column in described})
                self._described[sql] = types.source_columns(
                    types.result_column(column, names) for column in described
                )
        return self._described[sql]

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        columns = self.columns(query)
        sql = _one_statement(query.sql)
        values = ", ".join(map(_value, columns))
        texts = ", ".join(quote_name(column.name) for column in columns if column.kind in _QUOTED)
        force = f", FORCE_QUOTE ({texts})" if texts else ""
        bound = _bound(query, sql, self._slice_kind(query))
        self._copy = CopyOut(
            self._client,
            f"COPY (SELECT {values} FROM ({bound}\n) AS extract) TO STDOUT (FORMAT csv{force})",
        )
        parser = _Parser(columns, framed=self._copy.framed)
        with at_statement(sql), closing(self._copy) as copy:
            for block in copy.blocks():
                yield from parser.batches(block, rows)
            copy.check()

    def _slice_kind(self, query: Query) -> Kind | None:
        by = (query.slice_by or "").lower()
        return next((one.kind for one in self.columns(query) if one.name.lower() == by), None)

    def _rows_over(self, query: Query, write: Callable[[str], str]) -> Sequence[Sequence[Any]]:
        bound = _bound(query, _one_statement(query.sql), self._slice_kind(query) if query.slice_by else None)
        return self._client.query(write(f"({bound}\n) AS slice"))

    def version(self) -> str:
        return f"PostgreSQL {self._client.query('SHOW server_version')[0][0]}"

    def finish(self) -> None:
        if self._copy is not None:
            self._copy.close()
        self._client.finish()

    def interrupt(self) -> None:
        self._client.interrupt()

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
        self._client.close()


def list_databases(connection: PostgresConnection, timeout: float) -> list[str]:
    """Return the server's databases that this user can connect to, without its own. Raise AttemptError."""
    client = CopyClient(connection, None, timeout, target=False)
    with closing(client):
        client.open()
        rows = client.query(
            "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres'"
            " AND has_database_privilege(datname, 'CONNECT') ORDER BY datname"
        )
    return [str(name) for (name,) in rows]


def _one_statement(sql: str) -> str:
    statements = split_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"an extract is one SELECT; this one has {len(statements)} statements")
    if "\0" in statements[0]:
        raise QueryError("the SQL has a NUL character, which PostgreSQL does not take")
    return statements[0]


def _bound(query: Query, sql: str, kind: Kind | None = None) -> str:
    """Return the SQL with its bounds as typed literals, which a text in them cannot change."""
    values = query.instants if kind is Kind.TIMESTAMPTZ and query.instants else query.binds
    return replace_binds(sql, lambda name: _moment(values.get(name), name))


def _moment(bound: datetime | None, name: str) -> str:
    if bound is None:
        raise QueryError(f"the bound :{name} has no value: this load has no slice_by")
    word = "TIMESTAMP" if bound.tzinfo is None else "TIMESTAMPTZ"
    return f"{word} {literal(bound.isoformat(sep=' '))}"


#: Kinds whose values are quoted, so that an empty text is not NULL.
_QUOTED = (Kind.TEXT, Kind.BINARY)


def _value(column: Column) -> str:
    name = quote_name(column.name)
    # Without the blanks that fill it up; with the XML declaration, which xml's own output leaves out.
    if column.padded or column.declared == "xml":
        return f"CAST({name} AS text) AS {name}"
    if column.kind is Kind.TIMESTAMPTZ:
        # Some zones once had offsets in seconds, which Arrow does not read.
        return f"{name} AT TIME ZONE 'UTC' AS {name}"
    return name


class _Parser:
    """Parses whole rows of CSV into batches of the columns' types. `framed`: each row has a field more, the first."""

    def __init__(self, columns: Sequence[Column], *, framed: bool) -> None:
        self._columns = columns
        self._schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        self._rows = 0
        # By position: a name may be anything.
        self._names = [str(number) for number in range(len(columns))]
        self._fields = ["frame", *self._names] if framed else self._names
        self._read = {name: _read_type(column) for name, column in zip(self._names, columns, strict=True)}

    def batches(self, data: bytes | memoryview, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most `rows` rows. Raise ValueRefusedError for a value without a place."""
        if not data:
            return
        try:
            table = _table(data, self._fields, self._read)
            arrays = [
                _finished(array, column) for array, column in zip(table.columns, self._columns, strict=True)
            ]
        except pa.ArrowInvalid as error:
            self._refuse(data, error)
        parsed = pa.Table.from_arrays(arrays, schema=self._schema)
        # Of about the same size: none is so small that it is worth putting it together with others.
        parts = -(-parsed.num_rows // rows)
        for batch in parsed.to_batches(max_chunksize=-(-parsed.num_rows // max(1, parts))):
            self._rows += batch.num_rows
            yield batch

    def _refuse(self, data: bytes | memoryview, error: pa.ArrowInvalid) -> NoReturn:
        """Raise the error of the first value that has no place, by column and row."""
        for name, column in zip(self._names, self._columns, strict=True):
            texts = _table(data, self._fields, {name: pa.binary()}).column(0).to_pylist()
            known = [(row, text) for row, text in enumerate(texts) if text is not None]
            row, text = first_misfit(known, column)
            if text is not None:
                shown = text[:_SHOWN_OCTETS].decode(errors="replace")
                raise ValueRefusedError(
                    f"column {column.name}, row {self._rows + row + 1} of the answer: the value {shown} of type"
                    f" {column.declared} would not arrive as it is; leave it out, or change it in the extract"
                ) from error
        raise SourceError(f"the server's answer cannot be read: {error}") from error


def first_misfit(values: Sequence[tuple[int, bytes]], column: Column) -> tuple[int, bytes | None]:
    """Return the first of the values, with their rows, that has no place in the column, by halving."""
    if not values or _all_fit(values, column):
        return 0, None
    while len(values) > 1:
        half = values[: len(values) // 2]
        values = values[len(half) :] if _all_fit(half, column) else half
    return values[0]


def _all_fit(values: Sequence[tuple[int, bytes]], column: Column) -> bool:
    data = b"".join(b'"' + text.replace(b'"', b'""') + b'"\n' for _, text in values)
    try:
        _finished(_table(data, ["v"], {"v": _read_type(column)}).column(0), column)
    except pa.ArrowInvalid:
        return False
    return True


def _table(data: bytes | memoryview, fields: Sequence[str], read: Mapping[str, pa.DataType]) -> pa.Table:
    """Parse the fields that have a type to be read as."""
    return csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=fields),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=read,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            include_columns=list(read),
        ),
    )


def _read_type(column: Column) -> pa.DataType:
    if column.kind is Kind.TIMESTAMPTZ:
        return pa.timestamp("us")
    if column.kind is Kind.BINARY or pa.types.is_decimal256(column.type):
        return pa.string()
    return column.type


def _finished(array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Return the array of the column's type."""
    if column.kind is Kind.BINARY:
        return pa.chunked_array([_from_hex(chunk) for chunk in array.chunks], pa.binary())
    return array if array.type == column.type else array.cast(column.type)


def _from_hex(array: pa.Array) -> pa.Array:
    r"""Return the octets that `\x` and two digits for each stand for."""
    texts = pc.fill_null(array, "\\x")
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]]
    octets = binascii.unhexlify(data.tobytes().replace(b"\\x", b""))
    # Each text has its two octets before those of its digits.
    ends = ((offsets - offsets[0]) // 2 - np.arange(len(offsets))).astype(np.int32)
    values = pa.Array.from_buffers(pa.binary(), len(array), [None, pa.py_buffer(ends), pa.py_buffer(octets)])
    return pc.if_else(pc.is_valid(array), values, pa.scalar(None, pa.binary()))
