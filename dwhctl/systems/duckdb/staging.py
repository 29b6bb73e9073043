"""Stage one slice as a Parquet file: what a worker writes for a DuckDB warehouse."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import StagingError, TargetRefusedError
from dwhctl.systems.base.fingerprint import quote_name, quote_path
from dwhctl.systems.base.target import (
    DELETE,
    HELD,
    INSERT,
    STAGED,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Stage,
    Statement,
    TableColumns,
    carried,
    refused_value,
)
from dwhctl.systems.duckdb import client as engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.target import Narrowing
    from dwhctl.systems.duckdb.target import DuckdbTarget


#: What the search for doubled keys may take before it spills: the same for one million rows and for many.
_CHECK_MEMORY = "48MiB"
#: How many hash_ids are compared at once: many more do not fit in there, spilled or not.
_IDS_AT_ONCE = 4_000_000


class ParquetStage(Stage):
    """A Parquet file that grows by one row group a batch.

    It never makes the group's folder: where that is gone, the run is dead and its worker must not go on.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._path = path
        self._rows = 0
        schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        try:
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)
        except OSError as error:
            raise self._translate_error(error) from error

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        for batch in batches:
            self._append(batch)
        try:
            self._writer.close()
            return self._path.stat().st_size
        except OSError as error:
            raise self._translate_error(error) from error

    def _append(self, batch: pa.RecordBatch) -> None:
        try:
            self._writer.write_batch(batch)
            self._rows += batch.num_rows
        except OSError as error:
            raise self._translate_error(error) from error

    def duplicate_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first, in parts when they are many: eight bytes a row, spilled to the staging folder."""
        # As text: DuckDB needs pytz to hand out a TIMESTAMPTZ.
        shown = ", ".join(f"{quote_name(name)}::VARCHAR" for name in key)
        names = ", ".join(map(quote_name, key))
        values = {"file": engine.literal_path(self._path)}
        staged = "read_parquet($file, hive_partitioning = false)"
        try:
            with closing(engine.connect(":memory:", self._config(), folders=[self._path.parent])) as db:
                suspects = [
                    found
                    for part in self._parts()
                    for found in db.execute(
                        f"SELECT hash_id FROM {staged} WHERE hash_id & {part[0]} = {part[1]}"
                        " GROUP BY ALL HAVING count(*) > 1 LIMIT 10",
                        values,
                    ).fetchall()
                ]
                if not suspects:
                    return None
                return db.execute(
                    f"SELECT {shown} FROM {staged} WHERE hash_id IN (SELECT unnest($ids))"
                    f" GROUP BY {names} HAVING count(*) > 1 LIMIT 1",
                    values | {"ids": [hash_id for (hash_id,) in suspects]},
                ).fetchone()
        except duckdb.Error as error:
            raise StagingError(
                f"cannot look for doubled keys in {self._path}: {engine.words(error)}"
            ) from error

    def _parts(self) -> list[tuple[int, int]]:
        """Divide the hash_ids into even parts, by their last bits: a mask, and what they are under it."""
        parts = 1 << (self._rows // _IDS_AT_ONCE).bit_length()
        return [(parts - 1, part) for part in range(parts)]

    def _config(self) -> engine.Config:
        return {"memory_limit": _CHECK_MEMORY, "threads": 1, "temp_directory": str(self._path.parent)}

    def discard(self) -> None:
        # The file may be damaged by what went wrong; all that is left to do is to let go of it.
        try:
            self._writer.close()
        except (OSError, pa.ArrowException, ValueError):
            self._writer.is_open = False
        self._path.unlink(missing_ok=True)

    def _translate_error(self, error: OSError) -> StagingError:
        return StagingError(f"cannot stage in {self._path.parent}: {error.strerror or error}")


def is_zoned(db: duckdb.DuckDBPyConnection, table: str, slice_by: str | None) -> bool:
    """Tell whether the column by which the table is sliced holds instants."""
    if slice_by is None:
        return False
    relation = db.sql(f"SELECT {quote_name(slice_by)} FROM {quote_path(table)} LIMIT 0")
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
            column = quote_name(slice_by)
            inside = f"{column} >= $start{mark} AND {column} < $end{mark}"
            yield where, inside, {**values, f"start{mark}": start, f"end{mark}": end}


def of_shards(shards: Sequence[str], mark: str = "") -> tuple[str, dict[str, object]]:
    """Give the condition of the rows of these shards, and its values."""
    return f"etl_source IN (SELECT unnest($shards{mark}))", {f"shards{mark}": list(shards)}


def described(db: duckdb.DuckDBPyConnection, table: str) -> list[Column]:
    """Describe the table's columns. Raise TargetRefusedError for a type that has no place here."""
    relation = db.sql(f"SELECT * FROM {quote_path(table)} LIMIT 0")
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


BEGIN, COMMIT = "BEGIN", "COMMIT"


def held(table: str, slices: Sequence[Slice], slice_by: str | None, *, zoned: bool) -> Iterator[Statement]:
    """Yield what counts the slices' rows."""
    for where, values in _conditions(slices, slice_by, zoned=zoned):
        sql = f"SELECT etl_source, count(*) FROM {quote_path(table)} WHERE {where} GROUP BY ALL"
        yield Statement(sql, values, HELD)


def staged(files: Sequence[Path]) -> Statement:
    """Return what counts the rows of staged files."""
    return Statement("SELECT file_name, num_rows FROM parquet_file_metadata($files)", _values(files), STAGED)


def delete(table: str, slices: Sequence[Slice], slice_by: str | None, *, zoned: bool) -> Iterator[Statement]:
    """Yield what deletes the slices' rows."""
    for where, values in _conditions(slices, slice_by, zoned=zoned):
        yield Statement(f"DELETE FROM {quote_path(table)} WHERE {where}", values, DELETE)


def insert(table: str, files: Sequence[Path]) -> Statement:
    """Return what inserts the rows of staged files."""
    # A folder named `id=7` on the way to the state folder is no column. A slice staged after a column was
    # added has one more than its neighbours: without union_by_name the first file's columns are all.
    sql = (
        f"INSERT INTO {quote_path(table)} BY NAME SELECT * FROM"
        " read_parquet($files, hive_partitioning = false, union_by_name = true)"
    )
    return Statement(sql, _values(files), INSERT)


def publish_statements(file: Path, slice: Slice, columns: TableColumns) -> list[Statement]:
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


class DuckdbRefresh(Refresh):
    """One transaction in the file."""

    def __init__(
        self, target: DuckdbTarget, db: duckdb.DuckDBPyConnection, table: str, source: RowSource
    ) -> None:
        self._target = target
        self._db = db
        self._table = table
        self._query = source.text if source.is_query else None
        self._source = _from(source)

    def columns(self) -> RefreshColumns:
        # The query begins in the first line of what is sent: its lines are those that DuckDB counts.
        with self._target.at_statement(self._query) if self._query else nullcontext():
            source = self._db.execute(f"DESCRIBE SELECT * FROM {self._source}").fetchall()
        rows = self._db.execute(
            f"PRAGMA table_info('{self._table.replace(chr(39), chr(39) * 2)}')"
        ).fetchall()
        return RefreshColumns(
            tuple(_column(str(name), str(declared)) for name, declared, *_ in source),
            tuple(_column(str(name), str(declared)) for _, name, declared, *_ in rows),
            frozenset(str(row[1]) for row in rows if row[4] is not None),
        )

    def delete(self) -> None:
        self._db.execute(_delete_sql(self._table))

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = TableColumns(self._table, names=columns, narrowed=narrowed)
        try:
            row = self._db.execute(_insert_sql(self._source, wanted)).fetchone()
        except duckdb.Error as error:
            if (refused := refused_value(str(error), self._table, narrowed)) is not None:
                raise refused from error
            raise
        return int(row[0]) if row else 0

    def commit(self) -> None:
        try:
            self._db.execute(COMMIT)
        except duckdb.Error as error:
            raise self._target.translate_error(error) from error


def refresh_statements(source: RowSource, columns: TableColumns) -> list[Statement]:
    """Return what a refresh sends."""
    insert = _insert_sql(_from(source), columns)
    return [Statement(BEGIN), Statement(_delete_sql(columns.table)), Statement(insert), Statement(COMMIT)]


def _from(source: RowSource) -> str:
    # A comment at the query's end must not swallow the bracket.
    return f"({source.text}\n) AS source" if source.is_query else quote_path(source.text)


def _delete_sql(table: str) -> str:
    return f"DELETE FROM {quote_path(table)}"


def _insert_sql(source: str, columns: TableColumns) -> str:
    checks = {one.table.name: _checked(number, one) for number, one in enumerate(columns.narrowed)}
    values = columns.listed(lambda name: checks.get(name, quote_name(name)))
    names = columns.listed(quote_name)
    return f"INSERT INTO {quote_path(columns.table)} ({names}) SELECT {values} FROM {source}"


def _column(name: str, declared: str) -> RefreshColumn:
    untyped = declared == '"NULL"'
    return RefreshColumn(name, declared, engine.column(name, declared), untyped)


def _checked(number: int, one: Narrowing) -> str:
    """Write the column's value, or an error in its place where it does not come back as it was."""
    name = quote_name(one.source.name)
    there = f"TRY_CAST({name} AS {one.table.declared})"
    changed = f"TRY_CAST({there} AS {one.source.declared}) IS DISTINCT FROM {name}"
    return f"CASE WHEN {changed} THEN error({carried(number, f'CAST({name} AS VARCHAR)')}) ELSE {name} END"
