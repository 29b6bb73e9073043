"""Pruning sessions on both databases: what goes, what stays, and that the sums add up whatever is killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.monitor.prune import PruneRequest, Removal, prune_sessions
from dwhctl.sessions import Closing, LastSession, SessionStore, State
from tests.integration.sessions_kit import FOREIGN_ROW, Place, new, postgres_place, sqlite_place, write
from tests.postgres import PostgresServer
from tests.support.faulty import Faults

NOW = datetime(2022, 1, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=400)
OLD = BEFORE - timedelta(days=30)
DAYS = [date(2020, 10, 1) + timedelta(days=number) for number in range(6)]
STATES = [State.LOADED, State.SKIPPED, State.FAILED, State.UP_FOR_RETRY, State.ABANDONED]
SUMS = (
    "sum(sessions), sum(loaded), sum(skipped), sum(up_for_retry), sum(failed), sum(abandoned), sum(loaded_rows),"
    " sum(bytes)"
)

MakePlace = Callable[[], Place]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        made = sqlite_place(tmp_path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        made = postgres_place(server, request.getfixturevalue("postgres_database"))
    yield made
    made.end()


def fill(store: SessionStore, count: int, seed: int = 7) -> None:
    """Sessions of a few slices, old and young, in all states; some still run."""
    chance = random.Random(seed)
    sessions = []
    for number in range(count):
        started = OLD + timedelta(seconds=number)
        if chance.random() < 0.3:
            started = NOW - timedelta(days=10) + timedelta(seconds=number)
        sessions.append(new(f"s{chance.randrange(5)}", day=chance.choice(DAYS), started=started))
    ids = store.open(sessions)
    store.close(
        [
            Closing(
                session_id,
                chance.choice(STATES),
                session.started + timedelta(seconds=4),
                loaded_rows=chance.choice([None, 10, 2**40]),
                bytes=chance.choice([None, 100]),
            )
            for session_id, session in zip(ids, sessions, strict=True)
            if chance.random() < 0.97
        ]
    )


def totals(place: Place) -> list[int]:
    """What the sessions of dwhctl and the sums of those that are gone amount to."""
    states = ", ".join(f"sum(CASE WHEN state = '{state}' THEN 1 ELSE 0 END)" for state in
                       ("loaded", "skipped", "up_for_retry", "failed", "abandoned"))  # fmt: skip
    [now] = place.rows(
        "SELECT sum(CASE WHEN state <> 'running' THEN 1 ELSE 0 END),"
        f" {states}, sum(loaded_rows), sum(bytes) FROM sessions WHERE run_id IS NOT NULL"
    )
    [gone] = place.rows(f"SELECT {SUMS} FROM dwhctl_days")
    return [int(a or 0) + int(b or 0) for a, b in zip(now, gone, strict=True)]


def slices(store: SessionStore) -> dict[tuple[str, date], LastSession]:
    return {(one.shard, one.day): one for one in store.last_sessions("orders", DAYS[0], DAYS[-1])}


def rows(place: Place) -> list[dict[str, Any]]:
    names = ("id", "shard", "slice_date", "state", "started")
    found = place.rows(f"SELECT {', '.join(names)} FROM sessions WHERE run_id IS NOT NULL ORDER BY id")
    return [
        {name: str(value) if name != "id" else value for name, value in zip(names, row, strict=True)}
        for row in found
    ]


def prune(store: SessionStore, *, window: int = 50, **more: bool) -> Removal:
    return prune_sessions(store, BEFORE, PruneRequest(timedelta(days=400), window=window, **more))


def expected(all_rows: list[dict[str, Any]]) -> set[int]:
    """By Python, naively: of a slice stay its last closed session, its last good one, and all that is young."""
    stay = set()
    for key in {(row["shard"], row["slice_date"]) for row in all_rows}:
        of_slice = [row for row in all_rows if (row["shard"], row["slice_date"]) == key]
        closed = [row["id"] for row in of_slice if row["state"] != "running"]
        good = [row["id"] for row in of_slice if row["state"] in ("loaded", "skipped")]
        stay |= set(closed[-1:]) | set(good[-1:])
        completing = max((row["started"] for row in of_slice if row["id"] in good), default=None)
        stay |= {row["id"] for row in of_slice if row["id"] in good and row["started"] == completing}
        stay |= {
            row["id"] for row in of_slice if row["state"] == "running" or row["started"] >= str(BEFORE)[:19]
        }
    return stay


@pytest.mark.parametrize("seed", [1, 2])
def test_what_a_slice_needs_stays_and_the_rest_is_summed_up(place: Place, seed: int) -> None:
    store = place.store()
    place.rows(FOREIGN_ROW)
    fill(store, 400, seed)
    before, known, sums = rows(place), slices(store), totals(place)
    dry = prune(store, dry_run=True)
    assert rows(place) == before
    done = prune(store)
    assert (done.looked_at, done.removed) == (401, dry.removed)
    assert {row["id"] for row in rows(place)} == expected(before)
    assert done.removed == len(before) - len(rows(place)) > 100
    assert totals(place) == sums
    assert slices(store) == known
    assert prune(store).removed == 0
    assert place.rows("SELECT count(*) FROM sessions WHERE task_name = 'theirs'")[0][0] == 1


def test_what_makes_a_slice_complete_stays(place: Place) -> None:
    """The successful session that started last has another id than the last one where two clocks disagree."""
    store = place.store()
    for minutes, state in ((0, "loaded"), (60, "loaded"), (30, "loaded"), (20, "skipped"), (50, "failed")):
        started = OLD + timedelta(minutes=minutes)
        [one] = store.open([new(day=DAYS[0], started=started)])
        store.close([Closing(one, State(state), started)])
    known = slices(store)
    prune(store)
    assert slices(store) == known
    assert [row["state"] for row in rows(place)] == ["loaded", "loaded", "skipped", "failed"]


def test_the_search_uses_the_indexes(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    store = place.store()
    values: dict[str, object] = {"after": 0, "last": 10, "before": BEFORE, "end": 10, "size": 5}
    plan = place.plan(store, "prune_superseded", values)
    assert "old USING INTEGER PRIMARY KEY" in plan
    assert "later USING INDEX sessions_of_slice" in plan
    assert "USING INTEGER PRIMARY KEY" in place.plan(store, "prune_window", values)
    place.end()


def test_sums_are_those_of_each_slice(place: Place) -> None:
    store = place.store()
    for seconds, state in ((0, State.FAILED), (60, State.LOADED), (120, State.LOADED)):
        started = OLD + timedelta(seconds=seconds)
        [one] = store.open([new(day=DAYS[0], started=started)])
        store.close([Closing(one, state, started + timedelta(seconds=4.5), loaded_rows=7, bytes=3)])
    prune(store)
    [row] = place.rows(
        "SELECT load, shard, slice_date, sessions, loaded, failed, loaded_rows, bytes, seconds, first_started,"
        " last_started FROM dwhctl_days"
    )
    assert [str(each) for each in row[:8]] == ["orders", "abakan", str(DAYS[0]), "2", "1", "1", "14", "6"]
    assert float(row[8]) == pytest.approx(9.0, abs=0.01)
    assert [datetime.fromisoformat(str(each)) for each in row[9:]] == [OLD, OLD + timedelta(seconds=60)]


def test_all_takes_the_last_ones_too_and_no_id_comes_twice(place: Place) -> None:
    store = place.store()
    last = [write_old(store, State.LOADED), write_old(store, State.FAILED, "chita")][-1]
    running = store.open([new(day=DAYS[2], started=OLD)])
    sums = totals(place)
    assert prune(store).removed == 0
    assert prune(store, everything=True).removed == 2
    assert [row["id"] for row in rows(place)] == running
    store.close([Closing(running[0], State.FAILED, OLD)])
    prune(store, everything=True)
    assert rows(place) == []
    assert sums[0] + 1 == totals(place)[0]
    assert store.open([new()])[0] > max(last, running[0])
    store.close_connection()
    assert place.store().open([new()])[0] > running[0] + 1


def write_old(store: SessionStore, state: State, shard: str = "abakan") -> int:
    [one] = store.open([new(shard, day=DAYS[0], started=OLD)])
    store.close([Closing(one, state, OLD + timedelta(seconds=1))])
    return one


PRUNE = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from dwhctl.monitor.prune import PruneRequest, prune_sessions
from dwhctl.sessions import open_store
kind, where, port, user, database, before = sys.argv[1:]
if kind == "sqlite":
    connection = SqliteConnection(name="sessions", path=Path(where))
else:
    connection = PostgresConnection(name="sessions", host=where, port=int(port), user=user, database=database)
with open_store(connection) as store:
    prune_sessions(store, datetime.fromisoformat(before), PruneRequest(timedelta(days=400), window=40))
"""


def start_pruning(place: Place, faults: Faults | None = None) -> subprocess.Popen[str]:
    one = place.connection
    where = (
        [str(one.path), "0", "", ""]
        if one.type == "sqlite"
        else [one.host or "", str(one.port), one.user, one.database]
    )
    env = {**os.environ, **(faults.env() if faults else {})}
    return subprocess.Popen(
        [sys.executable, "-c", PRUNE, one.type, *where, BEFORE.isoformat()],
        text=True,
        env=env,
        stderr=subprocess.PIPE,
    )


STEPS = [
    ("begin", "sqlite"),
    ("commit", "sqlite"),
    ("done", "sqlite"),
    ("begin", "postgres"),
    ("done", "postgres"),
]


@pytest.mark.parametrize(("step", "place"), STEPS, indirect=["place"])
def test_killed_in_the_middle_nothing_is_lost_nor_counted_twice(
    place: Place, tmp_path: Path, step: str
) -> None:
    store = place.store()
    fill(store, 200)
    before, sums = rows(place), totals(place)
    process = start_pruning(place, Faults(tmp_path / "log").at(f"sessions.prune.{step}", "kill", nth=2))
    _, err = process.communicate(timeout=30)
    assert process.returncode == -9, err
    assert totals(place) == sums
    assert expected(before) < {row["id"] for row in rows(place)}
    prune(store)
    assert totals(place) == sums
    assert {row["id"] for row in rows(place)} == expected(before)


def test_two_prune_at_once_while_loads_write(place: Place) -> None:
    store = place.store()
    fill(store, 400)
    before, sums = rows(place), totals(place)
    both = [start_pruning(place) for _ in range(2)]
    slowest = 0.0
    written = 0
    while any(process.poll() is None for process in both):
        began = time.monotonic()
        write(store, new("late", day=DAYS[5]), State.LOADED)
        written += 1
        slowest = max(slowest, time.monotonic() - began)
        # SQLite's lock is not fair: who never lets go of it keeps all others out.
        time.sleep(0.02)
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert totals(place)[:2] == [sums[0] + written, sums[1] + written]
    left = {row["id"] for row in rows(place) if row["shard"] != "late"}
    assert left == expected(before)
    assert slowest < 5


# Volume


def fill_by_sql(place: Place, count: int) -> None:
    """Half of the sessions old, twenty of each slice."""
    number = "value" if place.dialect == "sqlite" else "n"
    source = (
        f"(WITH RECURSIVE c(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM c WHERE value < {count - 1})"
        " SELECT value FROM c) AS g"
        if place.dialect == "sqlite"
        else f"generate_series(0, {count - 1}) AS g(n)"
    )
    old, young = str(OLD), str(NOW)
    state = f"CASE {number} % 10 WHEN 0 THEN 'failed' WHEN 1 THEN 'up_for_retry' ELSE 'loaded' END"
    when = f"CASE WHEN {number} < {count // 2} THEN '{old}' ELSE '{young}' END"
    stamp = when if place.dialect == "sqlite" else f"({when})::timestamptz"
    # Each slice has sessions of both halves, so that all of the old ones are superseded.
    slice_ = f"({number} % ({count} / 40))"
    day = (
        f"date('2020-01-01', '+' || ({slice_} / 150) || ' days')"
        if place.dialect == "sqlite"
        else f"date '2020-01-01' + ({slice_} / 150)::int"
    )
    place.rows(
        "INSERT INTO sessions (task_name, started, finished, successful, loaded_rows, run_id, load, shard, slice_date,"
        " attempt, state, staged, bytes)"
        f" SELECT 'orders__s', {stamp}, {stamp}, {number} % 10 > 1, 10, 'run', 'orders', 's' || ({slice_} % 150),"
        f" {day}, 1, {state}, 't' || {number}, 100 FROM {source}"
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_of_two_while_loads_run(place: Place) -> None:
    store = place.store()
    fill_by_sql(place, 2_000_000)
    sums = totals(place)
    waits: list[float] = []
    over = threading.Event()

    def loads() -> None:
        other = place.store()
        while not over.is_set():
            began = time.monotonic()
            write(other, new("late", load="other"), State.LOADED)
            waits.append(time.monotonic() - began)
            time.sleep(0.01)

    thread = threading.Thread(target=loads)
    thread.start()
    began = time.monotonic()
    removal = prune_sessions(store, BEFORE, PruneRequest(timedelta(days=400)))
    seconds = time.monotonic() - began
    over.set()
    thread.join()
    waits.sort()
    shown = [f"{waits[int(len(waits) * share)] * 1000:.0f} ms" for share in (0.5, 0.99, 0.99999)]
    print(
        f"\n{place.dialect}: {removal.removed:,} of {removal.looked_at:,} in {seconds:.0f} s;"
        f" {len(waits)} loads beside it waited {shown} (median, 99%, longest)"
    )
    assert removal.removed == 1_000_000
    counted = Counter(dict(zip("abcdefgh", totals(place), strict=True)))
    assert counted["a"] == sums[0] + len(waits)
    assert waits[-1] < 5
