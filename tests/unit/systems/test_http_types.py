"""Values of HTTP sources by their declared types: as they were, or refused by row and column."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from dwhctl.core.errors import ValueRefusedError
from dwhctl.project.endpoint import ResponseColumn
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
