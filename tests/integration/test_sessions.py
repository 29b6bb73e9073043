"""What every store of the sessions table promises: one suite over all of them."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from dwhctl import __version__
from dwhctl.core.errors import SessionsError, SessionsLostError
from dwhctl.sessions import Closing, LastSession, Session, State, is_complete
from dwhctl.sessions.history import read_durations
from dwhctl.sessions.values import Adopted
from dwhctl.systems.sqlite.client import translate_error

from .sessions_kit import DAY, FOREIGN_ROW, START, Place, closed, new, postgres_place, sqlite_place, write


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        place = sqlite_place(tmp_path)
    else:
        server = request.getfixturevalue("postgres_server")
        place = postgres_place(server, request.getfixturevalue("postgres_database"))
    yield place
    place.end()


def test_a_session_is_written_and_read_back(place: Place) -> None:
    store = place.store()
    session = new(started=START.astimezone(timezone(timedelta(hours=8))), attempt=2)
    [session_id] = store.open([session])
    [running] = store.unfinished("run-1")
    assert running.started == START
    assert running.started.tzinfo == UTC
    expected = Session(
        session_id, "orders__abakan", START, None, None, None, None, "run-1", "orders", "abakan", DAY, 2,
        State.RUNNING, session.staged, None, None, None, "alpha", os.getpid(), __version__,
    )  # fmt: skip
    assert running == expected
    end = START + timedelta(microseconds=1)
    store.close(
        [Closing(session_id, State.FAILED, end, 0, 7, 2**40, "QueryError", "нет таблицы 'x'; \\ % :a 🙈")]
    )
    [failed] = store.of_run("run-1")
    assert (failed.state, failed.successful, failed.finished) == (State.FAILED, False, end)
    assert (failed.loaded_rows, failed.extracted_rows, failed.bytes) == (0, 7, 2**40)
    assert (failed.error_class, failed.comment) == ("QueryError", "нет таблицы 'x'; \\ % :a 🙈")
    assert store.recent(5) == [failed]
    assert store.unfinished("run-1") == []


def test_adopted_slices_are_written_closed_and_their_ids_told(place: Place) -> None:
    store = place.store()
    told: list[int] = []
    store.handed_out = told.append
    store.adopt([])
    assert told == []
    rows = {"abakan": 1234, "achinsk": 0, "chita": 1}
    store.adopt([Adopted("run-1", "orders", shard, DAY, START, count) for shard, count in rows.items()])
    found = store.of_run("run-1")
    assert [(one.shard, one.state, one.successful, one.loaded_rows, one.comment) for one in found] == [
        ("abakan", State.LOADED, True, 1234, "adopted: 1,234 rows equal to the source"),
        ("achinsk", State.SKIPPED, True, 0, "adopted: no rows at the source, none in the warehouse"),
        ("chita", State.LOADED, True, 1, "adopted: 1 row equal to the source"),
    ]
    assert {(one.attempt, one.started, one.finished, one.host, one.pid, one.worker) for one in found} == {
        (0, START, START, "alpha", os.getpid(), None)
    }
    assert told == [max(one.id for one in found)] == [store.last_id()]
    assert store.unfinished_runs() == []
    # It took no time, so it is in no average.
    assert store.durations("orders", 10) == {}
    assert read_durations(store, START - timedelta(days=1)) == []


def test_the_worker_is_told_at_the_start_and_its_time_at_the_end(place: Place) -> None:
    store = place.store()
    first, second = store.open([replace(new("a"), worker=7), new("b")])
    assert [one.worker for one in store.unfinished("run-1")] == [7, None]
    store.close([closed(first, busy_seconds=0.125), closed(second)])
    assert [(one.worker, one.busy_seconds) for one in store.of_run("run-1")] == [(7, 0.125), (None, None)]


def test_ids_come_in_the_order_given(place: Place) -> None:
    store = place.store()
    sessions = [new(f"shard_{number}") for number in range(300)]
    ids = store.open(sessions)
    tokens = {row.id: row.staged for row in store.of_run("run-1")}
    assert [tokens[session_id] for session_id in ids] == [session.staged for session in sessions]
    assert len(set(ids)) == 300
    assert store.open([]) == []
    with pytest.raises(ValueError, match="one token"):
        store.open([sessions[0], sessions[0]])


def test_an_empty_batch_and_unknown_ids_do_nothing(place: Place) -> None:
    store = place.store()
    store.close([])
    store.close([closed(999)])
    assert store.recent(1) == []
    assert store.fail_waiting("nobody") == 0


def test_a_closed_session_stays_as_it_is(place: Place) -> None:
    store = place.store()
    first, second = store.open([new("a"), new("b")])
    store.close([closed(first, State.LOADED, loaded_rows=5), closed(first, State.FAILED)])
    store.close([closed(first, State.ABANDONED), closed(second, State.SKIPPED, loaded_rows=0)])
    assert [(s.state, s.successful, s.loaded_rows) for s in store.of_run("run-1")] == [
        (State.LOADED, True, 5),
        (State.SKIPPED, True, 0),
    ]


def test_a_batch_is_closed_as_a_whole(place: Place) -> None:
    store = place.store()
    ids = store.open([new(f"shard_{number}") for number in range(64)])
    store.close([closed(i, list(State)[1 + i % 5], loaded_rows=i if i % 2 else None) for i in reversed(ids)])
    rows = store.of_run("run-1")
    assert [(row.id, row.state, row.loaded_rows) for row in rows] == [
        (i, list(State)[1 + i % 5], i if i % 2 else None) for i in ids
    ]


def test_a_long_comment_is_cut_and_odd_characters_do_not_matter(place: Place) -> None:
    store = place.store()
    for text in ("ж" * 600, "nul\0", "half\udcff"):
        write(store, new(), State.FAILED, comment=text)
    comments = [row.comment for row in store.of_run("run-1")]
    assert comments == ["ж" * 499 + "…", "nul\ufffd", "half?"]


def test_last_sessions_are_the_newest_of_each_slice(place: Place) -> None:
    store = place.store()
    tomorrow = DAY + timedelta(days=1)
    write(store, new("a"), State.FAILED)
    write(store, new("a", run_id="run-2"), State.LOADED)
    write(store, new("b"), State.LOADED)
    store.open([new("b", run_id="run-2")])
    write(store, new("a", day=tomorrow), State.SKIPPED)
    write(store, new("a", day=DAY - timedelta(days=1)), State.LOADED)
    write(store, new("a", load="events"), State.LOADED)
    found = store.last_sessions("orders", DAY, tomorrow)
    end = START + timedelta(seconds=5)
    assert sorted(found, key=lambda last: (last.day, last.shard)) == [
        LastSession("orders", "a", DAY, State.LOADED, START, end, START),
        LastSession("orders", "b", DAY, State.RUNNING, START, None, START),
        LastSession("orders", "a", tomorrow, State.SKIPPED, START, end, START),
    ]


def test_the_last_success_of_a_slice_is_the_one_that_started_last(place: Place) -> None:
    store = place.store()
    write(store, new(started=START + timedelta(hours=2)), State.SKIPPED)
    write(store, new(started=START + timedelta(hours=1)), State.LOADED)
    write(store, new(started=START + timedelta(hours=3)), State.FAILED)
    store.open([new(started=START + timedelta(hours=4))])
    write(store, new("b"), State.ABANDONED)
    found = {one.shard: (one.state, one.last_success) for one in store.last_sessions("orders", DAY, DAY)}
    assert found == {
        "abakan": (State.RUNNING, START + timedelta(hours=2)),
        "b": (State.ABANDONED, None),
    }


def test_a_success_that_started_while_the_clock_was_ahead_completes_no_day(place: Place) -> None:
    store, now = place.store(), datetime.now(UTC)
    write(store, new(started=START), State.LOADED)
    write(store, new(started=now + timedelta(days=1)), State.LOADED)
    write(store, new("b", started=now + timedelta(days=1)), State.LOADED)
    last = {one.shard: one for one in store.last_sessions("orders", DAY, DAY)}
    assert last["abakan"].last_success == START
    end = START + timedelta(hours=1)
    assert [is_complete(last[shard], end) for shard in ("abakan", "b")] == [False, False]
    assert is_complete(last["b"], None)  # the rows of a whole table are there


def test_durations_are_the_mean_of_the_newest_successful_sessions(place: Place) -> None:
    store = place.store()
    write(store, new("c", day=date(2020, 1, 1)), State.LOADED)
    write(store, new("a"), State.LOADED, seconds=3)
    write(store, new("a"), State.LOADED, seconds=2.5)
    write(store, new("a"), State.FAILED, seconds=100)
    write(store, new("b"), State.SKIPPED, seconds=0.25)
    store.open([new("d")])
    found = store.durations("orders", 3)
    assert found == {"a": pytest.approx(2.75, abs=0.001), "b": pytest.approx(0.25, abs=0.001)}
    assert set(store.durations("orders", 4)) == {"a", "b", "c"}
    assert store.durations("others", 4) == {}


def test_runs_lately_add_up_their_sessions(place: Place) -> None:
    store = place.store()
    write(store, new("a", run_id="run-0"), State.LOADED, seconds=100)
    for shard, seconds in (("a", 3), ("b", 1), ("c", 4)):
        write(store, new(shard), State.LOADED, seconds=seconds)
    store.open([new("d")])
    [(added_up, by_the_clock)] = store.read("reading", "runs_lately", {"newest": 3})
    assert float(added_up) == pytest.approx(8, abs=0.001)
    assert float(by_the_clock) == pytest.approx(4, abs=0.001)


def test_retries_that_nobody_waits_for_any_more_fail(place: Place) -> None:
    store = place.store()
    write(store, new("a", run_id="run-0"), State.UP_FOR_RETRY)
    waiting = write(store, new("a"), State.UP_FOR_RETRY, comment="no route", error_class="ConnectError")
    write(store, new("b"), State.UP_FOR_RETRY)
    write(store, new("b"), State.LOADED)
    write(store, new("c", day=DAY + timedelta(days=1)), State.UP_FOR_RETRY)
    store.open([new("d")])
    write(store, new("a", run_id="run-2"), State.LOADED)
    assert store.fail_waiting("run-1", "the run died") == 2
    assert store.fail_waiting("run-1", "the run died") == 0
    states = [(row.shard, row.state, row.comment) for row in store.of_run("run-1")]
    assert states == [
        ("a", State.FAILED, "no route; the run died"),
        ("b", State.UP_FOR_RETRY, None),
        ("b", State.LOADED, None),
        ("c", State.FAILED, "the run died"),
        ("d", State.RUNNING, None),
    ]
    [failed] = [row for row in store.of_run("run-1") if row.id == waiting]
    assert (failed.successful, failed.finished) == (False, START + timedelta(seconds=5))
    assert [row.state for row in store.of_run("run-0")] == [State.UP_FOR_RETRY]


def test_the_comment_of_a_failed_retry_fits_and_may_be_left_out(place: Place) -> None:
    store = place.store()
    write(store, new("a"), State.UP_FOR_RETRY, comment="я" * 495)
    assert store.fail_waiting("run-1", "died") == 1
    write(store, new("a", run_id="run-2"), State.UP_FOR_RETRY, comment="why")
    assert store.fail_waiting("run-2") == 1
    assert [row.comment for row in store.recent(2)] == ["why", "я" * 495 + "; di…"]


def test_unfinished_runs_are_those_with_running_or_newly_waiting_sessions(place: Place) -> None:
    store = place.store()
    now = datetime.now(UTC)
    store.open([new("a", run_id="run-b"), new("b", run_id="run-a"), new("c", run_id="run-b")])
    write(store, new("a", run_id="done"), State.LOADED)
    for run_id, ago in (("old", timedelta(days=30)), ("young", timedelta(hours=1))):
        [waiting] = store.open([new("a", run_id=run_id)])
        store.close([Closing(waiting, State.UP_FOR_RETRY, now - ago)])
    [first] = store.open([new("a", run_id="retried")])
    store.close([Closing(first, State.UP_FOR_RETRY, now)])
    write(store, new("a", run_id="retried"), State.LOADED)
    assert store.unfinished_runs() == ["run-b", "run-a", "young"]
    assert [row.shard for row in store.unfinished("run-b")] == ["a", "c"]
    store.fail_waiting("young")
    assert store.unfinished_runs() == ["run-b", "run-a"]


def test_a_report_has_no_shard(place: Place) -> None:
    store = place.store()

    def waits(attempt: int, load: str = "city_orders", shard: str | None = None) -> int:
        [session_id] = store.open([replace(new(load=load, attempt=attempt), shard=shard)])
        store.close([Closing(session_id, State.UP_FOR_RETRY, datetime.now(UTC))])
        return session_id

    first, second, other = waits(1), waits(2), waits(1, "orders", "abakan")
    assert store.unfinished_runs() == ["run-1"]
    assert store.fail_waiting("run-1", "died") == 2
    states = {one.id: one.state for one in store.of_run("run-1")}
    assert states == {first: State.UP_FOR_RETRY, second: State.FAILED, other: State.FAILED}
    assert store.unfinished_runs() == []
    running = write(store, replace(new(load="city_orders", run_id="run-2"), shard=None), State.RUNNING)
    (found,) = store.unfinished("run-2")
    assert (found.id, found.task_name, found.load, found.shard) == (running, *["city_orders"] * 2, None)


def test_rows_of_others_are_neither_changed_nor_listed(place: Place) -> None:
    store = place.store()
    place.rows(FOREIGN_ROW)
    place.rows(FOREIGN_ROW.replace("comment)", "state)").replace("'x'", "'running'"))
    place.rows(FOREIGN_ROW.replace("comment)", "state)").replace("'x'", "'up_for_retry'"))
    before = place.rows("SELECT * FROM sessions ORDER BY id")
    ids = [row[0] for row in before]
    store.close([closed(i, State.ABANDONED) for i in ids])
    assert store.fail_waiting("run-1") == 0
    assert store.unfinished_runs() == []
    assert store.recent(10) == []
    assert store.last_sessions("orders", date(1, 1, 1), date(9999, 1, 1)) == []
    assert place.rows("SELECT * FROM sessions ORDER BY id") == before
    assert store.open([new()]) == [max(ids) + 1]


def test_prepare_again_changes_nothing(place: Place) -> None:
    store = place.store()
    write(store, new(), State.LOADED)
    before = store.recent(1)
    store.prepare()
    place.store().prepare()
    assert store.recent(1) == before


def test_many_prepare_a_new_table_at_once(place: Place) -> None:
    stores = [place.store(prepared=False) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda store: store.prepare(), stores))
        ids = list(pool.map(lambda store: store.open([new()]), stores))
    assert len({session_id for [session_id] in ids}) == 8


def test_an_id_is_never_handed_out_twice(place: Place) -> None:
    store = place.store()
    ids = store.open([new("a"), new("b")])
    place.rows("DELETE FROM sessions")
    more = place.store().open([new("a")])
    assert more[0] > max(ids)


def test_threads_may_share_a_store(place: Place) -> None:
    store = place.store()
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(20):
                [session_id] = store.open([new(name)])
                store.check_alive()
                store.close([closed(session_id)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"shard_{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {row.state for row in store.recent(100)} == {State.LOADED}


def test_a_closed_store_says_that_it_is_lost(place: Place) -> None:
    store = place.store()
    store.close_connection()
    store.close_connection()
    with pytest.raises(SessionsLostError):
        store.open([new()])


PLANS: dict[str, tuple[str, dict[str, object]]] = {
    "last_sessions": (
        "sessions_of_slice",
        {"load": "load_1", "first": DAY, "last": DAY, "until": START, "unknown": START},
    ),
    "durations": ("sessions_of_slice", {"load": "load_1", "newest": 400}),
    "unfinished_runs": ("sessions_running", {"since": START}),
    "unfinished": ("sessions_running", {"run_id": "run_1"}),
    "of_run": ("sessions_by_run", {"run_id": "run_1"}),
    "fail_waiting": (
        "sessions_by_run|sessions_unsuccessful",
        {"run_id": "run_1", "comment": "x", "ellipsis": "…"},
    ),
}


def test_every_question_has_its_index(place: Place) -> None:
    store = place.store()
    place.rows(many_rows(place.dialect, 40_000))
    place.rows("ANALYZE sessions")
    for statement, (index, values) in PLANS.items():
        plan = place.plan(store, statement, values)
        assert re.search(index, plan), (statement, plan)
        assert not re.search(r"Seq Scan|SCAN (sessions|waiting|later)\b", plan), (statement, plan)


def test_the_look_for_dead_runs_reads_no_row_of_the_table_for_a_slice_that_was_tried_again(
    place: Place,
) -> None:
    if place.dialect != "sqlite":
        pytest.skip("PostgreSQL decides by the table's visibility map")
    store = place.store()
    plan = place.plan(store, "unfinished_runs", {"since": START})
    assert plan.count("later USING COVERING INDEX sessions_of_slice") == 2, plan


def test_a_session_that_is_opened_is_written_next_to_the_others_of_its_run(place: Place) -> None:
    """An index by task would cost each session a page of its own."""
    store = place.store()
    indexes = [sql for name, sql in store._sql.items() if name.startswith("index ")]
    by_task = [sql for sql in indexes if "(task_name" in sql]
    assert len(by_task) == 1
    assert "state <> 'running'" in by_task[0]


def test_sessions_are_opened_and_closed_by_one_statement_each_or_one_transaction(place: Place) -> None:
    store = place.store()
    sent: list[str] = []
    execute = store._connection.execute

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(connection, name)

        def execute(self, sql: str, *values: object, **more: object) -> object:
            sent.append(sql)
            return execute(sql, *values, **more)

    connection, store._connection = store._connection, Counting()
    try:
        ids = store.open([new(f"shard_{number}") for number in range(20)])
        opened, sent[:] = list(sent), []
        store.close([closed(id_, State.LOADED) for id_ in ids])
    finally:
        store._connection = connection
    for found in (opened, sent):
        writes = [sql for sql in found if re.match("INSERT|UPDATE", sql)]
        # SQLite binds one row to a statement that is prepared once.
        assert len(writes) == (20 if place.dialect == "sqlite" else 1)
        assert len(set(writes)) == 1
        assert sum("COMMIT" in sql for sql in found) <= 1
        assert len(found) - len(writes) <= 4, found


def many_rows(dialect: str, count: int) -> str:
    """Sessions as years of runs leave them: 10 loads, 20 shards, runs of 200 sessions, one in 50 retried."""
    series = f"generate_series(1, {count}) AS s (n)"
    if dialect == "sqlite":
        numbers = f"s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})"
        series = f"(WITH RECURSIVE {numbers} SELECT n FROM s)"
    day = "date(julianday('2020-01-01') + n / 200)" if dialect == "sqlite" else "DATE '2020-01-01' + n / 200"
    return f"""
        INSERT INTO sessions (task_name, started, finished, run_id, load, shard, slice_date, state)
        SELECT 'x', '2020-01-01 00:00:00.000000+00:00', '2020-01-01 00:00:01.000000+00:00',
               'run_' || (n / 200), 'load_' || (n % 10), 'shard_' || (n / 10 % 20), {day},
               CASE WHEN n % 50 = 0 THEN 'up_for_retry' WHEN n > {count} - 20 THEN 'running' ELSE 'loaded' END
        FROM {series}"""


def test_sqlite_s_io_error_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what SQLite reports where there is no room for the index of its write-ahead log."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    for free, said in ((0, "its disk is full: make room"), (1, "check the disk and start")):
        monkeypatch.setattr(os, "statvfs", lambda _folder, free=free: SimpleNamespace(f_bavail=free))
        with (
            pytest.raises(SessionsError, match=said),
            translate_error(tmp_path / "a.sqlite", "opening the file"),
        ):
            raise error
