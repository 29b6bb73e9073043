"""The flights in every kind of source at once, and every kind of target beside them: a load for each pair.

A shard is called by its source and what it is in the CSV: `mssql_jfk_aa`. The loads have no `create`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.postgres import PostgresServer
from tests.servers.clickhouse import PASSWORD, USER, ClickHouseServer
from tests.servers.http import Api, Asked, Reply, pages_of
from tests.servers.tds import TdsServer
from tests.support.flights import COLUMNS, DATE_COLUMN, Row, csv_rows, declared, row_key, type_of
from tests.support.wire import Wire, mssql_toml, wire_of

SOURCES = ("mssql", "postgres", "duckdb", "http")
TARGETS = ("vertica", "postgres", "clickhouse", "duckdb")
needs_chdb = pytest.mark.skipif(
    find_spec("chdb") is None, reason="ClickHouse: its engine (chdb-core) is not installed"
)
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "DATE": date.fromisoformat,
    "TIMESTAMP": datetime.fromisoformat,
    "VARCHAR": str,
    "SMALLINT": int,
}
_ROWS_AT_ONCE = 500
_PAGE = 50
_MSSQL_TYPES = {
    "DATE": "date",
    "TIMESTAMP": "datetime2(0)",
    "VARCHAR": "nvarchar(10)",
    "SMALLINT": "smallint",
}
_HTTP_TYPES = {"DATE": "date", "TIMESTAMP": "timestamp", "VARCHAR": "text", "SMALLINT": "smallint"}


def by_shard(shards: Sequence[str], days: Iterable[date] | None = None) -> dict[str, list[Row]]:
    """Give the rows of each shard, on these days or all."""
    wanted = None if days is None else set(days)
    rows: dict[str, list[Row]] = {shard: [] for shard in shards}
    for row in csv_rows():
        if row[0] in rows and (wanted is None or row[DATE_COLUMN] in wanted):
            rows[row[0]].append(row)
    return rows


# SQL Server


def fill_mssql(wire: Wire, shard: str, rows: Sequence[Row]) -> None:
    """Make the table of a shard's database in SQL Server, and write its rows."""
    columns = ", ".join(f"{name} {_MSSQL_TYPES[type_of(name, 'SMALLINT')]}" for name in COLUMNS)
    wire.in_shard(shard, f"CREATE TABLE dbo.flights ({columns})")
    server = wire.server_of(shard)
    if isinstance(server, TdsServer):
        # By its back door: thousands of literals of T-SQL take long to read.
        file = write_parquet(wire.root / "flights.parquet", rows)
        server.duckdb(shard, f"INSERT INTO dbo.flights SELECT * FROM read_parquet('{file}')")
    else:
        _insert(wire, shard, rows)


def write_parquet(file: Path, rows: Sequence[Row]) -> Path:
    """Write COLUMNS of the rows."""
    types = {
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us"),
        "VARCHAR": pa.string(),
        "SMALLINT": pa.int16(),
    }
    columns = {
        name: pa.array([row[1 + number] for row in rows], types[type_of(name, "SMALLINT")])
        for number, name in enumerate(COLUMNS)
    }
    pq.write_table(pa.table(columns), file)
    return file


def _insert(wire: Wire, shard: str, rows: Sequence[Row]) -> None:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        values = ", ".join(f"({', '.join(map(_literal, row[1:]))})" for row in some)
        wire.in_shard(shard, f"INSERT INTO dbo.flights ({', '.join(COLUMNS)}) VALUES {values}")


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, date):  # a datetime is one
        return f"'{value.isoformat()}'"
    return str(value) if isinstance(value, int) else f"N'{value}'"


# HTTP


def flights_api(rows: Mapping[str, Sequence[Row]]) -> Callable[[Asked], Reply]:
    """Answer `/airlines/SHARD/flights?from=...&to=...` with the flights of these days, page by page."""
    records: dict[tuple[str, date], list[dict[str, object]]] = {}
    for shard, some in rows.items():
        for row in some:
            records.setdefault((shard, row[DATE_COLUMN]), []).append(_record(row))

    def answer(asked: Asked) -> Reply:
        _, _, shard, _ = asked.path.split("/")
        first, last = (datetime.fromisoformat(asked.params[name]).date() for name in ("from", "to"))
        days = map(date.fromordinal, range(first.toordinal(), last.toordinal()))
        return pages_of([each for day in days for each in records.get((shard, day), ())], _PAGE)(asked)

    return answer


def _record(row: Row) -> dict[str, object]:
    values = (value.isoformat() if isinstance(value, date) else value for value in row[1:])
    return dict(zip(COLUMNS, values, strict=True))


# The project


@dataclass
class FlightsWire(Wire):
    """Sources and targets of every kind; load `mssql_vertica` goes from the first into the second."""

    timezone: str = "America/New_York"
    postgres: PostgresServer | None = None
    databases: dict[str, str] = field(default_factory=dict)
    api: str = ""
    clickhouse: ClickHouseServer | None = None
    targets: Sequence[str] = TARGETS
    #: Keys of the loads with an extract.
    sql_keys: str = ""

    def write(self) -> FlightsWire:
        for name in ("warehouse", *self.shards()):
            self.databases[name] = self._server.make_database()
        self.put("config/dwhctl.toml", "\n".join(self._connections()))
        for source in SOURCES:
            table = "dbo.flights" if source == "mssql" else "flights"
            self.put(
                f"sql/{source}.sql",
                f"SELECT {', '.join(COLUMNS)}\nFROM {table}\n"
                "WHERE flight_date >= :start AND flight_date < :end\n",
            )
            for target in self.targets:
                self.put(f"config/loads/{source}_{target}.toml", self._load(source, target))
        return self

    @property
    def _server(self) -> PostgresServer:
        assert self.postgres is not None
        return self.postgres

    def _connections(self) -> Iterator[str]:
        yield f'[project]\ntimezone = "{self.timezone}"\nmax_workers = {self.max_workers}\n'
        yield f'[sessions]\nconnection = "sessions"\n\n[connections.sessions]\n{self.sessions}\n'
        for name, keys in self._keys().items():
            yield f"[connections.{name}]\n{keys}\n"
        for source in SOURCES:
            shards = ", ".join(
                f'{{ name = "{source}_{shard}", database = "{self._database(source, shard)}" }}'
                for shard in self.shards()
            )
            yield f"[shards.{source}]\n{source} = [{shards}]\n"

    def _keys(self) -> dict[str, str]:
        (mssql,) = self.sources.values()
        keys = {
            "mssql": mssql_toml(mssql),
            "postgres": self._postgres_toml(self._server.admin_database),
            "duckdb": 'type = "duckdb"\npath = "servers"',
            "http": f'type = "http"\nbase_url = "{self.api}"',
            "to_vertica": self._warehouse_toml(),
            "to_postgres": self._postgres_toml(self.databases["warehouse"]),
            "to_duckdb": 'type = "duckdb"\npath = "state/warehouse.duckdb"\nlock_wait = "30s"',
        }
        if self.clickhouse is not None:
            keys["to_clickhouse"] = (
                f'type = "clickhouse"\nhost = "127.0.0.1"\nport = {self.clickhouse.port}\n'
                f'user = "{USER}"\npassword = "{PASSWORD}"'
            )
        return keys

    def _postgres_toml(self, database: str) -> str:
        server = self._server
        password = f'password = "{server.password}"\n' if server.password else ""
        return (
            f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\nuser = "{server.user}"\n'
            f'{password}database = "{database}"'
        )

    def _database(self, source: str, shard: str) -> str:
        own = {"mssql": f"{self.prefix}{shard}", "postgres": self.databases[shard]}
        return own.get(source, shard)

    def _load(self, source: str, target: str) -> str:
        keys = (
            f'shards = "{source}"\ntarget = "to_{target}"\ntable = "{self.schema}.{source}_{target}"\n'
            f'key = ["flight_date", "flight"]\nslice_by = "flight_date"\n{self.load_keys}\n'
        )
        if source != "http":
            return f'{keys}extract = "{source}.sql"\n{self.sql_keys}\n'
        columns = "\n".join(f'{name} = "{_HTTP_TYPES[type_of(name, "SMALLINT")]}"' for name in COLUMNS)
        return (
            f'{keys}\n[columns]\n{columns}\n\n[endpoint]\npath = "airlines/{{{{ shard.database }}}}/flights"\n'
            'params = { from = "{{ data_interval_start }}", to = "{{ data_interval_end }}" }\n'
            'data_selector = "$.items[*]"\npaginator = { type = "cursor", cursor_path = "$.next" }\n'
        )

    # Rows

    def fill_sources(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Write the rows of each shard into its database of every kind."""
        (self.root / "servers").mkdir()
        for shard, some in rows.items():
            fill_mssql(self, shard, some)
            self._fill_postgres(shard, some)
            file = write_parquet(self.root / "flights.parquet", some)
            with closing(duckdb.connect(str(self.root / "servers" / f"{shard}.duckdb"))) as db:
                db.execute(f"CREATE TABLE flights ({declared('SMALLINT')})")
                db.execute(f"INSERT INTO flights SELECT * FROM read_parquet('{file}')")

    def _fill_postgres(self, shard: str, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows(row[1:] for row in rows)
        text.seek(0)
        with closing(self._server.connect(self.databases[shard])) as db, db.cursor() as cursor:
            cursor.execute(f"CREATE TABLE flights ({declared('SMALLINT')})")
            cursor.copy_expert("COPY flights FROM STDIN (FORMAT csv)", text)
            cursor.execute("CREATE INDEX ON flights (flight_date)")

    def held(self, source: str, target: str) -> list[Row]:
        """Give what a target holds from a source, read by its own client, in the form and order of `rows_of`."""
        sql = f"SELECT etl_source, {', '.join(COLUMNS)} FROM {self.schema}.{source}_{target}"
        reading: dict[str, Callable[[str], list[Row]]] = {
            "vertica": self.warehouse,
            "postgres": self._in_postgres,
            "clickhouse": self._in_clickhouse,
            "duckdb": super(Wire, self).warehouse,
        }
        rows = reading[target](sql)
        return sorted(((row[0].removeprefix(f"{source}_"), *row[1:]) for row in rows), key=row_key)

    def _in_postgres(self, sql: str) -> list[Row]:
        with closing(self._server.connect(self.databases["warehouse"])) as db, db.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def _in_clickhouse(self, sql: str) -> list[Row]:
        assert self.clickhouse is not None
        reading: tuple[Callable[[str], Any], ...] = (
            str,
            *(_FROM_TEXT[type_of(name, "SMALLINT")] for name in COLUMNS),
        )
        return [
            tuple(None if text is None else read(text) for read, text in zip(reading, row, strict=True))
            for row in self.clickhouse.query(sql)
        ]

    def drop(self) -> None:
        """Drop the databases of PostgreSQL."""
        for name in self.databases.values():
            self._server.drop_database(name)


@contextmanager
def flights_wire(
    root: Path,
    postgres: PostgresServer,
    rows: Mapping[str, Sequence[Row]],
    targets: Sequence[str],
    sql_keys: str = "",
) -> Iterator[FlightsWire]:
    """Start the servers, and write the rows of each shard into every kind of source."""
    with ExitStack() as stack:
        keys: dict[str, Any] = {"postgres": postgres, "targets": targets, "sql_keys": sql_keys}
        if "clickhouse" in targets:
            keys["clickhouse"] = ClickHouseServer(root / "clickhouse").start()
            stack.callback(keys["clickhouse"].stop)
        api = stack.enter_context(Api(flights_api(rows)))
        made = wire_of(FlightsWire, root, {"mssql": list(rows)}, {**keys, "api": api.url})
        wire = stack.enter_context(made)
        stack.callback(wire.drop)
        wire.fill_sources(rows)
        yield wire
