"""hash_id is the same for ever: the golden file says which, for every form of a key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, ValueRefusedError
from dwhctl.load.cast import TargetCast
from dwhctl.load.hash_ids import KeyRuns, ServiceFields, hash_rows, hash_texts, key_form

GOLDEN = Path(__file__).parents[1] / "hash_id.golden.json"
UTC_TIME = pa.timestamp("us", tz="UTC")

#: Every form of a key: its columns as kind, Arrow type and values.
FORMS: dict[str, list[tuple[Kind, pa.DataType, list[Any]]]] = {
    "int8": [(Kind.INTEGER, pa.int8(), [0, 1, -1, 127, -128])],
    "int16": [(Kind.INTEGER, pa.int16(), [0, 1, -1, 32767, -32768])],
    "int32": [(Kind.INTEGER, pa.int32(), [0, 1, -1, 2**31 - 1, -(2**31)])],
    "int64": [(Kind.INTEGER, pa.int64(), [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)])],
    "uint8": [(Kind.INTEGER, pa.uint8(), [0, 1, 255])],
    "uint64": [(Kind.INTEGER, pa.uint64(), [0, 1, 2**63 - 1])],
    "text": [
        (
            Kind.TEXT,
            pa.string(),
            ["", " ", "a", "A", "a\x00b", "a\x00c", "ё", "\U0001f600", "NULL", "1", "\\."],
        )
    ],
    "uuid": [
        (
            Kind.UUID,
            pa.string(),
            ["6F9619FF-8B86-D011-B42D-00CF4FC964FF", "6f9619ff-8b86-d011-b42d-00cf4fc964fe"],
        )
    ],
    "decimal scale 0": [(Kind.DECIMAL, pa.decimal128(38, 0), ["0", "1", "-1", "100", "9" * 38])],
    "decimal scale 2": [(Kind.DECIMAL, pa.decimal128(18, 2), ["0.00", "1.00", "-1.50", "100.00", "0.01"])],
    "decimal scale 10": [
        (Kind.DECIMAL, pa.decimal128(38, 10), ["1.0000000000", "-1.5000000000", "0.0000000001"])
    ],
    "date": [
        (Kind.DATE, pa.date32(), [date(2020, 7, 14), date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31)])
    ],
    "time": [(Kind.TIME, pa.time64("us"), [time(0), time(23, 59, 59, 999999), time(12, 34, 56, 7)])],
    "timestamp": [
        (
            Kind.TIMESTAMP,
            pa.timestamp("us"),
            [datetime(2020, 7, 14, 12, 34, 56, 789), datetime(1, 1, 1), datetime(9999, 12, 31)],  # noqa: DTZ001
        )
    ],
    "timestamp in seconds": [
        (Kind.TIMESTAMP, pa.timestamp("s"), [datetime(2020, 7, 14, 12, 34, 56), datetime(1970, 1, 1)])  # noqa: DTZ001
    ],
    "timestamp with time zone": [(Kind.TIMESTAMPTZ, UTC_TIME, [datetime(2020, 7, 14, 12, 34, 56, 789, UTC)])],
    "binary": [(Kind.BINARY, pa.binary(), [b"", b"\x00\xff", b"abc", b"ABC"])],
    "composite": [
        (Kind.INTEGER, pa.int32(), [1, 1, 2, -1]),
        (Kind.TEXT, pa.string(), ["a", "b", "a", ""]),
        (Kind.DATE, pa.date32(), [date(2020, 7, 14)] * 4),
        (Kind.DECIMAL, pa.decimal128(10, 2), ["1.50", "1.50", "2.00", "0.00"]),
    ],
    "composite, other order": [
        (Kind.TEXT, pa.string(), ["a", "b", "a", ""]),
        (Kind.INTEGER, pa.int32(), [1, 1, 2, -1]),
    ],
}
SHARDS = ("abakan", "chita", "ё")


def _array(kind: Kind, type_: pa.DataType, values: Sequence[Any]) -> pa.Array:
    return pa.array([Decimal(value) for value in values] if kind is Kind.DECIMAL else values, type_)


def stamp_and_batch(
    form: Sequence[tuple[Kind, pa.DataType, Sequence[Any]]], shard: str = "abakan"
) -> tuple[ServiceFields, pa.RecordBatch]:
    names = [f"k{number}" for number in range(len(form))]
    columns = [
        Column(name, kind, type_, str(type_)) for name, (kind, type_, _) in zip(names, form, strict=True)
    ]
    arrays = [_array(*one) for one in form]
    stamp = ServiceFields(shard, 7, names, columns, TargetCast(columns, names))
    return stamp, pa.RecordBatch.from_arrays(arrays, names=names)


def ids(form: Sequence[tuple[Kind, pa.DataType, Sequence[Any]]], shard: str = "abakan") -> list[int]:
    stamp, batch = stamp_and_batch(form, shard)
    return [int(value) for value in stamp.hash_ids(batch)]


def computed() -> dict[str, dict[str, list[int]]]:
    return {name: {shard: ids(form, shard) for shard in SHARDS} for name, form in FORMS.items()}


def test_every_id_is_the_golden_one() -> None:
    assert computed() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_id_depends_on_neither_batch_nor_neighbours(form: str) -> None:
    columns = FORMS[form]
    rows = len(columns[0][2])
    together = ids(columns)
    assert len(set(together)) == rows
    for row in range(rows):
        assert ids([(kind, type_, values[row : row + 1]) for kind, type_, values in columns]) == [
            together[row]
        ]
    backwards = [(kind, type_, [*values, *values][::-1]) for kind, type_, values in columns]
    assert ids(backwards) == [*together, *together][::-1]
    stamp, batch = stamp_and_batch(columns)
    assert [int(one) for one in stamp.hash_ids(batch.slice(1))] == together[1:]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_id_is_the_naive_formula(form: str) -> None:
    columns = FORMS[form]
    frame: dict[str, Any] = {"etl_source": ["chita"] * len(columns[0][2])}
    for number, (kind, type_, values) in enumerate(columns):
        frame[f"k{number}"] = _naive(kind, type_, values)
    naive = pd.util.hash_pandas_object(pd.DataFrame(frame)[list(frame)], index=False)
    assert ids(columns, "chita") == [max(int(one), -(2**63) + 1) for one in naive.astype("int64")]


def _naive(kind: Kind, type_: pa.DataType, values: Sequence[Any]) -> Any:
    if kind is Kind.INTEGER:
        return np.array(values, dtype="int64")
    if kind is Kind.DECIMAL:
        return [format(Decimal(value).normalize() + 0, "f") if len(value) < 30 else value for value in values]
    if kind is Kind.UUID:
        return [value.lower() for value in values]
    if kind is Kind.BINARY:
        return [value.hex() for value in values]
    if kind is Kind.TIME:
        values = [datetime.combine(date(1970, 1, 1), value) for value in values]
    if kind is Kind.TIMESTAMPTZ:
        values = [value.replace(tzinfo=None) for value in values]
    return values if kind is Kind.TEXT else np.array(values, dtype="datetime64[us]")


def test_the_width_of_an_integer_the_scale_of_a_decimal_and_the_unit_of_a_time_do_not_matter() -> None:
    integers = [
        ids([(Kind.INTEGER, type_, [0, 1])]) for type_ in (pa.int8(), pa.uint16(), pa.int32(), pa.int64())
    ]
    assert all(one == integers[0] for one in integers)
    decimals = [ids([(Kind.DECIMAL, pa.decimal128(38, scale), ["-7", "0"])]) for scale in (0, 1, 18, 30)]
    assert all(one == decimals[0] for one in decimals)
    moment = datetime(2020, 7, 14)  # noqa: DTZ001
    times = [ids([(Kind.TIMESTAMP, pa.timestamp(unit), [moment])]) for unit in ("s", "ms", "us", "ns")]
    assert all(one == times[0] for one in times)
    assert ids([(Kind.DATE, pa.date32(), [moment.date()])]) == times[0]


def test_a_negative_zero_is_zero() -> None:
    array = pa.array([Decimal("-0.00"), Decimal("0.00")], pa.decimal128(5, 2))
    assert key_form(Kind.DECIMAL, array).tolist() == ["0", "0"]


def test_a_uuids_letters_are_lower_whatever_the_driver_says() -> None:
    both = [["AB" * 16], ["ab" * 16]]
    assert ids([(Kind.UUID, pa.string(), both[0])]) == ids([(Kind.UUID, pa.string(), both[1])])


def test_the_smallest_integer_is_never_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.array([2**63, 2**63 + 1, 5], dtype="uint64")
    monkeypatch.setattr("dwhctl.load.hash_ids.hash_rows", lambda source, columns: hashes)
    assert ids([(Kind.INTEGER, pa.int64(), [1, 2, 3])]) == [-(2**63) + 1, -(2**63) + 1, 5]


def test_service_fields_have_their_types() -> None:
    stamp, batch = stamp_and_batch(FORMS["int32"])
    fields = stamp(batch)
    assert {name: array.type for name, array in fields.items()} == {
        "etl_source": pa.string(),
        "etl_id": pa.int64(),
        "hash_id": pa.int64(),
    }
    assert fields["etl_source"].to_pylist() == ["abakan"] * 5
    assert fields["etl_id"].to_pylist() == [7] * 5


@pytest.mark.parametrize("kind", [Kind.FLOAT, Kind.BOOLEAN])
def test_floats_and_booleans_are_refused_as_keys(kind: Kind) -> None:
    columns = [Column("k", kind, pa.float64(), "DOUBLE")]
    with pytest.raises(QueryError, match="key column k is DOUBLE"):
        ServiceFields("abakan", 1, ["K"], columns, TargetCast(columns, ["K"]))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_null_in_the_key_is_refused_by_column_and_row(form: str) -> None:
    columns = [(kind, type_, [*values[:1], None]) for kind, type_, values in FORMS[form]]
    names = [Column(f"k{number}", kind, type_, "x") for number, (kind, type_, _) in enumerate(columns)]
    key = [column.name for column in names]
    arrays = [
        pa.array([Decimal(v) if kind is Kind.DECIMAL and v else v for v in values], type_)
        for kind, type_, values in columns
    ]
    stamp = ServiceFields("abakan", 1, key, names, TargetCast(names, key))
    with pytest.raises(ValueRefusedError, match=r"key column k0, row k0=None.*: NULL cannot be a key"):
        stamp(pa.RecordBatch.from_arrays(arrays, names=key))


@pytest.mark.parametrize(
    ("kind", "type_", "value"),
    [
        (Kind.INTEGER, pa.uint64(), 2**63),
        (Kind.TIMESTAMP, pa.timestamp("ns"), 1),
        (Kind.DATE, pa.date32(), 2**31 - 1),
    ],
)
def test_a_key_without_a_form_is_refused_by_name(kind: Kind, type_: pa.DataType, value: int) -> None:
    columns = [Column("k", kind, type_, "x")]
    stamp = ServiceFields("abakan", 1, ["k"], columns, TargetCast(columns, ["k"]))
    array = pa.array([value], pa.int32() if kind is Kind.DATE else type_).cast(type_)
    with pytest.raises(ValueRefusedError, match="key column k"):
        stamp(pa.RecordBatch.from_arrays([array], names=["k"]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"])))
                , min_size=1, max_size=20), st.integers(0, 20))  # fmt: skip
def test_any_key_has_one_id_however_it_is_cut(rows: list[tuple[int, str]], cut: int) -> None:
    form: list[tuple[Kind, pa.DataType, list[Any]]] = [
        (Kind.INTEGER, pa.int64(), [n for n, _ in rows]),
        (Kind.TEXT, pa.string(), [text for _, text in rows]),
    ]
    stamp, batch = stamp_and_batch(form)
    whole = list(stamp.hash_ids(batch))
    parts = [part for part in (batch.slice(0, cut), batch.slice(cut)) if part.num_rows]
    assert [one for part in parts for one in stamp.hash_ids(part)] == whole
    assert len(set(whole)) == len(set(rows))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=3)), max_size=20))
def test_rows_are_hashed_as_pandas_hashes_a_frame(rows: list[tuple[str, int, str]]) -> None:
    texts, numbers, others = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    columns = [pa.array(texts, pa.string()), np.array(numbers, np.int64), pa.array(others, pa.string())]
    for count in (1, 2, 3):
        named: dict[str, Any] = {"etl_source": ["abakan"] * len(rows)}
        named |= {str(number): column for number, column in enumerate(columns[:count])}
        frame = pd.DataFrame(named)
        wanted = pd.util.hash_pandas_object(frame, index=False).to_numpy()
        source = int(pd.util.hash_array(np.array(["abakan"], object))[0])
        assert hash_rows(source, columns[:count]).tolist() == wanted.tolist()


def test_texts_of_any_length_have_the_hashes_of_pandas() -> None:
    texts = ["ё" * number + "x" * (number % 3) for number in range(70)] + ["", "long " * 5000]
    wanted = pd.util.hash_array(np.array(texts, object)).tolist()
    array = pa.array(texts, pa.string())
    assert hash_texts(array).tolist() == wanted
    assert hash_texts(array.cast(pa.large_string())).tolist() == wanted
    for start in (1, 7, 70):
        assert hash_texts(array.slice(start)).tolist() == wanted[start:]
        assert hash_texts(array.slice(0, start)).tolist() == wanted[:start]
    assert hash_texts(array.slice(0, 0)).tolist() == []


@pytest.mark.parametrize(
    ("batches", "apart"),
    [
        ([[1, 2, 3], [4], [], [5, 9]], True),
        ([[-(2**63)], [2**63 - 1]], True),
        ([[]], True),
        ([[5, 6], [7, 1], [2, 3], [4]], True),
        ([[5, 6], [1, 2], [3, 4]], True),
        ([[3, 2, 1]], True),
        ([[1, 2, 2], [3]], False),
        ([[1, 2], [2, 3]], False),
        ([[1, 2], [], [2, 3]], False),
        ([[5, 6], [7, 1], [5, 8]], False),
        ([[5, 9], [7]], False),
        ([[*range(2000, 0, -1)]], False),
    ],
)
def test_keys_in_runs_that_do_not_overlap_are_all_different(batches: list[list[int]], apart: bool) -> None:
    columns = [Column("k", Kind.INTEGER, pa.int64(), "x")]
    fields = ServiceFields("abakan", 1, ["k"], columns, TargetCast(columns, ["k"]))
    for values in batches:
        fields(pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], names=["k"]))
    assert fields.runs is not None
    assert fields.runs.are_apart() is apart


@given(st.lists(st.lists(st.integers(-20, 20), max_size=5), max_size=6))
def test_keys_that_are_apart_never_repeat(batches: list[list[int]]) -> None:
    runs = KeyRuns()
    for values in batches:
        runs.add(np.array(values, np.int64))
    keys = [key for values in batches for key in values]
    assert not runs.are_apart() or len(set(keys)) == len(keys)
    if len(set(keys)) == len(keys) and keys == sorted(keys):
        assert runs.are_apart()


def test_only_one_number_has_runs() -> None:
    """Of two columns neither alone is the key; texts have an order that is the target's."""
    for key, type_ in ((["a", "b"], pa.int64()), (["a"], pa.string())):
        columns = [
            Column(name, Kind.INTEGER if type_ == pa.int64() else Kind.TEXT, type_, "x") for name in key
        ]
        fields = ServiceFields("abakan", 1, key, columns, TargetCast(columns, key))
        values = pa.array([1, 2, 3]).cast(type_)
        fields(pa.RecordBatch.from_arrays([values] * len(key), names=key))
        assert fields.runs is None
