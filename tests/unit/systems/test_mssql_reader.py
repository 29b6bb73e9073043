"""Record batches of the tuples that pymssql gives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pymssql
import pytest
from pymssql import _mssql

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, SourceError, ValueRefusedError
from dwhctl.systems.mssql.source import Reader, fetched, first_size, next_size
from dwhctl.systems.mssql.sql import ResultColumn, declared_columns

COLUMNS = declared_columns(
    [ResultColumn("id", "int"), ResultColumn("name", "nvarchar(50)"), ResultColumn("day", "date")]
)


def rows_of(reader: Reader, *rows: tuple[Any, ...]) -> list[dict[str, object]]:
    return [row for batch in reader.batches(list(rows)) for row in batch.to_pylist()]


def test_rows_become_batches_of_the_declared_types() -> None:
    reader = Reader(COLUMNS)
    assert list(reader.batches([])) == []
    (batch,) = reader.batches([(None, None, None)])
    assert batch.schema.types == [pa.int32(), pa.string(), pa.date32()]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            (1, "b", "2020-07-14"),
            "column day, row 4 of the answer: the driver gave str where date was declared",
        ),
        ((2**31, "b", None), "column id, row 4 of the answer: the driver gave int where int was declared"),
        ((1, 7, None), "column name, row 4"),
        ((1, "a\ud800", None), "column name, row 4"),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused_by_column_and_row(
    row: tuple[Any, ...], words: str
) -> None:
    reader = Reader(COLUMNS)
    good = (1, "a", date(2020, 7, 14))
    assert len(rows_of(reader, good, good)) == 2
    with pytest.raises(ValueRefusedError, match=words):
        rows_of(reader, good, row)


def test_what_is_too_much_for_one_batch_comes_in_several() -> None:
    class Narrow(Reader):
        def _array(self, column: Column, values: tuple[Any, ...]) -> pa.Array | pa.ChunkedArray:
            array = super()._array(column, values)
            return array if len(values) < 3 else pa.chunked_array([array])

    batches = list(Narrow(COLUMNS).batches([(n, str(n), None) for n in range(7)]))
    assert [row["id"] for batch in batches for row in batch.to_pylist()] == list(range(7))
    assert max(batch.num_rows for batch in batches) < 3


def test_the_rows_before_an_error_are_not_lost() -> None:
    def cursor() -> Iterator[tuple[Any, ...]]:
        yield (1,)
        yield (2,)
        raise pymssql.OperationalError(1205, b"deadlock")

    rows, error = fetched(cursor(), 10)
    assert rows == [(1,), (2,)]
    assert isinstance(error, pymssql.OperationalError)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (_mssql.MSSQLDatabaseException((1205, b"Deadlock.")), SourceError, "SQL Server 1205: Deadlock"),
        (_mssql.MSSQLDatabaseException((245, b"Conversion failed.")), QueryError, "245: Conversion failed"),
        (
            _mssql.MSSQLDriverException("Not connected to any MS SQL server"),
            SourceError,
            "broke off: Not con",
        ),
    ],
)
def test_an_error_of_the_drivers_connection_is_that_of_its_cursor(
    raised: Exception, kind: type[Exception], words: str
) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        yield (1, "a", None)
        raise raised

    _, error = fetched(rows(), 10)
    assert isinstance(error, pymssql.Error)
    with pytest.raises(kind, match=words) as caught:
        Reader(COLUMNS).refuse(error)
    # The line of the statement is there.
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__context__ is raised


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            ValueRefusedError,
            "column name, row 3 ",
        ),
        (ValueError("hour must be in 0..23"), ValueRefusedError, "column day, row 3 .*hour must be in"),
        (
            pymssql.OperationalError(2403, b"DB-Lib error message 2403, severity 4:\nSome character(s)\n"),
            ValueRefusedError,
            "column name, row 3 of the answer: half of a surrogate pair",
        ),
        (pymssql.OperationalError(245, b"Conversion failed."), QueryError, "245: Conversion failed"),
        (pymssql.OperationalError(1205, b"Deadlock."), SourceError, "1205: Deadlock"),
        (MemoryError("no more"), MemoryError, "no more"),
    ],
)
def test_an_error_of_the_driver(error: Exception, kind: type[Exception], words: str) -> None:
    reader = Reader(COLUMNS)
    rows_of(reader, *[(1, "a", None)] * 2)
    with pytest.raises(kind, match=words):
        reader.refuse(error)


def test_which_column_it_was_is_not_always_known() -> None:
    reader = Reader(
        declared_columns([ResultColumn("a", "text"), ResultColumn("i", "int"), ResultColumn("b", "nchar(3)")])
    )
    with pytest.raises(ValueRefusedError, match="one of the columns a, b, row 1"):
        reader.refuse(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"))


def test_a_moment_keeps_its_microseconds() -> None:
    reader = Reader(declared_columns([ResultColumn("at", "datetime2(7)")]))
    at = datetime(9999, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001
    assert rows_of(reader, (at,)) == [{"at": at}]


def test_few_rows_are_fetched_where_nobody_knows_how_wide_they_are() -> None:
    narrow = Column("n", Kind.TEXT, pa.string(), "nvarchar(50)", octets=150)
    wide = Column("w", Kind.TEXT, pa.string(), "nvarchar(max)")
    number = Column("i", Kind.INTEGER, pa.int64(), "bigint")
    assert first_size([number], 2_048) == first_size([narrow, number], 2_048) == 2_048
    assert first_size([wide, narrow], 2_048) <= 8
    assert next_size(8, 8 * 200_000, 2_048) <= 64
    assert next_size(64, 64 * 20, 2_048) == 512, "narrow after all: it grows, but not at once"
    assert next_size(2_048, 2_048 * 100_000, 2_048) < 100
    assert next_size(1, 30 * 2**20, 2_048) == 1
