"""Reads from a SQL Server in a process of its own, with one provider of mssql-python: a process has only one.

The process gets an order for each line of stdin, and answers with a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROVIDER = "MSSQL_PYTHON_NATIVE_PROVIDER"


@dataclass(frozen=True)
class Answer:
    """What a reading came to."""

    error: str = ""
    text: str = ""
    columns: int = 0
    rows: int = 0


class Reader:
    """The process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(
        self, port: int, sql: str, path: Path | None = None, *, rows: int = 10_000, **keys: Any
    ) -> Answer:
        """Read a query of the database abakan in batches of so many rows, into an Arrow file where one is given."""
        order = {
            "keys": {
                "name": "mssql_0", "host": "127.0.0.1", "port": port, "user": "sa", "password": "Secret_123",
                "connect_timeout": "5s", **keys,
            },
            "sql": sql, "path": path and str(path), "rows": rows,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))


@contextmanager
def reader(provider: str = "") -> Iterator[Reader]:
    """Run the process."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, PROVIDER: provider},
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield Reader(process)
        finally:
            process.kill()


def _read(order: dict[str, Any]) -> Answer:
    import pyarrow as pa

    from dwhctl.project.query import Query
    from dwhctl.systems.base.system import SourceOptions, system_of
    from dwhctl.systems.mssql.system import MssqlConnection

    connection = MssqlConnection.model_validate(order["keys"])
    query = Query(order["sql"], {})
    columns = rows = 0
    try:
        with system_of(connection).open_source(connection, "abakan", SourceOptions("UTC", 10)) as source:
            declared = source.columns(query)
            columns = len(declared)
            schema = pa.schema([pa.field(column.name, column.type) for column in declared])
            batches = []
            for batch in source.batches(query, order["rows"]):
                rows += batch.num_rows
                batches.append(batch)
    except Exception as error:
        return Answer(type(error).__name__, str(error), columns, rows)
    if order["path"]:
        with pa.OSFile(order["path"], "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return Answer("", "", columns, rows)


if __name__ == "__main__":
    for line in sys.stdin:
        answer = _read(json.loads(line))
        print(json.dumps(answer.__dict__), flush=True)
