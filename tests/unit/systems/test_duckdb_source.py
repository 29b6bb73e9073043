"""The memory of a query of a DuckDB file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from dwhctl.project.templates import Query
from dwhctl.systems.duckdb.source import DuckdbSource
from dwhctl.systems.duckdb.system import DuckdbConnection

_MIB = 2**20
_ROWS = 3_000_000


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file of 24 MB: hashes do not compress."""
    path = tmp_path_factory.mktemp("shard") / "moscow.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute(f"CREATE TABLE orders AS SELECT range AS id, hash(range) AS code FROM range({_ROWS})")
    assert path.stat().st_size > 20 * _MIB
    return path


def _most_kept(shard: Path, sql: str, memory_limit: str | None = None) -> float:
    """Read all rows; give how much of the file DuckDB has kept at most, in MiB."""
    connection = DuckdbConnection(name="server", path=shard, memory_limit=memory_limit)
    rows = ids = most = 0
    with closing(DuckdbSource(connection, "moscow", "UTC")) as source, closing(source._db.cursor()) as beside:
        for number, batch in enumerate(source.batches(Query(sql, {}), 2_048)):
            rows += batch.num_rows
            ids += batch.column("id").to_numpy().sum()
            if number % 50 == 0:
                kept = beside.execute(
                    "FROM duckdb_memory() SELECT memory_usage_bytes WHERE tag = 'BASE_TABLE'"
                )
                most = max(most, *(size for (size,) in kept.fetchall()))
        limit = beside.execute("SELECT current_setting('memory_limit')").fetchone()
    assert (rows, ids) == (_ROWS, _ROWS * (_ROWS - 1) // 2)
    assert limit == ((memory_limit or "64MiB").replace("MiB", ".0 MiB"),)
    return most / _MIB


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, code FROM orders",
        # What the query itself holds in memory stays there, within the limit.
        "SELECT a.id, a.code FROM orders AS a JOIN orders AS b ON b.id % 100 = 0 AND b.id = a.id - a.id % 100",
    ],
)
def test_what_a_query_has_read_of_the_file_does_not_stay_in_memory(shard: Path, sql: str) -> None:
    """A worker grew by 40 MiB between one and five million rows: DuckDB keeps the file up to its memory limit."""
    assert _most_kept(shard, sql) < 16


def test_a_memory_limit_of_the_user_is_what_duckdb_may_keep(shard: Path) -> None:
    assert _most_kept(shard, "SELECT id, code FROM orders", "48MiB") > 20
