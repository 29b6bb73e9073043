"""The shape of the sessions table: whether an existing table has it, and what is to be made or added."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from dwhctl.core.errors import SessionsError
from dwhctl.core.sql import named_sql

# The columns of a table that other programs made: column -> what it must be in PostgreSQL.
SEVEN = {
    "id": r"integer|bigint",
    "task_name": r"text|character varying(\(([2-9]\d\d|\d{4,})\))?",
    "started": r"timestamp( ?\(\d\))? with time zone",
    "finished": r"timestamp( ?\(\d\))? with time zone",
    "successful": r"boolean",
    "loaded_rows": r"integer|bigint|numeric",
    "comment": r"text|character varying(\(([5-9]\d\d|\d{4,})\))?",
}
# What the first version of dwhctl added, all at once: a table with only some of them is not dwhctl's.
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
LATER = {"worker": r"integer|bigint", "busy_seconds": r"double precision"}
ADDED = FIRST | LATER
# In the order of Session's fields.
COLUMNS = ", ".join([*SEVEN, *ADDED])
#: Indexes of earlier versions, which those in table.sql replace.
REPLACED = ("sessions_waiting", "sessions_by_slice", "sessions_by_task", "sessions_good")
_ALWAYS_GIVEN = {"id", "task_name", "started"}
_BIND = re.compile(r"(?<![:\w]):([a-z_]+)")


class ExistingColumn(NamedTuple):
    """One column of an existing table. `unique`: it is a key on its own."""

    name: str
    type: str
    required: bool  # NOT NULL
    has_default: bool
    unique: bool


class Schema(ABC):
    """The sessions table of one database and the tables beside it, by the statements of its dialect.

    `rows` executes a statement. `typed` says whether the database enforces declared types (SQLite does not).
    """

    typed: ClassVar[bool]
    remedy: ClassVar[str]

    def __init__(
        self, sql: Mapping[str, str], place: str, rows: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        self._sql = sql
        self._place = place
        self._rows = rows

    @abstractmethod
    def make(self) -> None:
        """Create the table, or upgrade it."""

    def exists(self) -> bool:
        """Return whether a run of this or an earlier version has added dwhctl's columns."""
        return self._has_table() and is_ours(self._columns())

    def is_readable(self) -> bool:
        """Return whether all columns and all tables exist."""
        return self._has_table() and not missing(self._columns()) and not self._tables_to_make()

    def is_ready(self) -> bool:
        """Return whether nothing is left to do. Needs only the right to read."""
        return self.is_readable() and not self._indexes_to_make() and not self._indexes_to_drop()

    def _has_table(self) -> bool:
        found = self._rows(self._sql["table"])
        if found and not found[0][0]:
            raise self._refusal(["it is not an ordinary table"])
        return bool(found)

    def _columns(self) -> list[ExistingColumn]:
        columns = [ExistingColumn(*row) for row in self._rows(self._sql["columns"])]
        if problems := misfits(columns, typed=self.typed):
            raise self._refusal(problems)
        return columns

    def _refusal(self, problems: list[str]) -> SessionsError:
        return SessionsError(
            f"{self._place}: a table `sessions` of another kind is there: {'; '.join(problems)}. {self.remedy}, or"
            " rename that table"
        )

    def _tables_to_make(self) -> list[str]:
        present = {name for (name,) in self._rows(self._sql["tables"])}
        return scripts_to_make(self._sql, present)

    def _indexes_to_make(self) -> dict[str, str]:
        valid = {name for name, is_valid in self._rows(self._sql["indexes"]) if is_valid}
        return {name: sql for name, sql in indexes(self._sql).items() if name not in valid}

    def _indexes_to_drop(self) -> dict[str, str]:
        """Return the statements that drop replaced indexes, by name; none before all those in their place exist."""
        present = {name for name, _ in self._rows(self._sql["indexes"])}
        found = {name: f"DROP INDEX IF EXISTS {name}" for name in REPLACED if name in present}
        return found if found and not self._indexes_to_make() else {}


def is_ours(columns: Iterable[ExistingColumn]) -> bool:
    """Return whether dwhctl, of this or an earlier version, has added its columns."""
    return {column.name for column in columns} >= FIRST.keys()


def missing(columns: Iterable[ExistingColumn]) -> list[str]:
    """Return which of dwhctl's own columns are still to be added."""
    names = {column.name for column in columns}
    return [name for name in ADDED if name not in names]


def misfits(columns: Sequence[ExistingColumn], *, typed: bool) -> list[str]:
    """Return why this table cannot be the sessions table; nothing if it can."""
    by_name = {column.name: column for column in columns}
    found = [f"it has no column {name}" for name in SEVEN if name not in by_name]
    if "id" in by_name and not by_name["id"].unique:
        found.append("id is not its primary key")
    if "run_id" in by_name and not is_ours(columns):
        found.append("its column run_id is not dwhctl's")
    return found + [problem for column in columns if (problem := _misfit(column, typed))]


def _misfit(column: ExistingColumn, typed: bool) -> str:
    wanted = (SEVEN | ADDED).get(column.name)
    if typed and wanted and not re.fullmatch(wanted, column.type):
        return f"its column {column.name} is {column.type}"
    if typed and column.name == "id" and not column.has_default:
        return "its column id has no default that numbers new rows"
    if column.required and not column.has_default and column.name not in _ALWAYS_GIVEN:
        return f"its column {column.name} may not be empty"
    return ""


@cache
def read_statements(dialect: str) -> Mapping[str, str]:
    """Return the statements by name: those for every dialect and those of this one."""
    found = named_sql("dwhctl.sessions", dialect)
    return MappingProxyType({name: sql.replace("$columns", COLUMNS) for name, sql in found.items()})


def _of_kind(kind: str, statements: Mapping[str, str]) -> dict[str, str]:
    return {name.split()[1]: sql for name, sql in statements.items() if name.startswith(f"{kind} ")}


def indexes(statements: Mapping[str, str]) -> dict[str, str]:
    """Return the statements that create the indexes, by the name of the index."""
    return _of_kind("index", statements)


def scripts_to_make(statements: Mapping[str, str], present: Collection[str]) -> list[str]:
    """Return the scripts that make each missing table, and copy the rows of the one that it replaces."""
    moves = [(*name.split(), sql) for name, sql in statements.items() if name.startswith("move ")]
    copies = {new: (old, sql) for _, new, _, old, sql in moves}
    found = []
    for name, script in _of_kind("table", statements).items():
        if name not in present:
            old, copy = copies.get(name, ("", ""))
            found.append(f"{script}; {copy}" if old in present else script)
    return found


def percent_style(sql: str) -> str:
    """Return the statement with psycopg2's `%(word)s`."""
    return _BIND.sub(r"%(\1)s", sql.replace("%", "%%"))
