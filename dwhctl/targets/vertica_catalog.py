"""What Vertica's catalog says of a table's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.engines import vertica_types as types
from dwhctl.errors import TargetRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.columns import Column
    from dwhctl.engines.vertica import Session
    from dwhctl.targets.vertica_names import TableName

#: Name, type in Vertica's words, and whether NULL is allowed.
Declared = tuple[str, str, bool]


def declared_columns(session: Session, table: TableName) -> list[Declared]:
    """Give the columns that dwhctl writes (an IDENTITY column Vertica fills itself); none when there is no table."""
    rows = session.dicts(f"SELECT * FROM v_catalog.columns WHERE {table.condition} ORDER BY ordinal_position")
    return [
        (str(row["column_name"]), str(row["data_type"]), bool(row.get("is_nullable", True)))
        for row in rows
        if not row.get("is_identity")
    ]


def filled_columns(session: Session, table: TableName) -> set[str]:
    """Name the columns that Vertica fills by itself where a statement does not: DEFAULT, IDENTITY."""
    rows = session.dicts(f"SELECT * FROM v_catalog.columns WHERE {table.condition}")
    return {str(row["column_name"]) for row in rows if row.get("is_identity") or row.get("column_default")}


def existing_columns(session: Session, table: TableName) -> list[Declared]:
    """Give the columns that dwhctl writes. Raise TargetRefusedError when there is no such table."""
    found = declared_columns(session, table)
    if not found:
        raise TargetRefusedError(f"there is no table {table}, or the user has no privilege on it")
    return found


def described(session: Session, table: TableName) -> list[Column]:
    """Describe the columns. Raise TargetRefusedError for a type that has no place here."""
    return [_described(table, one) for one in existing_columns(session, table)]


def described_column(session: Session, table: TableName, name: str) -> Column:
    """Describe one column. Raise TargetRefusedError when it is not there."""
    for one in declared_columns(session, table):
        if one[0].lower() == name.lower():
            return _described(table, one)
    raise TargetRefusedError(f"there is no {table}.{name}, or the user has no privilege on the table")


def names_of(columns: Sequence[Declared]) -> set[str]:
    """Give the names in lower case: Vertica compares them without case."""
    return {name.lower() for name, _, _ in columns}


def _described(table: TableName, one: Declared) -> Column:
    name, declared, nullable = one
    column = types.column(name, declared, nullable=nullable)
    if column is None:
        raise TargetRefusedError(f"{table}.{name}: dwhctl does not write Vertica's type {declared}")
    return column
