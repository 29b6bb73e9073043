"""Memory does not grow with rows: PSS of every process of a load, sampled from outside."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.memory import Watch, watched
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
