"""Reads the room's SQL files: blocks that start with `-- name: ...`, with `:word` for bound values.

A file is for every dialect (`common.sql`), or for the one that its name ends with (`sqlite.sql`, `history.sqlite.sql`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

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
