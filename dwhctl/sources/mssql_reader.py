"""Make record batches of the tuples that pymssql gives: of declared types, no value changed on the way."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pymssql

from dwhctl.columns import Kind
from dwhctl.engines.mssql_errors import one_line, query_error, read
from dwhctl.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.columns import Column

#: DB-Library could not convert a character; by itself it puts a question mark in its place or drops it.
_NO_CHARACTER = frozenset({2400, 2401, 2403, 2404})
#: About how much is fetched at a time, and what a text without a declared length is taken for at first.
_FETCH_OCTETS = 8 * 2**20
_UNSAID_OCTETS = 2**20
_MOMENTS = (Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


def first_size(columns: Sequence[Column], rows: int) -> int:
    """Give how many rows to fetch at first: few where nobody says how wide they are."""
    texts = [column.octets for column in columns if column.kind in (Kind.TEXT, Kind.BINARY)]
    widest = sum(_UNSAID_OCTETS if octets is None else octets for octets in texts)
    return max(1, min(rows, _FETCH_OCTETS // max(1, widest)))


def next_size(size: int, octets: int, rows: int) -> int:
    """Give how many rows to fetch after so many rows of so many octets: no more than eight times as many."""
    return max(1, min(rows, 8 * size, _FETCH_OCTETS * size // max(1, octets)))


def fetched(cursor: pymssql.Cursor, rows: int) -> tuple[list[tuple[Any, ...]], Exception | None]:
    """Fetch rows, and the error of the driver that ended them: those before it are not lost."""
    values: list[tuple[Any, ...]] = []
    try:
        # Not fetchmany, which drops the rows that it has when the next one fails.
        values.extend(islice(cursor, rows))
    except Exception as error:
        return values, error
    return values, None


class Reader:
    """Makes record batches of the driver's tuples, of the declared types."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        self._rows = 0

    def batches(self, values: list[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
        """Give the rows as a batch; as several when a column's texts are too much for one."""
        if not values:
            return
        arrays = [
            self._array(column, one)
            for column, one in zip(self._columns, zip(*values, strict=True), strict=True)
        ]
        if len(values) > 1 and any(isinstance(array, pa.ChunkedArray) for array in arrays):
            half = len(values) // 2
            for part in (values[:half], values[half:]):
                yield from self.batches(part)
            return
        self._rows += len(values)
        yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _array(self, column: Column, values: tuple[Any, ...]) -> pa.Array:
        if column.kind is Kind.UUID:
            values = tuple(None if value is None else str(value) for value in values)
        try:
            return pa.array(values, column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            odd = ((n, one) for n, one in enumerate(values) if not _fits(one, column.type))
            row, value = next(odd, (0, values[0]))
            raise ValueRefusedError(
                f"column {column.name}, row {self._rows + row + 1} of the answer: the driver gave"
                f" {type(value).__name__} where {column.declared} was declared, and it does not fit"
            ) from error

    def refuse(self, error: Exception) -> NoReturn:
        """Raise what an error of the driver in the row after the last one means."""
        if isinstance(error, pymssql.Error):
            if _NO_CHARACTER.isdisjoint(read(error).db_lib):
                raise query_error(error) from error
            why = "half of a surrogate pair, or a byte outside the column's code page, would not arrive as it is"
            raise self._refusal((Kind.TEXT,), why) from error
        if isinstance(error, UnicodeError):
            raise self._refusal((Kind.TEXT,), f"the driver cannot read it: {error}") from error
        if isinstance(error, ValueError | OverflowError):
            raise self._refusal(_MOMENTS, f"the driver cannot read it: {error}") from error
        raise error

    def _refusal(self, kinds: Sequence[Kind], why: str) -> ValueRefusedError:
        names = [column.name for column in self._columns if column.kind in kinds]
        # The driver does not say which column it was at.
        where = f"column {names[0]}" if len(names) == 1 else f"one of the columns {', '.join(names)}"
        return ValueRefusedError(one_line(f"{where}, row {self._rows + 1} of the answer: {why}"))


def _fits(value: object, type_: pa.DataType) -> bool:
    try:
        pa.array([value], type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True
