"""What is sent to COPY reads back the same, by a parser of Vertica's rules that knows nothing of the encoder."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwhctl.core.columns import Column, Kind
from dwhctl.systems.vertica.staging import OPTIONS, CopyEncoder

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@dataclass(frozen=True)
class Field:
    """A field as it stood in its record: its octets, and whether it was enclosed."""

    octets: bytes
    enclosed: bool


def parsed(data: bytes) -> Iterator[list[Field]]:
    """Read records octet by octet: the delimited format of COPY with the encoder's options."""
    assert OPTIONS == r"DELIMITER '|' NULL '' ESCAPE AS E'\\' ENCLOSED BY '''' RECORD TERMINATOR E'\n'"
    position = 0
    while position < len(data):
        assert data[position : position + 3] != b"\\.\n"
        record = []
        while True:
            field, position = _field(data, position)
            record.append(field)
            ended = data[position : position + 1]
            assert ended in (b"|", b"\n"), ended
            position += 1
            if ended == b"\n":
                break
        yield record


def _field(data: bytes, position: int) -> tuple[Field, int]:
    enclosed = data[position : position + 1] == b"'"
    position += enclosed
    found = bytearray()
    while True:
        octet = data[position : position + 1]
        assert octet, "the data end within a record"
        if octet == b"\\":
            found += data[position + 1 : position + 2]
            position += 2
        elif enclosed and octet == b"'":
            return Field(bytes(found), True), position + 1
        elif not enclosed and octet in (b"|", b"\n"):
            return Field(bytes(found), False), position
        else:
            assert enclosed or octet != b"'"
            found += octet
            position += 1


def value(kind: Kind, type_: pa.DataType, field: Field) -> object:
    """Read a field as Vertica reads it into a column."""
    if not field.enclosed and field.octets == b"":
        return None
    text = field.octets.decode()
    if kind in (Kind.TEXT, Kind.UUID):
        return text
    if kind is Kind.BINARY:
        return bytes.fromhex(text.removeprefix("0x"))
    assert not field.enclosed
    if kind is Kind.INTEGER:
        return int(text)
    if kind is Kind.DECIMAL:
        assert "e" not in text.lower()
        return Decimal(text)
    if kind is Kind.FLOAT:
        return float(text)
    if kind is Kind.BOOLEAN:
        return {"t": True, "f": False}[text]
    if kind is Kind.DATE:
        return date.fromisoformat(text)
    if kind is Kind.TIME:
        return time.fromisoformat(text)
    assert text.endswith("+00") is (kind is Kind.TIMESTAMPTZ)
    return datetime.fromisoformat(text)


CASES: tuple[tuple[Kind, pa.DataType, st.SearchStrategy[Any]], ...] = (
    (Kind.INTEGER, pa.int64(), st.integers(-(2**63) + 1, 2**63 - 1)),
    (Kind.DECIMAL, pa.decimal128(38, 10), st.decimals(1 - 10**28, 10**28 - 1, places=10)),
    (Kind.DECIMAL, pa.decimal128(38, 38), st.decimals(-1, 1, places=38).filter(lambda one: abs(one) < 1)),
    (Kind.DECIMAL, pa.decimal128(5, 0), st.integers(-99999, 99999).map(Decimal)),
    (Kind.DECIMAL, pa.decimal256(76, 20), st.decimals(-(10**55), 10**55, places=20)),
    (Kind.FLOAT, pa.float64(), st.floats()),
    (Kind.TEXT, pa.string(), TEXT | st.text("\\|'\n\r\t .N\x00")),
    (Kind.UUID, pa.string(), st.uuids().map(str)),
    (Kind.BINARY, pa.binary(), st.binary()),
    (Kind.BOOLEAN, pa.bool_(), st.booleans()),
    (Kind.DATE, pa.date32(), st.dates()),
    (Kind.TIME, pa.time64("us"), st.times()),
    (Kind.TIME, pa.time32("s"), st.times().map(lambda one: one.replace(microsecond=0))),
    (Kind.TIMESTAMP, pa.timestamp("us"), st.datetimes()),
    (Kind.TIMESTAMP, pa.timestamp("s"), st.datetimes().map(lambda one: one.replace(microsecond=0))),
    (Kind.TIMESTAMPTZ, pa.timestamp("us", tz="UTC"), st.datetimes(timezones=st.just(UTC))),
)


def columns_of(cases: Sequence[tuple[Kind, pa.DataType, Any]]) -> list[Column]:
    return [Column(f"c{n}", kind, type_, str(kind)) for n, (kind, type_, _) in enumerate(cases)]


def encoded(columns: Sequence[Column], rows: Sequence[Sequence[object]], token: str = "t0ken") -> bytes:
    arrays = [pa.array([row[n] for row in rows], column.type) for n, column in enumerate(columns)]
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
    return b"".join(CopyEncoder(columns, token).pieces(batch))


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float) and not math.isnan(one):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other or (one != one and other != other)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(*(st.none() | values for _, _, values in CASES)), min_size=1, max_size=8),
    start=st.integers(0, 3),
)
def test_what_is_written_reads_back_the_same(rows: list[tuple[object, ...]], start: int) -> None:
    columns = columns_of(CASES)
    arrays = [pa.array([row[n] for row in rows], column.type) for n, column in enumerate(columns)]
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns]).slice(start)
    data = b"".join(CopyEncoder(columns, "t0ken").pieces(batch))
    records = list(parsed(data))
    assert len(records) == len(rows[start:])
    for record, row in zip(records, rows[start:], strict=True):
        assert record[-1] == Field(b"t0ken", True)
        for field, column, wanted in zip(record[:-1], columns, row, strict=True):
            found = value(column.kind, column.type, field)
            assert same(found, wanted), (column, field, wanted)


@pytest.mark.parametrize(("kind", "type_", "values"), CASES, ids=lambda one: str(one)[:20])
def test_a_column_of_nothing_but_nulls(kind: Kind, type_: pa.DataType, values: object) -> None:
    columns = columns_of([(kind, type_, None)])
    assert encoded(columns, [[None]] * 2) == b"|'t0ken'\n" * 2


def test_a_batch_without_rows_is_nothing() -> None:
    columns = columns_of(CASES)
    assert encoded(columns, []) == b""


@pytest.mark.parametrize(
    ("kind", "type_", "given_value", "text"),
    [
        (Kind.DECIMAL, pa.decimal128(38, 10), Decimal("0.0000000001"), b"0.0000000001"),
        (Kind.DECIMAL, pa.decimal128(38, 10), Decimal("-0.0000000001"), b"-0.0000000001"),
        (Kind.DECIMAL, pa.decimal128(38, 10), Decimal(0), b"0.0000000000"),
        (Kind.DECIMAL, pa.decimal256(76, 76), Decimal("-1e-76"), b"-0." + b"0" * 75 + b"1"),
        (Kind.DECIMAL, pa.decimal128(38, 0), Decimal("-" + "9" * 38), b"-" + b"9" * 38),
        (Kind.FLOAT, pa.float64(), -0.0, b"-0"),
        (Kind.FLOAT, pa.float64(), -math.inf, b"-Infinity"),
        (Kind.FLOAT, pa.float64(), math.nan, b"NaN"),
        (Kind.FLOAT, pa.float64(), 5e-324, b"5e-324"),
        (Kind.TEXT, pa.string(), "", b"''"),
        (Kind.TEXT, pa.string(), "\\.", rb"'\\.'"),
        (Kind.TEXT, pa.string(), "a\r\n|'", b"'a\r\\\n\\|\\''"),
        (Kind.BINARY, pa.binary(), b"", b"''"),
        (Kind.BINARY, pa.binary(), b"\x00\xff|", b"0x00ff7c"),
        (Kind.DATE, pa.date32(), date(1, 1, 1), b"0001-01-01"),
        (Kind.TIMESTAMP, pa.timestamp("us"), datetime(1, 2, 3, 4, 5, 6, 7), b"0001-02-03 04:05:06.000007"),  # noqa: DTZ001
        (
            Kind.TIMESTAMPTZ,
            pa.timestamp("us", tz="UTC"),
            datetime(9999, 12, 31, tzinfo=UTC),
            b"9999-12-31 00:00:00.000000+00",
        ),
        (Kind.BOOLEAN, pa.bool_(), True, b"t"),
    ],
)
def test_the_text_of_a_value(kind: Kind, type_: pa.DataType, given_value: object, text: bytes) -> None:
    columns = columns_of([(kind, type_, None)])
    assert encoded(columns, [[given_value]], token="x'y") == text + rb"|'x\'y'" + b"\n"


def test_a_batch_is_written_in_pieces_of_about_a_megabyte() -> None:
    columns = columns_of([(Kind.TEXT, pa.string(), None)])
    batch = pa.RecordBatch.from_arrays([pa.array(["x" * 1000] * 10_000)], names=["c0"])
    pieces = list(CopyEncoder(columns, "t").pieces(batch))
    assert sum(map(len, pieces)) == 10_000 * 1007
    assert max(map(len, pieces)) < 2 * 2**20
    assert len(pieces) < 20


def test_a_batch_of_other_columns_is_a_defect() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1])], names=["other"])
    with pytest.raises(ValueError, match="other"):
        list(CopyEncoder(columns_of(CASES[:1]), "t").pieces(batch))
