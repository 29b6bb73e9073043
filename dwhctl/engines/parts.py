"""The columns of one side of a comparison, as the fingerprint's SQL wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.engines.fingerprint import part
from dwhctl.errors import SchemaDriftError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dwhctl.columns import Column, Kind
    from dwhctl.engines.fingerprint import Part

    #: From a column of the source and the kind that it meets to its value in SQL and what its form needs beside it.
    Read = Callable[[Column, Kind], tuple[str, Mapping[str, str]]]


def source_parts(wanted: Sequence[Column], columns: Sequence[Column], read: Read) -> list[Part]:
    """Find the target's columns among those of a source. Raise SchemaDriftError when one is missing."""
    by_name = {column.name.lower(): column for column in columns}
    parts = []
    for column in wanted:
        found = by_name.get(column.name.lower())
        if found is None:
            raise SchemaDriftError(f"the extract has no column {column.name}")
        sql, extras = read(found, column.kind)
        parts.append(part(found, column.kind, sql, **extras))
    return parts
