"""What databases there are, with their tables and SQL Server's types of their columns."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb

from tests.servers.engines import engine_for

from . import octets
from .errors import TdsError, error
from .storage import named, prepare, quoted
from .syntax import Parts
from .types import LATIN, SqlType, declare

_SYSTEM = ("master", "tempdb", "model", "msdb")
_DUCK = {
    "BOOLEAN": "bit",
    "UTINYINT": "tinyint",
    "TINYINT": "smallint",
    "SMALLINT": "smallint",
    "USMALLINT": "int",
    "INTEGER": "int",
    "UINTEGER": "bigint",
    "BIGINT": "bigint",
    "FLOAT": "real",
    "DOUBLE": "float",
    "DATE": "date",
    "UUID": "uniqueidentifier",
}


@dataclass(frozen=True)
class Column:
    """A column; `default` is an expression of T-SQL."""

    name: str
    type: SqlType
    nullable: bool = True
    identity: bool = False
    default: object = None


@dataclass(frozen=True)
class Table:
    """A table."""

    name: str
    columns: tuple[Column, ...]
    number: int
    key: tuple[str, ...] = ()
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def key_name(self) -> str:
        """The name of its primary key."""
        return f"PK__{self.name[:9]}__{self.number:016X}"

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((each for each in self.columns if each.name.casefold() == name.casefold()), None)


@dataclass
class Database:
    """A database; `closed` are the users that have no access, `denied` (user, table, permission)."""

    name: str
    number: int
    collation: str = LATIN
    snapshot: bool = False
    versioned: bool = False
    online: bool = True
    tables: dict[str, Table] = field(default_factory=dict)
    #: Tables whose DROP is not committed: DuckDB still has them for others.
    dropped: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    denied: set[tuple[str, str]] = field(default_factory=set)
    #: Tables that a test calls memory-optimized: snapshot isolation of the session does not read them.
    memory_optimized: set[str] = field(default_factory=set)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


class Catalog:
    """Every database of a server, over one DuckDB instance."""

    def __init__(self) -> None:
        self.root = engine_for(self, _make_engine, _empty_engine)
        self._lock = threading.RLock()
        self._databases: dict[str, Database] = {}
        self._numbers = 1_000_000_000
        for name in _SYSTEM:
            self.create_database(name)

    def __iter__(self) -> Iterator[Database]:
        with self._lock:
            return iter(sorted(self._databases.values(), key=lambda each: each.number))

    def find(self, name: str) -> Database | None:
        """The database of this name, in any case."""
        return self._databases.get(name.casefold())

    def database(self, name: str) -> Database:
        """The database of this name. Raises 911."""
        found = self.find(name)
        if found is None or not found.online:
            raise error(911, name)
        return found

    def create_database(self, name: str, collation: str = LATIN) -> Database:
        """Create a database. Raises 1801."""
        with self._lock:
            if name.casefold() in self._databases:
                raise error(1801, name)
            number = max((each.number for each in self._databases.values()), default=0) + 1
            database = Database(name, number, collation)
            duck = named(name)
            with self.root.cursor() as cursor:
                cursor.execute(f"ATTACH ':memory:' AS {duck}; CREATE SCHEMA {duck}.dbo")
            self._databases[name.casefold()] = database
            return database

    def drop_database(self, name: str) -> None:
        """Drop a database. Raises 3701 where there is none."""
        with self._lock:
            database = self._databases.pop(name.casefold(), None)
            if database is None:
                raise TdsError(3701, f"Cannot drop the database '{name}', because it does not exist.", 11)
            with self.root.cursor() as cursor:
                cursor.execute(f"DETACH {named(database.name)}")

    def locate(self, parts: Parts, current: str) -> tuple[Database, str, str]:
        """Database, schema and table that a name means. Raises 208."""
        table = parts[-1]
        schema = parts[-2] if len(parts) > 1 and parts[-2] else "dbo"
        name = parts[-3] if len(parts) > 2 and parts[-3] else current
        database = self.find(name)
        if len(parts) > 3 or database is None or not database.online:
            raise error(208, ".".join(parts))
        return database, schema, table

    def table(self, parts: Parts, current: str) -> tuple[Database, Table]:
        """The table that a name means. Raises 208."""
        database, schema, name = self.locate(parts, current)
        found = database.tables.get(name.casefold()) if schema.casefold() == "dbo" else None
        if found is None and schema.casefold() == "dbo":
            found = self._adopt(database, name) if name.casefold() not in database.dropped else None
        if found is None:
            raise error(208, ".".join(parts))
        return database, found

    def add(
        self, database: Database, name: str, columns: tuple[Column, ...], key: tuple[str, ...]
    ) -> Callable[[], None]:
        """Enter a table that DuckDB has by now; gives what undoes it."""
        with self._lock:
            self._numbers += 16
            database.tables[name.casefold()] = Table(name, columns, self._numbers, key)
        return lambda: self._forget(database, name)

    def remove(self, database: Database, name: str) -> Callable[[], None]:
        """Forget a table; gives what undoes it."""
        table = database.tables.pop(name.casefold())
        database.dropped.add(name.casefold())

        def undo() -> None:
            database.tables[name.casefold()] = table

        return undo

    def _forget(self, database: Database, name: str) -> None:
        database.tables.pop(name.casefold(), None)

    def _adopt(self, database: Database, name: str) -> Table | None:
        """Enter a table that came through the back door, with types from DuckDB's."""
        with self._lock, self.root.cursor() as cursor:
            rows = cursor.execute(
                "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()"
                f" WHERE database_name = {quoted(database.name)} AND schema_name = 'dbo'"
                f" AND lower(table_name) = {quoted(name.lower())} ORDER BY column_index"
            ).fetchall()
            if not rows:
                return None
            columns = tuple(Column(each[1], from_duckdb(each[2]), bool(each[3])) for each in rows)
            self.add(database, rows[0][0], columns, ())
            return database.tables[name.casefold()]

    def stored_name(self, database: Database, table: Table | str) -> str:
        """The table as DuckDB names it."""
        return f"{named(database.name)}.dbo.{named(table if isinstance(table, str) else table.name)}"


def _make_engine() -> duckdb.DuckDBPyConnection:
    # One thread to a query: rows leave in their order, those before an error too, and little is read ahead.
    engine = duckdb.connect(":memory:", config={"threads": 1})
    prepare(engine)
    octets.prepare(engine)
    return engine


def _empty_engine(engine: duckdb.DuckDBPyConnection) -> None:
    for (name,) in engine.execute(
        "SELECT database_name FROM duckdb_databases() WHERE NOT internal"
    ).fetchall():
        if name != "memory":
            engine.execute(f"DETACH {named(name)}")


def from_duckdb(declared: str) -> SqlType:
    """The type of SQL Server's that is nearest to one of DuckDB's."""
    if match := re.fullmatch(r"DECIMAL\((\d+),\s*(\d+)\)", declared):
        return SqlType("decimal", precision=int(match[1]), scale=int(match[2]))
    if declared in _DUCK:
        return declare(_DUCK[declared])
    if declared == "VARCHAR":
        return declare("nvarchar", (-1,))
    if declared == "HUGEINT":
        return SqlType("decimal", precision=38)
    if declared in ("TIMESTAMP", "TIME"):
        return SqlType("datetime2" if declared == "TIMESTAMP" else "time", scale=6)
    if declared.startswith("STRUCT"):
        return SqlType(
            "sql_variant" if "VARCHAR" in declared else "datetimeoffset",
            scale=0 if "VARCHAR" in declared else 7,
        )
    return SqlType("varbinary", -1)
