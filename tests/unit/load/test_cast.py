"""Values arrive as they were or are refused by column, row and reason; columns are compared before data moves."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import SchemaDriftError, ValueRefusedError
from dwhctl.load.cast import TargetCast, cast, compare, constraints, first_failing, value_text
from dwhctl.systems.postgres import types as postgres

ID = Column("id", Kind.INTEGER, pa.int64(), "BIGINT")
SERVICE = [
    Column("etl_source", Kind.TEXT, pa.string(), "VARCHAR"),
    Column("etl_id", Kind.INTEGER, pa.int64(), "BIGINT"),
    Column("hash_id", Kind.INTEGER, pa.int64(), "BIGINT"),
]


def text(name: str, *, nullable: bool = True) -> Column:
    return Column(name, Kind.TEXT, pa.string(), "VARCHAR", nullable)


def drift(source: list[Column], target: list[Column], *, fill_missing: bool = False) -> SchemaDriftError:
    with pytest.raises(SchemaDriftError) as caught:
        compare(source, [*target, *SERVICE], fill_missing=fill_missing)
    return caught.value


def test_equal_columns_in_another_order_and_case_are_no_difference() -> None:
    compare([text("NAME"), ID], [ID, text("name"), *SERVICE], fill_missing=False)


def test_every_difference_is_named_at_once() -> None:
    said = str(drift([text("id"), text("new"), text("etl_id")], [ID, text("gone")]))
    assert said == (
        "column etl_id is dwhctl's own and must not come from the extract; "
        "column gone is missing at the source; "
        "column id is VARCHAR at the source and BIGINT in the target; "
        "column etl_id is VARCHAR at the source and BIGINT in the target; "
        "column new (VARCHAR) is new at the source"
    )


def test_new_columns_are_handed_over_only_when_they_are_the_only_difference() -> None:
    assert [one.name for one in drift([ID, text("new")], [ID]).new_columns] == ["new"]
    assert drift([ID, text("new")], [ID, text("gone")]).new_columns == ()


def test_a_column_twice_is_named() -> None:
    assert "column id occurs twice" in str(drift([ID, Column("ID", ID.kind, ID.type, "BIGINT")], [ID]))


def test_missing_columns_are_filled_where_that_is_asked_and_they_may_be_null() -> None:
    compare([ID], [ID, text("old"), *SERVICE], fill_missing=True)
    assert "old is missing" in str(drift([ID], [ID, text("old", nullable=False)], fill_missing=True))


@pytest.mark.parametrize("source", list(Kind))
@pytest.mark.parametrize("target", list(Kind))
def test_a_kind_goes_only_where_its_values_keep_their_meaning(source: Kind, target: Kind) -> None:
    fits = source is target or (source, target) in {
        (Kind.INTEGER, Kind.DECIMAL), (Kind.UUID, Kind.TEXT), (Kind.DATE, Kind.TIMESTAMP),
    }  # fmt: skip
    columns = [Column("v", source, pa.float64(), "A")], [Column("v", target, pa.float64(), "B"), *SERVICE]
    if fits:
        compare(*columns, fill_missing=False)
    else:
        with pytest.raises(SchemaDriftError, match="column v is A at the source and B in the target"):
            compare(*columns, fill_missing=False)


def test_a_text_does_not_go_into_a_type_that_writes_it_in_another_way() -> None:
    for declared in ("jsonb", "xml"):
        source, own, target = text("v"), postgres.column("v", declared), postgres.column("V", declared)
        assert own is not None
        assert target is not None
        said = str(drift([source], [target]))
        assert said.startswith(
            f"column v is VARCHAR at the source and {declared} (it does not keep the text: make the"
        )
        assert compare([own], [target], fill_missing=False) == []
        assert compare([own], [text("v")], fill_missing=False) == []
    # JSON of an HTTP answer, or of a column json: jsonb sorts its fields and writes its numbers in another way.
    json, jsonb = postgres.column("v", "json"), postgres.column("v", "jsonb")
    assert json is not None
    assert jsonb is not None
    assert "make the column json" in str(drift([json], [jsonb]))
    assert compare([text("v")], [json], fill_missing=False) == []


def test_a_name_of_postgresql_has_sixty_three_octets() -> None:
    column = postgres.column("v", "name")
    assert column is not None
    assert conformed(["x" * 63], pa.string(), column).to_pylist() == ["x" * 63]
    with pytest.raises(ValueRefusedError, match="more than the 63 octets of name"):
        conformed(["x" * 64], pa.string(), column)


def test_a_double_does_not_go_into_a_float() -> None:
    double, single = (Column("v", Kind.FLOAT, type_, str(type_)) for type_ in (pa.float64(), pa.float32()))
    compare([single], [double, *SERVICE], fill_missing=False)
    drift([double], [single])


def conformed(values: list[Any], source: pa.DataType, column: Column) -> pa.Array:
    conform = TargetCast([ID, column], ["ID"])
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(len(values)), pa.int32()), pa.array(values, source)],
        names=["Id", column.name.upper()],
    )
    return conform(batch, {}).column(1)


@pytest.mark.parametrize(
    ("source", "kind", "target", "good", "bad"),
    [
        (pa.int64(), Kind.INTEGER, pa.int8(), 127, 128),
        (pa.int64(), Kind.INTEGER, pa.uint8(), 0, -1),
        (pa.uint64(), Kind.INTEGER, pa.int64(), 2**63 - 1, 2**63),
        (pa.int64(), Kind.DECIMAL, pa.decimal128(4, 1), -999, 1000),
        (pa.uint64(), Kind.DECIMAL, pa.decimal128(20, 0), 2**64 - 1, None),
        (pa.decimal128(10, 3), Kind.DECIMAL, pa.decimal128(9, 2), Decimal("1.500"), Decimal("1.005")),
        (pa.decimal128(38, 0), Kind.DECIMAL, pa.decimal128(38, 2), Decimal(10**35), Decimal(10**36)),
        (pa.timestamp("us"), Kind.TIMESTAMP, pa.timestamp("s"), datetime(2020, 1, 1), datetime(2020, 1, 1, 0, 0, 0, 1)),  # noqa: DTZ001
        (pa.timestamp("us"), Kind.TIMESTAMP, pa.timestamp("ns"), datetime(2020, 1, 1), datetime(2300, 1, 1)),  # noqa: DTZ001
        (pa.date32(), Kind.TIMESTAMP, pa.timestamp("ns"), date(2020, 1, 1), date(2300, 1, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 1, 2, 3, 100])
def test_a_value_that_does_not_fit_names_column_row_and_type(
    source: pa.DataType, kind: Kind, target: pa.DataType, good: Any, bad: Any, before: int
) -> None:
    column = Column("v", kind, target, "SMALL")
    padding = [good if number % 3 else None for number in range(before)]
    fitting = conformed([*padding, good], source, column)
    assert fitting.type == target
    assert fitting.cast(source).to_pylist() == [*padding, good]
    if bad is not None:
        with pytest.raises(ValueRefusedError) as caught:
            conformed([*padding, bad, good, bad], source, column)
        assert str(caught.value) == f"column v, row ID={before}: the value does not fit SMALL".replace(
            "ID", "id"
        )


def test_integers_with_nulls_stay_integers() -> None:
    found = conformed(
        [2**53 + 1, None, -(2**63)], pa.int64(), Column("v", Kind.INTEGER, pa.int64(), "BIGINT")
    )
    assert found.type == pa.int64()
    assert found.to_pylist() == [2**53 + 1, None, -(2**63)]


def test_a_dictionary_becomes_its_values() -> None:
    array = pa.array(["ё", None, "", "ё"]).dictionary_encode()
    assert cast(array, pa.string()).to_pylist() == ["ё", None, "", "ё"]


def test_null_where_none_may_be_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="column v, row id=1: NULL, but the target says NOT NULL"):
        conformed(["a", None], pa.string(), text("v", nullable=False))


def test_a_composite_key_names_the_row_whole() -> None:
    conform = TargetCast(
        [ID, text("place"), Column("v", Kind.INTEGER, pa.int8(), "TINYINT")], ["id", "place"]
    )
    batch = pa.RecordBatch.from_arrays(
        [pa.array([7]), pa.array(["ё"]), pa.array([300])], names=["id", "place", "v"]
    )
    with pytest.raises(
        ValueRefusedError, match="column v, row id=7, place=ё: the value does not fit TINYINT"
    ):
        conform(batch, {})


def test_a_missing_column_is_null_of_its_type() -> None:
    conform = TargetCast([ID, text("more")], ["id"])
    found = conform(pa.RecordBatch.from_arrays([pa.array([1, 2])], names=["id"]), {})
    assert found.column(1).to_pylist() == [None, None]
    assert found.schema.types == [pa.int64(), pa.string()]


@given(st.integers(1, 60), st.data())
def test_the_first_that_fails_is_found(size: int, data: st.DataObject) -> None:
    bad = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    array = pa.array([300 if number in bad else 1 for number in range(size)])
    assert first_failing(array, lambda part: cast(part, pa.int8())) == bad[0]


@pytest.mark.parametrize(
    "type_", [pa.timestamp("us"), pa.timestamp("s"), pa.timestamp("us", tz="UTC"), pa.date32()]
)
def test_a_moment_beyond_pythons_calendar_can_be_shown(type_: pa.DataType) -> None:
    small = pa.int32() if type_ == pa.date32() else pa.int64()
    largest = 2 ** (small.bit_width - 1) - 1
    assert str(largest) in value_text(pa.array([largest], small).cast(type_), 0)


@given(
    st.lists(st.none() | st.text("a\0ё", max_size=4), max_size=8),
    st.integers(0, 8),
    st.none() | st.integers(0, 8),
)
def test_a_nul_character_is_found_wherever_the_array_begins(
    texts: list[str | None], first: int, rows: int | None
) -> None:
    column = Column("v", Kind.TEXT, pa.string(), "text", no_nul=True)
    (constraint,) = constraints(column)
    array = pa.array(texts, pa.string()).slice(min(first, len(texts)), rows)
    with_nul = [row for row, text in enumerate(array.to_pylist()) if text is not None and "\0" in text]
    assert constraint.first_break(array) == (with_nul[0] if with_nul else None)
