"""A fingerprint is the same for ever: the golden file pins the text and the number of every form."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError
from dwhctl.systems.base.fingerprint import (
    Dialect,
    Fingerprint,
    Measure,
    part,
    read_fingerprint,
    source_parts,
)
from dwhctl.verify.findings import Check, differences
from tests.unit.fingerprint_forms import FORMS, checksum, framed, number_of

GOLDEN = Path(__file__).parents[1] / "fingerprint.golden.json"
ID = Column("id", Kind.INTEGER, pa.int64(), "bigint")
AMOUNT = Column("amount", Kind.DECIMAL, pa.decimal128(18, 2), "decimal(18,2)")


def golden() -> dict[str, object]:
    """What the golden file must hold: run this module to write it anew."""
    forms = {name: [[text, number_of([text])] for _, text in form.values] for name, form in FORMS.items()}
    rows: list[list[str | None]] = [["1", "a"], ["11", ""], ["1", None], [None, "1"], ["1:1,", "1:1,"]]
    return {
        "forms": forms,
        "sums": {name: checksum([[text] for _, text in form.values]) for name, form in FORMS.items()},
        "rows": [[framed(row), number_of(row)] for row in rows],
        "nothing": number_of([None]),
    }


def test_the_golden_file_holds_every_form() -> None:
    assert json.loads(GOLDEN.read_text()) == golden()


def test_no_two_rows_have_one_text() -> None:
    rows: list[list[str | None]] = [
        ["1", "a"],
        ["1a", ""],
        ["", "1a"],
        [None, "a"],
        ["", None],
        [None, None],
        ["1:", "a"],
        ["1:1,a"],
    ]
    assert len({framed(row) for row in rows}) == len(rows)


def test_the_numbers_have_sixty_bits() -> None:
    numbers = [number_of([str(one)]) for one in range(2000)]
    assert max(numbers) < 2**60
    assert max(numbers) > 2**59
    assert len(set(numbers)) == 2000


@pytest.mark.parametrize("values", [False, True])
def test_a_float_is_refused_by_name_with_a_remedy(values: bool) -> None:
    column = Column("ratio", Kind.FLOAT, pa.float64(), "double")
    with pytest.raises(QueryError, match=r"column ratio is double.*load it as a decimal") as caught:
        Measure((ID,), (column,)) if values else Measure((column,))
    # A key cannot be left out.
    assert ("leave it out of verify_columns" in str(caught.value)) == values


@pytest.mark.parametrize("values", [False, True])
def test_octets_in_a_column_of_text_are_refused_with_a_remedy_that_there_is(values: bool) -> None:
    source = Column("code", Kind.BINARY, pa.binary(), "binary(16)")
    table = Column("code", Kind.TEXT, pa.string(), "String")
    measure = Measure((ID,), (table,)) if values else Measure((table,))
    with pytest.raises(QueryError, match=r"column code is binary.*load it as a text, such as") as caught:
        source_parts(measure, [ID, source], lambda column, _: (column.name, {}))
    assert ("leave it out of verify_columns" in str(caught.value)) == values


def checks(source: Fingerprint, warehouse: Fingerprint) -> list[str]:
    return [one.check.value for one in differences(Measure((ID,), (AMOUNT,)), source, warehouse)]


def test_a_difference_is_told_once() -> None:
    one = Fingerprint(3, ("1",), ("3",), 100, 200)
    assert checks(one, one) == []
    assert checks(one, Fingerprint(2, ("1",), ("3",), 90, 190)) == [Check.ROWS]
    assert checks(one, Fingerprint(2, ("2",), ("3",), 90, 190)) == [Check.ROWS, Check.SMALLEST_KEY]
    assert checks(one, Fingerprint(3, ("1",), ("4",), 101, 201)) == [Check.LARGEST_KEY, Check.KEY_CHECKSUM]
    assert checks(one, Fingerprint(3, ("1",), ("3",), 101, 201)) == [Check.KEY_CHECKSUM]
    assert checks(one, Fingerprint(3, ("1",), ("3",), 100, 201)) == [Check.VALUE_CHECKSUM]


def test_a_difference_has_both_values() -> None:
    (found,) = differences(
        Measure((ID,)), Fingerprint(3, ("1",), ("3",), 9), Fingerprint(3, ("1",), ("3",), 10)
    )
    assert (found.source, found.warehouse) == ("9", "10")
    smallest, _ = differences(
        Measure((ID, AMOUNT)),
        Fingerprint(1, ("1", "2"), ("3", "4"), 9),
        Fingerprint(1, ("0", "2"), ("3", "4"), 10),
    )
    assert (smallest.source, smallest.warehouse) == ("id=1, amount=2", "id=0, amount=2")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), ensure_ascii=False, indent=1) + "\n")


def test_many_texts_are_joined_in_sql_server_to_one_that_is_not_cut() -> None:
    """Without a text of a max type it cuts them to 8,000 octets, with no error."""
    one = part(ID, Kind.INTEGER, "c", collation="Latin1_General_BIN2")
    few, many = (Dialect("mssql").fingerprint("t", [one], [one] * count) for count in (50, 200))
    assert "varchar(max)" not in few
    assert "CAST('' AS varchar(max)) +" in many


def test_a_row_of_many_columns_is_no_deep_expression() -> None:
    """DuckDB refuses one of more than a thousand levels."""
    parts = [part(ID, Kind.INTEGER, "c")] * 1600
    sql = Dialect("duckdb").fingerprint("(SELECT 7 AS c)", parts[:1], parts[1:])
    assert len(duckdb.extract_statements(sql)) == 1
    # To plan so many takes DuckDB seconds.
    with closing(duckdb.connect()) as db:
        row = db.execute(Dialect("duckdb").fingerprint("(SELECT 7 AS c)", parts[:1], parts[:150])).fetchone()
    assert row is not None
    assert read_fingerprint(row, parts[:1]).values == number_of(["7"] * 151)
