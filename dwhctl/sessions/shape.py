"""Whether a table that stands there can be the sessions table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# What others wrote the table for, and what dwhctl adds: column -> what it must be in PostgreSQL.
SEVEN = {
    "id": r"integer|bigint",
    "task_name": r"text|character varying(\(([2-9]\d\d|\d{4,})\))?",
    "started": r"timestamp( ?\(\d\))? with time zone",
    "finished": r"timestamp( ?\(\d\))? with time zone",
    "successful": r"boolean",
    "loaded_rows": r"integer|bigint|numeric",
    "comment": r"text|character varying(\(([5-9]\d\d|\d{4,})\))?",
}
# What dwhctl has added from the beginning, all at once: a table with some of it only is not dwhctl's.
FIRST = {
    "run_id": r"text",
    "load": r"text",
    "shard": r"text",
    "slice_date": r"date",
    "attempt": r"integer|bigint",
    "state": r"text",
    "staged": r"text",
    "extracted_rows": r"bigint",
    "bytes": r"bigint",
    "error_class": r"text",
    "host": r"text",
    "pid": r"integer|bigint",
    "dwhctl_version": r"text",
}
# What later versions added.
LATER = {
    "worker": r"integer|bigint",
    "busy_seconds": r"double precision",
}
ADDED = FIRST | LATER
_ALWAYS_GIVEN = {"id", "task_name", "started"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table that stands there."""

    name: str
    type: str
    required: bool  # NOT NULL
    has_default: bool
    unique: bool  # by itself


def is_ours(columns: Iterable[Column]) -> bool:
    """Tell whether dwhctl, of this or an earlier version, has added its columns."""
    return {column.name for column in columns} >= FIRST.keys()


def missing(columns: Iterable[Column]) -> list[str]:
    """Which of dwhctl's own columns are still to be added."""
    names = {column.name for column in columns}
    return [name for name in ADDED if name not in names]


def misfits(columns: Sequence[Column], *, typed: bool) -> list[str]:
    """Why this table cannot be the sessions table, in words; nothing if it can.

    `typed` tells whether the database minds the declared types (SQLite does not).
    """
    by_name = {column.name: column for column in columns}
    found = [f"it has no column {name}" for name in SEVEN if name not in by_name]
    if "id" in by_name and not by_name["id"].unique:
        found.append("id is not its primary key")
    if "run_id" in by_name and not is_ours(columns):
        found.append("its column run_id is not dwhctl's")
    for column in columns:
        found += _misfit(column, typed)
    return found


def _misfit(column: Column, typed: bool) -> list[str]:
    wanted = (SEVEN | ADDED).get(column.name)
    if typed and wanted and not re.fullmatch(wanted, column.type):
        return [f"its column {column.name} is {column.type}"]
    if typed and column.name == "id" and not column.has_default:
        return ["its column id does not number by itself"]
    if column.required and not column.has_default and column.name not in _ALWAYS_GIVEN:
        return [f"its column {column.name} may not be empty"]
    return []
