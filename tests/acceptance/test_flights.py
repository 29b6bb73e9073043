"""Real rows through real worker processes: the flights of 2013, compared value by value with their CSV."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from dwhctl.project.days import make_slice
from dwhctl.sessions.values import State
from tests.support.flights import (
    COLUMNS,
    DATE_COLUMN,
    HOUR_COLUMN,
    ROWS,
    FlightsSandbox,
    assert_same,
    build_servers,
    csv_rows,
    row_key,
    rows_of,
    shards,
    type_of,
)
from tests.support.memory import watched
from tests.support.projects import days_from

#: A snow storm: on 8 February two of three flights were cancelled, on the 9th half.
STORM = days_from(date(2013, 2, 7), 3)
#: The clocks went forward on 10 March (a day of 23 hours) and back on 3 November (25 hours).
CLOCK_CHANGES = {date(2013, 3, 10): 23, date(2013, 11, 3): 25}
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 35 shards; nothing writes to them."""
    return build_servers(tmp_path_factory.mktemp("flights"))


@pytest.fixture
def project(tmp_path: Path, servers: Path) -> FlightsSandbox:
    """A project over them."""
    return FlightsSandbox(tmp_path, servers_folder=servers).write()


def load(project: FlightsSandbox, name: str, *arguments: str, timeout: float = 100) -> str:
    """Load in worker processes; give the summary."""
    done = project.run("load", name, *arguments, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_input_is_what_is_said_of_it() -> None:
    assert len(csv_rows()) == ROWS
    assert len(shards()) == 35


def test_the_key_is_one() -> None:
    assert len({row_key(row) for row in csv_rows()}) == ROWS


def test_days_arrive_value_by_value(project: FlightsSandbox) -> None:
    load(project, "flights", "--date", str(STORM[0]))
    load(project, "flights", "--date", str(STORM[2]), "--lookback", "1")

    wanted = rows_of(STORM)
    assert_same(project.held(), wanted)
    sessions = project.sessions_newest_first()
    assert Counter(one.state for one in sessions) == {
        State.LOADED: len({(row[0], row[DATE_COLUMN]) for row in wanted}),
        State.SKIPPED: len(shards()) * len(STORM) - len({(row[0], row[DATE_COLUMN]) for row in wanted}),
    }
    assert sum(one.loaded_rows or 0 for one in sessions) == len(wanted)


@pytest.mark.long
def test_cancelled_flights_are_null_in_integer_columns(project: FlightsSandbox) -> None:
    load(project, "flights", "--date", str(STORM[1]), "--jobs", "2")

    types = dict(
        project.warehouse(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'flights'"
        )
    )
    assert {name: types[name] for name in COLUMNS} == {name: type_of(name, "INTEGER") for name in COLUMNS}
    cancelled = project.held(where="dep_time IS NULL")
    assert_same(cancelled, [row for row in rows_of([STORM[1]]) if row[1 + COLUMNS.index("dep_time")] is None])
    assert len(cancelled) > 400
    for name in ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"):
        assert {row[1 + COLUMNS.index(name)] for row in cancelled} == {None}
    assert project.warehouse("SELECT DISTINCT typeof(dep_time) FROM stage.flights") == [("INTEGER",)]


@pytest.mark.long
def test_every_row_says_where_it_came_from(project: FlightsSandbox) -> None:
    load(project, "flights", "--date", str(STORM[0]))

    ids = project.warehouse(
        "SELECT count(*), count(DISTINCT hash_id), count(*) FILTER (etl_id IS NULL) FROM stage.flights"
    )
    assert ids == [(len(rows_of([STORM[0]])), len(rows_of([STORM[0]])), 0)]
    of_sessions = {one.id: (one.shard, one.loaded_rows) for one in project.sessions_newest_first()}
    held = project.warehouse("SELECT etl_id, etl_source, count(*) FROM stage.flights GROUP BY ALL")
    assert {etl_id: (shard, rows) for etl_id, shard, rows in held} == {
        etl_id: (shard, rows) for etl_id, (shard, rows) in of_sessions.items() if rows
    }


@pytest.mark.long
@pytest.mark.parametrize("changed", CLOCK_CHANGES, ids=str)
def test_days_by_a_utc_column_over_a_clock_change(project: FlightsSandbox, changed: date) -> None:
    days = days_from(changed - timedelta(days=1), 3)
    read = project.project()
    one = make_slice(read, read.loads["flights_utc"], read.shard_groups["carriers"][0], changed)
    assert one.start is not None
    assert one.end is not None
    assert one.end - one.start == timedelta(hours=CLOCK_CHANGES[changed])

    load(project, "flights_utc", "--date", str(days[-1]), "--lookback", "2")

    held = project.held("flights_utc")
    assert_same(held, rows_of(days))
    # Each in its own day: the session that brought a row is one of the row's day in New York.
    day_of = {one.id: one.day for one in project.sessions_newest_first()}
    brought = project.warehouse("SELECT etl_id, time_hour FROM stage.flights_utc")
    assert {day_of[etl_id] == _local_day(hour) for etl_id, hour in brought} == {True}


@pytest.mark.long
@pytest.mark.parametrize("changed", CLOCK_CHANGES, ids=str)
def test_a_day_by_a_utc_column_reloaded_leaves_its_neighbours_alone(
    project: FlightsSandbox, changed: date
) -> None:
    days = days_from(changed - timedelta(days=1), 3)
    project.load(*days, loads=("flights_utc",))
    neighbours = f"flight_date <> DATE '{changed}'"
    before = project.warehouse(
        f"SELECT etl_id, hash_id FROM stage.flights_utc WHERE {neighbours} ORDER BY ALL"
    )

    project.load(changed, loads=("flights_utc",))

    assert_same(project.held("flights_utc"), rows_of(days))
    after = project.warehouse(
        f"SELECT etl_id, hash_id FROM stage.flights_utc WHERE {neighbours} ORDER BY ALL"
    )
    assert after == before


def _local_day(hour: datetime) -> date:
    return hour.replace(tzinfo=UTC).astimezone(NEW_YORK).date()


def test_the_days_by_both_clocks_are_the_same() -> None:
    """The CSV's own two columns agree; without this the tests above would compare with the wrong day."""
    assert all(_local_day(row[HOUR_COLUMN]) == row[DATE_COLUMN] for row in csv_rows())


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_year(project: FlightsSandbox) -> None:
    slices = 365 * len(shards())
    started = time.monotonic()
    process = project.start("load", "flights", "--date", "2013-12-31", "--lookback", "364", plain=True)
    with watched(process, every=0.25) as watch:
        out, err = process.communicate()
    seconds = time.monotonic() - started
    assert process.returncode == 0, out + err

    print(
        f"\n{slices} slices, {ROWS} rows, {seconds:.1f} s: {slices / seconds:.1f} slices/s,"
        f" {ROWS / seconds:.0f} rows/s; {watch}\n{out}"
    )
    assert_same(project.held(), sorted(csv_rows(), key=row_key))
    assert Counter(
        one.state in (State.LOADED, State.SKIPPED) for one in project.sessions_newest_first(20_000)
    ) == {True: slices}
