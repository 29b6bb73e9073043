"""Who keeps a deadline and a max_age: against a count slice by slice, and case by case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwhctl.monitor.freshness import Sla, SlaState, due_at, promised, read_slas
from dwhctl.project.days import make_slice
from dwhctl.project.loads import Load, Report, Shard
from dwhctl.project.model import Project
from dwhctl.sessions import Closing, NewSession, SessionStore, State, open_store
from dwhctl.sessions.history import Wanted, read_history
from dwhctl.sessions.values import CLOCKS_APART, is_good
from tests.unit.projects import a_load, a_project

MOSCOW = ZoneInfo("Europe/Moscow")
HOUR = timedelta(hours=1)
DAY = date(2020, 7, 14)
#: 05:00 and 10:00 in Moscow.
EARLY, LATE = datetime(2020, 7, 14, 2, tzinfo=UTC), datetime(2020, 7, 14, 7, tzinfo=UTC)
SHARDS = (
    Shard("abakan", "abakan", "server_0", "Europe/Moscow"),
    Shard("chita", "chita", "server_0", "Asia/Chita"),
    Shard("boston", "boston", "server_0", "America/New_York", date(2020, 7, 12)),
)
REPORT = Report(name="city_orders", connection="dwh", source="SELECT 1", target="reports.x", deadline=time(8))


def a_work(load: Mapping[str, Any] | None = None, report: Report | None = None, **fields: Any) -> Project:
    loads = {"orders": a_load(start_date=date(2020, 7, 1), **load)} if load is not None else {}
    reports = {report.name: report} if report else {}
    return a_project(loads=loads, reports=reports, shard_groups={"cities": SHARDS}, **fields)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SessionStore]:
    with open_store(a_project(tmp_path).sessions) as store:
        store.prepare()
        yield store


def write(
    store: SessionStore,
    work: str,
    shard: str | None,
    day: date,
    started: datetime,
    state: State = State.LOADED,
) -> None:
    token = f"{work}-{shard}-{day}-{started}-{state}"
    [one] = store.open([NewSession("run", work, shard, day, 1, token, started)])
    store.close([Closing(one, state, started + HOUR)])


def fill(store: SessionStore, last: date, started: datetime, *shards: str, work: str = "orders") -> None:
    """Load every day of the last weeks up to `last`, all at one time."""
    for number in range(20):
        for shard in shards:
            write(store, work, shard, last - timedelta(days=number), started)


def the_one(project: Project, store: SessionStore | None, now: datetime) -> Sla:
    [sla] = read_slas(project, store, now)
    return sla


def late_of(sla: Sla) -> dict[str, tuple[date, date, int]]:
    return {t.shard: (t.late.oldest, t.late.newest, t.late.slices) for t in sla.tasks if t.late}


DEADLINE = {"deadline": time(7)}


def test_yesterday_must_be_complete_by_the_deadline(store: SessionStore) -> None:
    project = a_work(DEADLINE)
    fill(store, date(2020, 7, 12), EARLY, "abakan", "chita", "boston")
    early = the_one(project, store, EARLY)
    assert (early.state, early.command) == (SlaState.MET, None)
    # The deadline is 07:00 in Moscow; Boston's 13th ends at 07:00 sharp, and is due a day later.
    assert early.next_deadline == datetime(2020, 7, 14, 4, tzinfo=UTC)
    missed = the_one(project, store, LATE)
    assert (missed.state, missed.oldest) == (SlaState.MISSED, date(2020, 7, 13))
    assert late_of(missed) == dict.fromkeys(("abakan", "chita"), (date(2020, 7, 13), date(2020, 7, 13), 1))
    assert missed.since == datetime(2020, 7, 14, 4, tzinfo=UTC)
    assert missed.command == (
        "dwhctl backfill orders -s 2020-07-13 -e 2020-07-13 --only-missing --project /nowhere"
    )
    for shard in ("abakan", "chita"):
        write(store, "orders", shard, date(2020, 7, 13), EARLY)
    assert the_one(project, store, LATE).state is SlaState.MET
    assert late_of(the_one(project, store, LATE + 24 * HOUR))["boston"] == (date(2020, 7, 13),) * 2 + (1,)


def test_a_slice_loaded_before_its_end_is_not_there(store: SessionStore) -> None:
    fill(store, date(2020, 7, 12), EARLY, "abakan", "chita", "boston")
    for shard in ("abakan", "chita"):
        write(store, "orders", shard, date(2020, 7, 13), datetime(2020, 7, 13, 20, 59, tzinfo=UTC))
    # Chita's day was over at 18:00 in Moscow, Abakan's (by Moscow's clock) a minute later.
    assert list(late_of(the_one(a_work(DEADLINE), store, LATE))) == ["abakan"]


def test_a_gap_stays_missed_although_newer_days_are_there(store: SessionStore) -> None:
    fill(store, date(2020, 7, 13), EARLY, "abakan", "boston")
    for number in range(20):
        state = State.FAILED if number in (3, 5) else State.LOADED
        write(store, "orders", "chita", date(2020, 7, 13) - timedelta(days=number), EARLY + HOUR, state)
    # A day that was complete stays complete when its reload fails.
    write(store, "orders", "chita", date(2020, 7, 9), EARLY + 2 * HOUR, State.FAILED)
    sla = the_one(a_work(DEADLINE), store, LATE)
    assert late_of(sla) == {"chita": (date(2020, 7, 8), date(2020, 7, 10), 2)}
    assert sla.since == datetime(2020, 7, 9, 4, tzinfo=UTC)
    assert (len(sla.missed), len(sla.tasks)) == (1, 3)


@pytest.mark.parametrize("start", [date(2020, 7, 14), date(2020, 8, 1)])
def test_days_before_the_start_are_not_expected(store: SessionStore, start: date) -> None:
    project = a_work()
    load = a_load(start_date=start, deadline=time(7), max_age=HOUR)
    project = a_project(loads={"orders": load}, shard_groups={"cities": SHARDS[:1]})
    sla = the_one(project, store, datetime(2020, 7, 13, 21, 30, tzinfo=UTC))  # 00:30 of the 14th in Moscow
    assert sla.state is (SlaState.MET if start == DAY else SlaState.OPEN), "half an hour old at most"
    if start == DAY:
        assert late_of(the_one(project, store, LATE)) == {}
        assert late_of(the_one(project, store, LATE + 24 * HOUR)) == {"abakan": (DAY, DAY, 1)}


@pytest.mark.parametrize("with_store", [True, False])
@pytest.mark.parametrize("now", [EARLY, LATE])
def test_what_has_never_run_is_missed(store: SessionStore, now: datetime, with_store: bool) -> None:
    loads = {
        "orders": a_load(deadline=time(7), max_age=8 * HOUR),
        "started": a_load(name="started", deadline=time(7), start_date=date(2020, 7, 10)),
        "whole": a_load(name="whole", slice_by=None, deadline=time(7)),
    }
    project = a_project(loads=loads, reports={"city_orders": REPORT}, shard_groups={"cities": SHARDS[:1]})
    slas = {sla.name: sla for sla in read_slas(project, store if with_store else None, now)}
    assert {sla.state for sla in slas.values()} == {SlaState.MISSED}
    assert {sla.last_success for sla in slas.values()} == {None}
    due = date(2020, 7, 13) if now == LATE else date(2020, 7, 12)
    assert late_of(slas["started"]) == {"abakan": (date(2020, 7, 10), due, (due - date(2020, 7, 9)).days)}
    assert late_of(slas["whole"]) == {"abakan": (due, due, 1)}
    assert late_of(slas["city_orders"]) == {"": (due, due, 1)}


def test_a_load_without_days_is_there_up_to_the_day_before_its_last_success(store: SessionStore) -> None:
    project = a_work({"slice_by": None, **DEADLINE})
    for shard in ("abakan", "chita", "boston"):
        write(store, "orders", shard, DAY, EARLY)
    assert the_one(project, store, LATE).state is SlaState.MET
    write(store, "orders", "boston", DAY, LATE, State.FAILED)
    assert the_one(project, store, LATE).state is SlaState.MET
    sla = the_one(project, store, LATE + 48 * HOUR)
    assert late_of(sla)["chita"] == (DAY, DAY + timedelta(days=1), 1)
    assert sla.since == datetime(2020, 7, 15, 4, tzinfo=UTC)
    assert sla.command == "dwhctl load orders --date today --project /nowhere"


def test_a_report_must_be_refreshed_for_yesterday_after_it_was_over(store: SessionStore) -> None:
    project = a_work(report=REPORT)
    write(store, "city_orders", None, date(2020, 7, 12), EARLY - 24 * HOUR)
    # For the 13th, and before its end: what came in its last hour is not in the report.
    write(store, "city_orders", None, date(2020, 7, 13), datetime(2020, 7, 13, 20, 30, tzinfo=UTC))
    sla = the_one(project, store, LATE)
    assert late_of(sla) == {"": (date(2020, 7, 13), date(2020, 7, 13), 1)}
    assert sla.command == "dwhctl refresh-reports city_orders --date 2020-07-13 --project /nowhere"
    assert the_one(project, store, EARLY).state is SlaState.MET
    write(store, "city_orders", None, date(2020, 7, 13), EARLY)
    write(store, "city_orders", None, date(2020, 7, 13), EARLY + HOUR, State.FAILED)
    assert the_one(project, store, LATE).state is SlaState.MET, "it keeps its content"


def test_an_age_counts_from_the_start_of_the_last_success(store: SessionStore) -> None:
    project = a_work({"max_age": 8 * HOUR})
    for shard in ("abakan", "chita", "boston"):
        write(store, "orders", shard, DAY, EARLY)
        write(store, "orders", shard, DAY, EARLY + HOUR, State.FAILED)
    assert the_one(project, store, EARLY + 8 * HOUR).state is SlaState.MET
    sla = the_one(project, store, EARLY + 8 * HOUR + timedelta(seconds=1))
    assert (sla.state, sla.last_success, sla.since) == (SlaState.MISSED, EARLY, EARLY + 8 * HOUR)
    assert sla.command == "dwhctl load orders --date today --project /nowhere"
    # A backfill of last month is no sign of life; yesterday's slice is.
    for shard in ("abakan", "chita", "boston"):
        for number in (20, 25, 30):
            write(store, "orders", shard, DAY - timedelta(days=number), EARLY + 7 * HOUR)
    assert len(the_one(project, store, EARLY + 9 * HOUR).missed) == 3
    write(store, "orders", "chita", DAY - timedelta(days=1), EARLY + 7 * HOUR)
    assert [task.shard for task in the_one(project, store, EARLY + 9 * HOUR).missed] == ["abakan", "boston"]


@pytest.mark.parametrize("day", [DAY, DAY + timedelta(days=2)])
def test_a_success_that_started_while_the_clock_was_ahead_is_not_fresh(
    store: SessionStore, day: date
) -> None:
    """It would keep the age met until that time, also where nothing runs any more."""
    project = a_work({"max_age": 8 * HOUR})
    for shard in ("abakan", "chita", "boston"):
        write(store, "orders", shard, DAY, EARLY)
        write(store, "orders", shard, day, EARLY + 48 * HOUR)
    assert the_one(project, store, EARLY + 8 * HOUR).state is SlaState.MET
    sla = the_one(project, store, EARLY + 9 * HOUR)
    assert (sla.state, sla.last_success) == (SlaState.MISSED, EARLY)
    report = a_work(report=REPORT.model_copy(update={"deadline": None, "max_age": 8 * HOUR}))
    write(store, "city_orders", None, day, EARLY + 48 * HOUR)
    assert the_one(report, store, EARLY + 9 * HOUR).state is SlaState.MISSED
    write(store, "city_orders", None, DAY, EARLY + 9 * HOUR)
    assert the_one(report, store, EARLY + 9 * HOUR).state is SlaState.MET


def test_a_closed_shard_is_late_with_its_own_days_only_and_never_old(store: SessionStore) -> None:
    closed = Shard("abakan", "abakan", "server_0", "Europe/Moscow", until_date=date(2020, 7, 10))
    load = a_load(start_date=date(2020, 7, 9), deadline=time(7), max_age=HOUR)
    whole = a_load(name="whole", start_date=date(2020, 7, 9), deadline=time(7), max_age=HOUR, slice_by=None)
    project = a_project(loads={"orders": load, "whole": whole}, shard_groups={"cities": (closed,)})
    orders, every = read_slas(project, store, LATE)
    assert late_of(orders) == {"abakan": (date(2020, 7, 9), date(2020, 7, 10), 2)}
    assert [task.is_old for task in orders.tasks] == [False]
    assert (every.tasks, every.state) == ((), SlaState.OPEN)
    for day in (date(2020, 7, 9), date(2020, 7, 10)):
        write(store, "orders", "abakan", day, EARLY)
    orders, _ = read_slas(project, store, LATE)
    assert (orders.tasks, orders.state) == ((), SlaState.OPEN)


def test_a_task_that_never_succeeded_is_as_old_as_it_is_expected(store: SessionStore) -> None:
    load = a_load(start_date=DAY, max_age=8 * HOUR)
    project = a_project(loads={"orders": load}, shard_groups={"cities": SHARDS[:1]})
    midnight = datetime(2020, 7, 13, 21, tzinfo=UTC)
    assert the_one(project, store, midnight + 8 * HOUR).state is SlaState.MET
    assert the_one(project, store, midnight + 8 * HOUR + timedelta(seconds=1)).state is SlaState.MISSED


def test_only_what_promises_something_is_looked_at() -> None:
    project = a_work({}, REPORT.model_copy(update={"deadline": None}))
    assert promised(project) == []
    assert read_slas(project, None, LATE) == []


_slices = st.lists(
    st.tuples(
        st.sampled_from([shard.name for shard in SHARDS]),
        st.integers(0, 6),
        st.integers(0, 24 * 8),
        st.sampled_from([State.LOADED, State.LOADED, State.SKIPPED, State.FAILED]),
    ),
    max_size=40,
)


@settings(max_examples=20, deadline=None)
@given(history=_slices, clock=st.times(), minutes=st.integers(-3_000, 3_000))
def test_what_is_late_is_what_a_count_of_each_slice_says(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[str, int, int, State]],
    clock: time,
    minutes: int,
) -> None:
    at, first = LATE + timedelta(minutes=minutes), date(2020, 7, 8)
    load = a_load(start_date=first, deadline=clock.replace(second=0, microsecond=0))
    project = a_project(
        tmp_path_factory.mktemp("sla"), loads={"orders": load}, shard_groups={"cities": SHARDS}
    )
    with open_store(project.sessions) as store:
        store.prepare()
        for shard, day, hours, state in history:
            started = datetime(2020, 7, 8, tzinfo=UTC) + hours * HOUR
            write(store, "orders", shard, first + timedelta(days=day), started, state)
        found = late_of(the_one(project, store, at))
        expected = {
            shard.name: lacking
            for shard in SHARDS
            if (lacking := _counted(project, store, load, shard, at)) is not None
        }
    assert found == expected


def _counted(
    project: Project, store: SessionStore, load: Load, shard: Shard, now: datetime
) -> tuple[date, date, int] | None:
    assert load.deadline is not None
    sessions = read_history(store, Wanted(datetime(2020, 7, 1, tzinfo=UTC), 1_000, loads=("orders",)))
    good = [one for one in sessions if is_good(one.state) and one.started <= now + CLOCKS_APART]
    lacking = []
    for number in range(8):
        day = date(2020, 7, 8) + timedelta(days=number)
        end = make_slice(project, load, shard, day).end_at
        assert end is not None
        expected = shard.from_date is None or day >= shard.from_date
        if expected and due_at(day, end, load.deadline, MOSCOW) <= now:
            of_slice = [one for one in good if (one.shard, one.day) == (shard.name, day)]
            lacking += [] if any(one.started >= end for one in of_slice) else [day]
    return (lacking[0], lacking[-1], len(lacking)) if lacking else None


def test_the_command_renews_what_is_too_old_beside_a_gap(store: SessionStore) -> None:
    """It filled the gap of one shard only: the ages of the others stayed missed."""
    fill(store, date(2020, 7, 13), LATE - 9 * HOUR + 4 * HOUR, "chita", "boston")
    fill(store, date(2020, 7, 12), LATE - 9 * HOUR, "abakan")
    project = a_work({"deadline": time(7), "max_age": 4 * HOUR})
    missed = the_one(project, store, LATE)
    assert list(late_of(missed)) == ["abakan"]
    assert [task.shard for task in missed.tasks if task.is_old] == ["abakan", "chita", "boston"]
    assert missed.command == (
        "dwhctl backfill orders -s 2020-07-13 -e 2020-07-14 --only-missing --project /nowhere"
    )
