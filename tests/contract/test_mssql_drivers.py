"""SQL Server's two drivers give the same batches, down to the last bit, and so the same hash ids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from dwhctl.project.templates import Query
from dwhctl.systems.base.system import system_of
from tests.contract.kit_base import NASTY_TEXTS
from tests.contract.kits_mssql import MssqlArrowSourceKit, skip_without_driver, text_literal

PROVIDER = "MSSQL_PYTHON_NATIVE_PROVIDER"


def every_type(kit: MssqlArrowSourceKit) -> str:
    """A query with a column for every type and every value of it, and NULLs; the texts in any order of kinds."""
    longest = max(len(case.values) for case in kit.types)
    rows = []
    for number in range(longest + 1):
        cells = (
            case.values[number] if number < len(case.values) else f"CAST(NULL AS {case.declared})"
            for case in kit.types
        )
        rows.append(
            f"SELECT {number} AS n, " + ", ".join(f"{cell} AS c{at}" for at, cell in enumerate(cells))
        )
    return " UNION ALL ".join(rows)


def test_both_drivers_give_the_same_batches(tmp_path: Path) -> None:
    kit = MssqlArrowSourceKit()
    arrow = kit.connection(tmp_path)
    rows = [
        f"({number}, {text_literal(text)}, 'a?{number}')"
        for number, text in enumerate(NASTY_TEXTS)
        if text is not None
    ]
    kit.run(
        arrow,
        "abakan",
        "CREATE TABLE odd (id int, v nvarchar(max), w varchar(max))",
        f"INSERT INTO odd VALUES {', '.join(rows)}, (1000, NCHAR(65533) + N'a', NULL)",
    )
    for sql in (every_type(kit), "SELECT * FROM odd", "SELECT * FROM odd WHERE id < 0"):
        read = {}
        for driver in ("pymssql", "mssql-python"):
            connection = arrow.model_copy(update={"driver": driver})
            with system_of(connection).open_source(connection, kit.database("abakan"), "UTC") as source:
                columns = source.columns(Query(sql, {}))
                batches = list(source.batches(Query(sql, {}), 100))
            schema = pa.schema([pa.field(column.name, column.type) for column in columns])
            read[driver] = pa.Table.from_batches(batches, schema).combine_chunks().sort_by(columns[0].name)
        one, other = read.values()
        assert one.schema == other.schema
        assert one.num_rows == other.num_rows
        for name in one.column_names:
            assert one[name].equals(other[name]), f"{name}: {one[name].type}"


def test_the_provider_in_rust_does_too() -> None:
    """A process has one provider."""
    skip_without_driver()
    if os.environ.get(PROVIDER):
        pytest.skip("this is that process, or one of a chosen provider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", __file__],
        env={**os.environ, PROVIDER: "mssql-odbc"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("suite", ["test_sources.py", "test_mssql_values.py"])
def test_the_whole_suite_with_the_provider_in_rust(suite: str) -> None:
    skip_without_driver()
    if os.environ.get(PROVIDER):
        pytest.skip("this is that process, or one of a chosen provider")
    path = Path(__file__).with_name(suite)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n0",
            str(path),
            "-k",
            "mssql-arrow",
            "-m",
            "",
        ],
        env={**os.environ, PROVIDER: "mssql-odbc"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
