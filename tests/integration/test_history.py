"""What the reports read of the past: on both databases, against a count by hand, and by index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from benchmarks.history import History
from dwhctl.sessions import Closing, SessionStore, State, history, open_if_there
from dwhctl.sessions.history import (
    Wanted,
    read_durations,
    read_history,
    read_runs,
    usual_since,
)
from dwhctl.sessions.task_states import FailingTask, failing_tasks, read_unsuccessful
from tests.postgres import PostgresServer

from .sessions_kit import DAY, FOREIGN_ROW, START, Place, new, postgres_place, sqlite_place, write

UNSUCCESSFUL = {State.UP_FOR_RETRY, State.FAILED, State.ABANDONED}
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
DIALECTS = pytest.mark.parametrize("dialect", ["sqlite", "postgres"])


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        place = sqlite_place(tmp_path)
    else:
        server = request.getfixturevalue("postgres_server")
        place = postgres_place(server, request.getfixturevalue("postgres_database"))
    yield place
    place.end()


# Streaks

_STATES = st.sampled_from([*State, State.LOADED, State.FAILED])
_EVENTS = st.lists(
    # Load, shard (a report has none), days back, state, hours until it ended.
    st.tuples(
        st.sampled_from(["orders", "clients"]),
        st.sampled_from(["a", "b", None]),
        st.integers(0, 4),
        _STATES,
        st.integers(0, 120),
    ),
    max_size=25,
)


#: Load, shard, days back, state, hours until it ended.
_Event = tuple[str, str | None, int, State, int]
_Streak = tuple[str, str, str | None, list[tuple[date, State, str | None, bool]], int, date, str | None]


def ended(number: int, hours: int) -> datetime:
    return START + timedelta(hours=hours, microseconds=number)


def naive_failures(events: list[_Event], since: datetime) -> list[_Streak]:
    """Count session by session: task, its unsuccessful slices, streak, since, last error."""
    tasks: dict[tuple[str, str | None], dict[date, int]] = {}
    for number, (load, shard, back, state, _) in enumerate(events):
        if state is not State.RUNNING:
            tasks.setdefault((load, shard), {})[DAY - timedelta(days=back)] = number
    found: list[_Streak] = []
    for (load, shard), last in tasks.items():
        bad = [day for day, number in last.items() if events[number][3] in UNSUCCESSFUL]
        failing = sorted(
            (day for day in bad if ended(last[day], events[last[day]][4]) >= since), reverse=True
        )
        if not failing:
            continue
        good = [day for day in last if day not in bad and day < failing[0]]
        streak = [day for day in bad if day <= failing[0] and day > max(good, default=date.min)]
        newest = max((last[day] for day in failing), key=lambda number: ended(number, events[number][4]))
        slices: list[tuple[date, State, str | None, bool]] = [
            (day, events[last[day]][3], f"X: error {last[day]}", replaced(events, last[day]))
            for day in failing
        ]
        name = f"{load}__{shard}" if shard else load
        found.append((name, load, shard, slices, len(streak), min(streak), f"X: error {newest}"))
    return found


def replaced(events: list[_Event], failed: int) -> bool:
    """Whether a session of the task that began later succeeded, for the same day or a newer one."""
    load, shard, back, _, hours = events[failed]
    return any(
        (one[0], one[1]) == (load, shard)
        and one[3] in (State.LOADED, State.SKIPPED)
        and one[2] <= back
        and ended(number, one[4]) > ended(failed, hours)
        for number, one in enumerate(events)
    )


def as_counted(tasks: list[FailingTask]) -> list[_Streak]:
    return [
        (
            task.task_name,
            task.load,
            task.shard,
            [(one.day, one.state, one.error, one.replaced) for one in task.slices],
            task.streak,
            task.since,
            task.last.error,
        )
        for task in tasks
    ]


def failures(store: SessionStore, since: datetime) -> list[FailingTask]:
    return failing_tasks(store, read_unsuccessful(store, since))


def record(place: Place, store: SessionStore, events: list[_Event]) -> None:
    """Write the events as sessions, in place of what is there."""
    place.rows("DELETE FROM sessions")
    place.rows(FOREIGN_ROW)
    rows = [
        new(
            shard or "x",
            load=load,
            day=DAY - timedelta(days=back),
            started=ended(number, hours) - timedelta(minutes=30),
        )
        for number, (load, shard, back, _, hours) in enumerate(events)
    ]
    ids = store.open(rows)
    closings = [
        Closing(
            session_id,
            state,
            ended(number, hours),
            1,
            1,
            1,
            "X",
            f"error {number}",
        )
        for number, (session_id, (_, _, _, state, hours)) in enumerate(zip(ids, events, strict=True))
        if state is not State.RUNNING
    ]
    store.close(closings)
    place.rows("UPDATE sessions SET shard = NULL, task_name = load WHERE shard = 'x'")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@DIALECTS
def test_streaks_are_those_of_a_count_by_hand(
    dialect: str, data: st.DataObject, streak_places: dict[str, tuple[Place, SessionStore]]
) -> None:
    """Reruns, backfills, abandoned and running sessions, reports, other programs' rows, in any order."""
    place, store = streak_places[dialect]
    events = data.draw(_EVENTS)
    since = START + timedelta(hours=data.draw(st.integers(0, 120)))
    record(place, store, events)
    found = failures(store, since)
    assert sorted(as_counted(found), key=str) == sorted(naive_failures(events, since), key=str)
    assert found == sorted(
        found, key=lambda task: (-task.streak, -task.last.finished.timestamp(), task.task_name)
    )


@pytest.fixture(scope="module")
def streak_places(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Place, SessionStore]]]:
    database = postgres_server.make_database()
    places = [sqlite_place(tmp_path_factory.mktemp("streaks")), postgres_place(postgres_server, database)]
    yield {place.dialect: (place, place.store()) for place in places}
    for place in places:
        place.end()
    postgres_server.drop_database(database)


def test_a_streak_goes_over_days_without_a_session_and_ends_with_a_success(place: Place) -> None:
    store = place.store()
    for back, state in ((9, State.FAILED), (8, State.LOADED), (5, State.ABANDONED), (1, State.UP_FOR_RETRY)):
        write(
            store,
            new("a", day=DAY - timedelta(days=back)),
            state,
            error_class="ConnectError",
            comment=f"day -{back}",
        )
    write(store, new("a"), State.FAILED, seconds=4, comment="no class")
    store.open([new("a"), new("a", day=DAY + timedelta(days=1))])
    [task] = failures(store, START)
    assert [one.day for one in task.slices] == [DAY - timedelta(days=back) for back in (0, 1, 5, 9)]
    assert (task.streak, task.since, task.up_for_retry) == (3, DAY - timedelta(days=5), 1)
    assert task.last.error == "ConnectError: day -1"
    assert failures(store, START + timedelta(seconds=6)) == []
    # A success of the newest day hides nothing, and begins a new streak: from the newest day that failed.
    write(store, new("a"), State.SKIPPED)
    [task] = failures(store, LONG_AGO)
    assert [one.day for one in task.slices] == [DAY - timedelta(days=back) for back in (1, 5, 9)]
    assert (task.streak, task.since) == (2, DAY - timedelta(days=5))


# Runs


def test_runs_are_told_newest_first_with_what_they_did(place: Place) -> None:
    store = place.store()
    place.rows(FOREIGN_ROW)
    old, young = "20200714T060000-aaaaaaaa", "20200714T070000-00000000"
    write(store, new("a", run_id=young), State.LOADED, loaded_rows=7, seconds=60)
    write(store, new("a", run_id=old), State.UP_FOR_RETRY)
    write(store, new("a", run_id=old, attempt=2), State.LOADED, loaded_rows=2**33, seconds=9)
    write(store, new("b", run_id=old), State.FAILED)
    write(store, new("a", run_id=old, load="clients"), State.ABANDONED)
    write(store, new("a", run_id=old, load="clients", day=date(2020, 1, 1)), State.SKIPPED)
    store.open([new("c", run_id=young)])
    one, two = read_runs(store, 10)
    assert (one.run_id, one.loads, one.slices, one.running, one.loaded, one.rows) == (
        young,
        ("orders",),
        2,
        1,
        1,
        7,
    )
    assert (one.finished, one.seconds) == (None, None)
    assert (two.run_id, two.started, two.finished) == (old, START, START + timedelta(seconds=9))
    assert (two.loads, two.slices, two.rows, two.seconds) == (("clients", "orders"), 4, 2**33, 9.0)
    states = (two.loaded, two.skipped, two.failed, two.up_for_retry, two.abandoned, two.running)
    assert states == (1, 1, 1, 1, 1, 0)
    assert (two.host, two.pid) == (one.host, one.pid)
    assert read_runs(store, 1) == [one]
    assert read_runs(store, 10, datetime(2020, 7, 14, 6, 30, tzinfo=UTC)) == [one]
    assert store.newest_runs(10) == [young, old]


def test_without_sessions_there_is_nothing(place: Place) -> None:
    assert open_if_there(place.connection) is None
    store = place.store()
    assert (read_runs(store, 5), store.newest_runs(5), failures(store, LONG_AGO)) == ([], [], [])
    assert read_durations(store, LONG_AGO) == []
    since, is_bound = usual_since(store)
    assert not is_bound
    assert datetime.now(UTC) - since >= timedelta(days=14)


def test_a_table_that_lacks_only_an_index_is_read(place: Place) -> None:
    place.store()
    place.rows("DROP INDEX sessions_closed")
    with open_if_there(place.connection) or pytest.fail("it was not opened") as store:
        assert not store._schema.is_ready()
        assert failures(store, LONG_AGO) == []


# Sessions


def test_sessions_are_found_by_what_they_were(place: Place) -> None:
    store = place.store()
    place.rows(FOREIGN_ROW)
    write(store, new("a", started=START - timedelta(days=1)), State.FAILED)
    write(store, new("a", load="orders_2", run_id="run-2"), State.FAILED)
    write(store, new("a_b"), State.LOADED)
    store.open([new("a", run_id="run-2")])
    everything = Wanted(LONG_AGO, 100)

    def found(wanted: Wanted) -> list[str]:
        return [f"{one.task_name} {one.state} {one.run_id}" for one in read_history(store, wanted)]

    assert found(everything) == [
        "orders__a running run-2",
        "orders__a_b loaded run-1",
        "orders_2__a failed run-2",
        "orders__a failed run-1",
    ]
    assert found(replace(everything, limit=1)) == ["orders__a running run-2"]
    assert found(replace(everything, since=START, states=(State.FAILED,))) == ["orders_2__a failed run-2"]
    assert len(found(replace(everything, states=(State.FAILED, State.RUNNING)))) == 3
    assert len(found(replace(everything, loads=("orders",)))) == 3
    assert found(replace(everything, shards=("a_b", "b"))) == ["orders__a_b loaded run-1"]
    assert found(replace(everything, run_id="run-2", loads=("orders_2",))) == ["orders_2__a failed run-2"]
    assert found(replace(everything, run_id="run-2", since=START + timedelta(days=1))) == []
    [one] = read_history(store, replace(everything, shards=("a_b",)))
    assert one == store.recent(2)[1]


def test_by_default_a_report_looks_at_so_many_sessions_at_most(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.store()
    now = datetime.now(UTC)
    for back in range(5):
        write(store, new(started=now - timedelta(minutes=50 - back)), State.LOADED)
    monkeypatch.setattr(history, "USUAL_SESSIONS", 2)
    since, is_bound = usual_since(store)
    assert is_bound
    assert len(read_history(store, Wanted(since, 100))) == 3


# Durations


def test_durations_by_hand(place: Place) -> None:
    store = place.store()
    for seconds in [*range(100, 0, -1), 7.25]:
        write(store, new("a"), State.LOADED, seconds=seconds)
    write(store, new("a"), State.FAILED, seconds=9999)
    write(store, new("a", started=START - timedelta(days=9)), State.LOADED, seconds=5)
    write(store, new("b"), State.SKIPPED, seconds=0.004)
    first, second = read_durations(store, START)
    assert (first.load, first.shard, len(first.seconds)) == ("orders", "a", 101)
    assert (first.median, first.p95, first.seconds[-1]) == (50, 95, 7.25)
    assert len(first.trend) == 12
    assert first.trend[:-1] == sorted(first.trend[:-1], reverse=True)
    assert (second.shard, second.seconds, second.median, second.trend) == ("b", (0.004,), 0.004, [0.004])


# Indexes

PLANS: dict[str, tuple[str, dict[str, object]]] = {
    "unsuccessful_slices": ("sessions_unsuccessful(.|\n)*sessions_closed", {"since": 2}),
    "streaks": ("sessions_closed", {"ids": [1], "most": 9}),
    "newest_runs": ("sessions_by_run(.|\n)*sessions_by_run", {"limit": 3, "first": ""}),
    "newest_run_ids": ("sessions_by_run", {"limit": 3}),
    "history": (
        "sessions_by_start",
        {"since": 1, "limit": 50, "states": ",failed,", "loads": None, "shards": ",a,"},
    ),
    "history_of_run": (
        "sessions_by_run",
        {"run_id": "x", "since": 99, "limit": 50, "states": ",failed,", "loads": None, "shards": None},
    ),
    "task_durations": ("sessions_by_start", {"since": 1}),
    "started_of": ("PRIMARY KEY|sessions_pkey", {"id": 30_000}),
}


def test_every_report_has_its_index(place: Place) -> None:
    """Over 100 tasks, 400 hours, the last two days of it asked for."""
    store = place.store()
    now = datetime.now(UTC)
    place.rows(History(loads=10, shards=10, hours=400).statement(place.dialect, now))
    place.rows("ANALYZE sessions")
    assert sum(task.streak >= 3 for task in failures(store, now - timedelta(days=2))) == 30
    for statement, (index, values) in PLANS.items():
        ago = values.get("since")
        bound = values | ({"since": now - timedelta(days=ago)} if isinstance(ago, int) else {})
        plan = place.plan(store, statement, bound)
        assert re.search(index, plan), (statement, plan)
        assert not re.search(r"Seq Scan|SCAN (sessions|older|last|newer|s)\b", plan), (statement, plan)
