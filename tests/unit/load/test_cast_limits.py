"""Limits of columns beyond their Arrow type."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import ValueRefusedError
from dwhctl.load.cast import TargetCast

VARCHAR = Column("v", Kind.TEXT, pa.string(), "varchar(4)", octets=4)
CHAR = Column("v", Kind.TEXT, pa.string(), "char(4)", octets=4, padded=True)
VARBINARY = Column("v", Kind.BINARY, pa.binary(), "varbinary(2)", octets=2)
BINARY = Column("v", Kind.BINARY, pa.binary(), "binary(2)", octets=2, padded=True)
INT = Column("v", Kind.INTEGER, pa.int64(), "int", least=-(2**63) + 1)
DATE = Column("v", Kind.DATE, pa.date32(), "date", least=date(1, 1, 1), most=date(9999, 12, 31))


def conformed(column: Column, values: list[Any]) -> list[Any]:
    """The values as the column takes them."""
    batch = pa.RecordBatch.from_pydict(
        {"id": pa.array(range(len(values))), "v": pa.array(values, column.type)}
    )
    key = Column("id", Kind.INTEGER, pa.int64(), "int")
    found: list[Any] = TargetCast((key, column), ["id"])(batch, {}).column("v").to_pylist()
    return found


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (VARCHAR, ["", None, "abcd", "ёё", "\U0001f600"]),
        (CHAR, ["", None, "a", " a"]),
        (VARBINARY, [b"", None, b"\x00\x00"]),
        (BINARY, [None, b"\x00\x00"]),
        (INT, [None, -(2**63) + 1, 2**63 - 1]),
        (DATE, [None, date(1, 1, 1), date(9999, 12, 31)]),
    ],
)
def test_what_is_within_passes(column: Column, values: list[Any]) -> None:
    assert conformed(column, values) == values


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (VARCHAR, "abcde", "more than the 4 octets of varchar(4)"),
        (VARCHAR, "ёёё", "more than the 4 octets of varchar(4)"),
        (CHAR, "a ", "ends in a blank, which char(4) does not keep"),
        (VARBINARY, b"abc", "more than the 2 octets of varbinary(2)"),
        (BINARY, b"abc", "more than the 2 octets of binary(2)"),
        (BINARY, b"a", "binary(2) would fill the value up with zero octets"),
        (INT, -(2**63), "below -9223372036854775807, the least of int"),
        (DATE, pa.scalar(2**31 - 1, pa.int32()).cast(pa.date32()), "above 9999-12-31, the most of date"),
    ],
)
def test_what_is_beyond_is_refused_by_column_and_key(column: Column, value: Any, reason: str) -> None:
    with pytest.raises(ValueRefusedError) as refused:
        conformed(column, [None, value])
    assert str(refused.value).startswith("column v, row id=1: ")
    assert reason in str(refused.value)
