"""Real rows over the wire: days of flights from SQL Server to Vertica, compared value by value with their CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime

import pytest

from tests.support.flights import (
    AIRPORTS,
    COLUMNS,
    HOUR_COLUMN,
    Row,
    csv_rows,
    row_key,
    rows_of,
    shard_name,
    shards,
    type_of,
)
from tests.support.flights_wire import by_shard, fill_mssql
from tests.support.projects import days_from
from tests.support.wire import Wire, a_wire

#: A snow storm: many flights were cancelled, and have NULLs for what they did not do.
STORM = days_from(date(2013, 2, 7), 3)
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
        for shard, rows in by_shard(wire.shards(), days_from(date(2013, 2, 6), 5)).items():
            fill_mssql(wire, shard, rows)
        yield wire


def _create() -> str:
    columns = ", ".join(f"{name} {_TARGET_TYPES[type_of(name, 'SMALLINT')]}" for name in COLUMNS)
    return (
        "CREATE SCHEMA IF NOT EXISTS {schema};\nCREATE TABLE IF NOT EXISTS {schema}.{table} ("
        f"etl_source VARCHAR(100), etl_id INT, hash_id INT, {columns});\n"
    )


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
