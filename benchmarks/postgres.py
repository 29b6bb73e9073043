"""PostgreSQL to PostgreSQL: `dwhctl load` beside psycopg2's COPY alone and other tools, as a table in Markdown.

    python -m benchmarks.postgres                               5,000,000 rows of one table
    python -m benchmarks.postgres --tables 150 --rows 1500      many small tables
    --tools FOLDER      other tools as well: benchmarks/tools.py says how to install them
    --airflow PYTHON    as many tasks that do nothing, in Airflow 3: benchmarks/airflow_noop.py
    --index             dwhctl makes the table, with its index; the others have none

The floor is a binary COPY of the query into a file and a binary COPY from it, of the query's columns only: the service
fields are dwhctl's to add. Floor and dwhctl take turns; the best of the rounds counts, of many tables the median. The
peak of memory is of one more run: to read it holds a run up, one of 150 tables by half its time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benchmarks.airflow_noop import airflow_runs
from benchmarks.measure import Usage, best, measure, median
from benchmarks.tools import Copy, commands
from tests.postgres import any_server
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import CREATE, DAY, EXTRACT

_COLUMNS = "id bigint, customer text, amount numeric(18,2), start_time timestamp"
_Choose = Callable[[Sequence[Usage]], Usage]


def copy_alone(copy: Copy) -> Usage:
    """Copy each table's query into a file and from there into a table."""
    bounds = f"start_time >= date '{DAY}' AND start_time < date '{DAY}' + 1"
    with (
        closing(copy.server.connect(copy.source)) as reader,
        closing(copy.server.connect(copy.target)) as writer,
    ):
        cursor = writer.cursor()
        for table in copy.tables:
            cursor.execute(f"DROP TABLE IF EXISTS floor_{table}; CREATE TABLE floor_{table} ({_COLUMNS})")
        began, cpu = time.perf_counter(), time.process_time()
        for table in copy.tables:
            query = f"SELECT id, customer, amount, start_time FROM {table} WHERE {bounds}"
            with tempfile.TemporaryFile() as file:
                reader.cursor().copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", file)
                file.seek(0)
                cursor.copy_expert(f"COPY floor_{table} FROM STDIN (FORMAT binary)", file)
        usage = Usage(time.perf_counter() - began, time.process_time() - cpu, 0.0)
        for table in copy.tables:
            cursor.execute(f"DROP TABLE floor_{table}")
        return usage


def load(sandbox: PostgresSandbox, *, memory: bool = False) -> Usage:
    """Load the day into tables that do not exist yet."""
    sandbox.change_warehouse("DROP SCHEMA IF EXISTS stage CASCADE")
    command = [sys.executable, "-m", "dwhctl", "load", "--date", str(DAY), "--project", str(sandbox.root)]
    return measure(command, memory=memory)


def with_tables(sandbox: PostgresSandbox, tables: int, rows: int) -> list[str]:
    """Fill one table, or so many, each with a load of its own."""
    sandbox.fill(rows)
    if tables == 1:
        return ["orders"]
    names = [f"orders_{number:03}" for number in range(tables)]
    toml = sandbox.root / "config/loads/orders.toml"
    keys = toml.read_text()
    toml.unlink()
    for name in names:
        sandbox.in_shard("abakan", f"CREATE TABLE {name} AS TABLE orders")
        own = keys.replace('"stage.orders"', f'"stage.{name}"').replace('"orders/', f'"{name}/')
        sandbox.put(f"config/loads/{name}.toml", own)
        sandbox.put(f"sql/{name}/extract.sql", EXTRACT.replace("FROM orders", f"FROM {name}"))
        sandbox.put(f"sql/{name}/create.sql", CREATE.replace("stage.orders", f"stage.{name}"))
    return names


def main(arguments: argparse.Namespace) -> None:
    """Print a row for the floor, dwhctl and each tool."""
    choose: _Choose = best if arguments.tables == 1 else median
    create = "" if arguments.index else CREATE
    with any_server() as server, tempfile.TemporaryDirectory() as folder:
        root, servers = Path(folder) / "project", {"server_0": ["abakan"]}
        sandbox = PostgresSandbox(
            root, servers=servers, server=server, create=create, max_workers=arguments.jobs
        ).write()
        try:
            names = with_tables(sandbox, arguments.tables, arguments.rows)
            sandbox.in_shard("abakan", "VACUUM ANALYZE")
            source, target = sandbox.databases["abakan"], sandbox.databases["warehouse"]
            copy = Copy(server, source, target, names, Path(folder))
            mib = load(sandbox, memory=True).mib
            runs = [(copy_alone(copy), load(sandbox)) for _ in range(arguments.rounds)]
            floor, ours = (choose(usages) for usages in zip(*runs, strict=True))
            print(Usage.head(f"{len(names):,} x {arguments.rows:,} rows"))
            print(floor.row("COPY out and binary COPY in", floor.seconds))
            print(replace(ours, mib=mib).row("dwhctl", floor.seconds), flush=True)
            if arguments.tools:
                # Several of ingestr's processes at once cannot make it.
                sandbox.change_warehouse("CREATE SCHEMA ingestr_copy")
                _tools(arguments, copy, floor.seconds, choose)
            if arguments.airflow:
                # By turns, since a machine is not equally fast for minutes. The first load after a run of
                # Airflow finds cold caches; Airflow's clock starts when its processes are warm.
                beside = []
                for seconds in airflow_runs(arguments.airflow, server, arguments.tables):
                    loads = [load(sandbox).seconds for _ in range(3)]
                    print(f"{seconds:.1f} s; dwhctl after it: {', '.join(f'{one:.2f}' for one in loads)} s")
                    beside.append((seconds, min(loads)))
                airflow, ours_beside = (min(seconds) for seconds in zip(*beside, strict=True))
                print(f"Airflow's best of {arguments.tables} tasks that do nothing / dwhctl's best:", end=" ")
                print(f"{airflow:.1f} / {ours_beside:.2f} = {airflow / ours_beside:.1f}")
        finally:
            sandbox.drop()


def _tools(arguments: argparse.Namespace, copy: Copy, floor: float, choose: _Choose) -> None:
    for name, command in commands(arguments.tools, copy):
        if isinstance(command, str):
            print(f"| {name} | {command} | | | |", flush=True)
            continue
        try:
            # The first run makes what the tool keeps: its state, and the target's schema.
            mib = measure(command).mib
            usage = choose([measure(command, memory=False) for _ in range(arguments.rounds)])
        except RuntimeError as error:
            print(f"| {name} | failed: {str(error)[-300:]!r} | | | |", flush=True)
        else:
            print(replace(usage, mib=mib).row(name, floor), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--tables", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--tools", type=Path)
    parser.add_argument("--airflow", type=Path)
    parser.add_argument("--index", action="store_true")
    main(parser.parse_args())
