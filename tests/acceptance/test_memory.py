"""Memory does not grow with rows: PSS of every process of a load, sampled from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import any_server
from tests.support.memory import Watch, watched
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import DAY, ORDERS, Sandbox

LIMIT_MIB = 400
#: What two loads of any size may differ by: when a sample hits, what allocators keep, what a page cache is counted as.
NOISE_MIB = 40


def one_big_slice(root: Path, rows: int) -> Sandbox:
    """Make a project of one shard with one day of many orders."""
    sandbox = Sandbox(root, {"server_0": ["moscow"]}, max_workers=1, load_keys="retries = 0").write()
    sandbox.in_shard(
        "moscow",
        ORDERS,
        "INSERT INTO orders SELECT range, CASE WHEN range % 7 = 0 THEN NULL ELSE 'клиент ' || range * 7919 END,"
        f" (range * 1.01)::DECIMAL(18, 2), TIMESTAMP '{DAY}' + to_microseconds(range * 86400000000 // {rows})"
        f" FROM range({rows})",
    )
    return sandbox


def load_watched(sandbox: Sandbox, rows: int) -> Watch:
    """Load the day in processes, twice: the second time the old rows are deleted as well. Give the peaks of both."""
    started = time.monotonic()
    total = Watch()
    for _ in range(2):
        process = sandbox.start("load", "--date", str(DAY), plain=True)
        with watched(process) as watch:
            out, err = process.communicate()
        assert process.returncode == 0, out + err
        total = higher(total, watch)
    assert sandbox.warehouse("SELECT count(*), count(DISTINCT id) FROM stage.orders") == [(rows, rows)]
    print(f"{rows} rows, loaded twice in {time.monotonic() - started:.1f} s; {total}")
    return total


def higher(one: Watch, other: Watch) -> Watch:
    """Give the peaks of two commands."""
    return Watch(
        max(one.parent, other.parent),
        {**one.children, **other.children},
        max(one.together, other.together),
        one.samples + other.samples,
    )


def check(small: Watch, large: Watch) -> None:
    """Check the limit, and that the larger load needs no more than the smaller."""
    assert large.samples > 10
    assert max(small.highest, large.highest) < LIMIT_MIB
    assert large.parent < small.parent + NOISE_MIB
    assert large.child < small.child + NOISE_MIB


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    few, many = 400_000, 1_200_000

    check(
        load_watched(one_big_slice(tmp_path / "few", few), few),
        load_watched(one_big_slice(tmp_path / "many", many), many),
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_between_one_and_five_million_rows(tmp_path: Path) -> None:
    few, many = 1_000_000, 5_000_000

    check(
        load_watched(one_big_slice(tmp_path / "few", few), few),
        load_watched(one_big_slice(tmp_path / "many", many), many),
    )


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[PostgresSandbox]:
    """One shard and a warehouse in PostgreSQL, and a load of all columns of a table that dwhctl makes."""
    with any_server() as server:
        sandbox = PostgresSandbox(
            tmp_path / "project",
            {"server_0": ["moscow"]},
            create="",
            max_workers=1,
            load_keys="retries = 0",
            extract="SELECT * FROM orders WHERE start_time >= :start AND start_time < :end",
            server=server,
        ).write()
        yield sandbox
        sandbox.drop()


#: What a column of the wide table holds: its type, and the value of a row `n`.
KINDS = (
    ("bigint", "n * 3"),
    ("text", "'клиент ' || n * 7919"),
    ("numeric(18, 2)", "n * 1.01"),
    ("timestamp", f"TIMESTAMP '{DAY}' + n * INTERVAL '1 second'"),
    ("double precision", "n / 7.0"),
    ("boolean", "n % 3 = 0"),
    ("date", f"DATE '{DAY}' - (n % 900)::int"),
    ("varchar(40)", "'адрес ' || n % 100003"),
    ("uuid", "md5(n::text)::uuid"),
    ("text", "CASE WHEN n % 7 = 0 THEN 'none' END"),
)


def load_wide(sandbox: PostgresSandbox, rows: int) -> Watch:
    """Load 62 columns of mixed types once."""
    values = ", ".join(f"CAST({KINDS[i % 10][1]} AS {KINDS[i % 10][0]}) AS c{i}" for i in range(60))
    sandbox.in_shard(
        "moscow",
        "DROP TABLE IF EXISTS orders",
        f"CREATE TABLE orders AS SELECT n AS id, {values},"
        f" TIMESTAMP '{DAY}' + n * INTERVAL '1 day' / {rows} AS start_time"
        f" FROM generate_series(0::bigint, {rows} - 1) AS n",
    )
    sandbox.change_warehouse("DROP SCHEMA IF EXISTS stage CASCADE")
    process = sandbox.start("load", "--date", str(DAY), plain=True)
    with watched(process) as watch:
        out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert sandbox.warehouse("SELECT count(*), count(DISTINCT id) FROM stage.orders") == [(rows, rows)]
    print(f"{rows} rows of 62 columns; {watch}")
    return watch


def check_wide(sandbox: PostgresSandbox, few: int, many: int) -> None:
    """Check that a worker needs no more for many rows, and that all processes stay below the limit together."""
    small, large = load_wide(sandbox, few), load_wide(sandbox, many)
    assert large.samples > 10
    assert large.together < LIMIT_MIB
    assert large.child < small.child + NOISE_MIB


def test_a_worker_gives_back_the_memory_of_the_columns_of_a_wide_table(wide: PostgresSandbox) -> None:
    check_wide(wide, 30_000, 180_000)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_of_a_wide_table_does_not_grow_with_rows(wide: PostgresSandbox) -> None:
    check_wide(wide, 500_000, 2_500_000)
