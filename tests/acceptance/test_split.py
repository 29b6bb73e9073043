"""`split`: a slice is read and staged in parts at once, and is one slice in all else."""

from __future__ import annotations

import re
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core import faults
from dwhctl.core.errors import ConfigError
from dwhctl.sessions.values import State
from tests.support.faulty import Faults, held_locks, wait_for_end, wait_until
from tests.support.projects import CREATE, DAY, EXTRACT, Sandbox

#: Time is in 24 rows of an hour each; `id` and `grp` are cut by ranges, of which `grp` may be NULL.
WIDE = CREATE.replace("customer VARCHAR", "customer VARCHAR, grp INTEGER, price DECIMAL(9, 3), born DATE")
WIDE_EXTRACT = (
    "SELECT id, customer, amount, start_time, CASE WHEN id % 5 = 0 THEN NULL ELSE (id * 7 % 11)::INTEGER END AS grp,"
    " (id * 1.5 - 9)::DECIMAL(9, 3) AS price, DATE '2020-01-01' + (id % 9)::INTEGER AS born\n"
    + EXTRACT.partition("\n")[2]
)


def a_project(root: Path, keys: str = "split = 3", rows: int = 24, **fields: Any) -> Sandbox:
    """One shard and its day; the keys are those of the load."""
    keys = f'retries = 1\nretry_delay = "1s"\n{keys}'
    sandbox = Sandbox(root, servers={"server_0": ["abakan"]}, load_keys=keys, max_workers=3, **fields).write()
    return sandbox.fill(rows)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The points that a load in this process reaches."""
    found: list[str] = []
    monkeypatch.setattr(faults, "handler", found.append)
    return found


@pytest.mark.parametrize(
    ("keys", "read", "looked"),
    [
        ("split = 3", 3, 1),
        pytest.param("split = 64", 64, 1, marks=pytest.mark.long),
        ('split = 3\nsplit_by = "ID"', 3, 0),
        ('split = 2\nsplit_by = "grp"', 2, 1),
        ('split = 4\nsplit_by = "price"', 4, 1),
        ('split = 2\nsplit_by = "born"', 2, 1),
    ],
)
def test_a_slice_in_parts_is_one_slice(
    tmp_path: Path, steps: list[str], keys: str, read: int, looked: int
) -> None:
    sandbox = a_project(tmp_path, keys, create=WIDE, extract=WIDE_EXTRACT)
    for _ in range(2):  # the second time its rows are replaced
        del steps[:]
        report = sandbox.load()
        assert (report.loaded, report.rows, report.failed) == (1, 24, 0), report.failures
        assert sandbox.target_rows() == sandbox.source_rows()
        assert (steps.count("stage.describe"), steps.count("stage.keys")) == (read, looked)
        (session, *_) = sandbox.sessions_newest_first()
        assert (session.state, session.attempt) == (State.LOADED, 1)
        assert (session.loaded_rows, session.extracted_rows) == (24, 24)
    assert len(sandbox.sessions_newest_first()) == 2
    assert sandbox.warehouse("SELECT count(DISTINCT etl_id), count(DISTINCT hash_id) FROM stage.orders") == [
        (1, 24)
    ]
    assert not list((tmp_path / "state" / "staging").rglob("*.parquet"))


def test_a_whole_table_is_split_by_a_column(tmp_path: Path) -> None:
    sandbox = a_project(
        tmp_path,
        'split = 3\nsplit_by = "id"',
        extract="SELECT id, customer, amount, start_time FROM orders\n",
    )
    file = tmp_path / "config" / "loads" / "orders.toml"
    file.write_text(file.read_text().replace('slice_by = "start_time"\n', ""))
    assert sandbox.load().rows == 24
    assert sandbox.target_rows() == sandbox.source_rows()


def test_a_slice_without_rows_is_skipped(tmp_path: Path, steps: list[str]) -> None:
    for number, keys in enumerate(("split = 3", 'split = 3\nsplit_by = "id"')):
        sandbox = a_project(tmp_path / str(number), keys)
        report = sandbox.load(DAY + timedelta(days=1))
        assert (report.skipped, report.failed) == (1, 0)
        assert "stage.keys" not in steps


def test_a_shrinking_source_is_counted_as_a_whole(tmp_path: Path) -> None:
    """Each part alone would be far below the rows that the warehouse has; all of them are not."""
    sandbox = a_project(tmp_path, "split = 3\nmax_shrink = 0.2")
    assert sandbox.load().loaded == 1
    sandbox.in_shard("abakan", "DELETE FROM orders WHERE id >= 20")
    assert sandbox.load().loaded == 1
    sandbox.in_shard("abakan", "DELETE FROM orders WHERE id >= 10")
    (failed,) = sandbox.load().failures
    assert failed.failure.error_class == "ShrunkSourceError"
    assert "the source has 10 rows, the warehouse 20" in failed.failure.message


# Rows that parts would repeat


def test_a_key_in_two_parts_is_refused(tmp_path: Path) -> None:
    sandbox = a_project(tmp_path)
    sandbox.load()
    before = sandbox.target_rows()
    sandbox.in_shard("abakan", f"INSERT INTO orders VALUES (2, 'again', 1, TIMESTAMP '{DAY} 23:00:00')")
    report = sandbox.load(retries=1)
    (failed,) = report.failures
    assert failed.failure.error_class == "DoubledKeyError"
    assert "the key id=2 occurs twice in the slice, in two of its parts" in failed.failure.message
    # It may be a row that moved while it was read: it is worth another attempt.
    assert report.retried == 1
    assert sandbox.target_rows() == before


def test_a_key_twice_in_one_part_is_refused(tmp_path: Path) -> None:
    sandbox = a_project(tmp_path, 'split = 3\nsplit_by = "id"')
    sandbox.in_shard("abakan", f"INSERT INTO orders VALUES (2, 'again', 1, TIMESTAMP '{DAY} 23:00:00')")
    (failed,) = sandbox.load().failures
    assert failed.failure.message == "the key id=2 occurs twice in the slice"
    assert sandbox.target_rows() == []


@pytest.mark.parametrize(
    "condition",
    ["start_time BETWEEN :start AND :end", "start_time >= :start - INTERVAL 1 HOUR AND start_time < :end"],
)
def test_a_row_outside_of_its_part_is_refused(tmp_path: Path, condition: str) -> None:
    """It is inside the slice: only the bounds of the part show that another part has it too."""
    extract = EXTRACT.replace("start_time >= :start AND start_time < :end", condition)
    sandbox = a_project(tmp_path, extract=extract)
    sandbox.in_shard("abakan", f"DELETE FROM orders WHERE start_time > TIMESTAMP '{DAY} 16:00:00'")
    (failed,) = sandbox.load().failures
    assert failed.failure.error_class == "OutsideSliceError"
    assert "the bounds of the part that the source was asked for" in failed.failure.message
    assert sandbox.target_rows() == []


def test_a_query_without_bounds_is_refused_before_anything_is_read(tmp_path: Path, steps: list[str]) -> None:
    sandbox = a_project(tmp_path, extract=re.sub("WHERE.*", "WHERE start_time::DATE = '{{ ds }}'", EXTRACT))
    with pytest.raises(
        ConfigError, match="the extract does not depend on :start or :end: parts would repeat rows"
    ):
        sandbox.load()
    assert steps == []


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("nothing", "the extract has no column nothing"),
        ("customer", "split_by column customer is VARCHAR; a slice is"),
    ],
)
def test_a_column_that_cannot_be_cut_is_refused(tmp_path: Path, by: str, said: str) -> None:
    (failed,) = a_project(tmp_path, f'split = 2\nsplit_by = "{by}"').load().failures
    assert said in failed.failure.message
    assert failed.failure.permanent
    assert failed.failure.place == "`split_by` of the load"


@pytest.mark.parametrize(
    ("by", "old", "new"),
    [
        ("born", "DATE '2020-01-01' + (id % 9)::INTEGER", "'12020-01-01'::DATE"),
        ("price", "(id * 1.5 - 9)::DECIMAL(9, 3)", f"16{37 * '0'}::HUGEINT + id"),
    ],
)
def test_a_column_with_a_value_that_python_or_arrow_lacks_is_refused(
    tmp_path: Path, by: str, old: str, new: str
) -> None:
    extract = WIDE_EXTRACT.replace(f"{old} AS {by}", f"{new} AS {by}")
    sandbox = a_project(tmp_path, f'split = 2\nsplit_by = "{by}"', create=WIDE, extract=extract)
    (failed,) = sandbox.load().failures
    assert failed.failure.error_class == "QueryError"
    assert f"split_by column {by} is not cut into ranges" in failed.failure.message


# What is shown


def test_the_queries_of_the_parts_are_shown(tmp_path: Path) -> None:
    sandbox = a_project(tmp_path, "split = 2")
    shown = sandbox.run("render", "orders", "--date", str(DAY), "--part", "extract").stdout
    assert [line for line in shown.splitlines() if "part " in line] == [
        "-- part 1 of 2, all at once", "-- part 2 of 2, all at once",
    ]  # fmt: skip
    assert shown.count("2020-07-14 12:00:00") == 2
    planned = sandbox.run("load", "--date", str(DAY), "--dry-run").stdout
    assert "would load 1 slice" in planned
    assert "orders: each slice in 2 parts at once, by time" in planned


# With workers of their own


def test_parts_are_read_at_once_by_workers_and_connections_within_the_limits(tmp_path: Path) -> None:
    """A pause in each part ends when all of them are there."""
    sandbox = a_project(tmp_path)
    log = Faults(tmp_path / "log").at("stage.describe", "pause", until=3)
    process = sandbox.start("load", "--date", str(DAY), env=log.env())
    log.wait_for("stage.describe", nth=3)
    held = held_locks(tmp_path / "state" / "slots") or held_locks(tmp_path / "state")
    log.go_on()
    out, err = wait_for_end(process)
    assert process.returncode == 0, out + err
    assert sum(name.startswith("worker") for name in held) == 3
    assert len({pid for point, _, pid in log.reached() if point == "stage.describe"}) == 3
    # One worker logs in before the others, which would lock an account with a wrong password.
    assert log.reached()[[point for point, *_ in log.reached()].index("stage.cut")][1] == "worker"
    assert sandbox.target_rows() == sandbox.source_rows()


@pytest.mark.parametrize(
    ("connections", "workers"),
    [(2, 3), pytest.param(1, 3, marks=pytest.mark.long), pytest.param(None, 1, marks=pytest.mark.long)],
)
def test_fewer_workers_or_connections_than_parts_read_them_in_turn(
    tmp_path: Path, connections: int | None, workers: int
) -> None:
    keys = f"max_connections = {connections}" if connections else ""
    sandbox = a_project(tmp_path, connection_keys=keys)
    log = Faults(tmp_path / "log")
    process = sandbox.start("load", "--date", str(DAY), "--jobs", str(workers), env=log.env())
    out, err = wait_for_end(process)
    assert process.returncode == 0, out + err
    assert log.count("stage.connect") == 4
    pids = {pid for point, _, pid in log.reached() if point == "stage.connect"}
    assert len(pids) <= min(connections or workers, workers)
    assert sandbox.target_rows() == sandbox.source_rows()


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("stage.extract", 2),
        *(
            pytest.param(*rule, marks=pytest.mark.long)
            for rule in [
                ("stage.cut", 1),
                ("stage.finish", 1),
                ("stage.finished", 2),
                ("stage.finished", 3),
                ("stage.keys", 1),
            ]
        ),
    ],
)
def test_a_part_whose_worker_is_killed_fails_the_attempt(tmp_path: Path, point: str, nth: int) -> None:
    sandbox = a_project(tmp_path)
    sandbox.load()
    sandbox.in_shard("abakan", "UPDATE orders SET amount = amount + 1")
    log = Faults(tmp_path / "log").at(point, "kill worker", nth=nth)
    out, err = wait_for_end(sandbox.start("load", "--date", str(DAY), env=log.env()))
    assert sandbox.target_rows() == sandbox.source_rows(), out + err
    second, first, _ = sandbox.sessions_newest_first()
    assert (first.state, first.error_class, first.attempt) == (State.UP_FOR_RETRY, "WorkerDiedError", 1)
    assert (second.state, second.attempt, second.loaded_rows) == (State.LOADED, 2, 24)
    # All parts were read again, and nothing is left.
    assert log.count("stage.describe") >= 3 + (point != "stage.cut")
    assert not list((tmp_path / "state" / "staging").rglob("*.parquet"))


def test_a_part_that_hangs_costs_one_attempt(tmp_path: Path) -> None:
    sandbox = a_project(tmp_path, 'split = 3\ntimeout = "2s"')
    log = Faults(tmp_path / "log").at("stage.extract", "pause", nth=2)
    out, err = wait_for_end(sandbox.start("load", "--date", str(DAY), env=log.env()))
    assert sandbox.target_rows() == sandbox.source_rows(), out + err
    second, first = sandbox.sessions_newest_first()
    assert (first.state, first.error_class) == (State.UP_FOR_RETRY, "TimedOutError")
    assert (second.state, second.loaded_rows) == (State.LOADED, 24)
    assert held_locks(tmp_path / "state") == []


KILL_POINTS = [
    "stage.cut",
    "stage.describe",
    "stage.finished",
    "stage.keys",
    "publish.insert",
    "publish.committed",
]


@pytest.mark.parametrize(
    ("point", "whom"),
    [
        pytest.param(point, whom, marks=() if (point, whom) == ("stage.keys", "kill") else pytest.mark.long)
        for point in KILL_POINTS
        for whom in ("kill", "kill group")
    ],
)
def test_a_run_that_is_killed_loses_nothing(tmp_path: Path, point: str, whom: str) -> None:
    sandbox = a_project(tmp_path)
    sandbox.load()
    before = sandbox.target_rows()
    sandbox.in_shard("abakan", "UPDATE orders SET amount = amount + 1")
    log = Faults(tmp_path / "log").at(
        point, whom, nth=2 if point in ("stage.describe", "stage.finished") else 1
    )
    process = sandbox.start("load", "--date", str(DAY), env=log.env())
    wait_until(lambda: process.poll() is not None, "it is killed", seconds=30)
    log.go_on()
    wait_for_end(process)
    assert process.returncode == -signal.SIGKILL
    assert sandbox.target_rows() in (before, sandbox.source_rows())
    assert sandbox.run("load", "--date", str(DAY)).returncode == 0
    assert sandbox.target_rows() == sandbox.source_rows()
    states = [session.state for session in sandbox.sessions_newest_first()]
    killed = State.LOADED if point == "publish.committed" else State.ABANDONED
    assert states == [State.LOADED, killed, State.LOADED]


def test_a_signal_ends_all_parts(tmp_path: Path) -> None:
    sandbox = a_project(tmp_path)
    log = Faults(tmp_path / "log").at("stage.describe", "pause", until=3)
    process = sandbox.start("load", "--date", str(DAY), env=log.env())
    log.wait_for("stage.describe", nth=3)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_for_end(process)
    assert time.monotonic() - started < 5
    assert process.returncode == 143
    (session,) = sandbox.sessions_newest_first()
    assert (session.state, session.error_class) == (State.FAILED, "InterruptedAttemptError")
    assert held_locks(tmp_path / "state") == []


def test_a_slice_by_dates_has_all_rows_in_the_first_part(tmp_path: Path) -> None:
    create = CREATE.replace("start_time TIMESTAMP", "start_time DATE")
    dates = "(SELECT * REPLACE (start_time::DATE AS start_time) FROM orders)"
    extract = EXTRACT.replace("FROM orders", f"FROM {dates}")
    sandbox = a_project(tmp_path, "split = 2", create=create, extract=extract)
    report = sandbox.load()
    assert (report.rows, report.failed) == (24, 0)
