"""Which slices are expected and where they stand, against a computation slice by slice; gaps fold without loss."""

from __future__ import annotations

import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwhctl.cli.report.pictures import gaps_picture
from dwhctl.core.errors import UsageError
from dwhctl.monitor.coverage import (
    Cell,
    Coverage,
    Gap,
    Row,
    SliceStatus,
    bearable_days,
    cover,
    days_until,
    fill_command,
    find_gaps,
    fold_shards,
    sliced_tasks,
)
from dwhctl.project.days import make_slice
from dwhctl.project.loads import Load, Shard
from dwhctl.project.model import Project
from dwhctl.project.read import read_project
from dwhctl.runtime.plan import MOST_DAYS, days_between
from dwhctl.sessions import Closing, LastSession, NewSession, SessionStore, State, is_complete, open_store
from dwhctl.sessions.values import CLOCKS_APART
from tests.unit.projects import EXTRACT, LOAD, write, write_project

NOW = datetime(2020, 3, 4, 12, tzinfo=UTC)
DAYS = days_until(date(2020, 3, 5), 8)
# abakan lives in Moscow's time, chita six hours ahead; achinsk begins on 2020-03-01.
SHARDS = ("abakan", "achinsk", "chita")
LOADS = ("orders", "payments", "events")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Orders by the shards' own clocks from a start date; payments in UTC; events without a start date."""
    root = write_project(tmp_path_factory.mktemp("project"), load=LOAD + "start_date = 2020-02-28\n")
    write(root, "sql/other.sql", EXTRACT)
    other = LOAD.replace("orders/extract.sql", "other.sql").replace('create = "orders/create.sql"\n', "")
    utc = other + 'slice_zone = "UTC"\nstart_date = 2020-02-01\n'
    write(root, "config/loads/payments.toml", utc.replace("stage.orders", "stage.payments"))
    write(root, "config/loads/events.toml", other.replace("stage.orders", "stage.events"))
    whole = other.replace('slice_by = "start_time"\n', "").replace("stage.orders", "stage.cities")
    write(root, "config/loads/cities.toml", whole)
    write(root, "sql/other.sql", "SELECT * FROM orders\n")
    return read_project(root)


@pytest.fixture(scope="module")
def store(project: Project) -> Iterator[SessionStore]:
    with open_store(project.sessions) as store:
        store.prepare()
        yield store


_sessions = st.lists(
    st.tuples(
        st.sampled_from(LOADS),
        st.sampled_from(SHARDS),
        st.sampled_from(DAYS),
        st.sampled_from(State),
        st.integers(0, 24 * 9),
    ),
    max_size=25,
)


def write_sessions(store: SessionStore, history: list[tuple[str, str, date, State, int]]) -> None:
    for number, (load, shard, day, state, hours) in enumerate(history):
        started = datetime(2020, 2, 26, tzinfo=UTC) + timedelta(hours=hours)
        [one] = store.open([NewSession("run", load, shard, day, 1, str(number), started)])
        if state is not State.RUNNING:
            store.close([Closing(one, state, started)])


def expected_first(load: Load, shard: Shard, history: list[tuple[str, str, date, State, int]]) -> date | None:
    start = load.start_date or min((one[2] for one in history if one[0] == load.name), default=None)
    return max(start, shard.from_date or start) if start else None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=_sessions)
def test_coverage_is_what_a_look_at_each_slice_says(
    project: Project, store: SessionStore, history: list[tuple[str, str, date, State, int]]
) -> None:
    with closing(sqlite3.connect(project.root / "state/sessions.sqlite", isolation_level=None)) as db:
        db.execute("DELETE FROM sessions")
    write_sessions(store, history)
    coverage = cover(project, store, sliced_tasks(project, LOADS, ()), DAYS, NOW)
    assert [(row.load.name, row.shard.name) for row in coverage.rows] == [
        (load, shard) for load in LOADS for shard in SHARDS
    ]
    for row, day, cell in coverage.slices():
        sessions = [one for one in history if one[:3] == (row.load.name, row.shard.name, day)]
        check(project, row, day, cell, sessions, expected_first(row.load, row.shard, history))


def check(
    project: Project,
    row: Row,
    day: date,
    cell: Cell,
    sessions: list[tuple[str, str, date, State, int]],
    first: date | None,
) -> None:
    end = make_slice(project, row.load, row.shard, day).end_at
    assert end is not None
    if first is None or day < first:
        assert (cell.status, cell.is_gap) == (SliceStatus.BEFORE_START, False)
        return
    over = end <= NOW
    assert cell.over == over
    if not sessions:
        assert cell.status is (SliceStatus.MISSING if over else SliceStatus.NOT_YET)
        assert (cell.complete, cell.is_gap, cell.started) == (False, over, None)
        return
    good = (State.LOADED, State.SKIPPED)
    starts = [(one[3], datetime(2020, 2, 26, tzinfo=UTC) + timedelta(hours=one[4])) for one in sessions]
    state, started = starts[-1]
    # A start in the future is of a clock that was ahead: it completes nothing.
    known = [began for state, began in starts if state in good and began <= NOW + CLOCKS_APART]
    complete = any(began >= end for began in known)
    last_success = max(known, default=None)
    last = LastSession(row.load.name, row.shard.name, day, state, started, None, last_success)
    assert is_complete(last, end) == complete
    assert (cell.complete, cell.started, cell.is_gap) == (complete, started, over and not complete)
    if complete and state not in good:
        running = state is State.RUNNING
        assert cell.status is (SliceStatus.RELOADING if running else SliceStatus.RELOAD_FAILED)
    elif state in good and not complete:
        assert cell.status is (SliceStatus.EARLY if over else SliceStatus.OPEN)
    else:
        assert cell.status.value == state.value


def test_without_a_table_nobody_has_tried_anything(project: Project) -> None:
    coverage = cover(project, None, sliced_tasks(project, ("orders", "events"), ("abakan",)), DAYS, NOW)
    orders, events = coverage.rows
    tried = [SliceStatus.MISSING if day < date(2020, 3, 4) else SliceStatus.NOT_YET for day in DAYS[1:]]
    assert [cell.status for cell in orders.cells] == [SliceStatus.BEFORE_START, *tried]
    assert {cell.status for cell in events.cells} == {SliceStatus.BEFORE_START}


def test_a_day_ends_by_the_clock_of_its_shard(project: Project) -> None:
    # In Chita it is six hours later than in Moscow: the fourth of March is over there.
    now = datetime(2020, 3, 4, 16, tzinfo=UTC)
    coverage = cover(project, None, sliced_tasks(project, ("orders",), ("abakan", "chita")), DAYS, now)
    assert [row.cells[DAYS.index(date(2020, 3, 4))].over for row in coverage.rows] == [False, True]


def test_what_has_no_days_is_left_out_or_refused(project: Project) -> None:
    assert [load.name for load, _ in sliced_tasks(project, (), ())] == ["events", "orders", "payments"]
    with pytest.raises(UsageError, match="'cities' has no slice_by"):
        sliced_tasks(project, ("cities",), ())
    with pytest.raises(UsageError, match="did you mean 'orders'"):
        sliced_tasks(project, ("ordres",), ())
    with pytest.raises(UsageError, match="no shard matches 'mos"):
        sliced_tasks(project, (), ("mos*",))


def test_a_large_project_looks_at_fewer_days(project: Project) -> None:
    [(load, shards)] = sliced_tasks(project, ("orders",), ())
    assert bearable_days([(load, shards)], 14) == 14
    assert bearable_days([(load, shards * 5_000)], 14) == 6
    assert bearable_days([(load, shards * 50_000)], 14) == 1


# Gaps

_GAP = Cell(SliceStatus.MISSING, complete=False, over=True, started=None)
_DONE = Cell(SliceStatus.LOADED, complete=True, over=True, started=NOW)
_AHEAD = Cell(SliceStatus.NOT_YET, complete=False, over=False, started=None)
_matrix = st.lists(st.lists(st.sampled_from([_GAP, _DONE, _AHEAD]), min_size=8, max_size=8), max_size=6)


@given(_matrix)
def test_folding_into_ranges_loses_nothing_and_adds_nothing(
    project: Project, matrix: list[list[Cell]]
) -> None:
    load = project.loads["orders"]
    shards = [Shard(f"shard_{number}", "x", "server_0", "UTC") for number in range(len(matrix))]
    rows = [Row(load, shard, tuple(cells)) for shard, cells in zip(shards, matrix, strict=True)]
    coverage = Coverage(DAYS, tuple(rows))
    incomplete = {(row.shard.name, day) for row, day, cell in coverage.slices() if cell is _GAP}
    gaps = find_gaps(coverage)
    assert sorted(unfolded(gaps)) == sorted(incomplete)
    # Each range is as long as it can be.
    assert not {(gap.shards, gap.end + timedelta(days=1)) for gap in gaps} & {
        (g.shards, g.start) for g in gaps
    }
    together = fold_shards(gaps)
    assert sorted(unfolded(together)) == sorted(incomplete)
    assert sum(gap.slices for gap in together) == len(incomplete)
    assert len({(gap.start, gap.end) for gap in together}) == len(together)


def unfolded(gaps: list[Gap]) -> list[tuple[str, date]]:
    return [
        (shard, gap.start + timedelta(days=number))
        for gap in gaps
        for shard in gap.shards
        for number in range((gap.end - gap.start).days + 1)
    ]


def test_the_command_of_a_gap_names_it_whole() -> None:
    gap = Gap("orders", ("abakan", "chita"), date(2020, 7, 1), date(2020, 7, 3))
    plain = "dwhctl backfill orders -s 2020-07-01 -e 2020-07-03 --only-missing"
    assert fill_command(gap, named=False) == plain
    assert fill_command(gap) == f"{plain} --shard abakan --shard chita"
    words = shlex.split(fill_command(gap, Path("/srv/the dwh")))
    assert words[-2:] == ["--project", "/srv/the dwh"]
    assert gap.slices == 6


def test_a_gap_is_no_longer_than_what_one_backfill_takes(project: Project) -> None:
    """The command of a longer one was refused: "are 9,824 days: a backfill takes 3,651 at most"."""
    load, [shard, *_] = project.loads["orders"], project.shard_groups["cities"]
    days = tuple(date(2000, 1, 1) + timedelta(days=number) for number in range(2 * MOST_DAYS + 1))
    gaps = find_gaps(Coverage(days, (Row(load, shard, (_GAP,) * len(days)),)))
    assert [day for _, day in unfolded(gaps)] == list(days)
    for gap in gaps:
        days_between(gap.start, gap.end)  # a UsageError if backfill would refuse it
    drawn = "\n".join(
        line.plain for line in gaps_picture(project, gaps, days, None, some_shards=False, width=None)
    )
    for start, end in re.findall(r"-s (\S+) -e (\S+)", drawn):
        days_between(date.fromisoformat(start), date.fromisoformat(end))
