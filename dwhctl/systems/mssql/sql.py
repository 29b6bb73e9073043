"""SQL Server's types and SQL: what each type becomes, quoting, and the extract's SELECT with its bounds.

This module imports neither the driver nor pyarrow: the reference page and the configuration's checks read the types.
Source: https://learn.microsoft.com/en-us/sql/t-sql/data-types/data-types-transact-sql
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError
from dwhctl.core.sql import comment_end, quote_name, replace_binds, shown_name, split_statements
from dwhctl.core.sql import literal as literal_text
from dwhctl.systems.base.fingerprint import Dialect, Measure
from dwhctl.systems.base.system import SourceType, TypeRow

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    import pyarrow as pa

    from dwhctl.project.query import Query


_AS_TEXT = "CAST({column} AS nvarchar(max)) AS {column}"
_DECIMAL = "decimal of its own precision and scale"
_GEOMETRY = "CAST({column}.STAsText() AS nvarchar(max)) AS {column}"
_TEXT = "text as it is, trailing blanks included"


def _rows(names: str, kind: Kind | None, note: str, arrow: str = "") -> tuple[TypeRow, ...]:
    return tuple(TypeRow(name, kind, note, arrow) for name in names.split())


#: Every type of SQL Server. Any other (an assembly's) is refused.
TYPES: tuple[TypeRow, ...] = (
    TypeRow("bigint", Kind.INTEGER, "64-bit integer", "int64"),
    TypeRow("int", Kind.INTEGER, "32-bit integer", "int32"),
    TypeRow("smallint", Kind.INTEGER, "16-bit integer", "int16"),
    TypeRow("tinyint", Kind.INTEGER, "integer from 0 to 255", "uint8"),
    TypeRow("bit", Kind.BOOLEAN, "boolean", "bool"),
    *_rows("decimal numeric", Kind.DECIMAL, _DECIMAL),
    TypeRow("money", Kind.DECIMAL, "decimal(19,4)"),
    TypeRow("smallmoney", Kind.DECIMAL, "decimal(10,4)"),
    TypeRow("float", Kind.FLOAT, "64-bit float", "double"),
    TypeRow("real", Kind.FLOAT, "32-bit float", "float"),
    TypeRow("date", Kind.DATE, "date", "date32"),
    TypeRow("time", Kind.TIME, "time in microseconds; a seventh digit is cut", "time64[us]"),
    TypeRow("smalldatetime", Kind.TIMESTAMP, "timestamp in microseconds", "timestamp[us]"),
    TypeRow("datetime", Kind.TIMESTAMP, "timestamp in microseconds, rounded to milliseconds as SQL Server shows it",
            "timestamp[us]"),
    TypeRow("datetime2", Kind.TIMESTAMP, "timestamp in microseconds; a seventh digit is cut", "timestamp[us]"),
    TypeRow("datetimeoffset", Kind.TIMESTAMPTZ, "instant in UTC, in microseconds; a seventh digit is cut",
            "timestamp[us, tz=UTC]"),
    *_rows("char varchar text nchar nvarchar ntext sysname", Kind.TEXT, _TEXT, "string"),
    TypeRow("uniqueidentifier", Kind.UUID, "uuid in lower case", "string"),
    *_rows("binary varbinary image", Kind.BINARY, "binary", "binary"),
    TypeRow("rowversion", Kind.BINARY, "binary of 8 bytes", "binary"),
    TypeRow("timestamp", Kind.BINARY, "rowversion: binary of 8 bytes, no time", "binary"),
    *_rows("xml json vector", None, _AS_TEXT),
    TypeRow("sql_variant", None, "CAST({column} AS nvarchar(4000)) AS {column}, or as the type that it holds"),
    TypeRow("hierarchyid", None, "CAST({column} AS nvarchar(4000)) AS {column}"),
    *_rows("geometry geography", None, _GEOMETRY),
    TypeRow("cursor", None, "a cursor is no column"),
    TypeRow("table", None, "a table is no column"),
)  # fmt: skip

_BY_NAME = {row.name: row for row in TYPES}
_DECIMALS = {"money": (19, 4), "smallmoney": (10, 4)}
_LENGTHS = {"sysname": "128", "rowversion": "8", "timestamp": "8"}
_FIXED = frozenset({"char", "nchar", "binary", "rowversion", "timestamp"})
_FRACTIONS = {"datetime": 3, "smalldatetime": 0}
_DECLARED = re.compile(r"(?P<name>[^()]+?)\s*(?:\((?P<first>\d+|max)(?:,\s*(?P<second>\d+))?\))?")
#: The most octets in UTF-8 for one place of the column: a byte of a code page, or a unit of UTF-16 (two are 4 octets).
_OCTETS_PER_PLACE = 3


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A row of `sp_describe_first_result_set`."""

    name: str | None
    declared: str | None
    nullable: bool = True
    own_type: str | None = None
    collation: str | None = None


def declared_columns(described: Iterable[ResultColumn]) -> list[Column]:
    """Return a query's columns. Raise QueryError for a type that is refused, and a missing or duplicate name."""
    columns: dict[str, Column] = {}
    for number, row in enumerate(described, 1):
        if not row.name:
            raise QueryError(f"column {number} of the extract has no name; give it one: ... AS name")
        if row.name.lower() in columns:
            raise QueryError(f"column {row.name} occurs twice in the extract; give one of them another name")
        columns[row.name.lower()] = column(row)
    return list(columns.values())


def column(described: ResultColumn) -> Column:
    """Return one column. Raise QueryError with the remedy when its type is refused."""
    name, declared = described.name or "", described.declared or described.own_type or "unknown"
    match = _DECLARED.fullmatch(declared)
    row = _BY_NAME.get(match["name"].lower()) if match else None
    if match is None or row is None or row.kind is None:
        # SQL Server returns no name for an assembly's type.
        note = row.note if row else "CAST({column}.ToString() AS nvarchar(max)) AS {column}"
        remedy = note.format(column=shown_name(name, "[]"))
        raise QueryError(
            f"column {name}: SQL Server's type {declared} would not arrive as it is; CAST it in the extract: {remedy}"
        )
    places = _places(row, match["first"])
    is_utf8 = row.name in ("char", "varchar") and (described.collation or "").upper().endswith("_UTF8")
    octets_per_place = _OCTETS_PER_PLACE if row.kind is Kind.TEXT and not is_utf8 else 1
    return Column(
        name,
        row.kind,
        _arrow(row, match["first"], match["second"]),
        declared,
        described.nullable,
        octets=places and places * octets_per_place,
        places=places,
        fixed=row.name in _FIXED,
        fraction=_fraction(row, match["first"]),
    )


def _arrow(row: TypeRow, first: str | None, second: str | None) -> pa.DataType:
    import pyarrow as pa

    if row.kind is Kind.DECIMAL:
        precision, scale = _DECIMALS.get(row.name) or (int(first or 18), int(second or 0))
        return pa.decimal128(precision, scale)
    return pa.timestamp("us", tz="UTC") if row.kind is Kind.TIMESTAMPTZ else pa.type_for_alias(row.arrow)


def _places(row: TypeRow, first: str | None) -> int | None:
    first = _LENGTHS.get(row.name, first)
    if row.kind not in (Kind.TEXT, Kind.BINARY) or first is None or first == "max":
        return None
    return int(first)


def _fraction(row: TypeRow, first: str | None) -> int | None:
    if row.kind not in (Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        return None
    # The driver cuts the seventh digit.
    return _FRACTIONS.get(row.name, min(int(first or 7), 6))


#: Examples of the types that have a length or precision.
_EXAMPLES = {
    **{name: f"{name}(12,2)" for name in ("decimal", "numeric")},
    **{name: f"{name}(10)" for name in ("char", "nchar")},
    **{name: f"{name}(50) {name}(max)" for name in ("varchar", "nvarchar", "varbinary")},
    "binary": "binary(8)",
    "time": "time(7)",
    "datetime2": "datetime2(7)",
    "datetimeoffset": "datetimeoffset(7)",
}


def source_types() -> list[SourceType]:
    return [
        SourceType(declared, column(ResultColumn("c", declared)) if row.kind else None, row.note)
        for row in TYPES
        for declared in _EXAMPLES.get(row.name, row.name).split(" ")
    ]


def quote(name: str) -> str:
    return quote_name(name, "[]")


def literal(text: str) -> str:
    return "N" + literal_text(text)


#: Code pages whose name in FreeTDS is not CP and the number; UTF-8 needs no conversion.
_NAMES = {65001: "UTF-8"}
_REFUSED = ctypes.c_void_p(-1).value


@functools.lru_cache(maxsize=64)
def can_read(code_page: int) -> bool:
    """Return whether the C library converts this code page to UTF-8; True where that cannot be found out."""
    try:
        library = ctypes.CDLL(None)
        opened, closed = library.iconv_open, library.iconv_close
    except (OSError, AttributeError):
        return True
    opened.restype, opened.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    closed.argtypes = [ctypes.c_void_p]
    handle = opened(b"UTF-8", os.fsencode(_NAMES.get(code_page, f"CP{code_page}")))
    if handle == _REFUSED:
        return False
    closed(handle)
    return True


_SKIPPED = re.compile(r"--|/\*|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\[(?:[^\]]|\]\])*\]", re.DOTALL)
#: A word may follow a number without a space (`SELECT 1DELETE FROM t`).
_BEHIND_NUMBER = re.compile(r"(?<![\w@#])[\d$][\w@#$]*")
_BINARY = re.compile(r"0[xX][0-9a-fA-F]*")
_WORD = re.compile(r"(?<![\w@#$])[^\W\d]\w*")
_WORD_OR_BRACKET = re.compile(rf"{_WORD.pattern}|[()]")
#: Reserved words of T-SQL that are in no SELECT; they need no semicolon before them.
#: Source: https://learn.microsoft.com/en-us/sql/t-sql/language-elements/reserved-keywords-transact-sql
_NO_SELECT = frozenset(
    (
        "ALTER", "BACKUP", "CREATE", "DBCC", "DECLARE", "DELETE", "DENY", "DROP", "EXEC", "EXECUTE", "GRANT", "INSERT",
        "INTO", "KILL", "RECONFIGURE", "RESTORE", "REVOKE", "SET", "SHUTDOWN", "TRUNCATE", "UPDATE", "UPDATETEXT",
        "WAITFOR", "WRITETEXT",
    )
)  # fmt: skip


@functools.lru_cache(maxsize=64)
def one_select(sql: str, what: str = "an extract") -> str:
    """Return the one statement of `what`. Raise QueryError when it is not one SELECT."""
    statements = split_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"{what} is one SELECT; this one has {len(statements)} statements")
    if "\0" in statements[0]:
        raise QueryError("the SQL has a NUL character, where the driver would cut it off")
    words = select_words(statements[0])
    if not words or words[0] not in ("SELECT", "WITH"):
        raise QueryError(f"{what} is one SELECT (it may begin with WITH)")
    other = [word for word in words if word in _NO_SELECT]
    if other:
        raise QueryError(f"{what} is one SELECT; this one has {other[0]} in it (a name is quoted: [name])")
    return statements[0]


def select_words(statement: str) -> list[str]:
    """Return the words of a statement in capitals, without those in texts, quoted names and comments.

    After a number, whose end only T-SQL knows, every ending is a word.
    """
    plain = _blanked(statement)
    words = [word.upper() for word in _WORD.findall(plain)]
    numbers = [run.upper() for run in _BEHIND_NUMBER.findall(plain) if not _BINARY.fullmatch(run)]
    return words + [run[start:] for run in numbers for start in range(1, len(run)) if run[start].isalpha()]


def _blanked(sql: str) -> str:
    """Return the SQL with spaces for texts, quoted names and (nested) comments."""
    parts, position = [], 0
    while match := _SKIPPED.search(sql, position):
        end = comment_end(sql, match.start()) or match.end()
        parts += [sql[position : match.start()], " " * (end - match.start())]
        position = end
    return "".join([*parts, sql[position:]])


def wrapped(sql: str, outer: Callable[[str], str]) -> str:
    """Return the SELECT that `outer` makes of a SELECT as a derived table for FROM.

    T-SQL does not allow all clauses there: common table expressions stay in front, query hints behind, and an ORDER BY
    gets an OFFSET (https://learn.microsoft.com/en-us/sql/t-sql/queries/
    select-order-by-clause-transact-sql, general remarks).
    """
    words = list(_outermost_words(sql))
    end = next((at for word, at in reversed(words) if word == "OPTION"), len(sql))
    start = 0
    if words and words[0][0] == "WITH":
        start = next((at for word, at in words if word == "SELECT"), 0)
    names = {word for word, at in words if start <= at < end}
    body = sql[start:end]
    if "ORDER" in names and names.isdisjoint(("TOP", "OFFSET")):
        body += "\nOFFSET 0 ROWS"
    return f"{sql[:start]}{outer(f'({body}{chr(10)})')}\n{sql[end:]}".rstrip()


def _outermost_words(sql: str) -> Iterator[tuple[str, int]]:
    plain = _blanked(sql)
    depth = 0
    for match in _WORD_OR_BRACKET.finditer(plain):
        if match[0] in "()":
            depth += 1 if match[0] == "(" else -1
        elif depth == 0:
            yield match[0].upper(), match.start()


def with_bounds(query: Query, sql: str, kind: Kind | None = None, zone: ZoneInfo | None = None) -> str:
    """Return the SQL with its bounds, as a column of that kind takes them; an instant in the time of `zone`.

    A name without a value stays, so that SQL Server refuses it.
    """

    def bound(name: str) -> str:
        if name not in query.binds:
            return f":{name}"
        if kind is Kind.TIMESTAMPTZ and zone is not None:
            return _instant(query.instants[name], zone)
        return _bound(query.binds[name], kind)

    return replace_binds(sql, bound)


def _instant(at: datetime, zone: ZoneInfo) -> str:
    there = at.astimezone(zone)
    # Offsets of a hundred years ago have seconds, those of SQL Server do not.
    shown = at if (there.utcoffset() or timedelta()) % timedelta(minutes=1) else there
    return f"'{shown.isoformat()}'"


def _bound(bound: datetime, kind: Kind | None) -> str:
    # ISO 8601 does not depend on the language. A datetime column refuses more than three digits of a second.
    digits = (
        "seconds" if not bound.microsecond else "microseconds" if bound.microsecond % 1000 else "milliseconds"
    )
    if kind is Kind.DATE:
        # SQL Server would cut the time off: take the first date that is not before the bound.
        first = bound + timedelta(days=1) - timedelta(microseconds=1)
        return f"'{first.date().isoformat()}'"
    return f"'{bound.isoformat(timespec=digits)}'"


#: The collations of a fingerprint's texts: with a text among the columns, and without one.
UTF8 = "Latin1_General_100_BIN2_UTF8"
BINARY = "Latin1_General_BIN2"
#: The most characters of nvarchar that is not (max).
_NVARCHAR = 4000


def collation_for(measure: Measure, columns: Sequence[Column]) -> str:
    """Return the collation of all texts of a fingerprint."""
    wanted = {column.name.lower(): column.kind for column in (*measure.key, *measure.values)}
    kinds = ((column.kind, wanted.get(column.name.lower())) for column in columns)
    return UTF8 if (Kind.TEXT, Kind.TEXT) in kinds else BINARY


def read_part(column: Column, kind: Kind, collation: str) -> tuple[str, dict[str, str]]:
    """Return a column's value in SQL and what its form needs: the collation, and a text's length."""
    name, dialect = quote(column.name), Dialect("mssql")
    block = f"read {column.declared.lower()}"
    sql = dialect.block(block, c=name) if dialect.has(block) else name
    extras = {"collation": collation}
    if column.kind is Kind.TEXT and kind is Kind.TEXT:
        extras["length"] = str(column.places) if (column.places or _NVARCHAR + 1) <= _NVARCHAR else "max"
    return sql, extras
