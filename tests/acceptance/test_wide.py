"""Wide tables: memory goes by the width of a table, and where it is not enough the message says what to do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.projects import DAY, ORDERS, Sandbox

COLUMNS = 60
ROWS = 60_000
SPILLING = 1_500_000
NAMES = [f"c{number}" for number in range(COLUMNS)]


def _wide(folder: Path, keys: str = "") -> Sandbox:
    create = (
        "CREATE SCHEMA IF NOT EXISTS stage; CREATE TABLE IF NOT EXISTS stage.orders (id BIGINT, "
        + ", ".join(f"{name} VARCHAR" for name in NAMES)
        + ", start_time TIMESTAMP, etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT);"
    )
    sandbox = Sandbox(
        folder,
        {"server_0": ["abakan"]},
        create=create,
        load_keys="retries = 0",
        connection_keys=keys,
        extract="SELECT * FROM orders WHERE start_time >= :start AND start_time < :end",
    ).write()
    texts = ", ".join(f"md5((range * {number + 3})::VARCHAR) AS {name}" for number, name in enumerate(NAMES))
    sandbox.in_shard(
        "abakan",
        f"CREATE TABLE orders AS SELECT range AS id, {texts}, TIMESTAMP '{DAY}' AS start_time FROM range({ROWS})",
    )
    return sandbox


@pytest.mark.long
def test_a_wide_table_loads_and_reloads_with_the_default_limit(tmp_path: Path) -> None:
    sandbox = _wide(tmp_path)
    for _ in range(2):
        report = sandbox.load()
        assert (report.loaded, report.rows) == (1, ROWS), report.failures
    [found] = sandbox.warehouse(
        "SELECT count(*), count(DISTINCT id),"
        f" bool_and(c{COLUMNS - 1} = md5((id * {COLUMNS + 2})::VARCHAR)) FROM stage.orders"
    )
    assert found == (ROWS, ROWS, True)


@pytest.mark.parametrize("limit", ["4MiB"])
def test_too_little_memory_is_told_with_the_remedy(tmp_path: Path, limit: str) -> None:
    report = _wide(tmp_path, f'memory_limit = "{limit}"').load()
    [failed] = report.failures
    assert failed.failure.error_class == "QueryError"
    assert "memory_limit" in failed.failure.message
    assert "server_0" in failed.failure.message


@pytest.mark.long
def test_an_extract_that_spills_leaves_the_sources_folder_alone(tmp_path: Path) -> None:
    sandbox = Sandbox(
        tmp_path,
        {"server_0": ["abakan"]},
        load_keys="retries = 0",
        extract="SELECT * FROM orders WHERE start_time >= :start AND start_time < :end ORDER BY md5(customer)",
    ).write()
    sandbox.in_shard(
        "abakan",
        ORDERS,
        f"INSERT INTO orders SELECT range, repeat(md5(range::VARCHAR), 2), 1, TIMESTAMP '{DAY}' FROM range({SPILLING})",
    )
    folder = sandbox.shard_file("abakan").parent
    seen: set[str] = set()
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.01):
            seen.update(entry.name for entry in folder.iterdir())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = sandbox.load()
    finally:
        watching.set()
        watcher.join()
    assert (report.loaded, report.rows) == (1, SPILLING), report.failures
    assert seen == {"abakan.duckdb"}
