"""The rows: DuckDB in memory, and on top of it transactions as Vertica has them.

DuckDB's own transactions see a snapshot and end at the first error; Vertica's see what others commit meanwhile and
lose only the failed statement. So each statement here is a DuckDB transaction of its own, and every stored row says
who made it (`__ins`) and who deleted it (`__del`): a transaction's rows become visible at the moment its numbers
leave the set of active ones.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb

from tests.servers.engines import engine_for
from tests.servers.vertica import temporal
from tests.servers.vertica.catalog import ENGINE_SCHEMA, Table
from tests.servers.vertica.problems import too_many_containers

#: How often a statement that met another one on the same rows of the engine tries again.
_ATTEMPTS = 20
_SETTINGS = ("SET threads = 2", "SET python_enable_replacements = false")
#: What a cast to VARCHAR(n) leaves of a string: n octets, to the border of a character.
_CUT = """
    -- The engine leaves out the zero before the point of a DECIMAL(5,5).
    CREATE MACRO with_zero(x, kind) AS CASE WHEN kind LIKE 'DECIMAL(%'
        THEN ltrim(replace(replace(' ' || x, ' .', ' 0.'), ' -.', ' -0.')) ELSE x END;
    CREATE MACRO cut_octets(x, n) AS CASE WHEN strlen(x) <= n THEN x ELSE
        decode(unhex(regexp_extract(left(hex(encode(x)), 2 * n),
            '^((?:..)*?)(?:[CD].|E.(?:[89AB].)?|F.(?:[89AB].){0,2})?$', 1)))
    END
"""


def quote(name: str) -> str:
    """A name for DuckDB."""
    return '"' + name.replace('"', '""') + '"'


@dataclass
class Work:
    """A transaction: its numbers, and the tables in which it made or deleted rows."""

    number: int
    numbers: set[int] = field(default_factory=set)
    inserted: dict[int, Table] = field(default_factory=dict)
    deleted: dict[int, Table] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """Every table that it wrote to."""
        return list((self.inserted | self.deleted).values())


@dataclass(frozen=True)
class View:
    """What a statement sees: everything but the rows of transactions of others that are not over, or begin later.

    A transaction may begin, and write, between the moment of the view and that at which the engine reads.
    """

    moment: int
    others: tuple[int, ...]
    mine: Set[int]

    def condition(self, alias: str) -> str:
        """SQL that holds for the visible rows of a stored table."""
        made, deleted = f"{alias}.__ins", f"{alias}.__del"
        return f"(NOT {self._hidden(made)} AND ({deleted} IS NULL OR {self._hidden(deleted)}))"

    def _hidden(self, number: str) -> str:
        later = f"{number} > {self.moment}"
        if self.mine:
            later = f"({later} AND {number} NOT IN ({', '.join(map(str, self.mine))}))"
        return f"({number} IN ({', '.join(map(str, self.others))}) OR {later})" if self.others else later


class Store:
    """The stored rows, who is active, and what waits to be removed."""

    def __init__(self, max_containers: int) -> None:
        self.max_containers = max_containers
        self.most_containers = 0
        self._root = engine_for(self, _make_engine, _empty_engine)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._active: set[int] = set()
        self._running: dict[int, int] = {}
        self._garbage: list[tuple[int, Table, int]] = []

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of a session's own to the engine."""
        with self._lock:
            connection = self._root.cursor()
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def begin(self) -> Work:
        """A new transaction."""
        with self._lock:
            work = Work(next(self._numbers))
            self.number_for(work, work.number)
        return work

    def number_for(self, work: Work, number: int | None = None) -> int:
        """One more number for a transaction: for a statement that writes in pieces, or writes twice."""
        with self._lock:
            number = next(self._numbers) if number is None else number
            self._active.add(number)
            work.numbers.add(number)
            return number

    @contextmanager
    def statement(self, work: Work | None) -> Iterator[View]:
        """A statement's time: what it sees stays in the store until it is over."""
        mine: Set[int] = work.numbers if work is not None else frozenset()
        with self._lock:
            token = next(self._numbers)
            self._running[token] = token
            view = View(token, tuple(sorted(self._active - mine)), mine)
        try:
            yield view
        finally:
            with self._lock:
                del self._running[token]

    def commit(self, work: Work, connection: duckdb.DuckDBPyConnection) -> None:
        """Make a transaction's rows visible to all, at once; on an error it is rolled back."""
        try:
            self._count_containers(work, connection)
        except Exception:
            self.rollback(work, connection)
            raise
        with self._lock:
            self._active -= work.numbers
            moment = next(self._numbers)
            for table in work.deleted.values():
                self._garbage.extend((moment, table, number) for number in work.numbers)
        self._collect(connection)

    def rollback(self, work: Work, connection: duckdb.DuckDBPyConnection) -> None:
        """Undo everything that a transaction did."""
        self._undo(work.tables(), work.numbers, connection)
        with self._lock:
            self._active -= work.numbers

    def undo(self, work: Work, table: Table, number: int, connection: duckdb.DuckDBPyConnection) -> None:
        """Undo what a transaction did to one table under one of its numbers."""
        self._undo([table], {number}, connection)
        with self._lock:
            self._active.discard(number)
            work.numbers.discard(number)

    def _undo(self, tables: list[Table], numbers: set[int], connection: duckdb.DuckDBPyConnection) -> None:
        listed = ", ".join(map(str, numbers))
        for table in tables:
            name = table.engine_name
            self.execute(connection, f"DELETE FROM {name} WHERE __ins IN ({listed})")
            self.execute(connection, f"UPDATE {name} SET __del = NULL WHERE __del IN ({listed})")

    @staticmethod
    def execute(connection: duckdb.DuckDBPyConnection, sql: str, params: object = None) -> int:
        """Run a statement that writes; returns the number of rows. Meets others' rows: tries again."""
        for attempt in itertools.count(1):
            try:
                found = connection.execute(sql, params).fetchone()
                return int(found[0]) if found else 0
            except duckdb.TransactionException:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError

    def _count_containers(self, work: Work, connection: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            planned: list[tuple[Table, list[str], bool]] = []
            for number, table in (work.inserted | work.deleted).items():
                values = self._partitions(table, work, connection) if number in work.inserted else []
                vector = number in work.deleted
                if table.count_containers() + len(values) + vector > self.max_containers:
                    raise too_many_containers(table.projection)
                planned.append((table, values, vector))
            for table, values, vector in planned:
                for value in values:
                    table.containers[value] = table.containers.get(value, 0) + 1
                table.delete_vectors += vector
                self.most_containers = max(self.most_containers, table.count_containers())

    @staticmethod
    def _partitions(table: Table, work: Work, connection: duckdb.DuckDBPyConnection) -> list[str]:
        if table.partition is None:
            return [""]
        mine = ", ".join(map(str, work.numbers))
        rows = connection.execute(
            f"SELECT DISTINCT CAST({table.partition} AS VARCHAR) FROM {table.engine_name} WHERE __ins IN ({mine})"
        ).fetchall()
        return [str(row[0]) for row in rows]

    def mergeout(self, table: Table) -> None:
        """What the Tuple Mover does: one container for each partition value, no delete vectors."""
        with self._lock:
            table.containers = {value: min(1, count) for value, count in table.containers.items()}
            table.delete_vectors = 0

    def _collect(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Remove deleted rows that no running statement may still want to see."""
        with self._lock:
            oldest = min(self._running, default=None)
            ready = [each for each in self._garbage if oldest is None or each[0] < oldest]
            self._garbage = [each for each in self._garbage if each not in ready]
        by_table: dict[int, tuple[Table, list[int]]] = {}
        for _, table, number in ready:
            by_table.setdefault(table.number, (table, []))[1].append(number)
        for table, numbers in by_table.values():
            listed = ", ".join(map(str, numbers))
            try:
                self.execute(connection, f"DELETE FROM {table.engine_name} WHERE __del IN ({listed})")
            except duckdb.CatalogException:
                # Dropped meanwhile: its rows are gone with it.
                continue

    def create(self, table: Table) -> None:
        """Make room for the rows of a table."""
        columns = [
            f"{quote(each.name)} {each.kind.engine}{'' if each.nullable else ' NOT NULL'}"
            for each in table.columns
        ]
        columns += ["__ins BIGINT NOT NULL", "__del BIGINT"]
        self.change(f"CREATE TABLE {table.engine_name} ({', '.join(columns)})")

    def change(self, sql: str) -> None:
        """Change a definition in the engine; one at a time."""
        with self._lock:
            self.execute(self._root, sql)


def _make_engine() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(":memory:")
    for setting in _SETTINGS:
        engine.execute(setting)
    engine.execute(f"CREATE SCHEMA {ENGINE_SCHEMA}")
    engine.execute(_CUT)
    temporal.register(engine)
    return engine


def _empty_engine(engine: duckdb.DuckDBPyConnection) -> None:
    engine.execute(f"DROP SCHEMA {ENGINE_SCHEMA} CASCADE; CREATE SCHEMA {ENGINE_SCHEMA}")
