"""Declared columns of HTTP sources, and their values as Arrow arrays: exactly as they were, or refused.

A value comes from JSON as a text, an int, a Decimal (never a float), a bool or None, from CSV as a text or None. It is
read by its declared type (`TAKES`); what the type does not hold as it is, is a ValueRefusedError by row and column.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import ValueRefusedError
from dwhctl.project.response_columns import ColumnType, parse_type
from dwhctl.systems.base.system import SourceType
from dwhctl.systems.http.moments import formatted, iso, iso_time, shown_kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dwhctl.project.response_columns import ResponseColumn

#: Declared types, and the values of JSON and CSV that each takes.
TAKES = {
    "smallint, integer, bigint": "a number without a fraction, or a text of digits",
    "decimal(p,s)": "a number, or a text of one, whose digits have room",
    "real, double": "a number, or a text of one; the texts `NaN`, `Infinity`, `-Infinity`",
    "boolean": "true, false, or a text of them",
    "text, varchar(n)": "a text, of at most n characters",
    "uuid, binary": "a text: a UUID; base64",
    "date, time, timestamp": "a text of ISO 8601 without an offset, at most six digits of a second",
    "timestamptz": "a text of ISO 8601 with an offset or `Z`, at most six digits of a second",
    "json": "any value; it is kept as JSON text, numbers with all their digits",
}
_KINDS: dict[str, tuple[Kind, pa.DataType]] = {
    "boolean": (Kind.BOOLEAN, pa.bool_()),
    "smallint": (Kind.INTEGER, pa.int16()),
    "integer": (Kind.INTEGER, pa.int32()),
    "bigint": (Kind.INTEGER, pa.int64()),
    "real": (Kind.FLOAT, pa.float32()),
    "double": (Kind.FLOAT, pa.float64()),
    "text": (Kind.TEXT, pa.string()),
    "json": (Kind.TEXT, pa.string()),
    "uuid": (Kind.UUID, pa.string()),
    "binary": (Kind.BINARY, pa.binary()),
    "date": (Kind.DATE, pa.date32()),
    "time": (Kind.TIME, pa.time64("us")),
    "timestamp": (Kind.TIMESTAMP, pa.timestamp("us")),
    "timestamptz": (Kind.TIMESTAMPTZ, pa.timestamp("us", tz="UTC")),
}


def declared_columns(columns: Mapping[str, ResponseColumn]) -> list[Column]:
    return [_column(name, *parse_type(column.type)) for name, column in columns.items()]


def _column(name: str, declared: ColumnType, nullable: bool) -> Column:
    if declared.word == "decimal":
        digits = pa.decimal128(declared.precision, declared.scale)
        text = f"decimal({declared.precision},{declared.scale})"
        return Column(name, Kind.DECIMAL, digits, text, nullable)
    kind, arrow = _KINDS[declared.word]
    if declared.precision is not None:
        return Column(
            name, kind, arrow, f"varchar({declared.precision})", nullable, places=declared.precision
        )
    return Column(name, kind, arrow, declared.word, nullable)


def source_types() -> list[SourceType]:
    examples = ["decimal(12,2)", "varchar(50)", *_KINDS]
    columns = [_column("c", *parse_type(example)) for example in examples]
    return [SourceType(column.declared, column, str(column.kind)) for column in columns]


class Missing:
    """A field that a record does not have."""


MISSING = Missing()


class Twice:
    """The value of a field that a record has more than once: which of them is meant, JSON does not say."""


TWICE = Twice()


class Converter:
    """Makes the Arrow array of one declared column from the values of some records."""

    def __init__(self, column: Column, declared: ResponseColumn | None = None) -> None:
        self.column = column
        self._read = _reader(column, declared)
        takes_all = column.declared == "json" or (declared is not None and declared.null_values)
        self._plain = frozenset() if takes_all else _PLAIN.get(column.kind, frozenset())

    def __call__(self, values: Sequence[Any], first_row: int) -> pa.Array:
        """Return the array. Raise ValueRefusedError with the row (from 1, over all pages) and the column."""
        try:
            if not self._plain.issuperset(map(type, values)):
                values = [None if value is None else self._read(value) for value in values]
            array = pa.array(values, self._staging).cast(self.column.type)
        except (ValueError, OverflowError, TypeError, RecursionError, pa.ArrowException):
            row, reason = self._first_refused(values)
            raise self.refusal(first_row + row, reason) from None
        self._check_nulls(array, first_row)
        self._check_length(array, first_row)
        return array

    def refusal(self, row: int, reason: str) -> ValueRefusedError:
        return ValueRefusedError(f"row {row:,}, column {self.column.name} ({self.column.declared}): {reason}")

    @property
    def _staging(self) -> pa.DataType:
        # Arrow reads dates and times out of texts, and is strict about zones and digits.
        return pa.string() if self.column.kind in _TEMPORAL else self.column.type

    def _first_refused(self, values: Sequence[Any]) -> tuple[int, str]:
        for row, value in enumerate(values):
            try:
                is_plain = value is None or type(value) in self._plain
                read = value if is_plain else self._read(value)
                pa.array([read], self._staging).cast(self.column.type)
            except ValueError as error:
                foreign = isinstance(error, pa.ArrowException | UnicodeError) or value is TWICE
                return row, self._no_value(value) if foreign else str(error)
            except (OverflowError, TypeError, RecursionError, pa.ArrowException):
                return row, self._no_value(value)
        return 0, "the values are of different kinds"

    def _no_value(self, value: Any) -> str:
        if value is TWICE:
            return "the record has the field more than once"
        if isinstance(value, str) and any(0xD800 <= ord(each) < 0xE000 for each in value):
            return "the text has half a character (a lone surrogate), which UTF-8 cannot hold"
        return f"{shown_kind(value)} is not a value of this type, or does not fit"

    def _check_nulls(self, array: pa.Array, first_row: int) -> None:
        if not self.column.nullable and array.null_count:
            row = array.is_null().index(True).as_py()
            raise self.refusal(first_row + row, "NULL, but the column is declared not null")

    def _check_length(self, array: pa.Array, first_row: int) -> None:
        most = self.column.places
        if most is None:
            return
        for row, value in enumerate(array.to_pylist()):
            if value is not None and len(value) > most:
                raise self.refusal(first_row + row, f"the text has {len(value):,} characters")


_TEMPORAL = frozenset({Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
_NONE = type(None)
#: Types that Arrow takes as they are. A bool is no integer here, a text no number.
_PLAIN: dict[Kind, frozenset[type]] = {
    Kind.INTEGER: frozenset({int, _NONE}),
    Kind.BOOLEAN: frozenset({bool, _NONE}),
    Kind.TEXT: frozenset({str, _NONE}),
}


def _reader(column: Column, declared: ResponseColumn | None) -> Callable[[Any], Any]:
    if declared is None:
        return _reader_of(column, None)
    read = _reader_of(column, declared.format)
    known: dict[str, bool | None] = dict.fromkeys(declared.null_values)
    numbers = dict.fromkeys(declared.true_values, True) | dict.fromkeys(declared.false_values, False)
    if declared.decimal_point == ",":
        point = read

        def read(value: Any) -> Any:
            # A point in such a text is no point: it may be between thousands.
            is_text = isinstance(value, str) and value not in _NO_NUMBERS
            return point(value.replace(".", "_").replace(",", ".") if is_text else value)

    if not known and not numbers:
        return read
    known |= numbers

    def known_or_read(value: Any) -> Any:
        if type(value) is str and value in known:
            return known[value]
        if type(value) is int and str(value) in numbers:
            return numbers[str(value)]
        return read(value)

    return known_or_read


def _reader_of(column: Column, form: str | None) -> Callable[[Any], Any]:
    if form is not None:
        return formatted(column.kind, form)
    if column.declared == "json":
        return json_text
    if column.kind is Kind.DECIMAL:
        return lambda value: _decimal(value, column.type.precision, column.type.scale)
    if column.kind is Kind.FLOAT:
        return lambda value: _float(value, column.type)
    return _READERS[column.kind]


_DIGITS = re.compile(r"[+-]?\d{1,40}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?", re.ASCII)
#: A number with a larger exponent has no place in any type, and its digits would fill the memory.
_MOST_EXPONENT = 400


def _number(value: Any) -> Decimal:
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise ValueError("the text is no number")
        value = Decimal(value)
    elif isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{shown_kind(value)} is no number")
    number = Decimal(value)
    if number and not -_MOST_EXPONENT <= number.adjusted() <= _MOST_EXPONENT:
        raise ValueError("the number does not fit")
    return number


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise ValueError("the text is no whole number")
        return int(value)
    number = _number(value)
    if number != number.to_integral_value():
        raise ValueError("the number has a fraction")
    return int(number)


def _decimal(value: Any, precision: int, scale: int) -> Decimal:
    number = _number(value)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    kept = list(digits)
    while kept and kept[-1] == 0 and exponent < 0:
        kept.pop()
        exponent += 1
    if exponent < -scale:
        raise ValueError(f"the number has more than {scale} digits after the point")
    if any(kept) and len(kept) + exponent > precision - scale:
        raise ValueError(f"the number has more than {precision - scale} digits before the point")
    return Decimal((sign, tuple(kept) or (0,), exponent if any(kept) else 0))


_NO_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_MOST_REAL = float.fromhex("0x1.fffffep+127")


def _float(value: Any, type_: pa.DataType) -> float:
    if isinstance(value, str) and value in _NO_NUMBERS:
        return _NO_NUMBERS[value]
    number = _number(value)
    result = float(number)
    if abs(result) == float("inf") or (type_ == pa.float32() and abs(result) > _MOST_REAL):
        raise ValueError("the number is too large")
    if type(value) is int and int(result) != value:
        raise ValueError("the whole number has more digits than the type holds; declare it bigint or decimal")
    if number == 0 and number.is_signed():
        return -0.0
    return result


_TRUTH = {"true": True, "false": False}


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise ValueError(f"{shown_kind(value)} is not true or false")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown_kind(value)} is no text; declare what it is, or json to keep any value")
    return value


_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)


def _uuid(value: Any) -> str:
    if not _UUID.fullmatch(_text(value)):
        raise ValueError("the text is no UUID")
    digits = value.lower().replace("-", "")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _binary(value: Any) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error:
        raise ValueError("the text is no base64") from None


_READERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.TEXT: _text,
    Kind.UUID: _uuid,
    Kind.BINARY: _binary,
    Kind.TIME: iso_time,
} | {kind: iso(kind) for kind in _TEMPORAL}


def json_text(value: Any) -> str:
    """Return a value as JSON; a Decimal keeps the digits that it came with."""
    return "".join(_json_parts(value))


def _json_parts(value: Any) -> Iterator[str]:
    if isinstance(value, Decimal):
        yield str(value)
    elif isinstance(value, dict):
        yield "{"
        for number, (name, each) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(name, ensure_ascii=False)}: "
            yield from _json_parts(each)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, each in enumerate(value):
            yield ", " if number else ""
            yield from _json_parts(each)
        yield "]"
    elif value is TWICE:
        raise ValueError("the value has a field more than once")
    else:
        yield json.dumps(value, ensure_ascii=False)
