"""Which rows of a DuckDB table belong to slices, and what its columns are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.engines import duckdb as engine
from dwhctl.errors import TargetRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

    from dwhctl.columns import Column
    from dwhctl.project.slices import Slice


def is_zoned(db: duckdb.DuckDBPyConnection, table: str, slice_by: str | None) -> bool:
    """Tell whether the column by which the table is sliced holds instants."""
    if slice_by is None:
        return False
    relation = db.sql(f"SELECT {engine.quote_column(slice_by)} FROM {engine.quote(table)} LIMIT 0")
    return str(relation.types[0]) == "TIMESTAMP WITH TIME ZONE"


def conditions(
    slices: Sequence[Slice], slice_by: str | None, *, zoned: bool, mark: str = ""
) -> Iterator[tuple[str, str, dict[str, object]]]:
    """For each pair of bounds give a condition of the shards, one of the bounds ("" for none), and their values.

    The values' names end with `mark`.
    """
    by_bounds: dict[tuple[object, object], list[str]] = {}
    for one in slices:
        bounds = (one.start_at, one.end_at) if zoned else (one.start, one.end)
        by_bounds.setdefault(bounds, []).append(one.shard)
    for (start, end), shards in by_bounds.items():
        where, values = of_shards(shards, mark)
        if slice_by is None:
            yield where, "", values
        else:
            column = engine.quote_column(slice_by)
            inside = f"{column} >= $start{mark} AND {column} < $end{mark}"
            yield where, inside, {**values, f"start{mark}": start, f"end{mark}": end}


def of_shards(shards: Sequence[str], mark: str = "") -> tuple[str, dict[str, object]]:
    """Give the condition of the rows of these shards, and its values."""
    return f"etl_source IN (SELECT unnest($shards{mark}))", {f"shards{mark}": list(shards)}


def described(db: duckdb.DuckDBPyConnection, table: str) -> list[Column]:
    """Describe the table's columns. Raise TargetRefusedError for a type that has no place here."""
    relation = db.sql(f"SELECT * FROM {engine.quote(table)} LIMIT 0")
    rows = db.execute(f"PRAGMA table_info('{table.replace(chr(39), chr(39) * 2)}')").fetchall()
    required = {name for _, name, _, not_null, *_ in rows if not_null}
    return [
        _target_column(table, name, str(declared), nullable=name not in required)
        for name, declared in zip(relation.columns, relation.types, strict=True)
    ]


def _target_column(table: str, name: str, declared: str, *, nullable: bool) -> Column:
    described = engine.column(name, declared, nullable=nullable)
    if described is None:
        raise TargetRefusedError(f"{table}.{name}: dwhctl does not write DuckDB's type {declared}")
    return described
