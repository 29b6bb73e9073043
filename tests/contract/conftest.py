"""Fixtures of the contract suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.kits import SOURCES, TARGETS, SourceKit, TargetKit
from tests.contract.way import Way
from tests.support.csv_system import install, registered

#: Each system is in one of these pairs; the other pairs add minutes and little else.
_IN_GATE = (("duckdb", "duckdb"), ("mssql", "vertica"), ("csv", "csv"))


def is_in_gate(source: SourceKit, target: TargetKit) -> bool:
    """Whether the gate runs the suites over this pair."""
    return (source.name, target.name) in _IN_GATE


PAIRS = [
    pytest.param(
        (source, target),
        id=f"{source.name}-{target.name}",
        marks=() if is_in_gate(source, target) else pytest.mark.long,
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


@pytest.fixture(scope="package", autouse=True)
def csv_is_installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The suites run over a system of another package, too."""
    folder = install(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.syspath_prepend(folder)
        yield
