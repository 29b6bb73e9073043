"""Stage a slice as a Parquet file, and write the SQL of publications and refreshes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import About, StagingError, TargetRefusedError
from dwhctl.core.files import with_remedy
from dwhctl.core.sql import literal, quote_name, quote_path
from dwhctl.systems.base.target import (
    DELETE,
    HELD,
    INSERT,
    STAGED,
    Narrowing,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Stage,
    Statement,
    TableColumns,
    carried,
    refresh_source,
    refresh_sql,
    refused_value,
)
from dwhctl.systems.duckdb import client as engine

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.duckdb.target import DuckdbTarget


#: The memory of the search for duplicate keys before it spills, and how many hash_ids are compared at once: many more
#: do not fit, spilled or not.
_CHECK_MEMORY = "48MiB"
_IDS_AT_ONCE = 4_000_000


def files_of(first: Path) -> Iterator[Path]:
    """Yield the staged files of a token, of which this is the first; a slice in parts has one for each of them."""
    yield first
    for number in count(2):
        if not (file := _numbered(first, number)).exists():
            return
        yield file


def _numbered(first: Path, number: int) -> Path:
    return first if number == 1 else first.with_name(f"{first.stem}.{number}{first.suffix}")


def _claimed(first: Path) -> Path:
    """Return the first of a token's files that does not exist, made now: parts are staged at once."""
    for number in count(1):
        with suppress(FileExistsError):
            (file := _numbered(first, number)).touch(exist_ok=False)
            return file
    raise AssertionError


def _rows_in(file: Path) -> int | None:
    """Return the number of rows of a staged file; None while it is written, and of a part that failed."""
    try:
        rows: int = pq.read_metadata(file).num_rows
    except (pa.ArrowInvalid, FileNotFoundError):
        return None
    return rows


class ParquetStage(Stage):
    """A Parquet file that grows by one row group a batch.

    It never creates the group's folder: where that is missing, the run has ended and its worker must stop.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._first = self._path = path
        schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        with self._translated():
            self._path = _claimed(path)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd", use_dictionary=False)

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        for batch in batches:
            with self._translated():
                self._writer.write_batch(batch)
        with self._translated():
            self._writer.close()
            return self._path.stat().st_size

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = with_remedy(f"cannot stage in {self._path.parent}: {error.strerror or error}")
            raise StagingError(message) from error

    def duplicate_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first, in parts when they are many: eight bytes a row, spilled to the staging folder."""
        # As text: DuckDB needs pytz to return a TIMESTAMPTZ.
        shown = ", ".join(f"{quote_name(name)}::VARCHAR" for name in key)
        names = ", ".join(map(quote_name, key))
        counts = {file: _rows_in(file) for file in files_of(self._first)}
        values: dict[str, object] = _values([file for file, rows in counts.items() if rows is not None])
        staged = "read_parquet($files, hive_partitioning = false)"
        folder = self._path.parent
        config: engine.Config = {"memory_limit": _CHECK_MEMORY, "threads": 1, "temp_directory": str(folder)}
        # The parts are even: by the last bits of the hash_ids.
        parts = 1 << (sum(filter(None, counts.values())) // _IDS_AT_ONCE).bit_length()
        try:
            with closing(engine.connect(":memory:", config, folders=[folder])) as db:
                candidates = [
                    hash_id
                    for part in range(parts)
                    for (hash_id,) in db.execute(
                        f"SELECT hash_id FROM {staged} WHERE hash_id & {parts - 1} = {part}"
                        " GROUP BY ALL HAVING count(*) > 1 LIMIT 10",
                        values,
                    ).fetchall()
                ]
                if not candidates:
                    return None
                found: tuple[object, ...] | None = db.execute(
                    f"SELECT {shown} FROM {staged} WHERE hash_id IN (SELECT unnest($ids))"
                    f" GROUP BY {names} HAVING count(*) > 1 LIMIT 1",
                    values | {"ids": candidates},
                ).fetchone()
                return found
        except duckdb.Error as error:
            text = f"cannot look for duplicate keys in {self._path}: {engine.words(error)}"
            raise StagingError(text) from error

    def discard(self) -> None:
        # The file may be damaged: closing it is all that is left to do.
        try:
            self._writer.close()
        except (OSError, pa.ArrowException, ValueError):
            self._writer.is_open = False
        self._path.unlink(missing_ok=True)


class SlicedTable(Struct, frozen=True):
    """A table, and the column by which it is sliced: `zoned` is whether that holds instants."""

    name: str
    slice_by: str | None
    zoned: bool

    @classmethod
    def of(cls, db: duckdb.DuckDBPyConnection, name: str, slice_by: str | None) -> SlicedTable:
        """Look the column's type up."""
        if slice_by is None:
            return cls(name, None, zoned=False)
        relation = db.sql(f"SELECT {quote_name(slice_by)} FROM {quote_path(name)} LIMIT 0")
        return cls(name, slice_by, zoned=str(relation.types[0]) == "TIMESTAMP WITH TIME ZONE")

    def conditions(
        self, slices: Sequence[Slice], mark: str = ""
    ) -> Iterator[tuple[str, str, dict[str, object]]]:
        """Yield, by bounds, a condition of the shards, one of the bounds ("" for none), and their values.

        The values' names end with `mark`.
        """
        by_bounds: dict[tuple[object, object], list[str]] = {}
        for slice in slices:
            bounds = (slice.start_at, slice.end_at) if self.zoned else (slice.start, slice.end)
            by_bounds.setdefault(bounds, []).append(slice.shard)
        for (start, end), shards in by_bounds.items():
            where, values = of_shards(shards, mark)
            if self.slice_by is None:
                yield where, "", values
            else:
                column = quote_name(self.slice_by)
                inside = f"{column} >= $start{mark} AND {column} < $end{mark}"
                yield where, inside, {**values, f"start{mark}": start, f"end{mark}": end}

    def held(self, slices: Sequence[Slice]) -> Iterator[Statement]:
        """Yield the statements that count the slices' rows."""
        head = f"SELECT etl_source, count(*) FROM {quote_path(self.name)}"
        for where, values in self._whole(slices):
            yield Statement(f"{head} WHERE {where} GROUP BY ALL", values, HELD)

    def delete(self, slices: Sequence[Slice]) -> Iterator[Statement]:
        """Yield the statements that delete the slices' rows."""
        for where, values in self._whole(slices):
            yield Statement(f"DELETE FROM {quote_path(self.name)} WHERE {where}", values, DELETE)

    def _whole(self, slices: Sequence[Slice]) -> Iterator[tuple[str, dict[str, object]]]:
        for shards, bounds, values in self.conditions(slices):
            yield (f"{shards} AND {bounds}" if bounds else shards), values


def of_shards(shards: Sequence[str], mark: str = "") -> tuple[str, dict[str, object]]:
    """Return the condition of the rows of these shards, and its values."""
    return f"etl_source IN (SELECT unnest($shards{mark}))", {f"shards{mark}": list(shards)}


def described(db: duckdb.DuckDBPyConnection, table: str) -> list[Column]:
    """Return the columns that dwhctl writes: not the generated ones. Raise TargetRefusedError for a type."""
    try:
        relation = db.sql(f"SELECT * FROM {quote_path(table)} LIMIT 0")
    except duckdb.PermissionException as error:
        if not is_taken_for_file(error, table):
            raise
        missing = TargetRefusedError(f"there is no table {table}")
        missing.about = About.TABLE
        raise missing from error
    required = {name for _, name, _, not_null, *_ in _table_info(db, table) if not_null}
    generated = _generated(db, table)
    columns = []
    for name, declared in zip(relation.columns, map(str, relation.types), strict=True):
        if name in generated:
            continue
        column = engine.column(name, declared, nullable=name not in required)
        if column is None:
            raise TargetRefusedError(f"{table}.{name}: dwhctl does not write DuckDB's type {declared}")
        columns.append(column)
    return columns


def is_taken_for_file(error: BaseException, table: str) -> bool:
    """Return whether the table does not exist, and DuckDB looked for a file: its name ends in `.csv` or `.json`."""
    return isinstance(error, duckdb.PermissionException) and f'"{table}"' in str(error)


def _table_info(db: duckdb.DuckDBPyConnection, table: str) -> list[tuple[Any, ...]]:
    return db.execute(f"PRAGMA table_info({literal(quote_path(table))})").fetchall()


def _generated(db: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    """Return the columns that DuckDB computes, and refuses to be given."""
    rows = db.execute(
        "SELECT column_name FROM duckdb_columns() WHERE is_generated AND database_name = current_database()"
        " AND lower($table) IN (lower(concat_ws('.', schema_name, table_name)),"
        " lower(concat_ws('.', database_name, schema_name, table_name)),"
        # The schema may be left out.
        " CASE schema_name WHEN current_schema() THEN lower(table_name) END,"
        " CASE schema_name WHEN current_schema() THEN lower(concat_ws('.', database_name, table_name)) END)",
        {"table": table},
    ).fetchall()
    return {str(column) for (column,) in rows}


BEGIN, COMMIT = "BEGIN", "COMMIT"


def staged(files: Sequence[Path]) -> Statement:
    return Statement("SELECT file_name, num_rows FROM parquet_file_metadata($files)", _values(files), STAGED)


def insert(table: str, files: Sequence[Path]) -> Statement:
    # A folder `id=7` above the state folder is no column. A slice staged after a column was
    # added has one more than its neighbours: without union_by_name the first file's columns are all.
    sql = (
        f"INSERT INTO {quote_path(table)} BY NAME SELECT * FROM"
        " read_parquet($files, hive_partitioning = false, union_by_name = true)"
    )
    return Statement(sql, _values(files), INSERT)


def publish_statements(file: Path, slice: Slice, columns: TableColumns) -> list[Statement]:
    slice_by = columns.slice_by
    table = SlicedTable(columns.table, slice_by if isinstance(slice_by, str) else None, zoned=False)
    if isinstance(slice_by, Column):
        table = SlicedTable(columns.table, slice_by.name, zoned=slice_by.kind is Kind.TIMESTAMPTZ)
    statements = [
        Statement(BEGIN),
        *table.held([slice]),
        staged([file]),
        *table.delete([slice]),
        insert(columns.table, [file]),
        Statement(COMMIT),
    ]
    if isinstance(slice_by, str):
        # The text of a bound depends on the column's type.
        unknown = {bound: f"<{bound}>" for bound in ("start", "end")}
        return [
            replace(
                statement, values={key: unknown.get(key, value) for key, value in statement.values.items()}
            )
            for statement in statements
        ]
    return statements


def _values(files: Sequence[Path]) -> dict[str, object]:
    return {"files": [engine.literal_path(file) for file in files]}


class DuckdbRefresh(Refresh):
    """One transaction in the file."""

    def __init__(
        self, target: DuckdbTarget, db: duckdb.DuckDBPyConnection, table: str, source: RowSource
    ) -> None:
        self._target = target
        self._db = db
        self._table = table
        self._query = source.text if source.is_query else None
        self._source = source

    def columns(self) -> RefreshColumns:
        # The query begins in the first line, so that DuckDB's line numbers are its own.
        with self._target.at_statement(self._query):
            source = self._db.execute(f"DESCRIBE SELECT * FROM {refresh_source(self._source)}").fetchall()
        rows, generated = _table_info(self._db, self._table), _generated(self._db, self._table)
        return RefreshColumns(
            tuple(_column(str(name), str(declared)) for name, declared, *_ in source),
            tuple(
                _column(str(name), str(declared)) for _, name, declared, *_ in rows if name not in generated
            ),
            frozenset(str(row[1]) for row in rows if row[4] is not None),
        )

    def delete(self) -> None:
        self._db.execute(f"DELETE FROM {quote_path(self._table)}")

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        wanted = TableColumns(self._table, names=columns, narrowed=narrowed)
        _, insert = refresh_sql(quote_path(self._table), self._source, wanted, checked)
        try:
            row = self._db.execute(insert).fetchone()
        except duckdb.Error as error:
            if (refused := refused_value(str(error), self._table, narrowed)) is not None:
                raise refused from error
            raise
        return int(row[0]) if row else 0

    def commit(self) -> None:
        with self._target.at_statement(None):
            self._db.execute(COMMIT)


def _column(name: str, declared: str) -> RefreshColumn:
    untyped = declared == '"NULL"'
    return RefreshColumn(name, declared, engine.column(name, declared), untyped)


def checked(number: int, pair: Narrowing) -> str:
    """Return the SQL of the column's value, or of an error where a cast and back changes it."""
    name = quote_name(pair.source.name)
    there = f"TRY_CAST({name} AS {pair.table.declared})"
    changed = f"TRY_CAST({there} AS {pair.source.declared}) IS DISTINCT FROM {name}"
    return f"CASE WHEN {changed} THEN error({carried(number, f'CAST({name} AS VARCHAR)')}) ELSE {name} END"
