"""Fixtures of the contract suites."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.kits import SOURCES, TARGETS
from tests.contract.way import Way

_IN_THE_GATE = {("duckdb", "duckdb"), ("mssql", "vertica"), ("duckdb", "clickhouse")}
PAIRS = [
    pytest.param(
        (source, target),
        id=f"{source.name}-{target.name}",
        # Every system stands in one of the others: the mixed pairs add minutes and little else.
        marks=() if (source.name, target.name) in _IN_THE_GATE else pytest.mark.long,
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
