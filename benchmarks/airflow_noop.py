"""Airflow 3 with the LocalExecutor: how long so many tasks take that do nothing.

    python -m venv AIRFLOW && AIRFLOW/bin/pip install apache-airflow psycopg2-binary asyncpg
    python -m benchmarks.airflow_noop AIRFLOW/bin/python [TASKS]

Its metadata are in PostgreSQL. The time is from the start of the first task to the end of the last, for the best of
several numbers of workers: what starts Airflow itself is not counted.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil

from tests.postgres import PostgresServer, any_server

_PARALLELISM = (8, 16, 24, 32)
_DAG = """\
from airflow.sdk import dag, task


@dag(schedule=None, max_active_tasks=1000)
def nothing():
    @task
    def do(number):
        pass

    for number in range({tasks}):
        do.override(task_id=f"do_{{number}}")(number)


nothing()
"""
_TAKEN = """
SELECT EXTRACT(EPOCH FROM max(end_date) - min(start_date)), count(*) FILTER (WHERE state = 'success')
  FROM task_instance
"""
_LONGEST_SECONDS = 900.0


def airflow_runs(python: Path, server: PostgresServer, tasks: int) -> Iterator[float]:
    """Yield the seconds of a run with each number of workers: the fastest counts."""
    for workers in _PARALLELISM:
        yield _measure(python.parent / "airflow", server, tasks, workers)


def _measure(program: Path, server: PostgresServer, tasks: int, workers: int) -> float:
    database = server.make_database()
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "dags").mkdir()
        (Path(home) / "dags/nothing.py").write_text(_DAG.format(tasks=tasks))
        env = _environment(home, server, database, workers)
        try:
            _run(program, env, "db", "migrate")
            started = [
                _start(program, env, name, home) for name in ("api-server", "scheduler", "dag-processor")
            ]
            try:
                _trigger(program, env)
                return _wait(server, database, tasks, workers)
            finally:
                for process in started:
                    _end(process)
        finally:
            server.drop_database(database)


def _environment(home: str, server: PostgresServer, database: str, workers: int) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = f"/{database}?host={server.host}" if server.host.startswith("/") else f"{server.host}/{database}"
    host = host if server.host.startswith("/") else f"{server.host}:{server.port}/{database}"
    keys = {
        "DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{server.user}:{server.password or ''}@{host}",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": str(workers),
        "CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "API__PORT": str(port),
        "API__HOST": "127.0.0.1",
        "API_AUTH__JWT_SECRET": "a secret of the benchmark alone, of many characters",
        "API__SECRET_KEY": "another one",
        "SCHEDULER__MAX_TIS_PER_QUERY": "512",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    }
    return {"AIRFLOW_HOME": home, **{f"AIRFLOW__{name}": value for name, value in keys.items()}}


def _run(program: Path, env: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [program, *arguments], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"airflow {' '.join(arguments)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def _start(program: Path, env: dict[str, str], name: str, home: str) -> subprocess.Popen[bytes]:
    with (Path(home) / f"{name}.log").open("w") as log:
        return subprocess.Popen([program, name], env={**os.environ, **env}, stdout=log, stderr=log)


def _trigger(program: Path, env: dict[str, str]) -> None:
    """Trigger the DAG once it is known."""
    until = time.monotonic() + 180
    while True:
        try:
            _run(program, env, "dags", "trigger", "nothing")
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(2)
        else:
            return


def _wait(server: PostgresServer, database: str, tasks: int, workers: int) -> float:
    until = time.monotonic() + _LONGEST_SECONDS
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute(_TAKEN)
            seconds, done = cursor.fetchone() or (None, 0)
            if done == tasks:
                print(f"Airflow, {workers} at once: {tasks} tasks in {seconds:.1f} s", file=sys.stderr)
                return float(seconds)
            time.sleep(1)
    raise RuntimeError(f"{done} of {tasks} tasks after {_LONGEST_SECONDS:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    _, alive = psutil.wait_procs(below, timeout=10)
    for one in alive:
        one.kill()
    process.wait()


if __name__ == "__main__":
    with any_server() as running:
        count = int(sys.argv[2]) if len(sys.argv) > 2 else 150
        print(f"{min(airflow_runs(Path(sys.argv[1]), running, count)):.1f} s")
