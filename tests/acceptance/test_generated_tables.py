"""A load without a `create` makes its table from the columns that a shard declares."""

from __future__ import annotations

from pathlib import Path

from dwhctl.sessions.values import State
from tests.support.projects import DAY, ORDERS, Sandbox
from tests.support.wire import a_wire, needs_faults

_COLUMNS = (
    "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
    " WHERE table_name = 'orders' ORDER BY ordinal_position"
)
SERVICE = [("etl_source", "VARCHAR", "NO"), ("etl_id", "BIGINT", "NO"), ("hash_id", "BIGINT", "NO")]


def test_the_table_is_made_and_loaded(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, create="").write().fill()
    for _ in range(2):
        report = sandbox.load()
        assert (report.loaded, report.failed) == (3, 0)
    assert sandbox.target_rows() == sandbox.source_rows()
    assert sandbox.warehouse(_COLUMNS) == [
        *SERVICE,
        ("id", "BIGINT", "NO"),
        ("customer", "VARCHAR", "YES"),
        ("amount", "DECIMAL(18,2)", "YES"),
        ("start_time", "TIMESTAMP", "NO"),
    ]
