"""The declared columns of an HTTP source: their types, where their values are in a record, and how they are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dwhctl.core.words import did_you_mean, quoted
from dwhctl.project.fields import Listed, Table, Text


class ColumnType(NamedTuple):
    """The declared type of a column: the word, and the digits of a decimal or the length of a text."""

    word: str
    precision: int | None = None
    scale: int | None = None


#: The words for types, and what each is here.
TYPE_WORDS = {
    "boolean": "boolean",
    "bool": "boolean",
    "smallint": "smallint",
    "integer": "integer",
    "int": "integer",
    "bigint": "bigint",
    "decimal": "decimal",
    "numeric": "decimal",
    "real": "real",
    "double": "double",
    "double precision": "double",
    "text": "text",
    "varchar": "text",
    "uuid": "uuid",
    "binary": "binary",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "json": "json",
}
_TYPE = re.compile(
    r"([a-z]+(?: precision)?) ?(?:\( ?(\d{1,9}) ?(?:, ?(\d{1,3}) ?)?\))?( not null)?", re.ASCII
)
_MOST_DIGITS = 38


def parse_type(text: str) -> tuple[ColumnType, bool]:
    """Read a declared type such as `decimal(12,2) not null`; tell whether it may be NULL. Raise ValueError."""
    match = _TYPE.fullmatch(" ".join(text.lower().split()))
    word = TYPE_WORDS.get(match[1]) if match else None
    if match is None or word is None:
        hint = did_you_mean(text, TYPE_WORDS) or f"write one of {', '.join(TYPE_WORDS)}"
        raise ValueError(f"{quoted(text)} is no type of a column; {hint}")
    precision, scale = (int(each) if each else None for each in match.groups()[1:3])
    if word == "decimal":
        precision, scale = precision or 0, scale or 0
        if not 0 < precision <= _MOST_DIGITS or scale > precision:
            raise ValueError(f"{quoted(text)}: a decimal has 1 to {_MOST_DIGITS} digits; write decimal(12,2)")
    elif scale is not None or (precision is not None and word != "text"):
        raise ValueError(f"{quoted(text)}: only decimal and varchar take numbers in parentheses")
    return ColumnType(word, precision, scale), not match[4]


#: Formats of moments that are numbers, and how many of their units a second has.
EPOCHS = {"epoch": 1, "epoch_ms": 1000}
_YEARS = ("%Y", "%y", "%G", "%c", "%x")
_MOMENTS = frozenset({"date", "time", "timestamp", "timestamptz"})


def _type(text: str) -> str:
    parse_type(text)
    return text


def _check_format(form: str, word: str) -> None:
    """Raise ValueError for a format that a column of this type cannot be read by, or not wholly."""
    if word not in _MOMENTS:
        raise ValueError(f"format: is for {', '.join(sorted(_MOMENTS))}; leave it out for {word}")
    if form in EPOCHS:
        if word != "timestamptz":
            raise ValueError(f"format: {form} is a moment; declare the column timestamptz")
        return
    if "%" not in form:
        raise ValueError('format: has no %; write one as "%d.%m.%Y %H:%M:%S", epoch or epoch_ms')
    if "%Z" in form:
        raise ValueError("format: strptime reads the zone of %Z and forgets it; ask for an offset, %z")
    if word != "time" and not any(part in form for part in _YEARS):
        raise ValueError(f"format: has no year; write {' or '.join(_YEARS[:2])}")
    if ("%z" in form) != (word == "timestamptz"):
        raise ValueError("format: timestamptz needs %z, an offset; a type without a zone has none")
    try:
        datetime.strptime(datetime.now(UTC).strftime(form), form)  # noqa: DTZ007 - only tried
    except ValueError as error:
        raise ValueError(f"format: strptime cannot read it: {error}") from None


class ResponseColumn(Table):
    """A column of the answer as a table: its type, and where its value is in a record."""

    type: Annotated[Text, AfterValidator(_type)] = Field(examples=["bigint"])
    """The declared type, optionally with `not null`."""
    path: Text | None = Field(None, examples=["customer.id"])
    """Where the value is in the record, names with dots between, and numbers for the items of lists
    (`metrics.0`); default: the column's name."""
    optional: bool = Field(False, examples=[True])
    """Whether a record without the field is NULL in it, not an error."""
    format: Text | None = Field(None, examples=["%d.%m.%Y %H:%M:%S"])
    """How a date or time is written, where not as ISO 8601: in the words of Python's `strptime`, or `epoch` or
    `epoch_ms`, the seconds or milliseconds since 1970, for `timestamptz`."""
    null_values: Annotated[tuple[str, ...], Listed] = Field((), examples=[["", "0000-00-00"]])
    """The texts that mean NULL."""
    true_values: Annotated[tuple[str, ...], Listed] = Field((), examples=[["Y", "1"]])
    """The texts, or numbers as texts, that mean true for `boolean`, beside `true`."""
    false_values: Annotated[tuple[str, ...], Listed] = Field((), examples=[["N", "0"]])
    """The texts, or numbers as texts, that mean false for `boolean`, beside `false`."""
    decimal_point: Literal[".", ","] = Field(".", examples=[","])
    """What is before the fraction of a number that is a text."""

    @model_validator(mode="after")
    def _format_fits(self) -> ResponseColumn:
        word = parse_type(self.type)[0].word
        if self.format is not None:
            _check_format(self.format, word)
        if self.decimal_point == "," and word not in ("decimal", "real", "double"):
            raise ValueError("decimal_point: is for decimal, real and double")
        if (self.true_values or self.false_values) and word != "boolean":
            raise ValueError("true_values, false_values: are for boolean")
        listed = (*self.true_values, *self.false_values, *self.null_values)
        if twice := [value for value in listed if listed.count(value) > 1]:
            raise ValueError(f"true_values: {quoted(twice[0])} is listed twice; write what it means once")
        return self


def _column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _some_columns(columns: dict[str, ResponseColumn]) -> dict[str, ResponseColumn]:
    seen: set[str] = set()
    for name in columns:
        if not name.strip() or name.lower() in seen:
            raise ValueError(f"{quoted(name)} is declared twice" if name.strip() else "a name is empty")
        seen.add(name.lower())
    return columns


ResponseColumns = Annotated[
    dict[str, Annotated[ResponseColumn, BeforeValidator(_column)]], AfterValidator(_some_columns)
]
