"""What DuckDB's own parser says of a statement, without any database."""

from __future__ import annotations

import re

import duckdb

from dwhctl.engines.duckdb import words

#: Kinds of statements that give rows, EXPLAIN left out; DuckDB makes several statements of one PIVOT.
_GIVE_ROWS = ("SELECT", "MULTI", "PRAGMA", "CALL", "RELATION")
_LINE = re.compile(r"\nLINE (\d+):")


def syntax_problem(sql: str) -> str | None:
    """Return DuckDB's syntax error with its line, or None."""
    try:
        duckdb.extract_statements(sql)
    except duckdb.Error as error:
        line = _LINE.search(str(error))
        return f"{f'line {line[1]} as rendered: ' if line else ''}{words(error)}"
    return None


def query_problem(sql: str) -> str | None:
    """Return the syntax error, or that the statement gives no rows, or None."""
    if problem := syntax_problem(sql):
        return problem
    kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]
    other = [kind for kind in kinds if kind not in _GIVE_ROWS]
    return f"an extract is one SELECT; this one is {other[0]}" if other else None
