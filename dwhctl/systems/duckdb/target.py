"""Write to a warehouse that is a DuckDB file: stage Parquet files, publish them in one transaction.

The file serves one writer or many readers, so only the parent opens it, and only while it uses it. The workers write
their slices to `<state>/staging/<run>/<group>/<token>.parquet`; further parts of a slice to `<token>.2.parquet` ...
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from dwhctl.core.columns import Column
from dwhctl.core.errors import AttemptError, DatabaseMissingError, StagingError, TargetRefusedError
from dwhctl.core.files import SpillFolder, inside, with_remedy
from dwhctl.core.sql import quote_name, quote_path
from dwhctl.systems.base.inspection import Inspection, held_values_sql, read_held_values
from dwhctl.systems.base.staging import Described, Publication, described_each
from dwhctl.systems.base.target import (
    Refresh,
    Stage,
    StagingGroup,
    Statement,
    TableColumns,
    Target,
    refresh_sql,
)
from dwhctl.systems.duckdb import client as engine
from dwhctl.systems.duckdb import staging as sent
from dwhctl.systems.duckdb.staging import (
    DuckdbRefresh,
    ParquetStage,
    SlicedTable,
    described,
    files_of,
    is_taken_for_file,
    of_shards,
)

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.duckdb.system import DuckdbConnection

_THREADS = 2
#: The default memory of a refresh's query, which sorts and groups, and then spills.
_REFRESH_MEMORY = "256MiB"


class DuckdbTarget(Target):
    """A DuckDB file. The lock lets one thread of the parent use it at a time."""

    def __init__(self, connection: DuckdbConnection, state_dir: Path) -> None:
        self._connection = connection
        self._state_dir = state_dir
        self._staging = state_dir / "staging"
        self._one_user = threading.Lock()
        self._running: duckdb.DuckDBPyConnection | None = None
        self._interrupted = threading.Event()

    def run_statements(self, statements: Sequence[str]) -> None:
        # A thread that waits for DuckDB's others does not notice a signal.
        with self._open(spills=True, threads=1) as db:
            for statement in statements:
                with self.at_statement(statement):
                    db.execute(statement)

    def columns(self, table: str) -> Sequence[Column]:
        with self._open() as db:
            return described(db, table)

    def described(self, tables: Sequence[str]) -> Mapping[str, Described]:
        def describe(table: str) -> Sequence[Column]:
            with self.at_statement(None):
                return described(db, table)

        with self._open() as db:
            return described_each(tables, describe)

    def declaration(self, column: Column) -> str:
        return engine.declaration(column)

    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        with self._open() as db:
            for new in columns:
                db.execute(
                    f"ALTER TABLE {quote_path(table)}"
                    f" ADD COLUMN IF NOT EXISTS {quote_name(new.name)} {engine.declaration(new)}"
                )

    def open_group(self, group: StagingGroup) -> None:
        try:
            self._folder(group).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = with_remedy(f"cannot stage in {self._folder(group)}: {error.strerror}")
            raise StagingError(message) from error

    def drop_group(self, group: StagingGroup) -> None:
        shutil.rmtree(self._folder(group), ignore_errors=True)

    def drop_run(self, run_id: str) -> None:
        try:
            folder = inside(self._staging, run_id)
        except ValueError:
            return  # no run has such a folder
        shutil.rmtree(folder, ignore_errors=True)

    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        return ParquetStage(self._file(group, token), columns)

    @contextmanager
    def publication(
        self,
        table: str,
        slice_by: str | None,
        timeout: timedelta,  # noqa: ARG002 - a file has no server to wait for
    ) -> Iterator[Publication]:
        with self._open(spills=True) as db:
            self._make_room(db, table)
            db.execute(sent.BEGIN)
            # Leaving without a commit closes the connection, which rolls back.
            yield DuckdbPublication(self, db, table, slice_by)

    @contextmanager
    def refresh(
        self,
        table: str,
        source: RowSource,
        timeout: timedelta,  # noqa: ARG002 - a file has no server to wait for
    ) -> Iterator[Refresh]:
        with self._open(spills=True) as db:
            db.execute(f"SET memory_limit = '{self._connection.memory_limit or _REFRESH_MEMORY}'")
            db.execute(sent.BEGIN)
            # Leaving without a commit closes the connection, which rolls back.
            yield DuckdbRefresh(self, db, table, source)

    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        file = self._file(StagingGroup("<run>", "<group>", columns.table), "<token>")
        return sent.publish_statements(file, slice, columns)

    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        sql = refresh_sql(quote_path(columns.table), source, columns, sent.checked)
        return [Statement(sent.BEGIN), *map(Statement, sql), Statement(sent.COMMIT)]

    @contextmanager
    def inspection(self, table: str, slice_by: str | None) -> Iterator[Inspection]:
        if not self._connection.path.exists():
            raise TargetRefusedError(f"there is no warehouse {self._connection.path} yet")
        with self._open(read_only=True, spills=True) as db:
            self._make_room(db, table)
            yield DuckdbInspection(self, db, table, slice_by)

    def _make_room(self, db: duckdb.DuckDBPyConnection, table: str) -> None:
        columns = db.sql(f"SELECT * FROM {quote_path(table)} LIMIT 0").columns
        limit = engine.memory_limit(self._connection.memory_limit, len(columns))
        db.execute(f"SET memory_limit = '{limit}'")

    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        rows = self._rows_if_there(
            table,
            f"SELECT etl_id, count(*) FROM {quote_path(table)}"
            " WHERE etl_id IN (SELECT unnest($ids)) GROUP BY ALL",
            {"ids": list(etl_ids)},
        )
        return {int(etl_id): int(count) for etl_id, count in rows}

    def highest_etl_id(self, table: str) -> int:
        [(highest,)] = self._rows_if_there(table, f"SELECT max(etl_id) FROM {quote_path(table)}", {}) or [
            (0,)
        ]
        return int(highest or 0)

    def _rows_if_there(self, table: str, sql: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
        if not self._connection.path.exists():
            return []
        with self._open(spills=True) as db:
            try:
                return db.execute(sql, values).fetchall()
            except (duckdb.CatalogException, duckdb.PermissionException) as error:
                if isinstance(error, duckdb.PermissionException) and not is_taken_for_file(error, table):
                    raise
                return []

    def interrupt(self) -> None:
        self._interrupted.set()
        if (running := self._running) is not None:
            # Its own thread may be closing it.
            with suppress(duckdb.ConnectionException):
                running.interrupt()

    def version(self) -> str:
        with self._open() as db:
            row = db.execute("SELECT version()").fetchone()
            return f"DuckDB {row[0] if row else ''}"

    def staged_files(self, group: StagingGroup, tokens: Sequence[str]) -> dict[Path, str]:
        """Return the staged files with their tokens: one of each token, and one more for each further part."""
        return {file: token for token in tokens for file in files_of(self._file(group, token))}

    def _folder(self, group: StagingGroup) -> Path:
        return inside(inside(self._staging, group.run_id), group.name)

    def _file(self, group: StagingGroup, token: str) -> Path:
        return self._folder(group) / f"{token}.parquet"

    @contextmanager
    def _open(
        self, *, read_only: bool = False, spills: bool = False, threads: int = _THREADS
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._one_user, closing(SpillFolder(self._state_dir if spills else None)) as spill:
            try:
                with self.at_statement(None):
                    self._running = self._connect(spill, read_only=read_only, threads=threads)
                    yield self._running
            finally:
                running, self._running = self._running, None
                if running is not None:
                    running.close()

    def _connect(self, spill: SpillFolder, *, read_only: bool, threads: int) -> duckdb.DuckDBPyConnection:
        path = self._connection.path
        if not path.parent.is_dir():
            raise TargetRefusedError(
                f"there is no folder {path.parent} for the warehouse {self._connection.name}"
            )
        try:
            return engine.open_file(
                path,
                read_only=read_only,
                give_up=self._interrupted,
                wait=self._connection.lock_wait.total_seconds(),
                config={
                    "memory_limit": engine.memory_limit(self._connection.memory_limit),
                    "threads": threads,
                    "preserve_insertion_order": False,
                    "temp_directory": spill.path,
                },
                # DuckDB reads the staged Parquet files.
                folders=[self._staging],
                settings=["memory_limit"],
            )
        except DatabaseMissingError as error:
            raise TargetRefusedError(str(error)) from error

    @contextmanager
    def at_statement(self, statement: str | None) -> Iterator[None]:
        """Translate DuckDB's errors, with the user's statement that is executed in the block."""
        try:
            yield
        except duckdb.Error as error:
            raise self.translate_error(error, statement) from error

    def translate_error(self, error: duckdb.Error, statement: str | None = None) -> AttemptError:
        connection = self._connection
        return engine.translate_error(error, connection, connection.path, target=True, statement=statement)


class DuckdbPublication(Publication):
    """One transaction in the file."""

    def __init__(
        self, target: DuckdbTarget, db: duckdb.DuckDBPyConnection, table: str, slice_by: str | None
    ) -> None:
        self._target = target
        self._db = db
        self._table = SlicedTable.of(db, table, slice_by)

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        held: dict[str, int] = {}
        for statement in self._table.held(slices):
            rows = self._send(statement).fetchall()
            held.update((str(shard), int(count)) for shard, count in rows)
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        where, values = of_shards(shards)
        sql = held_values_sql(quote_path(self._table.name), where, list(map(quote_name, columns)))
        return read_held_values(self._db.execute(sql, values).fetchall(), columns)

    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        files = self._target.staged_files(group, tokens)
        tokens_of = {str(file): token for file, token in files.items()}
        counts: Counter[str] = Counter()
        for file, count in self._send(sent.staged([*files])).fetchall():
            counts[tokens_of[str(file)]] += int(count)
        return dict(counts)

    def delete(self, slices: Sequence[Slice]) -> None:
        for statement in self._table.delete(slices):
            self._send(statement)

    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        files = [*self._target.staged_files(group, tokens)]
        row = self._send(sent.insert(self._table.name, files)).fetchone()
        return int(row[0]) if row else 0

    def commit(self) -> None:
        try:
            self._db.execute(sent.COMMIT)
        except duckdb.Error as error:
            raise self._target.translate_error(error) from error

    def _send(self, one: Statement) -> duckdb.DuckDBPyConnection:
        return self._db.execute(one.sql, one.values)


class DuckdbInspection(Inspection):
    """The inspection of a table in a file that is open for reading."""

    def __init__(
        self,
        target: DuckdbTarget,
        db: duckdb.DuckDBPyConnection,
        table: str,
        slice_by: str | None,
        mark: str = "",
    ) -> None:
        super().__init__("duckdb", quote_path(table), sliced=slice_by is not None)
        self._target = target
        self._db = db
        self._sliced_table = SlicedTable.of(db, table, slice_by)
        # Names the values of this table in a query of two tables.
        self._mark = mark

    def columns(self) -> Sequence[Column]:
        return described(self._db, self._sliced_table.name)

    def beside(self, table: str, slice_by: str | None) -> DuckdbInspection:
        return DuckdbInspection(self._target, self._db, table, slice_by, mark="_beside")

    def _ask(self, sql: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:
        with self._target.at_statement(None):
            return self._db.execute(sql, values).fetchall()

    def _of_shards(self, shards: Sequence[str]) -> tuple[str, dict[str, object]]:
        return of_shards(shards)

    def _conditions(self, slices: Sequence[Slice]) -> Iterator[tuple[str, str, dict[str, object]]]:
        return self._sliced_table.conditions(slices, self._mark)

    def _texts(self, texts: Sequence[str]) -> tuple[list[str], dict[str, object]]:
        bound: dict[str, object] = {f"text{number}": text for number, text in enumerate(texts)}
        return [f"${name}" for name in bound], bound
