"""The delimited parser for whole pieces of input at once, by Arrow: only what the exact parser would read alike.

`cut` finds where a piece may end and makes sure that its structure is one that both parsers see the same way; `read`
gives its rows, or None when a value is not of the plain form that both take for the same value.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tests.servers.vertica.copy_grammar import Copy, Format
from tests.servers.vertica.copy_values import Field, Reject, convert
from tests.servers.vertica.kinds import ENGINE_DIGITS, Kind

_NEWLINE, _RETURN = 10, 13
_RESERVED = -(2**63)
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_NULL_WORDS = ["".join(each) for each in itertools.product(*zip("null", "NULL", strict=True))]
_TRUE = ["t", "true", "y", "yes", "1", "T", "TRUE", "True", "Y", "YES"]
_FALSE = ["f", "false", "n", "no", "0", "F", "FALSE", "False", "N", "NO"]
_NO_ZONE = ZoneInfo("UTC")
_ARROW = {
    "int": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}


def arrow_type(kind: Kind) -> Any:
    """The Arrow type in which a column's values go to the engine."""
    if kind.is_binary:
        return pa.binary()
    if kind.name == "numeric" and (kind.precision or 0) <= ENGINE_DIGITS:
        return pa.decimal128(kind.precision, kind.scale)
    return _ARROW.get(kind.name, pa.string())


class Cutter:
    """Finds the end of the last whole record of a piece."""

    def __init__(self, form: Format) -> None:
        self.usable = form.terminator == "\n" and form.delimiter not in "\n\r"
        self._delimiter = ord(form.delimiter)
        self._quote = ord(form.enclosed) if form.enclosed else -1
        self._escape = ord(form.escape) if form.escape else -1

    def cut(self, buffer: bytes) -> int:
        """How many octets are whole records that may be read fast; 0 when the exact parser has to."""
        if not self.usable or _may_end(buffer):
            return 0
        octets = self._masked(buffer)
        masked = octets.tobytes()
        quotes = np.flatnonzero(octets == self._quote) if self._quote >= 0 else np.empty(0, np.intp)
        end = _last_newline(masked, quotes)
        if end < 0:
            return 0
        quotes = quotes[: np.searchsorted(quotes, end)]
        regular = self._regular(octets, quotes) and self._ordinary(
            masked[: end + 1], octets[: end + 1], quotes
        )
        return end + 1 if regular else 0

    def _masked(self, buffer: bytes) -> npt.NDArray[np.uint8]:
        """The octets, with 0xFF (no ASCII character) in place of each escape character and what it escapes."""
        octets = np.frombuffer(buffer, np.uint8)
        escapes = np.flatnonzero(octets == self._escape) if self._escape >= 0 else np.empty(0, np.intp)
        if not len(escapes):
            return octets
        # Of escape characters in a row every second one is escaped itself.
        index = np.arange(len(escapes))
        first = np.concatenate(([True], np.diff(escapes) != 1))
        begun = np.maximum.accumulate(np.where(first, index, 0))
        active = escapes[(index - begun) % 2 == 0]
        masked = octets.copy()
        masked[active] = 0xFF
        masked[np.minimum(active + 1, len(octets) - 1)] = 0xFF
        return masked

    def _regular(self, octets: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp]) -> bool:
        """Whether each quote opens or closes a whole field."""
        opening, closing = quotes[0::2], quotes[1::2]
        before = octets[opening[opening > 0] - 1]
        return self._separates(before) and self._separates(octets[closing + 1])

    @staticmethod
    def _ordinary(masked: bytes, octets: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp]) -> bool:
        if masked.startswith(b"\n"):
            return False
        # Arrow ends a record at a bare carriage return, the original does not.
        if b"\r" in masked and not _inside(np.flatnonzero(octets == _RETURN), quotes):
            return False
        # An empty line is a matter of the exact parser.
        if b"\n\n" not in masked:
            return True
        newlines = np.flatnonzero(octets == _NEWLINE)
        return _inside(newlines[1:][np.diff(newlines) == 1], quotes)

    def _separates(self, octets: npt.NDArray[np.uint8]) -> bool:
        return bool(((octets == self._delimiter) | (octets == _NEWLINE)).all())


def _may_end(buffer: bytes) -> bool:
    """Whether there may be a line that ends the data."""
    return b"\n\\.\n" in buffer or buffer.startswith(b"\\.\n") or buffer.endswith(b"\\.")


def _last_newline(masked: bytes, quotes: npt.NDArray[np.intp]) -> int:
    end = masked.rfind(b"\n")
    while end >= 0:
        before = int(np.searchsorted(quotes, end))
        if before % 2 == 0:
            return end
        end = masked.rfind(b"\n", 0, int(quotes[before - 1]))
    return -1


def _inside(places: npt.NDArray[np.intp], quotes: npt.NDArray[np.intp]) -> bool:
    """Whether all places lie between an opening and a closing quote."""
    return bool((np.searchsorted(quotes, places) % 2 == 1).all())


class FastReader:
    """Reads whole records into an Arrow table of the fields."""

    def __init__(self, copy: Copy, fields: Sequence[Field], zone: str) -> None:
        form = copy.format
        self._fields = fields
        self._zone = zone
        self._naive = False
        nulls = {field.null if field.null is not None else form.null for field in fields}
        self.usable = len(nulls) == 1
        self._null = next(iter(nulls))
        self._parse = pyarrow.csv.ParseOptions(
            delimiter=form.delimiter,
            quote_char=form.enclosed or False,
            double_quote=False,
            escape_char=form.escape or False,
            newlines_in_values=True,
            ignore_empty_lines=False,
        )

    def read(self, piece: bytes) -> Any:
        """The rows; None when the exact parser has to look at them."""
        for naive in (self._naive, not self._naive):
            try:
                table = self._read(piece, naive=naive)
            except pa.ArrowInvalid:
                if not any(field.kind.name == "timestamptz" for field in self._fields):
                    return None
            else:
                self._naive = naive
                return self._checked(table)
        return None

    def _read(self, piece: bytes, *, naive: bool) -> Any:
        names = [str(index) for index in range(len(self._fields))]
        types = [self._read_type(field.kind, naive=naive) for field in self._fields]
        return pyarrow.csv.read_csv(
            pa.BufferReader(piece),
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(piece) + 1
            ),
            parse_options=self._parse,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict(zip(names, types, strict=True)),
                null_values=_NULL_WORDS if self._null.casefold() == "null" else [self._null],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=_TRUE,
                false_values=_FALSE,
            ),
        )

    @staticmethod
    def _read_type(kind: Kind, *, naive: bool) -> Any:
        if kind.is_binary:
            return pa.string()
        if kind.name == "timestamptz" and naive:
            return pa.timestamp("us")
        return arrow_type(kind)

    def _checked(self, table: Any) -> Any:
        columns = []
        for index, field in enumerate(self._fields):
            column = self._column(field, table.column(index))
            if column is None or (not field.nullable and column.null_count):
                return None
            columns.append(column)
        return pa.Table.from_arrays(columns, names=table.column_names)

    def _column(self, field: Field, column: Any) -> Any:
        kind = field.kind
        if kind.is_text:
            return _texts(kind, column)
        if kind.is_binary:
            return _binaries(field, column)
        if kind.name == "int":
            return None if pc.min(column).as_py() == _RESERVED else column
        if kind.name == "uuid":
            return column if pc.all(pc.match_substring_regex(column, _UUID)).as_py() is not False else None
        if kind.name == "numeric" and (kind.precision or 0) > ENGINE_DIGITS:
            # Wider than the engine's decimals: its text needs the exact conversion.
            return None
        if kind.name == "timestamptz" and self._naive:
            return _in_zone(column, self._zone)
        return column


def _texts(kind: Kind, column: Any) -> Any:
    if kind.name == "char":
        column = pc.utf8_rtrim(column, " ")
    longest = pc.max(pc.binary_length(column)).as_py()
    return column if longest is None or longest <= (kind.length or 0) else None


def _binaries(field: Field, column: Any) -> Any:
    try:
        values = [None if text is None else convert(field, text, _NO_ZONE) for text in column.to_pylist()]
    except Reject:
        return None
    return pa.array(values, pa.binary())


def _in_zone(column: Any, zone: str) -> Any:
    try:
        return pc.cast(pc.assume_timezone(column, zone), pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        # A wall clock's hour that there was twice or not at all.
        return None
