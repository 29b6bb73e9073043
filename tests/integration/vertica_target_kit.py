"""What the tests of the Vertica target share: a server, a table, a group, and what is done with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from dwhctl.core.columns import Column
from dwhctl.project.days import Slice
from dwhctl.systems.base.system import TargetOptions, system_of
from dwhctl.systems.base.target import StagingGroup
from dwhctl.systems.vertica.target import VerticaTarget
from tests.servers.vertica import VerticaServer

TABLE = "stage.orders"
GROUP = StagingGroup("run", "orders.20200714.1", TABLE)
STAGING = "stage.dwhctl_run__orders_20200714_1"
TIMEOUT = timedelta(seconds=20)
NO_STATE = Path("nothing-is-written-here")
COLUMNS = (
    "id INTEGER, note VARCHAR(20), moment TIMESTAMP, etl_source VARCHAR(40), etl_id INTEGER, hash_id INTEGER"
)
CREATE = ("CREATE SCHEMA IF NOT EXISTS stage", f"CREATE TABLE IF NOT EXISTS {TABLE} ({COLUMNS})")


@contextmanager
def a_server(**keys: Any) -> Iterator[VerticaServer]:
    """A server; at the end of the block no session may be left on it."""
    with VerticaServer(lock_timeout=0.5, **keys) as running:
        yield running
        until = time.monotonic() + 3
        while running.sessions_now and time.monotonic() < until:
            time.sleep(0.02)
        assert running.sessions_now == 0


def a_prepared_target(server: VerticaServer) -> VerticaTarget:
    """A warehouse with a table and an open group."""
    made = a_target(server)
    made.run_statements(CREATE)
    made.open_group(GROUP)
    return made


def a_target(server: VerticaServer, timeout: float = 20, **keys: Any) -> VerticaTarget:
    connection = server.connection(**keys)
    options = TargetOptions(NO_STATE, timedelta(seconds=timeout), "dwhctl:run")
    target = system_of(connection).open_target(connection, options)
    assert isinstance(target, VerticaTarget)
    return target


def a_batch(
    target: VerticaTarget, *ids: int, etl_id: int = 7, note: str | None = "x", **odd: Any
) -> pa.RecordBatch:
    rows = len(ids)
    cells: dict[str, list[Any]] = {
        "id": list(ids),
        "note": [note] * rows,
        "moment": [datetime(2020, 7, 14, 12)] * rows,  # noqa: DTZ001
        "etl_source": ["abakan"] * rows,
        "etl_id": [etl_id] * rows,
        "hash_id": list(ids),
        **{name: [value] * rows for name, value in odd.items()},
    }
    types = {column.name: column.type for column in columns_of(target)}
    return pa.record_batch({name: pa.array(cells[name], types[name]) for name in types})


def columns_of(target: VerticaTarget) -> list[Column]:
    return list(target.columns(TABLE))


def stage(target: VerticaTarget, token: str, *batches: pa.RecordBatch) -> int:
    with target.stage(GROUP, token, columns_of(target)) as staged:
        return staged.write(iter(batches))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def publish(target: VerticaTarget, token: str, slices: list[Slice], timeout: timedelta = TIMEOUT) -> None:
    with target.publication(TABLE, "moment", timeout) as publication:
        publication.delete(slices)
        publication.insert(GROUP, [token])
        publication.commit()
