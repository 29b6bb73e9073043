"""Values of HTTP sources by their declared types: as they were, or refused by row and column."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from dwhctl.core.errors import ValueRefusedError
from dwhctl.project.response_columns import ResponseColumn
from dwhctl.systems.http.types import Converter, declared_columns, json_text


def converter(declared: str) -> Converter:
    (column,) = declared_columns({"v": ResponseColumn(type=declared)})
    return Converter(column)


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        ("bigint", 2**53 + 1, 2**53 + 1),
        ("bigint", -(2**63), -(2**63)),
        ("bigint", "9007199254740993", 9007199254740993),
        ("bigint", Decimal("5.0"), 5),
        ("smallint", 32767, 32767),
        ("decimal(38,10)", Decimal("1234567890123456789012345678.0123456789"),
         Decimal("1234567890123456789012345678.0123456789")),
        ("decimal(12,2)", Decimal("1.500"), Decimal("1.50")),
        ("decimal(12,2)", 7, Decimal("7.00")),
        ("decimal(12,2)", "-0.10", Decimal("-0.10")),
        ("decimal(3,0)", Decimal("1E+2"), Decimal(100)),
        ("decimal(4,4)", Decimal("0.0001"), Decimal("0.0001")),
        ("numeric(5)", 0, Decimal(0)),
        ("double", Decimal("0.1"), 0.1),
        ("double", "Infinity", float("inf")),
        ("real", Decimal("0.5"), 0.5),
        ("boolean", True, True),
        ("boolean", "false", False),
        ("text", "a\x00b", "a\x00b"),
        ("text", "", ""),
        ("varchar(2)", "ёж", "ёж"),
        ("uuid", "00000000-0000-0000-0000-0000000000AF", "00000000-0000-0000-0000-0000000000af"),
        ("binary", "AP8=", b"\x00\xff"),
        ("date", "2020-02-29", date(2020, 2, 29)),
        ("time", "23:59:59.999999", time(23, 59, 59, 999_999)),
        ("timestamp", "2020-07-13T12:34:56.1234560", datetime(2020, 7, 13, 12, 34, 56, 123_456)),  # noqa: DTZ001
        ("timestamp", "2020-07-13 12:34", datetime(2020, 7, 13, 12, 34)),  # noqa: DTZ001
        ("timestamp", "9999-12-31", datetime(9999, 12, 31)),  # noqa: DTZ001
        ("timestamptz", "2020-07-13T12:34:56+03:00", datetime(2020, 7, 13, 9, 34, 56, tzinfo=UTC)),
        ("timestamptz", "2020-07-13 12:34:56.5Z", datetime(2020, 7, 13, 12, 34, 56, 500_000, tzinfo=UTC)),
        ("timestamptz", "2020-07-13T12:34:56-0330", datetime(2020, 7, 13, 16, 4, 56, tzinfo=UTC)),
        ("json", {"a": [Decimal("1.50"), None, True, "ё"]}, '{"a": [1.50, null, true, "ё"]}'),
        ("bigint", None, None),
    ],
)  # fmt: skip
def test_a_value_arrives_as_it_was(declared: str, value: Any, expected: Any) -> None:
    array = converter(declared)([None, value], 1)
    assert array.to_pylist() == [None, expected]
    assert array.type == converter(declared).column.type


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("bigint", 2**63),
        ("bigint", "many"),
        ("bigint", "12.5"),
        ("bigint", Decimal("12.5")),
        ("bigint", Decimal("1E+999999999")),
        ("bigint", True),
        ("bigint", [1]),
        ("smallint", 32768),
        ("decimal(5,2)", Decimal("1.005")),
        ("decimal(5,2)", 1000),
        ("decimal(5,2)", Decimal("1E-999999999")),
        ("decimal(5,2)", "NaN"),
        ("decimal(5,2)", False),
        ("double", Decimal("1E+309")),
        ("double", 2**53 + 1),
        ("double", "one"),
        ("real", Decimal("1E+39")),
        ("boolean", 1),
        ("boolean", "yes"),
        ("text", 5),
        ("text", {"a": 1}),
        ("text", "half \ud83d"),
        ("varchar(2)", "abc"),
        ("uuid", "no"),
        ("binary", "***"),
        ("date", "2020-02-30"),
        ("date", "2020-07-13T00:00:00"),
        ("time", "24:01"),
        ("time", "12:00:00+03:00"),
        ("timestamp", "2020-07-13T12:00:00Z"),
        ("timestamp", "2020-07-13T12:00:00.1234567"),
        ("timestamp", 1594598400),
        ("timestamptz", "2020-07-13T12:00:00"),
        ("timestamptz", "yesterday"),
        ("bigint not null", None),
        ("json", "half \ud83d"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_row_and_column(declared: str, value: Any) -> None:
    good = converter(declared).column
    with pytest.raises(ValueRefusedError) as caught:
        Converter(good)([value], 1_017)
    assert str(caught.value).startswith(f"row 1,017, column v ({good.declared}): ")
    assert len(str(value)) < 5 or str(value) not in str(caught.value)  # it may be a customer's


def test_the_row_is_that_of_the_value() -> None:
    with pytest.raises(ValueRefusedError, match=r"row 103, column v \(bigint\): the text is no whole number"):
        converter("bigint")([1, None, "3", "x", "y"], 100)


def test_json_text_keeps_all_digits() -> None:
    number = 10**30
    assert (
        json_text({"n": [Decimal("1.10"), number], "t": 'a"b'}) == f'{{"n": [1.10, {number}], "t": "a\\"b"}}'
    )


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        ({"type": "timestamptz", "format": "epoch"}, 1_594_587_600, datetime(2020, 7, 12, 21, tzinfo=UTC)),
        ({"type": "timestamptz", "format": "epoch"}, Decimal("0.123456"), datetime(1970, 1, 1, 0, 0, 0, 123_456, UTC)),
        ({"type": "timestamptz", "format": "epoch"}, "-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ({"type": "timestamptz", "format": "epoch_ms"}, "1594587600001",
         datetime(2020, 7, 12, 21, 0, 0, 1000, UTC)),
        ({"type": "timestamptz", "format": "epoch_ms"}, "/Date(1594587600000+0300)/",
         datetime(2020, 7, 12, 21, tzinfo=UTC)),
        ({"type": "timestamp", "format": "%d.%m.%Y %H:%M:%S"}, "13.07.2020 23:59:58",
         datetime(2020, 7, 13, 23, 59, 58)),  # noqa: DTZ001
        ({"type": "timestamp", "format": "%Y%m%d%H%M"}, "202007132359", datetime(2020, 7, 13, 23, 59)),  # noqa: DTZ001
        ({"type": "timestamptz", "format": "%d/%b/%Y:%H:%M:%S %z"}, "13/Jul/2020:01:00:00 +0300",
         datetime(2020, 7, 12, 22, tzinfo=UTC)),
        ({"type": "date", "format": "%d.%m.%Y"}, "29.02.2020", date(2020, 2, 29)),
        ({"type": "time", "format": "%I:%M %p"}, "11:05 PM", time(23, 5)),
        ({"type": "decimal(12,2)", "decimal_point": ","}, "-1234,50", Decimal("-1234.50")),
        ({"type": "decimal(12,2)", "decimal_point": ","}, Decimal("1.5"), Decimal("1.50")),
        ({"type": "decimal(12,2)", "null_values": ["", "--"]}, "--", None),
        ({"type": "timestamp", "null_values": ["0000-00-00 00:00:00"]}, "0000-00-00 00:00:00", None),
        ({"type": "text", "null_values": [""]}, "", None),
        ({"type": "text", "null_values": [""]}, " ", " "),
        ({"type": "boolean", "true_values": ["1"]}, 1, True),
        ({"type": "boolean", "true_values": ["1", "Y"]}, "Y", True),
        ({"type": "boolean", "false_values": ["N"]}, "N", False),
        ({"type": "boolean", "false_values": ["0"]}, "0", False),
        ({"type": "boolean", "false_values": ["N"], "null_values": [""]}, "", None),
        ({"type": "boolean", "false_values": ["N"]}, True, True),
    ],
)  # fmt: skip
def test_a_value_as_the_column_says_that_it_is_written(
    declared: dict[str, Any], value: Any, expected: Any
) -> None:
    written = ResponseColumn.model_validate(declared)
    (column,) = declared_columns({"v": written})
    assert Converter(column, written)([value], 1).to_pylist() == [expected]


@pytest.mark.parametrize(
    ("declared", "value", "reason"),
    [
        ({"type": "timestamptz", "format": "epoch"}, Decimal("1.1234567"), "more than six digits"),
        ({"type": "timestamptz", "format": "epoch"}, 1_594_587_600_000, "too large for a moment"),
        ({"type": "timestamptz", "format": "epoch"}, True, "a boolean is no number"),
        ({"type": "timestamptz", "format": "epoch"}, "1e9", "no number"),
        ({"type": "date", "format": "%d.%m.%Y"}, "31.02.2020", r"not written as %d.%m.%Y"),
        ({"type": "date", "format": "%d.%m.%Y"}, 5, "a number is not written as"),
        ({"type": "decimal(12,2)", "decimal_point": ","}, "1.234,50", "no number"),
        ({"type": "decimal(12,2)", "decimal_point": ","}, "1.50", "no number"),
        ({"type": "boolean", "true_values": ["1", "Y"]}, 2, "is not true or false"),
        ({"type": "boolean", "true_values": ["1", "Y"]}, "y", "is not true or false"),
        ({"type": "boolean", "null_values": ["1"]}, 1, "is not true or false"),
    ],
)
def test_a_value_that_is_written_otherwise_is_refused(
    declared: dict[str, Any], value: Any, reason: str
) -> None:
    written = ResponseColumn.model_validate(declared)
    (column,) = declared_columns({"v": written})
    with pytest.raises(ValueRefusedError, match=reason):
        Converter(column, written)([None, value], 1)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"type": "timestamp", "format": "epoch"}, "declare the column timestamptz"),
        ({"type": "text", "format": "%Y"}, "leave it out for text"),
        ({"type": "date", "format": "DD.MM.YYYY"}, "has no %"),
        ({"type": "timestamptz", "format": "%Y-%m-%d"}, "needs %z"),
        ({"type": "timestamp", "format": "%Y-%m-%d %z"}, "has none"),
        ({"type": "date", "format": "%Y-%Q"}, "strptime cannot read it"),
        ({"type": "timestamp", "format": "%d.%m.%Y %H:%M %Z"}, "forgets it"),
        ({"type": "timestamp", "format": "%H:%M:%S"}, "has no year"),
        ({"type": "text", "decimal_point": ","}, "is for decimal"),
        ({"type": "text", "true_values": ["Y"]}, "are for boolean"),
        ({"type": "boolean", "true_values": ["Y"], "false_values": ["Y"]}, "'Y' is listed twice"),
    ],
)
def test_a_format_that_does_not_fit_its_type_is_refused(declared: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ResponseColumn.model_validate(declared)


def test_the_row_of_a_refused_value_behind_a_null_value() -> None:
    written = ResponseColumn.model_validate({"type": "bigint", "null_values": [""]})
    (column,) = declared_columns({"v": written})
    with pytest.raises(ValueRefusedError, match=r"row 3, column v \(bigint\): the text is no whole number"):
        Converter(column, written)([1, "", "x"], 1)
