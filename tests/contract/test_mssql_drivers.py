"""SQL Server's drivers give the same batches, down to the last bit, and so the same hash ids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.contract.kit_base import NASTY_TEXTS, TypeCase
from tests.contract.kits_mssql import MssqlSourceKit, skip_without_driver, text_literal
from tests.servers.tds import TdsServer
from tests.support.mssql_reader import PROVIDER, reader


def every_type(types: Sequence[TypeCase]) -> str:
    """A query with a column for each type: all its values, then NULLs."""
    rows = []
    for number in range(max(len(case.values) for case in types) + 1):
        cells = (
            case.values[number] if number < len(case.values) else f"CAST(NULL AS {case.declared})"
            for case in types
        )
        rows.append(
            f"SELECT {number} AS n, " + ", ".join(f"{cell} AS c{at}" for at, cell in enumerate(cells))
        )
    return " UNION ALL ".join(rows)


#: The provider in Rust refuses an image.
IN_BOTH = tuple(case for case in MssqlSourceKit.types if case.declared != "image")


@pytest.mark.parametrize(
    ("provider", "types"),
    [("msodbcsql18", MssqlSourceKit.types), ("mssql-odbc", IN_BOTH)],
    ids=["odbc", "rust"],
)
def test_both_drivers_give_the_same_batches(provider: str, types: Sequence[TypeCase], tmp_path: Path) -> None:
    skip_without_driver()
    texts = ", ".join(
        f"({number}, {text_literal(text)}, 'a?{number}')"
        for number, text in enumerate(NASTY_TEXTS)
        if text is not None
    )
    with TdsServer(databases=("abakan",)) as server, reader(provider) as reads:
        server.execute("abakan", "CREATE TABLE odd (id int, v nvarchar(max), w varchar(max))")
        server.execute("abakan", f"INSERT INTO odd VALUES {texts}, (1000, NCHAR(65533) + N'a', NULL)")
        for sql in (every_type(types), "SELECT * FROM odd", "SELECT * FROM odd WHERE id < 0"):
            tables = []
            for driver in ("pymssql", "mssql-python"):
                path = tmp_path / f"{driver}.arrow"
                answer = reads.read(server.port, sql, path, rows=7, driver=driver)
                assert not answer.error, answer
                table = pa.ipc.open_file(path).read_all()
                tables.append(table.combine_chunks().sort_by(table.column_names[0]))
            one, other = tables
            assert one.schema == other.schema
            assert one.num_rows == other.num_rows
            for name in one.column_names:
                assert one[name].equals(other[name]), f"{name}: {one[name].type}"


@pytest.mark.long
@pytest.mark.parametrize(
    "suite",
    ["contract/test_sources.py", "contract/test_mssql_values.py", "unit/systems/test_mssql_arrow.py"],
)
def test_the_whole_suite_with_the_provider_in_rust(suite: str) -> None:
    """A process has one provider."""
    skip_without_driver()
    if os.environ.get(PROVIDER):
        pytest.skip("this is that process, or one of a chosen provider")
    path = Path(__file__).parents[1] / suite
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", str(path), "-k", "arrow", "-m", ""],
        env={**os.environ, PROVIDER: "mssql-odbc"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
