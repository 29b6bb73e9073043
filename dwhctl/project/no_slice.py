"""The rows that no slice will ever take: those whose `slice_by` is NULL. An extract cannot see them as it stands.

`column >= :start AND column < :end` is not true of a NULL. Where an extract says it in exactly this form, and nowhere
else uses the bounds, `column IS NULL` can stand in its place, and the rest of the extract holds for these rows too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dwhctl.project.sql import find_binds
from dwhctl.project.templates import Query

if TYPE_CHECKING:
    from dwhctl.project.sql import BindPosition

_NAME = r'(?:[^\W\d][\w@#$]*|"(?:[^"]|"")+"|\[(?:[^\]]|\]\])+\])'
_COLUMN = rf"{_NAME}(?:\.{_NAME})*"
_FROM = re.compile(rf"(?:\bWHERE\s+|\bAND\s+|\bON\s+|\(\s*)(?P<column>{_COLUMN})\s*>=\s*\Z", re.IGNORECASE)
_BELOW = re.compile(rf"\s+AND\s+(?P<column>{_COLUMN})\s*<\s*", re.IGNORECASE)


def without_slice(query: Query) -> Query | None:
    """Give the extract of the rows without a day; None when it does not have the form that can be changed so."""
    binds = find_binds(query.sql)
    if [bind.name for bind in binds] != ["start", "end"]:
        return None
    found = _condition(query.sql, *binds)
    if found is None:
        return None
    begin, column = found
    sql = f"{query.sql[:begin]}{column} IS NULL{query.sql[binds[1].end :]}"
    return Query(sql, {}, query.slice_by)


def _condition(sql: str, start: BindPosition, end: BindPosition) -> tuple[int, str] | None:
    first = _FROM.search(sql[: start.start])
    second = _BELOW.fullmatch(sql[start.end : end.start])
    if first is None or second is None or first["column"].lower() != second["column"].lower():
        return None
    return first.start("column"), first["column"]
