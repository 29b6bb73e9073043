"""Fixtures of the contract suites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract.kits import SOURCES, TARGETS
from tests.contract.pairs import RESULTS, PairResult, pair_of, read_results, write_results
from tests.contract.way import Way
from tests.support.csv_system import install, registered

IN_THE_GATE = {
    ("duckdb", "duckdb"),
    ("mssql", "vertica"),
    ("postgres", "postgres"),
    ("http", "duckdb"),
    ("csv", "csv"),
    ("duckdb", "clickhouse"),
}
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the results of the pairs."""
    parser.addoption("--write-pairs", action="store_true", help=f"write {RESULTS.name}")


class PairRecorder:
    """Counts what passed and failed of each pair, and writes it into RESULTS; pairs that did not run stay there."""

    def __init__(self) -> None:
        self._results = read_results()
        self._counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test of a pair; one that passed also ended well."""
        if (report.when == "call" or report.outcome != "passed") and (pair := pair_of(report.nodeid)):
            self._counts[pair][report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self._results |= {
            pair: PairResult(counts["passed"], counts["skipped"], counts["failed"])
            for pair, counts in self._counts.items()
        }
        write_results(self._results)


def pytest_configure(config: pytest.Config) -> None:
    """Record the pairs in the process that all reports come to."""
    if config.getoption("--write-pairs", False) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(PairRecorder())


@pytest.fixture(params=PAIRS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    """The way from a source to a target, over every pair of them."""
    source, target = request.param
    return Way(source, target, tmp_path)


@pytest.fixture
def duckdb_way(tmp_path: Path) -> Way:
    """From DuckDB to DuckDB: for what is said in DuckDB's own types."""
    return Way(SOURCES[0], TARGETS[0], tmp_path)


#: Pairs whose staging files are read by the target's engine, which may see a pattern in the folder's name.
_FOLDERS_IN_GATE = {("duckdb", "duckdb"), ("mssql", "vertica")}
#: Sources whose long answers take seconds: each reads them through the same kind of stream as another in the gate.
_SLOW_TO_READ = (
    "test_memory_does_not_grow_with_the_rows[http]",
    "test_memory_does_not_grow_with_the_rows[postgres]",
)


_ARROW_IN_GATE = ("test_what_cannot", "test_nasty", "test_a_failure", "test_a_query_that", "test_bounds")


def _is_dear(item: pytest.Item, params: Mapping[str, Any]) -> bool:
    """Return whether a test costs seconds and other pairs of the gate show the same."""
    if item.name.startswith("test_any_rows"):
        return (params["source"].name, params["target"].name) not in IN_THE_GATE
    if "mssql-arrow" in item.name:
        # tests/contract/test_mssql_drivers.py compares all values in one query.
        return not item.name.startswith(_ARROW_IN_GATE)
    if item.name.startswith("test_the_state_folders_name"):
        source, target = params["way"]
        return params["folder"] != "it's" and (source.name, target.name) not in _FOLDERS_IN_GATE
    if item.name.startswith("test_reloading_a_day") and params["zone"] == "UTC":
        # Where a zone is lost UTC shows nothing that Chita does not; DuckDB and PostgreSQL show UTC.
        return params["way"][1].name in ("clickhouse", "vertica")
    return item.name in _SLOW_TO_READ


#: The suites that the gate runs over the system of another package, whose commands have a test of their own there.
_CSV_IN_GATE = (
    "test_a_failure",
    "test_a_query_that",
    "test_bounds",
    "test_every_form",
    "test_nasty",
    "test_what",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep out of the gate what the other systems show as well: these cost its time."""
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        # A request for each row.
        is_slow = item.path.name in ("test_targets.py", "test_slices.py") and "[http-" in item.name
        given = getattr(item, "callspec", None)
        params = given.params if given else {}
        kits = [str(value) for value in params.values()]
        is_csv = any("Csv" in kit for kit in kits) and not item.name.startswith(_CSV_IN_GATE)
        if is_slow or is_csv or _is_dear(item, params):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="package", autouse=True)
def csv_is_installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The suites run over a system of another package, too."""
    folder = install(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.syspath_prepend(folder)
        yield
