"""A table that is made from a source's columns has room for all of their values, in every target."""

from __future__ import annotations

from collections.abc import Sequence

from dwhctl.core.columns import Column, Kind
from dwhctl.load.cast import compare
from dwhctl.load.column_fit import misfits
from dwhctl.project.query import Query
from dwhctl.systems.base.system import system_of, type_map
from tests.contract.way import TABLE, Way, is_held


def _columns(way: Way) -> tuple[str, Sequence[Column]]:
    """Make a source table with a column of each type. Return the query for those with a type in the target."""
    source = way.source_kit
    values = ", ".join(f"{case.values[0]} AS v{number}" for number, case in enumerate(source.types))
    way.fill(*source.create_as("t", f"SELECT {source.integer(1)} AS id, {values}"))
    with source.open(way.source) as opened:
        held = [
            column.name for column in opened.columns(Query("SELECT * FROM t", {})) if is_held(way, column)
        ]
        sql = f"SELECT {', '.join(held)} FROM t"
        return sql, opened.columns(Query(sql, {}))


def test_a_new_column_has_room_for_every_value_of_every_type(way: Way) -> None:
    sql, columns = _columns(way)
    for _ in range(2):  # a table that stands is left as it is
        way.generate(sql)
    made = way.target.columns(TABLE)
    required = ["etl_source", "etl_id", "hash_id", "id"]
    assert [column.name for column in made][:4] == required
    assert [column.name for column in made if not column.nullable][:4] == required
    assert compare(columns, made, fill_missing=False) == []
    for misfit in misfits(columns, made, way.target.declaration, slice_by=None, declares_null=False):
        # What no type of the target holds: a text without a limit, a nanosecond, Vertica's NULL among the integers.
        assert not misfit.certain
        assert any(
            word in misfit.what for word in ("no limit", "TIMESTAMP_NS", "NUMERIC", "-922337203685477580")
        ), misfit


def test_the_type_map_says_what_a_new_column_is(way: Way) -> None:
    rows = type_map(way.source_kit.name)
    known = {row.source.name.partition("(")[0].lower(): row for row in rows if row.source.column}
    target = way.target_kit.name
    for column in _columns(way)[1]:
        row = known[column.declared.partition("(")[0].lower()]
        assert row.source.column
        assert row.source.column.kind is column.kind
        declared = way.target.declaration(column)
        assert system_of(way.warehouse).declaration(column) == declared
        # A text's type depends on its length.
        if column.kind not in (Kind.TEXT, Kind.BINARY):
            assert (row.targets[target] or "").partition("(")[0] == declared.partition("(")[0], column
    for declared in way.source_kit.refused:
        assert declared not in {row.source.name for row in rows if row.source.column}
