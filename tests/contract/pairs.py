"""What the contract suite said of each pair of source and target, and the README's table that is made from it.

pytest -n 2 -m "" tests/contract --write-pairs     # runs every pair, and writes RESULTS and the table
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.contract.kits import SOURCES, TARGETS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "data" / "pairs.csv"
README = ROOT / "README.md"
#: How the README calls the systems of dwhctl itself, in its order. The example of a system of one's own is not there.
SOURCE_WORDS = {
    "mssql": "SQL Server",
    "postgres": "PostgreSQL",
    "duckdb": "DuckDB files",
    "http": "[HTTP APIs](docs/http.md)",
}
TARGET_WORDS = {
    "vertica": "Vertica",
    "postgres": "PostgreSQL",
    "clickhouse": "[ClickHouse](docs/clickhouse.md)",
    "duckdb": "a DuckDB file",
}
_HEAD = "| from \\ to |"
_TABLE = re.compile(rf"^{re.escape(_HEAD)}.*\n(?:\|.*\n)+", re.MULTILINE)
_PAIR = re.compile(
    rf"\[(?:.*-)?({'|'.join(kit.name for kit in SOURCES)})-({'|'.join(kit.name for kit in TARGETS)})(?:-.*)?\]$"
)


class PairResult(NamedTuple):
    """How many tests of a pair passed, were skipped, failed."""

    passed: int
    skipped: int
    failed: int


Results = Mapping[tuple[str, str], PairResult]


def pair_of(test: str) -> tuple[str, str] | None:
    """Return the source and target of a test, by its name."""
    found = _PAIR.search(test)
    return (found[1], found[2]) if found else None


def read_results() -> dict[tuple[str, str], PairResult]:
    """Read RESULTS."""
    with RESULTS.open(newline="") as file:
        return {
            (row["source"], row["target"]): PairResult(*(int(row[name]) for name in PairResult._fields))
            for row in csv.DictReader(file)
        }


def write_results(results: Results) -> None:
    """Write RESULTS, and the table into the README."""
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("source", "target", *PairResult._fields))
        writer.writerows((*pair, *result) for pair, result in sorted(results.items()))
    README.write_text(_TABLE.sub(lambda _: table(results), README.read_text()))


def table(results: Results) -> str:
    """Return the README's table."""
    lines = [f"{_HEAD} {' | '.join(TARGET_WORDS.values())} |", f"| --- {'| --- ' * len(TARGET_WORDS)}|"]
    for source, word in SOURCE_WORDS.items():
        cells = (_cell(results.get((source, target))) for target in TARGET_WORDS)
        lines.append(f"| {word} | {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


def _cell(result: PairResult | None) -> str:
    return "yes" if result is not None and result.passed and not result.failed else "no"


def table_in_readme() -> str:
    """Return the table that is in the README."""
    found = _TABLE.search(README.read_text())
    return found[0] if found else ""
