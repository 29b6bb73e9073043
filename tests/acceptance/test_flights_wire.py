"""Real rows over the wire: days of flights from SQL Server to Vertica, compared value by value with their CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.servers.tds import TdsServer
from tests.support.flights import (
    AIRPORTS,
    COLUMNS,
    DATE_COLUMN,
    HOUR_COLUMN,
    Row,
    csv_rows,
    row_key,
    rows_of,
    shard_name,
    shards,
    type_of,
)
from tests.support.projects import days_from
from tests.support.wire import Wire, a_wire

#: A snow storm: many flights were cancelled, and have NULLs for what they did not do.
STORM = days_from(date(2013, 2, 7), 3)
_ROWS_AT_ONCE = 500
_SOURCE_TYPES = {
    "DATE": "date",
    "TIMESTAMP": "datetime2(0)",
    "VARCHAR": "nvarchar(10)",
    "SMALLINT": "smallint",
}
_TARGET_TYPES = {"DATE": "DATE", "TIMESTAMP": "TIMESTAMP", "VARCHAR": "VARCHAR(40)", "SMALLINT": "INT"}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Three airports are the servers, their carriers the databases."""
    servers = {
        airport: [shard_name(origin, carrier) for origin, carrier in shards() if origin.lower() == airport]
        for airport in AIRPORTS
    }
    with a_wire(tmp_path_factory.mktemp("flights"), servers, timezone="America/New_York") as wire:
        wire.create = _create()
        wire.extract = (
            f"SELECT {', '.join(COLUMNS)}\nFROM dbo.flights\nWHERE {{}} >= :start AND {{}} < :end\n"
        )
        for name, by, keys in (
            ("flights", "flight_date", ""),
            ("flights_utc", "time_hour", 'slice_zone = "UTC"\n'),
        ):
            wire.put(f"sql/{name}/create.sql", _create().format(schema=wire.schema, table=name))
            wire.put(f"sql/{name}/extract.sql", wire.extract.format(by, by))
            wire.put(
                f"config/loads/{name}.toml",
                f'shards = "cities"\nextract = "{name}/extract.sql"\ntarget = "warehouse"\n'
                f'table = "{wire.schema}.{name}"\ncreate = "{name}/create.sql"\nkey = ["flight_date", "flight"]\n'
                f'slice_by = "{by}"\n{keys}',
            )
        (wire.root / "config" / "loads" / "orders.toml").unlink()
        _fill(wire)
        yield wire


def _create() -> str:
    columns = ", ".join(f"{name} {_TARGET_TYPES[type_of(name, 'SMALLINT')]}" for name in COLUMNS)
    return (
        "CREATE SCHEMA IF NOT EXISTS {schema};\nCREATE TABLE IF NOT EXISTS {schema}.{table} ("
        f"etl_source VARCHAR(100), etl_id INT, hash_id INT, {columns});\n"
    )


def _fill(wire: Wire) -> None:
    """Write the storm and the days around it into every shard."""
    days = set(days_from(date(2013, 2, 6), 5))
    of_shard: dict[str, list[Row]] = {shard: [] for shard in wire.shards()}
    for row in csv_rows():
        if row[DATE_COLUMN] in days:
            of_shard[row[0]].append(row)
    columns = ", ".join(f"{name} {_SOURCE_TYPES[type_of(name, 'SMALLINT')]}" for name in COLUMNS)
    for shard, rows in of_shard.items():
        wire.in_shard(shard, f"CREATE TABLE dbo.flights ({columns})")
        server = wire.server_of(shard)
        if isinstance(server, TdsServer):
            _copy_in(server, shard, rows, wire.root / "flights.parquet")
        else:
            _insert(wire, shard, rows)


def _copy_in(server: TdsServer, shard: str, rows: Sequence[Row], file: Path) -> None:
    """Fill a table of ours by its back door: thousands of literals of T-SQL take long to read."""
    if rows:
        columns = [list(values) for values in zip(*(row[1:] for row in rows), strict=True)]
        pq.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True))), file)
        server.duckdb(shard, f"INSERT INTO dbo.flights SELECT * FROM read_parquet('{file}')")


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


def held(wire: Wire, load: str) -> list[Row]:
    """Give what the warehouse holds of a load, in the form and order of `rows_of`."""
    rows = wire.warehouse(f"SELECT etl_source, {', '.join(COLUMNS)} FROM {wire.schema}.{load}")
    return sorted(rows, key=row_key)


def load(wire: Wire, name: str, days: Sequence[date]) -> None:
    """Load days in worker processes."""
    done = wire.run("load", name, "--date", str(days[-1]), "--lookback", str(len(days) - 1), timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_days_of_flights_arrive_value_for_value(wire: Wire) -> None:
    wanted = rows_of(STORM)
    for days in (STORM, STORM[1:2]):
        load(wire, "flights", days)
        found = held(wire, "flights")
        assert len(found) == len(wanted)
        assert [(row, list(map(type, row))) for row in found] == [
            (row, list(map(type, row))) for row in wanted
        ]
    assert sum(value is None for row in wanted for value in row) > 1_000


def test_a_day_by_an_hour_in_utc(wire: Wire) -> None:
    day = STORM[1]
    load(wire, "flights_utc", [day])
    start, end = datetime(2013, 2, 8, 5), datetime(2013, 2, 9, 5)  # noqa: DTZ001 - New York's midnights in UTC
    wanted = sorted((row for row in csv_rows() if start <= row[HOUR_COLUMN] < end), key=row_key)
    assert held(wire, "flights_utc") == wanted
