"""Whether a table that stands there can be the sessions table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

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
class ExistingColumn:
    """One column of the table that stands there."""

    name: str
    type: str
    required: bool  # NOT NULL
    has_default: bool
    unique: bool  # by itself


def is_ours(columns: Iterable[ExistingColumn]) -> bool:
    """Tell whether dwhctl, of this or an earlier version, has added its columns."""
    return {column.name for column in columns} >= FIRST.keys()


def missing(columns: Iterable[ExistingColumn]) -> list[str]:
    """Which of dwhctl's own columns are still to be added."""
    names = {column.name for column in columns}
    return [name for name in ADDED if name not in names]


def misfits(columns: Sequence[ExistingColumn], *, typed: bool) -> list[str]:
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


def _misfit(column: ExistingColumn, typed: bool) -> list[str]:
    wanted = (SEVEN | ADDED).get(column.name)
    if typed and wanted and not re.fullmatch(wanted, column.type):
        return [f"its column {column.name} is {column.type}"]
    if typed and column.name == "id" and not column.has_default:
        return ["its column id does not number by itself"]
    if column.required and not column.has_default and column.name not in _ALWAYS_GIVEN:
        return [f"its column {column.name} may not be empty"]
    return []


# In the order of Session's fields.
COLUMNS = (
    "id, task_name, started, finished, successful, loaded_rows, comment, run_id, load, shard, slice_date, "
    "attempt, state, staged, extracted_rows, bytes, error_class, host, pid, dwhctl_version, "
    "worker, busy_seconds"
)
_NAME = re.compile(r"^-- name: (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_BIND = re.compile(r"(?<![:\w]):([a-z_]+)")


_DIALECTS = {"sqlite", "postgres"}


@cache
def read_statements(dialect: str) -> Mapping[str, str]:
    """Statements by name: those for every dialect and those of this one."""
    found: dict[str, str] = {}
    files = (file for file in resources.files("dwhctl.sessions").iterdir() if file.name.endswith(".sql"))
    for file in sorted(files, key=lambda file: file.name):
        if file.name.split(".")[-2] not in _DIALECTS - {dialect}:
            found |= parse_blocks(file.read_text("utf-8"))
    return MappingProxyType(found)


def parse_blocks(text: str) -> dict[str, str]:
    """The blocks of one SQL file by name, without comments, `$columns` filled in."""
    _, *parts = _NAME.split(text)
    names, bodies = parts[::2], parts[1::2]
    return {
        name.strip(): _COMMENT.sub("", body).strip().replace("$columns", COLUMNS)
        for name, body in zip(names, bodies, strict=True)
    }


def indexes(statements: Mapping[str, str]) -> dict[str, str]:
    """The statements that create the indexes, by the name of the index."""
    return {name.split()[1]: sql for name, sql in statements.items() if name.startswith("index ")}


def tables(statements: Mapping[str, str]) -> dict[str, str]:
    """The statements that create the tables beside `sessions`, with their indexes, by the name of the table."""
    return {name.split()[1]: sql for name, sql in statements.items() if name.startswith("table ")}


def moves(statements: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return by a table's name the one that it takes the place of, and the statement that copies its rows."""
    found = ((name.split(), sql) for name, sql in statements.items() if name.startswith("move "))
    return {words[1]: (words[3], sql) for words, sql in found}


def scripts_to_make(statements: Mapping[str, str], present: Collection[str]) -> list[str]:
    """Return what makes each missing table, and copies the rows of the one whose place it takes."""
    found = []
    for name, script in tables(statements).items():
        if name not in present:
            old, copy = moves(statements).get(name, ("", ""))
            found.append(f"{script}; {copy}" if old in present else script)
    return found


def percent_style(sql: str) -> str:
    """The same statement with psycopg2's `%(word)s`."""
    return _BIND.sub(r"%(\1)s", sql.replace("%", "%%"))
