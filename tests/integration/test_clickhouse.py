"""ClickHouse as target: what readers see at each step of a publication, and what a kill at each step leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import trustme

from dwhctl.core.columns import Kind
from dwhctl.core.errors import (
    AttemptError,
    TargetError,
    TargetRefusedError,
    TlsError,
    UsageError,
    ValueRefusedError,
)
from dwhctl.load.publish import Published, PublishRules, publish
from dwhctl.project.names import RowSource
from dwhctl.systems.base.target import StagedSlice, StagingGroup, Target
from dwhctl.systems.clickhouse import client
from dwhctl.systems.clickhouse.console import ClickHouseCursor
from dwhctl.systems.clickhouse.system import ClickHouseConnection
from dwhctl.systems.clickhouse.target import ClickHouseTarget
from tests.contract.kits import TARGETS
from tests.contract.kits_clickhouse import REAL, ClickHouseTargetKit
from tests.contract.way import a_slice
from tests.servers.clickhouse import PASSWORD, ClickHouseServer
from tests.unit.projects import a_load

TABLE = "stage.orders"
TIMEOUT = timedelta(seconds=30)
CREATE = (
    f"CREATE TABLE {TABLE} (id Int64, note Nullable(String), start_time DateTime64(6), etl_source"
    " LowCardinality(String), etl_id Int64, hash_id Int64) ENGINE = MergeTree PARTITION BY toDate(start_time)"
    " ORDER BY id"
)
#: Every step of a publication, in their order.
STEPS = (
    "publish.begin", "publish.held", "publish.staged", "publish.delete", "clickhouse.copy", "clickhouse.kept",
    "publish.insert", "clickhouse.merge", "publish.commit", "publish.fenced", "clickhouse.replace",
    "clickhouse.replaced", "publish.committed",
)  # fmt: skip
REFRESH_STEPS = ("clickhouse.exchange", "clickhouse.exchanged")
IN_THE_GATE = ("clickhouse.kept", "clickhouse.replace", "clickhouse.replaced")
OLD = {("2020-07-13", "abakan", 1): 4, ("2020-07-14", "abakan", 1): 7, ("2020-07-14", "chita", 2): 5}
NEW = {("2020-07-13", "abakan", 1): 4, ("2020-07-14", "abakan", 9): 3, ("2020-07-14", "chita", 2): 5}
needs_our_server = pytest.mark.skipif(REAL is not None, reason="a real server has no faults to order")

Counts = dict[tuple[str, str, int], int]


def counts(server: Callable[[str], list[tuple[str | None, ...]]]) -> Counts:
    """The rows of the table by day, shard and session."""
    rows = server(f"SELECT toDate(start_time), etl_source, etl_id, count() FROM {TABLE} GROUP BY ALL")
    return {(str(day), str(shard), int(etl_id or 0)): int(number or 0) for day, shard, etl_id, number in rows}


class Warehouse:
    """A table with rows of two days and two shards, and a run that replaces one slice."""

    def __init__(
        self, connection: ClickHouseConnection, ask: Callable[[str], list[tuple[str | None, ...]]]
    ) -> None:
        self.connection = connection
        self.ask = ask
        self.load = a_load(key=("id",), slice_by="start_time", table=TABLE, target="dwh")
        for sql in (
            "DROP DATABASE IF EXISTS stage SYNC",
            "CREATE DATABASE stage",
            CREATE,
            *(
                f"INSERT INTO {TABLE} SELECT number, 'old', toDateTime64('{day} 12:00:00', 6), '{shard}', {etl_id},"
                f" number FROM numbers({rows})"
                for (day, shard, etl_id), rows in OLD.items()
            ),
        ):
            ask(sql)

    def open(self, run: str = "run1") -> ClickHouseTarget:
        """A target of a run."""
        return ClickHouseTarget(self.connection, TIMEOUT, f"dwhctl:{run}")

    def counts(self) -> Counts:
        """What readers see."""
        return counts(self.ask)

    def tables(self) -> list[str]:
        """The tables that runs have made."""
        found = self.ask("SELECT name FROM system.tables WHERE startsWith(name, 'dwhctl_') ORDER BY name")
        return [str(name) for (name,) in found]

    def staged(
        self, target: Target, run: str = "run1", rows: int = 3, shard: str = "abakan", etl_id: int = 9
    ) -> tuple[StagingGroup, StagedSlice]:
        """Stage a slice."""
        group = StagingGroup(run, "group", TABLE)
        target.open_group(group)
        columns = target.columns(TABLE)
        noon = pa.array([datetime(2020, 7, 14, 12)] * rows, pa.timestamp("us"))  # noqa: DTZ001
        arrays = [pa.array(range(rows)), pa.array(["new"] * rows), noon, pa.array([shard] * rows),
                  pa.array([etl_id] * rows), pa.array(range(rows))]  # fmt: skip
        batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
        token = f"{shard}{etl_id}"
        if rows:
            with target.stage(group, token, columns) as stage:
                stage.write(iter([batch]))
        return group, StagedSlice(a_slice(shard=shard), token, etl_id, rows)

    def publish(self, target: Target, group: StagingGroup, *slices: StagedSlice) -> list[Published]:
        """Publish as the parent does."""
        return publish(target, self.load, group, slices, PublishRules(True, lambda: None))


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A warehouse on the server of the contract suites."""
    kit = next(kit for kit in TARGETS if isinstance(kit, ClickHouseTargetKit))
    connection = kit.connection(tmp_path)
    assert isinstance(connection, ClickHouseConnection)
    return Warehouse(connection, lambda sql: kit.texts(connection, sql))


def kill_at(point: str) -> Callable[[str], None]:
    """A handler of faults that kills the process."""

    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def in_a_process(
    work: Callable[[], object], handler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> int:
    """Do it in a process that dies; its end as of os.waitpid."""
    monkeypatch.setattr("dwhctl.core.faults.handler", handler)
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    monkeypatch.setattr("dwhctl.core.faults.handler", None)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(
    "step", [step if step in IN_THE_GATE else pytest.param(step, marks=pytest.mark.long) for step in STEPS]
)
def test_a_kill_at_each_step_leaves_the_old_slice_or_the_new_one(
    warehouse: Warehouse, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = warehouse.open()
    group, slice_ = warehouse.staged(first)
    died = in_a_process(
        lambda: warehouse.publish(warehouse.open(), group, slice_), kill_at(step), monkeypatch
    )
    assert os.WIFSIGNALED(died), f"{step} is not reached"
    happened = STEPS.index(step) > STEPS.index("clickhouse.replace")
    assert warehouse.counts() == (NEW if happened else OLD)
    assert first.published_rows(TABLE, [9]) == ({9: 3} if happened else {})
    # What the next run does: reap, stage, publish.
    later = warehouse.open("run2")
    later.drop_run("run1")
    assert warehouse.tables() == []
    group, slice_ = warehouse.staged(later, "run2")
    assert [one.failure for one in warehouse.publish(later, group, slice_)] == [None]
    assert warehouse.counts() == NEW


@needs_our_server
@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_a_death_of_the_server_at_each_step_leaves_the_old_slice_or_the_new_one(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ClickHouseServer(tmp_path / "server").start()

    def reached(name: str) -> None:
        if name == step:
            server.kill()
            server.start()

    try:
        warehouse = Warehouse(server.connection(), lambda sql: [tuple(row) for row in server.query(sql)])
        target = warehouse.open()
        group, slice_ = warehouse.staged(target)
        monkeypatch.setattr("dwhctl.core.faults.handler", reached)
        (outcome,) = warehouse.publish(target, group, slice_)
        monkeypatch.setattr("dwhctl.core.faults.handler", None)
        happened = outcome.failure is None
        assert warehouse.counts() == (NEW if happened else OLD)
        server.kill()
        server.start()
        assert warehouse.counts() == (NEW if happened else OLD)
        later = warehouse.open("run2")
        later.drop_run("run1")
        group, slice_ = warehouse.staged(later, "run2")
        assert [one.failure for one in warehouse.publish(later, group, slice_)] == [None]
        assert warehouse.counts() == NEW
    finally:
        server.stop()


@needs_our_server
@pytest.mark.long
def test_a_server_that_dies_while_it_replaces_has_the_old_slice_or_the_new_one(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path / "server").start()
    try:
        warehouse = Warehouse(server.connection(), lambda sql: [tuple(row) for row in server.query(sql)])
        seen = set[int]()
        for number in range(12):
            before, run = warehouse.counts(), f"run{number}"
            target = warehouse.open(run)
            group, slice_ = warehouse.staged(target, run, rows=number + 1, etl_id=100 + number)
            timer = threading.Timer(0.02 * number, server.kill)
            with target.publication(TABLE, "start_time", TIMEOUT) as publication:
                publication.delete([slice_.slice])
                publication.insert(group, [slice_.token])
                timer.start()
                with suppress(AttemptError):
                    publication.commit()
                timer.join()
            server.start()
            after = warehouse.counts()
            new = {key: rows for key, rows in before.items() if key[:2] != ("2020-07-14", "abakan")}
            new[("2020-07-14", "abakan", 100 + number)] = number + 1
            assert after in (before, new)
            seen.add(int(after == new))
            warehouse.open("later").drop_run(run)
        assert 1 in seen
    finally:
        server.stop()


def test_readers_see_the_old_slice_or_the_new_one(warehouse: Warehouse) -> None:
    target, seen, done = warehouse.open(), list[Counts](), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(warehouse.counts())

    group, slice_ = warehouse.staged(target)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        warehouse.publish(target, group, slice_)
    finally:
        done.set()
        reader.join()
    seen.append(warehouse.counts())
    assert seen[0] == OLD
    assert seen[-1] == NEW
    assert all(one in (OLD, NEW) for one in seen)


def test_slices_of_a_group_are_published_together_and_others_keep_their_rows(warehouse: Warehouse) -> None:
    target = warehouse.open()
    group, abakan = warehouse.staged(target)
    _, omsk = warehouse.staged(target, shard="omsk", rows=2, etl_id=10)
    _, chita = warehouse.staged(target, shard="chita", rows=0, etl_id=11)
    assert [one.failure for one in warehouse.publish(target, group, abakan, omsk, chita)] == [
        None,
        None,
        None,
    ]
    assert warehouse.counts() == {
        ("2020-07-13", "abakan", 1): 4, ("2020-07-14", "abakan", 9): 3, ("2020-07-14", "omsk", 10): 2,
    }  # fmt: skip


def test_a_day_whose_last_rows_go_is_emptied(warehouse: Warehouse) -> None:
    target = warehouse.open()
    group, abakan = warehouse.staged(target, rows=0)
    _, chita = warehouse.staged(target, shard="chita", rows=0, etl_id=10)
    warehouse.publish(target, group, abakan, chita)
    assert warehouse.counts() == {("2020-07-13", "abakan", 1): 4}


def test_rows_without_a_shard_are_not_lost(warehouse: Warehouse) -> None:
    """A condition that is NULL is not that of a slice."""
    warehouse.ask(f"ALTER TABLE {TABLE} MODIFY COLUMN etl_source Nullable(String)")
    warehouse.ask(f"INSERT INTO {TABLE} SELECT 1, 'x', toDateTime64('2020-07-14 01:00:00', 6), NULL, 0, 1")
    target = warehouse.open()
    group, slice_ = warehouse.staged(target)
    warehouse.publish(target, group, slice_)
    assert warehouse.counts() == {**NEW, ("2020-07-14", "None", 0): 1}


def test_a_run_that_is_reaped_publishes_nothing_any_more(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy is the fence: it may be stopped right before REPLACE PARTITION, and go on after another run's."""
    target, later = warehouse.open(), warehouse.open("run2")
    group, slice_ = warehouse.staged(target)

    def reap(point: str) -> None:
        if point == "clickhouse.replace":
            monkeypatch.setattr("dwhctl.core.faults.handler", None)
            later.drop_run("run1")
            other = warehouse.staged(later, "run2", rows=2, etl_id=20)
            assert warehouse.publish(later, *other)[0].failure is None

    monkeypatch.setattr("dwhctl.core.faults.handler", reap)
    (outcome,) = warehouse.publish(target, group, slice_)
    assert outcome.failure is not None
    assert warehouse.counts()[("2020-07-14", "abakan", 20)] == 2
    assert ("2020-07-14", "abakan", 9) not in warehouse.counts()


def test_rows_that_come_while_the_partition_is_copied_are_not_lost(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insert(point: str) -> None:
        if point == "publish.fenced":
            warehouse.ask(
                f"INSERT INTO {TABLE} SELECT 1, 'x', toDateTime64('2020-07-14 01:00:00', 6), 'omsk', 3, 1"
            )

    target = warehouse.open()
    group, slice_ = warehouse.staged(target)
    monkeypatch.setattr("dwhctl.core.faults.handler", insert)
    (outcome,) = warehouse.publish(target, group, slice_)
    assert outcome.failure is not None
    assert "another client changed the partition" in outcome.failure.message
    assert warehouse.counts() == {**OLD, ("2020-07-14", "omsk", 3): 1}


@needs_our_server
@pytest.mark.parametrize(("fault", "happened"), [("lose", True), ("drop", False)])
def test_an_answer_that_is_lost_is_decided_by_looking(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, fault: str, happened: bool
) -> None:
    kit = next(kit for kit in TARGETS if isinstance(kit, ClickHouseTargetKit))
    target = warehouse.open()
    group, slice_ = warehouse.staged(target)
    kit.server.fault(fault, "REPLACE PARTITION")
    ended: list[str] = []
    monkeypatch.setattr(
        "dwhctl.systems.clickhouse.target.end_queries", lambda _client, label: ended.append(label)
    )
    (outcome,) = warehouse.publish(target, group, slice_)
    # What still runs there would replace the partition after the count.
    assert len(ended) == 1
    assert ended[0].startswith("dwhctl:run1:publish:")
    assert (outcome.failure is None) is happened
    assert not outcome.in_doubt
    assert warehouse.counts() == (NEW if happened else OLD)
    assert warehouse.tables() == ["dwhctl_run1__group"]


@needs_our_server
def test_a_server_that_is_silent_is_given_up(warehouse: Warehouse) -> None:
    kit = next(kit for kit in TARGETS if isinstance(kit, ClickHouseTargetKit))
    target = ClickHouseTarget(warehouse.connection, timedelta(seconds=1), "dwhctl:run1")
    kit.server.fault("hang", "max\\(etl_id\\)")
    started = time.monotonic()
    with pytest.raises(TargetError, match="no answer from dwh for 1 s"):
        target.highest_etl_id(TABLE)
    assert time.monotonic() - started < 5


def test_an_interrupt_ends_what_runs_here_and_on_the_server(warehouse: Warehouse) -> None:
    target = warehouse.open()
    slow = f"INSERT INTO {TABLE} (id) SELECT number FROM numbers(100000000000) WHERE sipHash64(number) = 1"
    failures: list[Exception] = []

    def run() -> None:
        try:
            target.run_statements([slow])
        except AttemptError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    running = "SELECT count() FROM system.processes WHERE position(query, 'sipHash64') > 0 AND query_id LIKE 'dwhctl:%'"
    until = time.monotonic() + 10
    while warehouse.ask(running) == [("0",)] and time.monotonic() < until:
        time.sleep(0.05)
    target.interrupt()
    thread.join(5)
    assert not thread.is_alive()
    assert [type(one) for one in failures] == [TargetError]
    target.settle()
    assert warehouse.ask(running) == [("0",)]


def test_a_dead_runs_query_is_ended_before_its_tables_go(warehouse: Warehouse) -> None:
    target = warehouse.open()
    group, _ = warehouse.staged(target)
    numbers = "SELECT number FROM numbers(100000000000) WHERE sipHash64(number) = 1"
    slow = f"INSERT INTO stage.dwhctl_run1__group (id) {numbers}"
    failures: list[Exception] = []

    def run() -> None:
        try:
            target.run_statements([slow])
        except AttemptError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    warehouse.open("run2").drop_run("run1")
    thread.join(5)
    assert len(failures) == 1
    assert warehouse.tables() == []
    warehouse.open("run2").drop_run("run")  # the beginning of another run's id is no run of its own
    del group


# Layout: a slice must be a partition.


@pytest.mark.parametrize(
    ("engine", "slice_by", "words"),
    [
        ("MergeTree PARTITION BY toDate(start_time) ORDER BY id", "start_time", None),
        ("MergeTree PARTITION BY toYYYYMMDD(start_time) ORDER BY id", "start_time", None),
        ("MergeTree ORDER BY id", None, None),
        ("MergeTree PARTITION BY toDate(start_time) ORDER BY id", None, "without PARTITION BY"),
        ("MergeTree ORDER BY id", "start_time", "no PARTITION BY"),
        ("MergeTree PARTITION BY toYYYYMM(start_time) ORDER BY id", "start_time", "PARTITION BY toDate(start_time)"),
        ("MergeTree PARTITION BY toDate(start_time, 'Asia/Chita') ORDER BY id", "start_time", "is not one partition"),
        ("MergeTree PARTITION BY (toDate(start_time), etl_source) ORDER BY id", "start_time", "is not one partition"),
        ("MergeTree PARTITION BY toDayOfWeek(start_time) ORDER BY id", "start_time", "is not one partition"),
        ("MergeTree PARTITION BY toDate(other) ORDER BY id", "start_time", "is not one partition"),
        ("ReplacingMergeTree PARTITION BY toDate(start_time) ORDER BY id", "start_time", "ENGINE = MergeTree"),
        ("Log", "start_time", "ENGINE = MergeTree"),
    ],
)  # fmt: skip
def test_a_table_whose_partitions_are_no_slices_is_refused_with_a_remedy(
    warehouse: Warehouse, engine: str, slice_by: str | None, words: str | None
) -> None:
    columns = "id Int64, start_time DateTime64(6), other DateTime64(6), etl_source String"
    warehouse.ask(f"CREATE TABLE stage.odd ({columns}) ENGINE = {engine}")
    problem = warehouse.open().layout_problem("stage.odd", slice_by, [a_slice(sliced=slice_by is not None)])
    assert problem is None if words is None else words in str(problem)


def test_a_load_without_slices_replaces_the_table_as_one_partition(warehouse: Warehouse) -> None:
    warehouse.ask(f"DROP TABLE {TABLE} SYNC")
    warehouse.ask(CREATE.replace("PARTITION BY toDate(start_time) ", ""))
    warehouse.ask(f"INSERT INTO {TABLE} SELECT number, 'old', now64(6), 'chita', 2, 1 FROM numbers(5)")
    warehouse.load = a_load(key=("id",), slice_by=None, table=TABLE, target="dwh")
    target = warehouse.open()
    group, staged = warehouse.staged(target)
    whole = StagedSlice(a_slice(sliced=False), staged.token, staged.etl_id, staged.rows)
    for _ in range(2):
        assert warehouse.publish(target, group, whole)[0].failure is None
    assert sorted(warehouse.ask(f"SELECT etl_source, count() FROM {TABLE} GROUP BY ALL")) == [
        ("abakan", "3"), ("chita", "5"),
    ]  # fmt: skip


def test_rows_in_two_partitions_are_not_replaced_at_once(warehouse: Warehouse) -> None:
    target = warehouse.open()
    group, slice_ = warehouse.staged(target)
    warehouse.ask("INSERT INTO stage.dwhctl_run1__group SELECT * REPLACE (start_time + INTERVAL 1 DAY AS start_time)"
                  " FROM stage.dwhctl_run1__group")  # fmt: skip
    with (
        pytest.raises(TargetRefusedError, match="only one"),
        target.publication(TABLE, "start_time", TIMEOUT) as one,
    ):
        one.insert(group, [slice_.token])
    assert warehouse.counts() == OLD


@needs_our_server
@pytest.mark.long
def test_wall_clock_times_want_a_server_in_utc(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path / "server", zone="Europe/Moscow").start()
    try:
        server.query("CREATE TABLE default.wall (t DateTime64(6)) ENGINE = MergeTree ORDER BY t")
        server.query(
            "CREATE TABLE default.instants (t DateTime64(6, 'Europe/Moscow')) ENGINE = MergeTree ORDER BY t"
        )
        target = ClickHouseTarget(server.connection(), TIMEOUT, "dwhctl")
        with pytest.raises(TargetRefusedError, match="run the server in UTC"):
            target.columns("wall")
        assert [column.kind for column in target.columns("instants")] == [Kind.TIMESTAMPTZ]
    finally:
        server.stop()


# Reports


@pytest.mark.parametrize("point", REFRESH_STEPS)
def test_a_kill_in_a_refresh_leaves_the_old_rows_or_the_new_ones(
    warehouse: Warehouse, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.ask("CREATE TABLE stage.report (n Int64) ENGINE = MergeTree ORDER BY n")
    warehouse.ask("INSERT INTO stage.report VALUES (1)")

    def refresh() -> None:
        source = RowSource("SELECT toInt64(2) AS n", is_query=True)
        with warehouse.open().refresh("stage.report", source, TIMEOUT) as refresh:
            refresh.delete()
            refresh.insert(["n"])
            refresh.commit()

    assert os.WIFSIGNALED(in_a_process(refresh, kill_at(point), monkeypatch))
    assert warehouse.ask("SELECT n FROM stage.report") == [("1" if point == "clickhouse.exchange" else "2",)]
    warehouse.open("run2").drop_run("run1")
    assert warehouse.tables() == []
    refresh()
    assert warehouse.ask("SELECT n FROM stage.report") == [("2",)]


@pytest.mark.parametrize(
    ("source", "table", "value"),
    [
        ("toInt64(1099511627776)", "Int32", "1099511627776"),
        ("toDecimal64('1.005', 3)", "Decimal(10, 2)", "1.005"),
        ("toDateTime64('2020-07-14 00:00:00.5', 6)", "DateTime64(0)", "2020-07-14 00:00:00.500000"),
        ("toDateTime64('2200-07-14 00:00:00', 0)", "DateTime", "2200"),
        ("toDate32('2200-07-14')", "Date", "2200-07-14"),
        ("'c'", "Enum8('a' = 1, 'b' = 2)", "c"),
    ],
)
def test_a_refresh_refuses_a_value_that_clickhouse_would_change(
    warehouse: Warehouse, source: str, table: str, value: str
) -> None:
    from dwhctl.refresh.transaction import common_columns

    warehouse.ask(f"CREATE TABLE stage.report (n {table}) ENGINE = MergeTree ORDER BY n")
    rows = RowSource(f"SELECT {source} AS n", is_query=True)
    with warehouse.open().refresh("stage.report", rows, TIMEOUT) as refresh:
        columns, narrowed = common_columns("stage.report", refresh.columns())
        assert narrowed
        with pytest.raises(ValueRefusedError, match=value):
            refresh.insert(columns, narrowed)
    assert warehouse.ask("SELECT count() FROM stage.report") == [("0",)]
    assert warehouse.tables() == []


# TLS


@needs_our_server
def test_a_certificate_is_checked_and_a_server_without_tls_gets_nothing(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    ours, other = trustme.CA(), trustme.CA()
    for name, authority in (("ours", ours), ("other", other)):
        authority.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    certificate = tmp_path / "server.pem"
    ours.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    server = ClickHouseServer(tmp_path / "server", certificate=certificate).start()
    try:
        good = server.connection(ca_cert=tmp_path / "ours.pem")
        assert "ClickHouse" in ClickHouseTarget(good, TIMEOUT, "dwhctl").version()
        wrong = server.connection(ca_cert=tmp_path / "other.pem")
        with pytest.raises(TlsError, match=r"is not trusted.*ca_cert"):
            ClickHouseTarget(wrong, TIMEOUT, "dwhctl").version()
    finally:
        server.stop()
    clear = warehouse.connection.model_copy(update={"ca_cert": tmp_path / "ours.pem"})
    with pytest.raises(TlsError, match="secure = true") as caught:
        ClickHouseTarget(clear, TIMEOUT, "dwhctl").version()
    assert PASSWORD not in str(caught.value)


# The console


def test_the_console_reads_and_does_not_write(warehouse: Warehouse) -> None:
    from dwhctl.systems.base.system import CursorOptions, system_of

    cursor = system_of(warehouse.connection).open_cursor(
        warehouse.connection, None, CursorOptions(write=False, timeout=TIMEOUT)
    )
    cursor.open()
    try:
        (answer,) = cursor.execute(f"SELECT etl_source, count() AS n FROM {TABLE} GROUP BY 1 ORDER BY 1", 1)
        assert answer.columns == ("etl_source", "n")
        assert [list(map(tuple, batch)) for batch in answer.batches] == [[("abakan", 11)], [("chita", 5)]]
        with pytest.raises(AttemptError, match=r"READONLY|readonly"):
            next(cursor.execute(f"WITH 1 AS x INSERT INTO {TABLE} (id) SELECT x", 1))
        with pytest.raises(AttemptError, match=r"READONLY|readonly"):
            list(cursor.execute(f"TRUNCATE TABLE {TABLE}", 1))
        with pytest.raises(AttemptError, match="readonly"):
            next(cursor.execute("SELECT 1 SETTINGS readonly = 0", 1))
    finally:
        cursor.close()
    assert warehouse.counts() == OLD


def test_the_console_writes_when_it_is_let(warehouse: Warehouse) -> None:
    from dwhctl.systems.base.system import CursorOptions, system_of

    cursor = system_of(warehouse.connection).open_cursor(
        warehouse.connection, None, CursorOptions(write=True, timeout=TIMEOUT)
    )
    cursor.open()
    try:
        (answer,) = cursor.execute(f"ALTER TABLE {TABLE} DELETE WHERE etl_source = 'chita'", 1)
    finally:
        cursor.close()
    assert answer.columns == ()
    assert ("2020-07-14", "chita", 2) not in warehouse.counts()


def test_a_query_with_a_format_is_refused(warehouse: Warehouse) -> None:
    """The driver does not read it: that was reported as a connection that is lost."""
    cursor = ClickHouseCursor(warehouse.connection, write=False, timeout=TIMEOUT)
    with pytest.raises(UsageError, match="leave FORMAT JSON out; --format json or csv writes the answer so"):
        cursor.statements("SELECT 1 -- all\nformat JSON ;")
    assert cursor.statements("SELECT 'format JSON'") == ["SELECT 'format JSON'"]


@pytest.fixture(autouse=True)
def _no_faults() -> Iterator[None]:
    yield
    import dwhctl.core.faults

    dwhctl.core.faults.handler = None


_DELETE_LIGHTLY = f"DELETE FROM {TABLE} WHERE etl_id = 2 AND id = 0 SETTINGS lightweight_deletes_sync = 2"


@pytest.mark.parametrize("beside_deleted", [False, True])
def test_rows_that_the_user_does_not_see_are_not_lost(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, beside_deleted: bool
) -> None:
    """A filter hides rows as a row policy does, for which the engine of the tests has no users."""
    if beside_deleted:
        warehouse.ask(_DELETE_LIGHTLY)
    before = warehouse.counts()
    monkeypatch.setitem(client._SETTINGS, "additional_table_filters", "{'stage.orders':'etl_id != 2'}")
    target = warehouse.open()
    group, slice_ = warehouse.staged(target)
    (published,) = warehouse.publish(target, group, slice_)
    assert published.failure is not None
    assert "5 of the 12 rows of the partition 20200714 are hidden from the user" in published.failure.message
    assert warehouse.counts() == before
    assert (before == OLD) is not beside_deleted


def test_rows_that_were_deleted_lightly_are_no_hidden_ones(warehouse: Warehouse) -> None:
    warehouse.ask(_DELETE_LIGHTLY)
    target = warehouse.open()
    group, slice_ = warehouse.staged(target)
    assert [one.failure for one in warehouse.publish(target, group, slice_)] == [None]
    assert warehouse.counts() == NEW | {("2020-07-14", "chita", 2): 4}


@pytest.mark.long
@pytest.mark.parametrize("leaf", ["", "_leaf"])
def test_a_limit_that_cuts_results_in_silence_is_an_error(tmp_path: Path, leaf: str) -> None:
    """A profile with `break` copied a part of the other shards' rows, and counted as few."""
    limits = {
        f"max_rows_to_read{leaf}": 200_000,
        f"read_overflow_mode{leaf}": "break",
        "max_block_size": 8192,
        "max_threads": 1,
    }
    server = ClickHouseServer(tmp_path / "server", profile=limits).start()

    def ask(sql: str) -> list[tuple[str | None, ...]]:
        return [tuple(row) for row in server.query(sql, **{f"max_rows_to_read{leaf}": 0})]

    try:
        warehouse = Warehouse(server.connection(), ask)
        many = 500_000
        ask(
            f"INSERT INTO {TABLE} SELECT number, 'old', toDateTime64('2020-07-14 12:00:00', 6), 'perm', 3, number"
            f" FROM numbers({many})"
        )
        target = warehouse.open()
        group, slice_ = warehouse.staged(target)
        (published,) = warehouse.publish(target, group, slice_)
        assert warehouse.counts() == OLD | {("2020-07-14", "perm", 3): many}
        assert published.failure is not None
        assert "Limit for rows" in published.failure.message
    finally:
        server.stop()


def test_a_view_that_no_published_row_reaches_and_a_ttl_of_a_column_are_warned_of(
    warehouse: Warehouse,
) -> None:
    target = warehouse.open()
    warehouse.ask(f"ALTER TABLE {TABLE} COMMENT COLUMN note 'no TTL'")
    assert target.warnings(TABLE) == []
    warehouse.ask("CREATE TABLE stage.daily (day Date, rows UInt64) ENGINE = SummingMergeTree ORDER BY day")
    warehouse.ask(
        "CREATE MATERIALIZED VIEW stage.fed TO stage.daily AS"
        f" SELECT toDate(start_time) AS day, count() AS rows FROM {TABLE} GROUP BY day"
    )
    warehouse.ask(
        f"ALTER TABLE {TABLE} MODIFY COLUMN note Nullable(String) TTL toDateTime(start_time) + INTERVAL 9 DAY"
    )
    said = [warning.text for warning in target.warnings(TABLE)]
    assert [word in text for word, text in zip(("TTL", "stage.fed"), said, strict=True)] == [True, True]
