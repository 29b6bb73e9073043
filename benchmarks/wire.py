"""One big slice over the wire, from a SQL Server to a Vertica, several ways in one run:

    python -m benchmarks.wire 5000000
    python -m benchmarks.wire 20000000 --ways mssql-python      one of the ways, for its memory
    python -m benchmarks.wire 5000000 --store                   the warehouse reads and stores every row

- `fetchmany`: pymssql alone, which only reads the rows: nobody can be faster with this driver;
- `dwhctl load`, whole: sessions, checks, hash_id, COPY, publish; with pymssql, and with mssql-python where its
  extra is installed;
- the naive pipeline: pandas.read_sql_query, DataFrame.to_csv, cursor.copy.

The servers are those of `tests/servers`, each a process of its own on loopback. The SQL Server sends the same
bytes to all of them from a file that it filled before (`--cache`), so that its own work is small. The Vertica counts
the lines of a COPY, and stores the first row so often: to read and store a million of them takes it 1.9 s of CPU, twice
what `dwhctl load` takes with mssql-python, and a warehouse has its own machine.
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pymssql
import vertica_python

from tests.support.memory import Watch, watched
from tests.support.projects import DAY

_ROOT = Path(__file__).resolve().parent.parent
_USER, _PASSWORD = "sa", "Secret_123"
_DWH_USER, _DWH_PASSWORD, _DWH = "dbadmin", "Secret_456", "docker"
_COLUMNS = ("id", "customer", "amount", "start_time", "status")
_FROM = f"SELECT {', '.join(_COLUMNS)} FROM dbo.Orders"
_QUERY = f"{_FROM} WHERE start_time >= '{DAY}T00:00:00' AND start_time < '{DAY + timedelta(days=1)}T00:00:00'"
_TABLE = """
CREATE TABLE dbo.Orders (
    id BIGINT NOT NULL, customer NVARCHAR(100), amount DECIMAL(18, 2), start_time DATETIME2(3), status INT
)
"""
_ROWS = """
INSERT INTO dbo.Orders (id, customer, amount, start_time, status)
SELECT value, CASE WHEN value % 7 = 0 THEN NULL ELSE CONCAT(N'клиент ', CAST(value AS BIGINT) * 7919) END,
    CAST(value * 1.01 AS DECIMAL(18, 2)),
    DATEADD(
        millisecond, CAST(CAST(value AS BIGINT) * 86399999 / {rows} AS INT), CAST('{day}T00:00:00' AS DATETIME2(3))
    ),
    value % 5
FROM GENERATE_SERIES(0, {rows} - 1)
"""
_CREATE = """\
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.orders (
    etl_source VARCHAR(200) NOT NULL, etl_id INT NOT NULL, hash_id INT NOT NULL,
    id INT NOT NULL, customer VARCHAR(400), amount NUMERIC(18, 2), start_time TIMESTAMP, status INT
);
"""


@dataclass(frozen=True)
class Servers:
    """The ports."""

    mssql: int
    vertica: int


@contextmanager
def served(*arguments: str) -> Iterator[int]:
    """Run a server as a process of its own; give its port."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)


def link(servers: Servers, database: str = "moscow") -> Any:
    """Connect to the SQL Server."""
    return pymssql.connect(
        server="127.0.0.1", port=str(servers.mssql), user=_USER, password=_PASSWORD, database=database,
        tds_version="7.4", autocommit=True,
    )  # fmt: skip


def fill(servers: Servers, rows: int) -> None:
    """Make the table."""
    with closing(link(servers)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(_TABLE)
        cursor.execute(_ROWS.format(rows=rows, day=DAY))


def fetchmany(servers: Servers) -> int:
    """Read every row, and do nothing with it."""
    rows = 0
    with closing(link(servers)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(_QUERY)
        while found := cursor.fetchmany(10_000):
            rows += len(found)
    return rows


def naive(servers: Servers) -> None:
    """Do it as one does at first: everything in memory."""
    import pandas as pd

    with closing(link(servers)) as source, closing(_vertica(servers)) as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.read_sql_query(_QUERY, source)
        text = io.StringIO()
        frame.to_csv(text, index=False, header=False)
        text.seek(0)
        cursor = target.cursor()
        cursor.execute("DROP TABLE IF EXISTS stage.naive")
        cursor.execute(
            "CREATE TABLE stage.naive"
            " (id INT, customer VARCHAR(400), amount NUMERIC(18, 2), start_time TIMESTAMP, status INT)"
        )
        cursor.copy("COPY stage.naive FROM STDIN DELIMITER ',' ENCLOSED BY '\"' NULL '' ABORT ON ERROR", text)
        target.commit()


def _vertica(servers: Servers) -> Any:
    return vertica_python.connect(
        host="127.0.0.1",
        port=servers.vertica,
        user=_DWH_USER,
        password=_DWH_PASSWORD,
        database=_DWH,
        tlsmode="disable",
    )


def project(root: Path, servers: Servers, driver: str, split: int = 1) -> Path:
    """Write the project of one shard."""
    mssql = (
        f'type = "mssql"\nhost = "127.0.0.1"\nport = {servers.mssql}\nuser = "{_USER}"\npassword = "{_PASSWORD}"\n'
        f'driver = "{driver}"'
    )
    dwh = (
        f'type = "vertica"\nhost = "127.0.0.1"\nport = {servers.vertica}\nuser = "{_DWH_USER}"\n'
        f'password = "{_DWH_PASSWORD}"\ndatabase = "{_DWH}"\ntlsmode = "disable"'
    )
    files = {
        "config/dwhctl.toml": (
            f'[project]\ntimezone = "UTC"\nmax_workers = {split}\n[sessions]\nconnection = "sessions"\n'
            f'[connections.sessions]\ntype = "sqlite"\npath = "state/sessions.sqlite"\n[connections.mssql_0]\n{mssql}\n'
            f'[connections.dwh]\n{dwh}\n[shards.cities]\nmssql_0 = ["moscow"]\n'
        ),
        "config/loads/orders.toml": (
            'shards = "cities"\nextract = "orders/extract.sql"\ntarget = "dwh"\ntable = "stage.orders"\n'
            'create = "orders/create.sql"\nkey = ["id"]\nslice_by = "start_time"\nretries = 0\n'
            f"split = {split}\n"
        ),
        "sql/orders/create.sql": _CREATE,
        "sql/orders/extract.sql": (f"{_FROM} WHERE start_time >= :start AND start_time < :end"),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock, and of CPU in all processes of the way."""

    wall: float
    cpu: float

    def over(self, other: Cost) -> str:
        """Return the ratio to another way."""
        return f"{self.wall / other.wall:.2f} by the clock, {self.cpu / other.cpu:.2f} by CPU"


def timed(name: str, command: list[str], rows: int) -> Cost:
    """Run a way as a process of its own and print what it took."""
    started, before = time.perf_counter(), _cpu()
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=_ROOT
        ) as process,
        watched(process) as watch,
    ):
        output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(output)
    cpu = _cpu() - before
    print(
        f"{name}: {seconds:.1f} s, {rows / seconds:,.0f} rows/s, CPU {cpu:.1f} s; {_memory(watch)}",
        flush=True,
    )
    if name.startswith("dwhctl"):
        print("    " + output.strip().replace("\n", "\n    "))
    return Cost(seconds, cpu)


def _cpu() -> float:
    """Return the CPU seconds of all processes that have ended; the servers run on."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(watch: Watch) -> str:
    return (
        f"peak PSS parent {watch.parent:.0f} MiB, largest worker {watch.child:.0f} MiB, all processes together"
        f" {watch.together:.0f} MiB"
    )


_WAYS = ("fetchmany", "pymssql", "mssql-python", "naive")


def main(rows: int, ways: Sequence[str], *, store: bool) -> None:
    """Print the figures of the ways, and their ratios."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cache = folder / "answers"
        cache.mkdir()
        servers = Servers(
            stack.enter_context(served("tests.servers.tds", "--database", "moscow", "--cache", str(cache))),
            stack.enter_context(served("tests.servers.vertica", *([] if store else ["--count-rows"]))),
        )
        fill(servers, rows)

        def run(way: str, note: str) -> Cost:
            if way not in ("pymssql", "mssql-python"):
                ports = [str(servers.mssql), str(servers.vertica)]
                return timed(
                    f"{way}{note}", [sys.executable, "-m", "benchmarks.wire", "--way", way, *ports], rows
                )
            root = project(folder / way, servers, way)
            command = [
                sys.executable,
                "-m",
                "dwhctl",
                "load",
                "--date",
                str(DAY),
                "-v",
                "--project",
                str(root),
            ]
            return timed(f"dwhctl load with {way}{note}", command, rows)

        costs = {}
        for way in ways:
            if way != "naive":
                run(way, ", the first time (the server fills its cache)")
            costs[way] = run(way, "")
        for way, other in (("pymssql", "fetchmany"), ("naive", "pymssql"), ("naive", "mssql-python")):
            if way in costs and other in costs:
                print(f"{way} / {other}: {costs[way].over(costs[other])}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire")
    parser.add_argument("rows", type=int, nargs="?", default=5_000_000)
    parser.add_argument("--ways", default=None, help=f"some of {','.join(_WAYS)}")
    parser.add_argument("--store", action="store_true", help="let the warehouse read and store every row")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        {"fetchmany": fetchmany, "naive": naive}[sys.argv[2]](Servers(int(sys.argv[3]), int(sys.argv[4])))
    else:
        options = _options()
        there = [way for way in _WAYS if way != "mssql-python" or find_spec("mssql_python") is not None]
        chosen = options.ways.split(",") if options.ways else there
        main(options.rows, chosen, store=options.store)
