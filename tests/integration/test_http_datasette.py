"""An HTTP source against a server that is not ours: Datasette, with its cursor, its links and its CSV."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import connection, query, rows_of

COLUMNS = {"id": "bigint", "called_at": "timestamptz", "cost": "decimal(12,2)", "note": "text"}
WANTED = {"called_at__gte": "2020-07-14", "called_at__lt": "2020-07-15", "_shape": "objects", "_size": 20}


@pytest.fixture(scope="module")
def datasette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve 350 calls of three days; give the address."""
    path = tmp_path_factory.mktemp("datasette") / "crm.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE calls (id INTEGER PRIMARY KEY, called_at TEXT, cost REAL, note TEXT)")
        rows = [
            (
                2**53 + n,
                f"2020-07-{13 + n % 3}T12:00:00Z",
                n / 4,
                None if n % 7 == 0 else f'клиент "{n}",\n{n}',
            )
            for n in range(350)
        ]
        db.executemany("INSERT INTO calls VALUES (?, ?, ?, ?)", rows)
        db.commit()
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "datasette", "serve", str(path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}/crm/"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    "endpoint",
    [
        {"paginator": {"type": "cursor", "cursor_path": "next", "cursor_param": "_next"}},
        {"paginator": {"type": "json_link", "next_url_path": "$.next_url"}},
        {"paginator": {"type": "header_link"}},
        {"path": "calls.csv", "format": "csv", "params": {**WANTED, "_stream": "on", "_size": "max"}},
    ],
    ids=["cursor", "json_link", "header_link", "csv"],
)
def test_a_day_comes_whole_by_every_way(datasette: str, endpoint: dict[str, Any], tmp_path: Path) -> None:
    keys = {"path": "calls.json", "params": WANTED, "data_selector": "$.rows[*]", **endpoint}
    rows = rows_of(connection(datasette, rate_limit="100/s"), query(COLUMNS, **keys), tmp_path)
    numbers = [n for n in range(350) if n % 3 == 1]
    assert [row[0] for row in rows] == [2**53 + n for n in numbers]
    assert [row[2] for row in rows] == [Decimal(n) / 4 for n in numbers]
    # In Datasette's CSV nothing tells NULL from an empty text.
    assert [row[3] for row in rows] == [None if n % 7 == 0 else f'клиент "{n}",\n{n}' for n in numbers]
