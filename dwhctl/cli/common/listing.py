"""Listings: a command declares its columns once; a table for people, JSON and CSV for programs are made from them."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar, cast

from msgspec import Struct

from dwhctl.cli.common.output import tell, write
from dwhctl.core.secrets import mask
from dwhctl.core.words import printable_json

T = TypeVar("T")


class ListingColumn(Struct, Generic[T], frozen=True):
    """A column by the name that JSON and CSV use; a table's header has spaces for its underscores.

    `value` takes the value from a row; without it, it is the attribute of this name. `in_table` takes another value
    for tables; False keeps the column out of them. On a terminal `is_text` columns come last and wrap, others never
    do. The numbers of an `is_id` column are not grouped. `style` is rich's, by the value of the cell.
    """

    name: str
    value: Callable[[T], object] | None = None
    in_table: Callable[[T], object] | bool = True
    is_text: bool = False
    is_id: bool = False
    style: Callable[[Any], str] | None = None

    def of(self, row: T, *, for_table: bool) -> object:
        if for_table and callable(self.in_table):
            return self.in_table(row)
        return getattr(row, self.name) if self.value is None else self.value(row)


class Listing(Generic[T]):
    """The columns of a listing. Where a table is too wide, `spare` columns fall away, the first of them first.

    A row is an object; where no column has a `value`, it may be a tuple of all values.
    """

    def __init__(self, *columns: ListingColumn[T] | str, spare: Sequence[str] = ()) -> None:
        self.columns = tuple(
            ListingColumn(column) if isinstance(column, str) else column for column in columns
        )
        self._spare = spare
        self._takes_tuples = not any(column.value for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns' names, as JSON and CSV write them."""
        return tuple(column.name for column in self.columns)

    def show(
        self,
        rows: Iterable[T | tuple[object, ...]],
        form: str = "table",
        empty: str | None = None,
        longest: int | None = None,
    ) -> None:
        """Write rows to stdout as a table, JSON or CSV.

        A table without rows is the sentence `empty` on stderr, or nothing where that is empty too. On a terminal cells
        are cut at `longest` characters.
        """
        is_table = form == "table"
        shown = _for_json if form == "json" else _masked
        places = [number for number, column in enumerate(self.columns) if column.in_table or not is_table]
        columns = [self.columns[place] for place in places]
        cells = [
            [shown(row[place]) for place in places]
            if isinstance(row, tuple) and self._takes_tuples
            else [shown(column.of(cast("T", row), for_table=is_table)) for column in columns]
            for row in rows
        ]
        if is_table and not cells and empty is not None:
            if empty:
                tell(empty)
        elif is_table:
            from dwhctl.cli.common.table import table_text

            # On a terminal it has colours, and a screen made it printable.
            write(sys.stdout, table_text(columns, cells, self._spare, longest), as_it_is=sys.stdout.isatty())
        elif form == "json":
            _write_json([dict(zip(self.names, row, strict=True)) for row in cells])
        else:
            write(sys.stdout, _csv(self.names, cells), as_it_is=not sys.stdout.isatty())


def show_json(value: object) -> None:
    """Write a value to stdout as JSON: secrets masked, times in UTC as ISO 8601, nothing that acts on a terminal."""
    _write_json(_for_json(value))


def _write_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    write(sys.stdout, printable_json(text))


def _for_json(value: object) -> object:
    """Return a value, secrets masked; JSON has no infinite numbers."""
    if isinstance(value, Mapping):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else _masked(value)


def _masked(value: object) -> object:
    return mask(value) if isinstance(value, str) else value


def _csv(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue().removesuffix("\n")


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):  # or a datetime
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float) else str(value)
