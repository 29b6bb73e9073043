"""Reads the room's SQL files: blocks that start with `-- name: ...`, with `:word` for bound values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

# In the order of Session's fields.
COLUMNS = (
    "id, task_name, started, finished, successful, loaded_rows, comment, run_id, load, shard, slice_date, "
    "attempt, state, staged, extracted_rows, bytes, error_class, host, pid, dwhctl_version"
)
_NAME = re.compile(r"^-- name: (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_BIND = re.compile(r"(?<![:\w]):([a-z_]+)")


@cache
def read_statements(dialect: str) -> Mapping[str, str]:
    """Statements by name: those of common.sql and those of the dialect."""
    found: dict[str, str] = {}
    for file in ("common", dialect):
        text = resources.files("dwhctl.sessions").joinpath(f"{file}.sql").read_text("utf-8")
        found.update(parse_blocks(text))
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


def percent_style(sql: str) -> str:
    """The same statement with psycopg2's `%(word)s`."""
    return _BIND.sub(r"%(\1)s", sql.replace("%", "%%"))
