"""Write to a warehouse that is a folder of CSV files, one for each table.

The workers write their slices to `<state>/staging/<run>/<group>/<token>.csv`. A publication and a refresh write the
whole table into a new file beside the old one, which it replaces at the commit. One writer has the folder's lock.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from dwhctl_csv.engine import Engine, locked, put
from dwhctl_csv.statements import run_statement
from dwhctl_csv.tables import Declared, Table, TableError, Writer, column, declaration

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import StagingError, TargetBusyError, TargetError, TargetRefusedError
from dwhctl.core.files import inside
from dwhctl.core.sql import literal, quote_name, quote_path
from dwhctl.core.words import quoted
from dwhctl.systems.base.inspection import Inspection, held_values_sql, read_held_values
from dwhctl.systems.base.staging import Publication
from dwhctl.systems.base.target import (
    DELETE,
    HELD,
    INSERT,
    STAGED,
    Refresh,
    RefreshColumn,
    RefreshColumns,
    Stage,
    StagingGroup,
    Statement,
    TableColumns,
    Target,
    carried,
    refresh_source,
    refused_value,
)

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from dwhctl_csv.system import CsvConnection

    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.target import Narrowing

_ERRORS = (TargetRefusedError, TargetError)


class CsvTarget(Target):
    """A folder of CSV files. Readers take no lock: a table stays as it was when they began to read it."""

    def __init__(self, connection: CsvConnection, state_dir: Path) -> None:
        self._connection = connection
        self._folder = connection.path
        self._staging = state_dir / "staging"
        self._interrupted = threading.Event()
        self._running: set[Engine] = set()

    def run_statements(self, statements: Sequence[str]) -> None:
        with self._locked(fcntl.LOCK_EX):
            # A schema has no file before it has a table.
            schemas: set[str] = set()
            for statement in statements:
                with self._engine() as engine, engine.translated(statement):
                    schemas = run_statement(engine, self._folder, statement, schemas)

    def columns(self, table: str) -> Sequence[Column]:
        with self._locked(fcntl.LOCK_SH), self._engine() as engine:
            return engine.table(table).described()

    def declaration(self, column: Column) -> str:
        return declaration(column)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        with self._locked(fcntl.LOCK_EX), self._engine() as engine:
            found = engine.table(table)
            there = {one.name.lower() for one in found.columns}
            added = [
                Declared(one.name, self.declaration(one)) for one in columns if one.name.lower() not in there
            ]
            if added:
                nulls = ", ".join(f"NULL AS {quote_name(one.name)}" for one in added)
                engine.write(
                    found.path, [*found.columns, *added], f"SELECT *, {nulls} FROM {quote_path(table)}"
                )
                put(found.path)

    def open_group(self, group: StagingGroup) -> None:
        try:
            self._group(group).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StagingError(f"cannot stage in {self._group(group)}: {error.strerror}") from error

    def drop_group(self, group: StagingGroup) -> None:
        shutil.rmtree(self._group(group), ignore_errors=True)

    def drop_run(self, run_id: str) -> None:
        with suppress(ValueError):  # no run has such a folder
            shutil.rmtree(inside(self._staging, run_id), ignore_errors=True)

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        return CsvStage(
            self.staged_file(group, token), [Declared(one.name, self.declaration(one)) for one in columns]
        )

    @contextmanager
    def publication(self, table: str, slice_by: str | None, timeout: timedelta) -> Iterator[Publication]:
        with self._locked(fcntl.LOCK_EX), self._engine() as engine:
            yield CsvPublication(self, engine, table, slice_by)

    @contextmanager
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> Iterator[Refresh]:
        with self._locked(fcntl.LOCK_EX), self._engine() as engine:
            yield CsvRefresh(engine, engine.table(table), table, source)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        slice_by = columns.slice_by
        name = slice_by.name if isinstance(slice_by, Column) else slice_by
        zoned = isinstance(slice_by, Column) and slice_by.kind is Kind.TIMESTAMPTZ
        [(where, bounds)] = conditions([slice], name, zoned=zoned)
        if isinstance(slice_by, str):
            bounds = f"{quote_name(slice_by)} >= <start> AND {quote_name(slice_by)} < <end>"
        inside, table = _both(where, bounds), quote_path(columns.table)
        staged = quote_name(str(self.staged_file(StagingGroup("<run>", "<group>", columns.table), "<token>")))
        kept = f"SELECT * FROM {table} WHERE ({inside}) IS NOT TRUE"
        return [
            Statement(f"SELECT count(*) FROM {table} WHERE {inside}", about=HELD),
            Statement(f"SELECT count(*) FROM {staged}", about=STAGED),
            Statement(kept, about=f"the rows that stay; {DELETE}"),
            Statement(f"SELECT {columns.listed(quote_name)} FROM {staged}", about=INSERT),
            Statement(f"the rename of the new file to {self._folder / columns.table}.csv"),
        ]

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        names = columns.listed(quote_name)
        return [
            Statement(f"SELECT {names} FROM {refresh_source(source)}"),
            Statement(f"the rename of the new file to {self._folder / columns.table}.csv"),
        ]

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        with self._engine() as engine:
            yield CsvInspection(engine, table, slice_by)

    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        listed = ", ".join(map(str, etl_ids)) or "NULL"
        sql = f"SELECT etl_id, count(*) FROM {quote_path(table)} WHERE etl_id IN ({listed}) GROUP BY ALL"
        return {int(etl_id): int(count) for etl_id, count in self._rows_if_there(table, sql)}

    def highest_etl_id(self, table: str) -> int:
        rows = self._rows_if_there(table, f"SELECT max(etl_id) FROM {quote_path(table)}")
        return int(rows[0][0] or 0) if rows else 0

    def _rows_if_there(self, table: str, sql: str) -> list[tuple[Any, ...]]:
        if not self._folder.is_dir():
            return []
        with self._locked(fcntl.LOCK_SH), self._engine() as engine:
            with suppress(TableError):
                engine.table(table)
                return engine.execute(sql).fetchall()
            return []

    def interrupt(self) -> None:
        self._interrupted.set()
        for engine in list(self._running):
            engine.interrupt()

    def version(self) -> str:
        with self._locked(fcntl.LOCK_SH):
            return f"CSV files, DuckDB {duckdb.__version__}"

    def staged_file(self, group: StagingGroup, token: str) -> Path:
        """Return the file of a staged slice."""
        return self._group(group) / f"{token}.csv"

    def _group(self, group: StagingGroup) -> Path:
        return inside(inside(self._staging, group.run_id), group.name)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Lock the folder, which is made when it is missing."""
        if not self._folder.parent.is_dir():
            raise TargetRefusedError(
                f"there is no folder {self._folder.parent} for the warehouse {self._connection.name}"
            )
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise TargetRefusedError(
                f"the warehouse {self._folder} cannot be used: {error.strerror}"
            ) from error
        wait = self._connection.lock_wait.total_seconds()
        with locked(self._folder, how, wait, TargetBusyError, self._interrupted):
            yield

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        if not self._folder.is_dir():
            raise TargetRefusedError(f"there is no warehouse {self._folder} yet")
        with Engine(self._folder, _ERRORS) as engine, engine.translated():
            self._running.add(engine)
            try:
                yield engine
            finally:
                self._running.discard(engine)


class CsvStage(Stage):
    """A CSV file. It never creates the group's folder: where that is missing, the run has ended."""

    def __init__(self, path: Path, columns: Sequence[Declared]) -> None:
        self._columns = columns
        self._path = path
        with self._translated():
            self._writer = Writer(path, columns)

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        names = [quote_name(one.name) for one in self._columns]
        texts = f"SELECT {', '.join(f'CAST({name} AS VARCHAR) AS {name}' for name in names)} FROM batch"
        with Engine(None, (StagingError, StagingError)) as engine:
            for batch in batches:
                with engine.translated():
                    engine.db.register("batch", pa.Table.from_batches([batch]))
                    del batch
                    for written in engine.db.sql(texts).to_arrow_reader(10_000):
                        self._writer.write(written)
                    engine.db.unregister("batch")
        with self._translated():
            size = self._writer.close()
            if not self._path.exists():
                raise StagingError(f"{self._path} is gone: the run has ended")
            return size

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, TableError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StagingError(f"cannot stage in {self._path.parent}: {reason}") from error

    def duplicate_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        names = ", ".join(map(quote_name, key))
        # As text: DuckDB needs pytz to return a TIMESTAMP WITH TIME ZONE.
        shown = ", ".join(f"CAST({quote_name(name)} AS VARCHAR)" for name in key)
        with staged_rows(self._path, (StagingError, StagingError)) as (engine, rows), engine.translated():
            found: tuple[object, ...] | None = engine.db.execute(
                f"SELECT {shown} FROM ({rows}) AS staged GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
            ).fetchone()
            return found

    def discard(self) -> None:
        self._writer.discard()


@contextmanager
def staged_rows(
    path: Path, errors: tuple[type[StagingError], type[StagingError]]
) -> Iterator[tuple[Engine, str]]:
    """Open a staged file; yield an engine and the query of its rows."""
    with Engine(None, errors) as engine, engine.translated():
        table = Table(path)
        try:
            yield engine, table.select(engine.raw(table))
        finally:
            table.close()


class CsvPublication(Publication):
    """One publication: a query of the rows that the table will have, which the commit writes."""

    def __init__(self, target: CsvTarget, engine: Engine, table: str, slice_by: str | None) -> None:
        self._target = target
        self._engine = engine
        self._table = engine.table(table)
        self._slice_by = slice_by
        self._zoned = is_zoned(self._table, slice_by)
        self._rows = f"SELECT * FROM {quote_path(table)}"

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self._engine.translated():
            return self._engine.execute(sql).fetchall()

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        held: dict[str, int] = {}
        for where in self._conditions(slices):
            sql = f"SELECT etl_source, count(*) FROM ({self._rows}) AS held WHERE {where} GROUP BY ALL"
            held.update((str(shard), int(count)) for shard, count in self._ask(sql))
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        sql = held_values_sql(f"({self._rows}) AS held", of_shards(shards), list(map(quote_name, columns)))
        return read_held_values(self._ask(sql), columns)

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for token in tokens:
            with suppress(FileNotFoundError):
                rows = self._staged(group, token)
                counts[token] = int(self._ask(f"SELECT count(*) FROM ({rows}) AS staged")[0][0])
        return counts

    def delete(self, slices: Sequence[Slice]) -> None:
        for where in self._conditions(slices):
            self._rows = f"SELECT * FROM ({self._rows}) AS kept WHERE ({where}) IS NOT TRUE"

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        added = 0
        for token in tokens:
            try:
                rows = self._staged(group, token)
            except FileNotFoundError as error:
                raise StagingError(f"the slice {token} is not staged") from error
            added += int(self._ask(f"SELECT count(*) FROM ({rows}) AS staged")[0][0])
            self._rows = f"{self._rows} UNION ALL {rows}"
        return added

    def commit(self) -> None:
        with self._engine.translated():
            for one in (one for one in self._table.columns if one.unique):
                name = quote_name(one.name)
                sql = f"SELECT CAST({name} AS VARCHAR) FROM ({self._rows}) AS new WHERE {name} IS NOT NULL"
                if twice := self._ask(f"{sql} GROUP BY {name} HAVING count(*) > 1 LIMIT 1"):
                    raise TargetRefusedError(
                        f"{self._table.path.name}: column {one.name} is UNIQUE, and {quoted(str(twice[0][0]))} would"
                        " occur twice"
                    )
            self._engine.write(self._table.path, self._table.columns, self._rows)
            put(self._table.path)

    def _conditions(self, slices: Sequence[Slice]) -> Iterator[str]:
        for where, bounds in conditions(slices, self._slice_by, zoned=self._zoned):
            yield _both(where, bounds)

    def _staged(self, group: StagingGroup, token: str) -> str:
        """Return the query of staged rows, in the table's columns. Raise FileNotFoundError."""
        staged = self._engine.staged(self._target.staged_file(group, token))
        there = {one.name.lower() for one in staged.columns}
        values = [
            f"{quote_name(one.name) if one.name.lower() in there else one.default or 'NULL'} AS {quote_name(one.name)}"
            for one in self._table.columns
        ]
        return f"SELECT {', '.join(values)} FROM ({staged.select(self._engine.raw(staged))}) AS staged"


class CsvRefresh(Refresh):
    """One refresh: a new file, which the commit puts into the place of the old one."""

    def __init__(self, engine: Engine, table: Table, name: str, source: RowSource) -> None:
        self._engine = engine
        self._table = table
        self._name = name
        self._source = source
        self._query = source.text if source.is_query else None

    def columns(self) -> RefreshColumns:
        with self._engine.translated(self._query):
            rows = self._engine.execute(f"DESCRIBE SELECT * FROM {refresh_source(self._source)}").fetchall()
        return RefreshColumns(
            tuple(_refreshed(str(name), str(declared)) for name, declared, *_ in rows),
            tuple(_refreshed(one.name, one.type) for one in self._table.columns),
            frozenset(one.name for one in self._table.columns if one.default is not None),
        )

    def delete(self) -> None:
        with self._engine.translated():
            nothing = f"SELECT * FROM {quote_path(self._name)} WHERE false"
            self._engine.write(self._table.path, self._table.columns, nothing)

    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        checks = {pair.table.name: _checked(number, pair) for number, pair in enumerate(narrowed)}
        given = set(columns)
        values = []
        for one in self._table.columns:
            value = checks.get(one.name, quote_name(one.name)) if one.name in given else one.default or "NULL"
            values.append(f"CAST({value} AS {one.type}) AS {quote_name(one.name)}")
        select = f"SELECT {', '.join(values)} FROM {refresh_source(self._source)}"
        try:
            with self._engine.translated():
                required = [quote_name(one.name) for one in self._table.columns if not one.nullable]
                nulls = " OR ".join(f"{name} IS NULL" for name in required) or "false"
                if self._engine.execute(f"SELECT 1 FROM ({select}) AS new WHERE {nulls} LIMIT 1").fetchone():
                    raise TargetRefusedError(
                        f"{self._name}: one of {', '.join(required)} would be NULL, and is NOT NULL"
                    )
                return self._engine.write(self._table.path, self._table.columns, select)
        except TargetRefusedError as error:
            if (refused := refused_value(str(error), self._name, narrowed)) is not None:
                raise refused from error
            raise

    def commit(self) -> None:
        with self._engine.translated():
            put(self._table.path)


class CsvInspection(Inspection):
    """The inspection of a table, as it is when it is first read."""

    def __init__(self, engine: Engine, table: str, slice_by: str | None) -> None:
        super().__init__("duckdb", quote_path(table), sliced=slice_by is not None)
        self._engine = engine
        self._slice_by = slice_by
        self._file = engine.table(table)
        self._zoned = is_zoned(self._file, slice_by)

    def columns(self) -> Sequence[Column]:
        with self._engine.translated():
            return self._file.described()

    def beside(self, table: str, slice_by: str | None) -> CsvInspection:
        with self._engine.translated():
            return CsvInspection(self._engine, table, slice_by)

    def _ask(self, sql: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:
        with self._engine.translated():
            return self._engine.execute(sql, values).fetchall()

    def _of_shards(self, shards: Sequence[str]) -> tuple[str, dict[str, object]]:
        return of_shards(shards), {}

    def _conditions(self, slices: Sequence[Slice]) -> Iterator[tuple[str, str, dict[str, object]]]:
        for where, bounds in conditions(slices, self._slice_by, zoned=self._zoned):
            yield where, bounds, {}

    def _texts(self, texts: Sequence[str]) -> tuple[list[str], dict[str, object]]:
        return list(map(literal, texts)), {}


def is_zoned(table: Table, slice_by: str | None) -> bool:
    """Return whether the column by which the table is sliced holds instants."""
    types = {one.name.lower(): one.type for one in table.columns}
    return types.get((slice_by or "").lower()) == "TIMESTAMP WITH TIME ZONE"


def of_shards(shards: Sequence[str]) -> str:
    """Return the condition of the rows of these shards."""
    return f"etl_source IN ({', '.join(map(literal, shards)) or 'NULL'})"


def conditions(slices: Sequence[Slice], slice_by: str | None, *, zoned: bool) -> Iterator[tuple[str, str]]:
    """Yield, by bounds, a condition of the shards, and one of the bounds ("" for none)."""
    by_bounds: dict[tuple[datetime | None, datetime | None], list[str]] = {}
    for slice in slices:
        bounds = (slice.start_at, slice.end_at) if zoned else (slice.start, slice.end)
        by_bounds.setdefault(bounds, []).append(slice.shard)
    kind = "TIMESTAMPTZ" if zoned else "TIMESTAMP"
    for (start, end), shards in by_bounds.items():
        if slice_by is None:
            yield of_shards(shards), ""
        else:
            column = quote_name(slice_by)
            yield of_shards(shards), f"{column} >= {kind} '{start}' AND {column} < {kind} '{end}'"


def _both(where: str, bounds: str) -> str:
    return f"{where} AND {bounds}" if bounds else where


def _refreshed(name: str, declared: str) -> RefreshColumn:
    return RefreshColumn(name, declared, column(name, declared), untyped=declared == '"NULL"')


def _checked(number: int, pair: Narrowing) -> str:
    """Return the SQL of the column's value, or of an error where a cast and back changes it."""
    name = quote_name(pair.source.name)
    there = f"TRY_CAST({name} AS {pair.table.declared})"
    changed = f"TRY_CAST({there} AS {pair.source.declared}) IS DISTINCT FROM {name}"
    return f"CASE WHEN {changed} THEN error({carried(number, f'CAST({name} AS VARCHAR)')}) ELSE {name} END"
