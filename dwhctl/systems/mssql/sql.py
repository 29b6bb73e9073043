"""The extract's SQL for SQL Server: one SELECT, with its bounds as texts that do not depend on settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError
from dwhctl.core.sql import comment_end, replace_binds, split_statements
from dwhctl.systems.base.fingerprint import Dialect, Measure
from dwhctl.systems.mssql.types import quote

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from dwhctl.project.templates import Query


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
