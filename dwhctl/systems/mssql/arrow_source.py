"""Read a shard that is a SQL Server database, through mssql-python: its batches are Arrow from the wire on.

The driver can lose values and rows without an error. So every answer is checked:
- The server's count of the rows must be that of the rows received: a connection that breaks at the end of a packet
  can look like the end of the answer.
- Half of a surrogate pair arrives as U+FFFD: the source must hold as many of them as arrived.
- A byte outside of the column's code page arrives as a question mark (ODBC) or as a control character (Rust): where a
  question mark arrived, the source must hold no such byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, SourceError, ValueRefusedError
from dwhctl.systems.mssql.arrow_client import ArrowCursor, is_rust
from dwhctl.systems.mssql.source import UNKNOWN_OCTETS, MssqlSource, first_size, next_size, widest
from dwhctl.systems.mssql.sql import quote

if TYPE_CHECKING:
    from dwhctl.project.query import Query
    from dwhctl.systems.mssql.sql import ResultColumn

_REPLACEMENT, _QUESTION_MARK = "\ufffd", "?"
_BINARY = "Latin1_General_BIN2"
#: How many batches are fetched together, where their octets allow it: each fetch has a price, whatever its rows.
_BATCHES_AT_ONCE = 8
#: What SQL Server makes of a byte that its code page does not have: a control character, or a private one.
#: https://www.unicode.org/Public/MAPPINGS/VENDORS/MICSFT/WindowsBestFit/
_UNDEFINED = "[\u0080-\u009f\uf8c0-\uf8ff]"
#: Code pages of one byte a character: of the others it is not known what arrives.
_SAFE_PAGES = frozenset({437, 850, 874, *range(1250, 1259)})


def most_rows(columns: Sequence[Column], rows: int) -> int:
    """Return how many rows to fetch at most: no more octets than `rows` rows of a megabyte could take."""
    return max(rows, min(_BATCHES_AT_ONCE * rows, rows * UNKNOWN_OCTETS // widest(columns)))


class ArrowReader:
    """Casts the driver's batches to the declared types, and counts what may stand for a lost character."""

    def __init__(self, columns: Sequence[Column], coded: frozenset[str]) -> None:
        self._columns = columns
        self._coded = coded
        self._schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        self.rows = 0
        #: By column and character; and the first row with it.
        self.replaced: Counter[tuple[str, str]] = Counter()
        self.first_rows: dict[tuple[str, str], int] = {}

    def batches(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield the rows as a batch; as several when a column's texts exceed what one holds."""
        if not batch.num_rows:
            return
        try:
            arrays = [
                self._array(column, array) for column, array in zip(self._columns, batch.columns, strict=True)
            ]
        except pa.ArrowCapacityError:
            half = batch.num_rows // 2
            if not half:
                raise
            for part in (batch.slice(0, half), batch.slice(half)):
                yield from self.batches(part)
            return
        self.rows += batch.num_rows
        yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _array(self, column: Column, array: pa.Array) -> pa.Array:
        if column.kind is Kind.TEXT:
            self._count(column, array)
            if array.nbytes > 2**31 - 1:
                raise pa.ArrowCapacityError(column.name)
        elif column.kind is Kind.UUID:
            array = pc.utf8_lower(array)
        elif column.kind is Kind.TIME:
            # The seventh digit is cut.
            array = array.cast(column.type, safe=False)
        if array.type == column.type:
            return array
        try:
            return array.cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueRefusedError(
                f"column {column.name}, rows {self.rows + 1} to {self.rows + len(array)} of the answer: the driver gave"
                f" {array.type} where {column.declared} was declared, and it does not fit: {error}"
            ) from error

    def _count(self, column: Column, array: pa.Array) -> None:
        name = column.name
        for sign in (_REPLACEMENT, _QUESTION_MARK) if name in self._coded else (_REPLACEMENT,):
            counts = pc.count_substring(array, sign)
            found = pc.sum(counts).as_py()
            if found:
                self.replaced[name, sign] += found
                at = pc.index(pc.greater(counts, 0), value=True).as_py()
                self.first_rows.setdefault((name, sign), self.rows + at + 1)
        if name in self._coded and pc.any(pc.match_substring_regex(array, _UNDEFINED)).as_py():
            raise ValueRefusedError(_outside(column, self.rows + 1))


def _outside(column: Column, row: int) -> str:
    return (
        f"column {column.name}, row {row} of the answer or later: a byte outside the column's code page would not"
        " arrive as it is; CAST the column AS nvarchar in the extract to read what SQL Server makes of it"
    )


class ArrowSource(MssqlSource):
    """One database of a SQL Server, over a connection of its own with mssql-python."""

    def __init__(self, *arguments: Any, **keys: Any) -> None:
        super().__init__(*arguments, **keys)
        #: The columns in a code page: of each query, and of the one that was described last.
        self._coded: dict[str, frozenset[str]] = {}
        self._last_coded: frozenset[str] = frozenset()
        self._reader = ArrowReader((), frozenset())

    def columns(self, query: Query) -> Sequence[Column]:
        columns = super().columns(query)
        self._coded.setdefault(query.sql, self._last_coded)
        return columns

    def _check_code_pages(self, described: Sequence[ResultColumn]) -> None:
        coded = [column for column in described if _in_code_page(column)]
        self._last_coded = frozenset(column.name or "" for column in coded)
        old = next((column for column in described if column.declared == "image"), None)
        if old is not None and is_rust():
            raise QueryError(
                f"column {old.name}: mssql-python's provider in Rust reads an empty image as NULL; CAST the column AS"
                " varbinary(max) in the extract"
            )
        for column in coded:
            if column.collation is None:
                continue
            page = self._code_page(column.collation)
            if page is not None and page not in _SAFE_PAGES:
                raise QueryError(
                    f"column {column.name}: mssql-python does not report the characters of code page {page}"
                    f" ({column.collation}) that it cannot read; CAST the column AS nvarchar in the extract"
                )

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        columns = self.columns(query)
        reader = self._reader = ArrowReader(columns, self._coded[query.sql])
        yield from super().batches(query, rows)
        self._check_count(reader.rows)
        self._check_replaced(query, reader)

    def _stream(self, cursor: Any, columns: Sequence[Column], rows: int) -> Iterator[pa.RecordBatch]:
        assert isinstance(cursor, ArrowCursor)
        reader = self._reader
        most = most_rows(columns, rows)
        size = first_size(columns, most)
        while (batch := cursor.fetch_batch(size)).num_rows:
            for read in reader.batches(batch):
                yield from (read.slice(start, rows) for start in range(0, read.num_rows, rows))
            size = next_size(size, batch.nbytes, most)
        if cursor.is_lost:
            raise SourceError(f"SQL Server broke off: the connection was lost after {reader.rows} rows")

    def _check_count(self, rows: int) -> None:
        ((sent,),) = self._rows("SELECT @@ROWCOUNT")
        if sent != rows:
            raise SourceError(f"SQL Server broke off: it sent {sent} rows, and {rows} arrived")

    def _check_replaced(self, query: Query, reader: ArrowReader) -> None:
        by_name = {column.name: column for column in self.columns(query)}
        for (name, sign), arrived in reader.replaced.items():
            column, row = by_name[name], reader.first_rows[name, sign]
            text = f"CAST({quote(name)} AS nvarchar(max)) COLLATE {_BINARY}"
            if sign == _QUESTION_MARK:
                found = self._number(query, f"SELECT COUNT(*) FROM {{}} WHERE {text} LIKE N'%{_UNDEFINED}%'")
                if found:
                    raise ValueRefusedError(_outside(column, row))
                continue
            held = self._number(
                query,
                f"SELECT SUM(CAST(DATALENGTH({text}) - DATALENGTH(REPLACE({text}, N'{sign}', N'')) AS bigint)) / 2"
                " FROM {}",
            )
            if held != arrived:
                raise ValueRefusedError(
                    f"column {name}, row {row} of the answer or later: half of a surrogate pair would not arrive as it"
                    f" is ({arrived} characters U+FFFD arrived, the source holds {held})"
                )

    def _number(self, query: Query, sql: str) -> int:
        ((found,),) = self._rows_over(query, lambda source: sql.replace("{}", source))
        return int(found or 0)


def _in_code_page(column: ResultColumn) -> bool:
    is_coded = (column.declared or "").startswith(("char", "varchar", "text"))
    return is_coded and not (column.collation or "").upper().endswith("_UTF8")
