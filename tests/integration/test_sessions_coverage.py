"""The reading statements of grid, gaps and timeline, on both databases, and the indexes they use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from dwhctl.sessions import State
from dwhctl.sessions.values import LAST

from .sessions_kit import DAY, FOREIGN_ROW, START, Place, new, postgres_place, sqlite_place, write
from .test_sessions import many_rows

LATER = START + timedelta(days=30)
DAYS = [DAY + timedelta(days=number) for number in range(3)]
PLANS: dict[str, tuple[str, dict[str, object]]] = {
    "latest_of_slices": (
        "sessions_of_slice(.|\n)*sessions_closed",
        {"load": "load_1", "days": DAYS, "shards": ["shard_1"], "until": LATER},
    ),
    "first_day": ("sessions_of_slice", {"load": "load_1"}),
    "last_good": ("sessions_closed(.|\n)*sessions_closed", {"tasks": ["x"], "until": LATER}),
    "next_run": ("sessions_by_run", {"text": "run_1"}),
    "run_after": ("sessions_by_run", {"text": "run_1"}),
}


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        place = sqlite_place(tmp_path)
    else:
        server = request.getfixturevalue("postgres_server")
        place = postgres_place(server, request.getfixturevalue("postgres_database"))
    yield place
    place.end()


def test_the_latest_session_of_each_slice(place: Place) -> None:
    store = place.store()
    later = START + timedelta(hours=1)
    write(store, new("abakan", day=DAYS[0]), State.LOADED)
    write(store, new("abakan", day=DAYS[0], started=later), State.FAILED)
    write(store, new("chita", day=DAYS[2]), State.RUNNING)
    write(store, new("chita", day=DAYS[1], load="other"), State.LOADED)
    place.rows(FOREIGN_ROW)
    write(store, new("abakan", day=DAYS[0], started=LATER + timedelta(seconds=1)), State.LOADED)
    write(store, new("abakan", day=DAYS[0], started=later), State.FAILED)
    values: dict[str, object] = {"load": "orders", "days": DAYS, "shards": ["chita", "abakan", "tomsk"]}
    values["until"] = LATER
    rows = store.read("looking", "latest_of_slices", values)
    assert sorted((row[:-1] for row in rows), key=str) == [
        (0, 1, "failed", later, START),
        (2, 0, "running", START, None),
    ]
    assert {session.id: session.shard for session in store.of_ids([row[-1] for row in rows])} == {
        row[-1]: "chita" if row[1] == 0 else "abakan" for row in rows
    }
    assert store.read("looking", "latest_of_slices", {**values, "days": []}) == []
    assert store.read("looking", "first_day", {"load": "orders"}) == [(DAYS[0],)]
    assert store.read("looking", "first_day", {"load": "nothing"}) == []


def test_the_last_successes_of_each_task(place: Place) -> None:
    store = place.store()
    later, latest = START + timedelta(hours=1), START + timedelta(hours=2)
    # Of its newest day the later one, whatever failed since; of the day before it, too.
    write(store, new("abakan", day=DAYS[0], started=latest), State.LOADED)
    write(store, new("abakan", day=DAYS[1], started=latest), State.LOADED)
    write(store, new("chita", day=DAYS[1] - timedelta(days=2)), State.LOADED)
    write(store, new("abakan", day=DAYS[2]), State.SKIPPED)
    write(store, new("abakan", day=DAYS[2], started=later), State.LOADED)
    write(store, new("abakan", day=DAYS[2], started=latest), State.FAILED)
    write(store, new("chita", day=DAYS[1]), State.LOADED)
    write(store, new("tomsk", day=DAYS[1]), State.RUNNING)
    place.rows(FOREIGN_ROW)
    tasks = ["orders__chita", "orders__tomsk", "nothing", "orders__abakan"]
    assert sorted(store.read("looking", "last_good", {"tasks": tasks, "until": LATER})) == [
        (0, DAYS[1], START, None, None),
        (3, DAYS[2], later, DAYS[1], latest),
    ]


def test_runs_are_found_by_their_beginning(place: Place) -> None:
    store = place.store()
    for run_id in ("20200713T060000-aa", "20200713T060000-ab", "20200714T060000-aa"):
        write(store, new(run_id=run_id), State.LOADED)
    assert store.read("looking", "next_run", {"text": "20200713"}) == [("20200713T060000-aa",)]
    assert store.read("looking", "run_after", {"text": "20200713T060000-aa"}) == [("20200713T060000-ab",)]
    assert store.read("looking", "next_run", {"text": "20200715"}) == []


def test_every_question_has_its_index(place: Place) -> None:
    store = place.store()
    place.rows(many_rows(place.dialect, 40_000))
    place.rows("ANALYZE sessions")
    for statement, (index, values) in PLANS.items():
        plan = place.plan(store, statement, values)
        assert re.search(index, plan), (statement, plan)
        assert not re.search(r"Seq Scan|SCAN (sessions|latest)\b(?! USING)", plan), (statement, plan)


def test_one_look_for_each_slice_however_many_sessions_it_has(place: Place) -> None:
    if place.dialect == "sqlite":
        pytest.skip("SQLite tells how it searches, not how much it reads")
    place.store()
    place.rows(many_rows(place.dialect, 40_000))
    place.rows("INSERT INTO sessions (task_name, started, run_id, load, shard, slice_date, state)"
               f" SELECT 'x', now(), 'r', 'load_1', 'shard_1', DATE '{date(2020, 2, 1)}', 'loaded'"
               " FROM generate_series(1, 5000)")  # fmt: skip
    place.rows("ANALYZE sessions")
    from dwhctl.sessions.schema import percent_style, read_statements

    sql = percent_style(read_statements("postgres")["latest_of_slices"])
    with place.other_program() as connection:
        cursor = connection.cursor()
        days, shards = [date(2020, 2, 1)], ["shard_1", "shard_2"]
        values = {"load": "load_1", "days": days, "shards": shards, "until": LAST}
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    hits = re.search(r"Buffers: shared hit=(\d+)", plan)
    assert hits, plan
    assert int(hits[1]) < 40, plan
