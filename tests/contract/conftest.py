"""Fixtures of the contract suites."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.kits import SOURCES, TARGETS
from tests.contract.way import Way

IN_THE_GATE = {("duckdb", "duckdb"), ("mssql", "vertica"), ("http", "duckdb"), ("duckdb", "clickhouse")}
PAIRS = [
    pytest.param(
        (source, target),
        id=f"{source.name}-{target.name}",
        # Every system is in one of these: the other pairs add minutes and little else.
        marks=() if (source.name, target.name) in IN_THE_GATE else pytest.mark.long,
    )
    for source in SOURCES
    for target in TARGETS
]


@pytest.fixture(params=PAIRS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    """The way from a source to a target, over every pair of them."""
    source, target = request.param
    return Way(source, target, tmp_path)


@pytest.fixture
def duckdb_way(tmp_path: Path) -> Way:
    """From DuckDB to DuckDB: for what is said in DuckDB's own types."""
    return Way(SOURCES[0], TARGETS[0], tmp_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep out of the gate what the other sources show of targets and slices: a request for each row costs its time."""
    for item in items:
        if item.path.name in ("test_targets.py", "test_slices.py") and "[http-" in item.name:
            item.add_marker(pytest.mark.long)
