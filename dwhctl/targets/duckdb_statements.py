"""What a publication sends to a DuckDB file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.columns import Column, Kind
from dwhctl.engines import duckdb as engine
from dwhctl.targets.contract import DELETE, HELD, INSERT, STAGED, Statement
from dwhctl.targets.duckdb_rows import conditions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dwhctl.project.slices import Slice
    from dwhctl.targets.contract import Columns

BEGIN, COMMIT = "BEGIN", "COMMIT"


def held(table: str, slices: Sequence[Slice], slice_by: str | None, *, zoned: bool) -> Iterator[Statement]:
    """Yield what counts the slices' rows."""
    for where, values in _conditions(slices, slice_by, zoned=zoned):
        sql = f"SELECT etl_source, count(*) FROM {engine.quote(table)} WHERE {where} GROUP BY ALL"
        yield Statement(sql, values, HELD)


def staged(files: Sequence[Path]) -> Statement:
    """Return what counts the rows of staged files."""
    return Statement("SELECT file_name, num_rows FROM parquet_file_metadata($files)", _values(files), STAGED)


def delete(table: str, slices: Sequence[Slice], slice_by: str | None, *, zoned: bool) -> Iterator[Statement]:
    """Yield what deletes the slices' rows."""
    for where, values in _conditions(slices, slice_by, zoned=zoned):
        yield Statement(f"DELETE FROM {engine.quote(table)} WHERE {where}", values, DELETE)


def insert(table: str, files: Sequence[Path]) -> Statement:
    """Return what inserts the rows of staged files."""
    # A folder named `id=7` on the way to the state folder is no column. A slice staged after a column was
    # added has one more than its neighbours: without union_by_name the first file's columns are all.
    sql = (
        f"INSERT INTO {engine.quote(table)} BY NAME SELECT * FROM"
        " read_parquet($files, hive_partitioning = false, union_by_name = true)"
    )
    return Statement(sql, _values(files), INSERT)


def publish_statements(file: Path, slice: Slice, columns: Columns) -> list[Statement]:
    """Return what a publication of one slice sends."""
    slice_by = columns.slice_by
    name = slice_by.name if isinstance(slice_by, Column) else slice_by
    zoned = isinstance(slice_by, Column) and slice_by.kind is Kind.TIMESTAMPTZ
    statements = [
        Statement(BEGIN),
        *held(columns.table, [slice], name, zoned=zoned),
        staged([file]),
        *delete(columns.table, [slice], name, zoned=zoned),
        insert(columns.table, [file]),
        Statement(COMMIT),
    ]
    if isinstance(slice_by, str):
        # How a bound is written depends on the column's type.
        unknown = {bound: f"<{bound}>" for bound in ("start", "end")}
        return [
            Statement(one.sql, {key: unknown.get(key, value) for key, value in one.values.items()}, one.about)
            for one in statements
        ]
    return statements


def _values(files: Sequence[Path]) -> dict[str, object]:
    return {"files": [engine.literal_path(file) for file in files]}


def _conditions(
    slices: Sequence[Slice], slice_by: str | None, *, zoned: bool
) -> Iterator[tuple[str, dict[str, object]]]:
    """Say in SQL which rows belong to the slices: one condition for each pair of bounds."""
    for shards, bounds, values in conditions(slices, slice_by, zoned=zoned):
        yield (f"{shards} AND {bounds}" if bounds else shards), values
