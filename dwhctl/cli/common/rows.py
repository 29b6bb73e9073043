"""Rows of a query, written as they arrive: a table for people, JSON and CSV for programs.

In JSON and CSV values are unchanged, except for control characters on a terminal. A table makes control characters
printable and masks secrets.
"""

from __future__ import annotations

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from dwhctl.cli.common.output import write_out
from dwhctl.core.secrets import mask
from dwhctl.core.words import one_line, printable_json

Row = Sequence[Any]

#: Types that CSV and JSON take as they are.
_CSV_PLAIN: frozenset[type] = frozenset({str, int, float, Decimal, datetime, date, time, timedelta})
_JSON_PLAIN: frozenset[type] = frozenset({str, int, bool, type(None)})
_NUMBERS = (int, float, Decimal)


def open_writer(form: str) -> Writer:
    writers: dict[str, Callable[[], Writer]] = {"table": TableWriter, "json": JsonWriter, "csv": CsvWriter}
    return writers[form]()


class Writer(ABC):
    """Write answers one after another to stdout."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.answers = 0

    def begin(self, names: Sequence[str]) -> None:
        """Begin an answer; columns without a name, and those of an equal name, get a distinct one."""
        self.names = distinct(names)
        self.answers += 1
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Write what comes before the rows."""

    @abstractmethod
    def rows(self, rows: Sequence[Row]) -> None:
        """Write a batch of rows."""

    @abstractmethod
    def end(self) -> None:
        """End the answer."""


class TableWriter(Writer):
    """A table. It is written at the end: its widths depend on all rows."""

    def _begin(self) -> None:
        self._cells: list[list[str]] = []
        self._numeric = [True] * len(self.names)

    def rows(self, rows: Sequence[Row]) -> None:
        for index, column in enumerate(zip(*rows, strict=True)):
            self._numeric[index] &= all(value is None or _is_number(value) for value in column)
        self._cells += [[cell(value) for value in row] for row in rows]

    def end(self) -> None:
        from dwhctl.cli.common.table import draw

        names = [one_line(mask(name)) for name in self.names]
        write_out(("\n" if self.answers > 1 else "") + draw(names, self._cells, self._numeric), drawn=True)


class JsonWriter(Writer):
    """An array of objects, one a line; several answers are several arrays."""

    def _begin(self) -> None:
        self._first = True

    def rows(self, rows: Sequence[Row]) -> None:
        plain = zip(
            *(_converted(column, _JSON_PLAIN, json_value) for column in zip(*rows, strict=True)), strict=True
        )
        objects = (dict(zip(self.names, row, strict=True)) for row in plain)
        lines = [printable_json(json.dumps(found, ensure_ascii=False)) for found in objects]
        if lines:
            write_out(("[\n" if self._first else ",\n") + ",\n".join(lines), end="")
            self._first = False

    def end(self) -> None:
        write_out("[]" if self._first else "\n]")


class _Null:
    """NULL for the csv module: a number is not quoted, and so NULL differs from an empty text."""

    def __float__(self) -> float:
        return math.nan

    def __str__(self) -> str:
        return ""


_NULL = _Null()


class CsvWriter(Writer):
    """CSV with a line of names. Only numbers have no quotes; NULL is nothing, an empty text is `""`.

    An empty line separates answers. A row of a single NULL is `""` too: an empty line would be no row.
    """

    def _begin(self) -> None:
        if self.answers > 1:
            write_out("")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(self.names)
        write_out(text.getvalue(), end="")

    def rows(self, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        columns = (_converted(column, _CSV_PLAIN, csv_value) for column in zip(*rows, strict=True))
        writer.writerows(zip(*columns, strict=True))
        write_out(text.getvalue(), end="")

    def end(self) -> None:
        """Write nothing after the rows."""


def distinct(names: Sequence[str]) -> list[str]:
    """Return a name for every column: `column_2` where there is none, `id_2` where it is taken."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        wanted = name or f"column_{number}"
        fresh, count = wanted, 1
        while fresh in found:
            count += 1
            fresh = f"{wanted}_{count}"
        found.append(fresh)
    return found


def cell(value: object) -> str:
    """Return a value for a person: NULL differs from an empty text, numbers have no separators."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(mask(str(csv_value(value))))


def csv_value(value: object) -> object:
    """Return a value for CSV: what is not a number is a text."""
    if value is None or isinstance(value, bool):
        return {None: _NULL, True: "true", False: "false"}[value]
    if isinstance(value, Decimal):
        return _Bare(f"{value:f}")
    if isinstance(value, dict | list | tuple | set | frozenset):
        return json.dumps(json_value(value), ensure_ascii=False)
    return value if isinstance(value, int | float) else _text(value, " ")


class _Bare(str):
    """The digits of a number, which the csv module does not quote."""

    __slots__ = ()

    def __float__(self) -> float:
        return float(str(self))


def json_value(value: object) -> object:
    """Return a value for JSON: decimals are texts, because a reader of JSON may lose digits of a number."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return {str(json_value(key)): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(item) for item in value]
    return _text(value)


def _text(value: object, between: str = "T") -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return "0x" + bytes(value).hex()
    if isinstance(value, datetime):
        return value.isoformat(sep=between)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def _converted(
    column: Sequence[object], plain: frozenset[type], convert: Callable[[object], object]
) -> Iterable[object]:
    """Return the column as the format takes it: most columns need no conversion."""
    kinds = set(map(type, column))
    if kinds == {Decimal} and Decimal in plain:
        # Not every program reads 1E+3 and 0E-8.
        return map(convert, column) if "E" in "".join(map(str, column)) else column
    return column if kinds <= plain else map(convert, column)
