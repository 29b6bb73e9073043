"""Dates and times of HTTP sources: as ISO 8601 has them, or in a format that the column declares."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from dwhctl.core.columns import Kind
from dwhctl.project.response_columns import EPOCHS


def shown_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | Decimal):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "NULL"


_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?"
_FORMS = {
    Kind.DATE: (re.compile(_DATE, re.ASCII), "a date as 2020-07-13"),
    Kind.TIME: (re.compile(_TIME, re.ASCII), "a time as 12:34:56.123456, without a zone"),
    Kind.TIMESTAMP: (
        re.compile(rf"{_DATE}(?:[T ]{_TIME})?", re.ASCII),
        "a timestamp as 2020-07-13T12:34:56, without a zone",
    ),
    Kind.TIMESTAMPTZ: (
        re.compile(rf"{_DATE}[T ]{_TIME} ?(?:Z|[+-]\d\d(?::?\d\d)?)", re.ASCII),
        "a timestamp with an offset, as 2020-07-13T12:34:56+03:00",
    ),
}
_FRACTION = re.compile(r"(\.\d{1,6})(0*)(?=\D|$)")


def iso(kind: Kind) -> Callable[[Any], str]:
    """Return the reader of texts of ISO 8601, which Arrow takes."""
    form, words = _FORMS[kind]

    def read(value: Any) -> str:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError(f"{shown_kind(value)} is not {words}")
        # Arrow takes six digits of a fraction; zeros behind them say nothing, and other digits it refuses.
        return _FRACTION.sub(r"\1", value.replace(" +", "+").replace(" -", "-").replace(" Z", "Z"))

    return read


_read_time = iso(Kind.TIME)


def iso_time(value: Any) -> time:
    """Read a time of ISO 8601. Raise ValueError."""
    text = _read_time(value)
    if len(text.partition(".")[2]) > 6:
        raise ValueError("the time has more than six digits of a second")
    return time.fromisoformat(text)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COUNT = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?", re.ASCII)
#: How .NET writes milliseconds in JSON; the offset behind them says nothing about the moment.
_DOT_NET = re.compile(r"/Date\((-?\d{1,20})(?:[+-]\d{4})?\)/", re.ASCII)


def formatted(kind: Kind, form: str) -> Callable[[Any], Any]:
    """Return the reader of a declared format; it raises ValueError."""
    if form in EPOCHS:
        return lambda value: _since_1970(value, form).isoformat()

    def read(value: Any) -> str | time:
        try:
            found = datetime.strptime(value, form)  # noqa: DTZ007 - the format has the zone, if any
        except (ValueError, TypeError):
            raise ValueError(f"{shown_kind(value)} is not written as {form}") from None
        if kind is Kind.TIME:
            return found.time()
        return found.date().isoformat() if kind is Kind.DATE else found.isoformat()

    return read


def _since_1970(value: Any, form: str) -> datetime:
    if isinstance(value, str):
        found = _DOT_NET.fullmatch(value) if form == "epoch_ms" else None
        if found is None and not _COUNT.fullmatch(value):
            raise ValueError("the text is no number")
        value = Decimal(found[1] if found else value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{shown_kind(value)} is no number")
    number = Decimal(value)
    if not abs(number) <= 10**16:
        raise ValueError("the number is too large for a moment")
    micros = number * (1_000_000 // EPOCHS[form])
    if micros != micros.to_integral_value():
        raise ValueError("the number has more than six digits of a second")
    try:
        return _EPOCH + int(micros) * _MICROSECOND
    except OverflowError:
        raise ValueError("the number is too large for a moment") from None
