"""The README's table of sources and targets says what this suite found."""

from __future__ import annotations

import pytest

from tests.contract.kits import SOURCES, TARGETS
from tests.contract.pairs import (
    SOURCE_WORDS,
    TARGET_WORDS,
    PairResult,
    pair_of,
    read_results,
    table,
    table_in_readme,
)

_OWN = "csv"


def test_the_table_is_made_from_the_results() -> None:
    assert table_in_readme() == table(read_results())


def test_every_pair_ran() -> None:
    assert {kit.name for kit in SOURCES} - {_OWN} == set(SOURCE_WORDS)
    assert {kit.name for kit in TARGETS} - {_OWN} == set(TARGET_WORDS)
    results = read_results()
    assert set(results) == {(source.name, target.name) for source in SOURCES for target in TARGETS}
    assert {pair: result for pair, result in results.items() if result.failed or not result.passed} == {}


def test_a_pair_with_a_failure_is_no_pair() -> None:
    results = {("mssql", "vertica"): PairResult(80, 0, 1), ("mssql", "duckdb"): PairResult(80, 1, 0)}
    assert "| SQL Server | no | no | no | yes |\n" in table(results)


@pytest.mark.parametrize(
    ("test", "pair"),
    [
        ("tests/contract/test_slices.py::test_x[mssql-vertica]", ("mssql", "vertica")),
        ("tests/contract/test_slices.py::test_x[UTC-Kind.DATE-http-clickhouse]", ("http", "clickhouse")),
        ("tests/contract/test_slices.py::test_x[postgres-duckdb-50000]", ("postgres", "duckdb")),
        ("tests/contract/test_targets.py::test_x[duckdb]", None),
    ],
)
def test_the_pair_of_a_test(test: str, pair: tuple[str, str] | None) -> None:
    assert pair_of(test) == pair
