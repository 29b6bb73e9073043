"""Many small shards over the wire: SQL Servers, a Vertica, sessions in PostgreSQL; `dwhctl load` and the naive way.

    python -m benchmarks.shards_wire 150 1500
    python -m benchmarks.shards_wire 150 1500 --latency 20

The naive way is one process without sessions, checks or replacement: for each shard connect to both, read_sql_query,
hash_pandas_object, to_csv, copy. The servers are those of `tests/servers`, each a process of its own, so that their CPU
does not count. With `--latency` every round trip to them takes so many milliseconds more, for both ways.

Prints a Markdown table, and JSON as the last line: wall time and CPU (with all children), statements, logins and round
trips per slice.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pymssql
import vertica_python

from tests.postgres import any_server
from tests.support.projects import DAY

_ROOT = Path(__file__).resolve().parent.parent
_SERVERS = 3
_PR_SET_CHILD_SUBREAPER = 36
_FROM = "SELECT id, customer, amount, start_time, status FROM dbo.Orders"
_QUERY = f"{_FROM} WHERE start_time >= '{DAY}T00:00:00' AND start_time < '{DAY + timedelta(days=1)}T00:00:00'"
_TABLE = """
CREATE TABLE dbo.Orders (
    id BIGINT NOT NULL, customer NVARCHAR(100), amount DECIMAL(18, 2), start_time DATETIME2(3), status INT
);
INSERT INTO dbo.Orders (id, customer, amount, start_time, status)
SELECT value, CASE WHEN value % 7 = 0 THEN NULL ELSE CONCAT(N'клиент ', CAST(value AS BIGINT) * 7919) END,
    CAST(value * 1.01 AS DECIMAL(18, 2)),
    DATEADD(second, CAST(CAST(value AS BIGINT) * 86399 / {rows} AS INT), CAST('{day}T00:00:00' AS DATETIME2(3))),
    value % 5
FROM GENERATE_SERIES(0, {rows} - 1)
"""
_CREATE = """
CREATE TABLE IF NOT EXISTS stage.{table} (
    etl_source VARCHAR(200) NOT NULL, etl_id INT NOT NULL, hash_id INT NOT NULL,
    id INT NOT NULL, customer VARCHAR(400), amount NUMERIC(18, 2), start_time TIMESTAMP, status INT
)
"""
_LOGIN: dict[str, Any] = {"user": "sa", "password": "Secret_123"}
_DWH: dict[str, Any] = {"user": "dbadmin", "password": "Secret_456", "database": "docker"}


@dataclass
class Served:
    """A server, its port, and that of the proxy before it."""

    process: subprocess.Popen[str]
    direct: int
    port: int

    def traffic(self) -> dict[str, int]:
        """Return what reached it since the last time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found

    def cpu(self) -> float:
        """Return the CPU seconds that it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@dataclass
class Figures:
    """What a way took; what it cost the sources and the warehouse."""

    name: str
    wall: float
    cpu: float
    servers: float
    source: dict[str, float] = field(default_factory=dict)
    warehouse: dict[str, float] = field(default_factory=dict)


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a module that prints its port, until the block ends."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    ) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        try:
            yield started, int(started.stdout.readline())
        finally:
            started.stdin.close()
            started.wait(20)


def served(stack: ExitStack, latency: float, *arguments: str) -> Served:
    """Start a server, and a proxy before it."""
    started, port = stack.enter_context(process(*arguments))
    proxy = port
    if latency:
        _, proxy = stack.enter_context(process("benchmarks.latency", str(port), str(latency)))
    return Served(started, port, proxy)


def databases(shards: int, server: int) -> list[str]:
    """Return the databases of one of the servers."""
    return [f"city_{number}" for number in range(shards) if number % _SERVERS == server]


def _source(port: int, database: str) -> Any:
    return pymssql.connect(
        server="127.0.0.1", port=str(port), database=database, tds_version="7.4", autocommit=True, **_LOGIN
    )


def _warehouse(port: int) -> Any:
    return vertica_python.connect(host="127.0.0.1", port=port, tlsmode="disable", **_DWH)


def naive(shards: int, vertica: int, sources: list[int]) -> None:
    """Load every shard, one after another."""
    import pandas as pd

    warnings.simplefilter("ignore")
    for number in range(shards):
        shard = f"city_{number}"
        with closing(_source(sources[number % _SERVERS], shard)) as source:
            frame = pd.read_sql_query(_QUERY, source)
        frame.insert(0, "etl_source", shard)
        frame.insert(1, "etl_id", number)
        ids = pd.util.hash_pandas_object(frame[["etl_source", "id"]], index=False).to_numpy().view("int64")
        frame.insert(2, "hash_id", ids)
        text = io.StringIO()
        frame.to_csv(text, index=False, header=False)
        text.seek(0)
        with closing(_warehouse(vertica)) as target:
            target.cursor().copy(
                "COPY stage.naive FROM STDIN DELIMITER ',' ENCLOSED BY '\"' NULL '' ABORT ON ERROR", text
            )
            target.commit()


def project(
    root: Path, shards: int, jobs: int, sources: list[Served], vertica: Served, sessions: str
) -> Path:
    """Write the project."""
    lines = [
        f'[project]\ntimezone = "UTC"\nmax_workers = {jobs}\n[sessions]\nconnection = "sessions"\n'
        f"[connections.sessions]\n{sessions}\n"
        f'[connections.dwh]\ntype = "vertica"\nhost = "127.0.0.1"\nport = {vertica.port}\ntlsmode = "disable"\n'
        "max_connections = 16\n" + "".join(f'{key} = "{value}"\n' for key, value in _DWH.items())
    ]
    lines += [
        f'[connections.mssql_{number}]\ntype = "mssql"\nhost = "127.0.0.1"\nport = {one.port}\nmax_connections = 4\n'
        'encryption = "off"\n' + "".join(f'{key} = "{value}"\n' for key, value in _LOGIN.items())
        for number, one in enumerate(sources)
    ]
    lines.append("[shards.cities]")
    lines += [f"mssql_{number} = {json.dumps(databases(shards, number))}" for number in range(_SERVERS)]
    files = {
        "config/dwhctl.toml": "\n".join(lines) + "\n",
        "config/loads/orders.toml": (
            'shards = "cities"\nextract = "orders/extract.sql"\ntarget = "dwh"\ntable = "stage.orders"\n'
            'create = "orders/create.sql"\nkey = ["id"]\nslice_by = "start_time"\nretries = 0\n'
        ),
        "sql/orders/create.sql": f"CREATE SCHEMA IF NOT EXISTS stage;{_CREATE.format(table='orders')};",
        "sql/orders/extract.sql": f"{_FROM} WHERE start_time >= :start AND start_time < :end",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command in a process that waits for all its descendants; return wall time and their CPU."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.shards_wire", "--measure", *command],
        stdout=subprocess.PIPE, text=True, cwd=_ROOT, check=True,
    )  # fmt: skip
    wall, cpu = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu


def _measured(command: list[str]) -> None:
    # A worker whose parent has ended becomes a child of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.perf_counter()
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    wall = time.perf_counter() - started
    with suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps([wall, used.ru_utime + used.ru_stime]))
    sys.exit(code)


def run(shards: int, rows: int, latency: float, jobs: int, times: int) -> list[Figures]:
    """Run both ways so many times; return the best of each."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fill = root / "fill.sql"
        fill.write_text(_TABLE.format(rows=rows, day=DAY))
        sources = []
        for number in range(_SERVERS):
            names = databases(shards, number)
            options = [word for name in names for word in ("--database", name, "--run", f"{name}:{fill}")]
            cache = ["--cache", str(root / f"answers_{number}")]
            sources.append(served(stack, latency, "tests.servers.tds", *options, *cache))
        vertica = served(stack, latency, "tests.servers.vertica")
        postgres = stack.enter_context(any_server())
        database = postgres.make_database()
        stack.callback(postgres.drop_database, database)
        sessions = (
            f'type = "postgres"\nhost = "{postgres.host}"\nport = {postgres.port}\ndatabase = "{database}"\n'
            f'user = "{postgres.user}"'
        )
        place = project(root / "project", shards, jobs, sources, vertica, sessions)
        with closing(_warehouse(vertica.direct)) as target, closing(target.cursor()) as cursor:
            for sql in ("CREATE SCHEMA stage", _CREATE.format(table="naive")):
                cursor.execute(sql)
        ports = [str(one.port) for one in (vertica, *sources)]
        ways = {
            "naive": [sys.executable, "-m", "benchmarks.shards_wire", "--naive", str(shards), *ports],
            "dwhctl load": [
                *(sys.executable, "-m", "dwhctl", "load", "--date", str(DAY), "--jobs", str(jobs)),
                *("--project", str(place)),
            ],
        }
        found: dict[str, Figures] = {}
        for _ in range(times + 1):
            # The first time the servers fill their caches, and dwhctl replaces nothing yet.
            for name, command in ways.items():
                for one in (*sources, vertica):
                    one.traffic()
                before = sum(one.cpu() for one in (*sources, vertica))
                wall, cpu = measure(command)
                served_cpu = sum(one.cpu() for one in (*sources, vertica)) - before
                figures = Figures(
                    name, wall, cpu, served_cpu, _per_slice(sources, shards), _per_slice([vertica], shards)
                )
                print(f"{name}: {wall:.1f} s, CPU {cpu:.1f} s, servers {served_cpu:.1f} s", file=sys.stderr)
                if name not in found or cpu < found[name].cpu:
                    found[name] = figures
        return list(found.values())


def _per_slice(servers: list[Served], shards: int) -> dict[str, float]:
    total: dict[str, int] = {}
    for one in servers:
        for name, count in one.traffic().items():
            total[name] = total.get(name, 0) + count
    return {name: round(count / shards, 2) for name, count in total.items()}


def table(found: list[Figures]) -> str:
    """Write the figures as a Markdown table, the first way being 1."""
    lines = [
        "| way | wall s | ratio | CPU s | ratio | servers' CPU s | source: statements, round trips | warehouse |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        wall, cpu = one.wall / found[0].wall, one.cpu / found[0].cpu
        costs = " | ".join(
            f"{cost['statements']:.2f}, {cost['round_trips']:.2f}" for cost in (one.source, one.warehouse)
        )
        lines.append(
            f"| {one.name} | {one.wall:.1f} | {wall:.2f} | {one.cpu:.1f} | {cpu:.2f} | {one.servers:.1f} | {costs} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("shards", type=int, nargs="?", default=150)
    parser.add_argument("rows", type=int, nargs="?", default=1500)
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds of each round trip")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    found = run(given.shards, given.rows, given.latency, given.jobs, given.times)
    print(f"{given.shards} shards x {given.rows:,} rows, {given.latency:g} ms, {given.jobs} workers\n")
    print(table(found))
    print(json.dumps([vars(one) for one in found]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        _measured(sys.argv[2:])
    elif sys.argv[1:2] == ["--naive"]:
        naive(int(sys.argv[2]), int(sys.argv[3]), [int(port) for port in sys.argv[4:]])
    else:
        main()
