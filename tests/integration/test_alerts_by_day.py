"""What channels are told by date: new failures, all that a channel covers, and what still fails after a recovery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from itertools import count
from pathlib import Path

import pytest
import time_machine
from msgspec import structs

from dwhctl.alerts import notifier
from dwhctl.alerts.digest import Item, ItemStatus, Outcome, RunKind
from dwhctl.core.errors import AlertRefusedError
from dwhctl.project.loads import Report
from dwhctl.sessions import State
from tests.integration.alerts_kit import COMMAND, Desk, a_desk, an_alert, slices, stopped
from tests.integration.sessions_kit import DAY, START, Place, new, postgres_place, sqlite_place, write
from tests.postgres import PostgresServer

HOUR, A_DAY = timedelta(hours=1), timedelta(days=1)
REPORTS = ("city_orders", "client_calls", "client_rates", "daily_orders", "order_duration")
NEXT = DAY + A_DAY


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    name = postgres_server.make_database()
    yield name
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        place = sqlite_place(tmp_path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        place = postgres_place(server, request.getfixturevalue("database"))
        tables = "dwhctl_alerts, dwhctl_alert_failures, dwhctl_alert_facts, sessions"
        place.rows(f"DROP TABLE IF EXISTS {tables}")
    yield place
    place.end()


@pytest.fixture
def desk(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Five reports, two loads of two shards, and a channel for failures."""
    desk = a_desk(place, tmp_path, monkeypatch)
    shards = {"cities": desk.project.shard_groups["cities"][:2]}
    found = {
        name: Report(name=name, connection="dwh", source="SELECT 1", target=f"r.{name}") for name in REPORTS
    }
    with time_machine.travel(START + HOUR, tick=False):
        yield replace(desk, project=replace(desk.project, shard_groups=shards, reports=found))


_seconds = count()


def run(desk: Desk, *items: Item) -> list[str]:
    """Write the sessions of a run and tell of it; return the first lines of what was sent."""
    for item in items:
        state = State.LOADED if item.status == "done" else State.FAILED
        moment = next(_seconds)
        session = new(load=item.work, day=item.day or DAY, started=START + timedelta(seconds=moment))
        write(desk.store, structs.replace(session, shard=item.shard or None), state, seconds=moment + 1)
    before = len(desk.post.sent)
    kind = RunKind.LOAD if items[0].kind == "load" else RunKind.REFRESH
    desk.tell(items, kind=kind)
    return [message.subject.partition(": ")[2] for _, message in desk.post.sent[before:]]


def reports(ending: ItemStatus, *names: str, day: date = DAY) -> list[Item]:
    return [
        replace(one, kind="report", shard="")
        for name in names
        for one in slices(ending, "", work=name, day=day)
    ]


def orders(ending: ItemStatus, *numbers: int, day: date = DAY, work: str = "orders") -> list[Item]:
    return slices(ending, *(f"shard_{number:03}" for number in numbers), day=day, work=work)


# All that a channel covers


def test_all_reports_are_told_when_the_last_of_them_is_refreshed(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert("morning", ("all_success",), reports=REPORTS))
    assert run(desk, *reports("done", *REPORTS[2:]), *reports("failed", *REPORTS[:2])) == []
    assert run(desk, *reports("done", REPORTS[0])) == [], "one of the two still fails"
    assert run(desk, *reports("done", REPORTS[1], day=NEXT)) == [], "that is another date"
    assert run(desk, *reports("done", REPORTS[1])) == ["all 5 reports refreshed"]
    assert f"5 of 5 refreshed, {DAY}" in desk.post.last
    assert run(desk, *reports("failed", REPORTS[2]), *reports("done", REPORTS[0])) == []
    assert run(desk, *reports("done", REPORTS[0])) == [], "one that was refreshed before has failed since"


def test_a_channel_of_everything_waits_for_the_reports_and_not_for_the_loads(desk: Desk) -> None:
    desk = desk.with_alerts(
        an_alert("morning", ("all_success",)), an_alert("one", ("all_success",), reports=REPORTS[:1])
    )
    run(desk, *reports("done", *REPORTS[1:]))
    assert run(desk, *reports("done", REPORTS[0])) == ["all 5 reports refreshed", "1 report refreshed"]


def test_all_loads_are_told_when_the_last_slice_is_loaded(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert("morning", ("all_success",)))
    assert run(desk, *orders("done", 0), *orders("failed", 1)) == []
    assert run(desk, *orders("done", 0, 1, work="calls")) == [], "a slice of orders still fails"
    assert run(desk, *orders("done", 1)) == ["all 4 slices loaded"]
    assert run(desk, *orders("done", 0, 1, day=NEXT)) == [], "calls is missing for that date"


def test_days_that_are_not_expected_are_not_waited_for(desk: Desk) -> None:
    first, second = desk.project.shard_groups["cities"]
    shards = (structs.replace(first, until_date=DAY - A_DAY), structs.replace(second, from_date=DAY))
    desk = replace(desk, project=replace(desk.project, shard_groups={"cities": shards}))
    desk = desk.with_alerts(an_alert("morning", ("all_success",), loads=("orders",)))
    assert run(desk, *orders("done", 1)) == ["1 slice loaded"]


def test_the_run_that_repairs_the_last_one_sends_one_message(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert("chat", ("one_failed", "all_success"), reports=REPORTS))
    run(desk, *reports("done", *REPORTS[2:]), *reports("failed", *REPORTS[:2]))
    assert run(desk, *reports("done", REPORTS[0])) == [
        f"city_orders recovered; client_calls of {DAY} still fails"
    ]
    assert run(desk, *reports("done", REPORTS[1])) == ["all 5 reports refreshed"]
    assert "client_calls" in desk.post.last, "with what has recovered"


def test_a_shadow_run_is_no_success_of_the_loads(desk: Desk) -> None:
    shadow = desk.project.loads["orders"].model_copy(update={"name": "orders@x.y", "shadow_of": "orders"})
    loads = {**desk.project.loads, shadow.name: shadow}
    desk = replace(desk, project=replace(desk.project, loads=loads)).with_alerts(
        an_alert("all", ("all_success",))
    )
    run(desk, *orders("done", 0, 1), *orders("done", 0, work="calls"))
    run(desk, *orders("done", 1, work="calls"))
    assert run(desk, *orders("done", 0, 1, work="orders@x.y")) == []


def test_without_the_sessions_only_a_run_of_all_of_it_is_a_success(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert("morning", ("all_success",)))
    for names, sent in ((REPORTS[:4], 0), (REPORTS, 1)):
        outcome = Outcome(command=COMMAND, items=tuple(reports("done", *names)))
        assert len(notifier.notify(desk.project, None, outcome)) == sent


def test_the_death_of_an_earlier_run_is_no_failure_of_this_one(desk: Desk) -> None:
    """A night's reboot: the morning's run loads everything and finds the dead run."""
    desk = desk.with_alerts(an_alert("mail", ("all_success",)), an_alert("chat"))
    run(desk, *orders("done", 0, 1, work="calls"))
    before = len(desk.post.sent)
    desk.tell(orders("done", 0, 1), stops=stopped("RunDied", passing=True).stops)
    subjects = [message.subject.partition(": ")[2] for _, message in desk.post.sent[before:]]
    assert subjects == ["all 4 slices loaded", f"{COMMAND} did not come to its end"]


def test_a_load_without_days_counts_by_its_newest_date(desk: Desk) -> None:
    whole = desk.project.loads["calls"].model_copy(update={"slice_by": None})
    project = replace(desk.project, loads={**desk.project.loads, "calls": whole})
    desk = replace(desk, project=project).with_alerts(an_alert("all", ("all_success",)))
    assert run(desk, *orders("done", 0, 1)) == [], "calls was never loaded"
    run(desk, *orders("done", 0, 1, day=NEXT, work="calls"))
    assert run(desk, *orders("done", 0, 1)) == ["all 4 slices loaded"], (
        "a backfill: calls was loaded for a later date"
    )
    run(desk, *orders("failed", 0, day=NEXT, work="calls"))
    assert run(desk, *orders("done", 0, 1), *orders("done", 0, 1, day=NEXT)) == [], "calls fails since"
    run(desk, *orders("done", 0, day=DAY, work="calls"))
    assert run(desk, *orders("done", 0, 1), *orders("done", 0, 1, day=NEXT)) == [], (
        "that was for an older date"
    )
    run(desk, *orders("done", 0, day=NEXT, work="calls"))
    assert run(desk, *orders("done", 0, 1), *orders("done", 0, 1, day=NEXT)) == ["all 6 slices loaded"]


# What still fails


def test_a_recovery_says_what_still_fails(desk: Desk) -> None:
    run(desk, *orders("failed", 0, 1), *slices("failed", "shard_000", error="QueryError", work="calls"))
    [subject] = run(desk, *orders("done", 0, work="calls"))
    assert subject == f"calls recovered on 1 shard; orders: 2 slices of {DAY} still fail"
    assert f"Still failing\norders: 2 slices of {DAY}" in desk.post.last.replace("- ", "")
    assert run(desk, *orders("failed", 0), *orders("done", 1)) == []
    assert run(desk, *orders("done", 0)) == ["orders recovered on 2 shards"]
    assert "Still failing" not in desk.post.last


def test_a_later_day_shows_that_the_shard_is_well_and_the_gap_is_said(desk: Desk) -> None:
    run(desk, *orders("failed", 0, 1))
    [subject] = run(desk, *orders("done", 0, 1, day=NEXT))
    assert subject == f"orders recovered on 2 shards; 2 slices of {DAY} still fail"


def test_what_the_channel_does_not_cover_or_a_later_day_replaced_is_not_still_failing(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert(reports=REPORTS))
    run(desk, *orders("failed", 0), *reports("failed", *REPORTS[:2]))
    assert run(desk, *reports("done", *REPORTS[:2], day=NEXT)) == ["city_orders, client_calls recovered"]


def test_a_recovery_that_a_refused_digest_left_says_what_still_fails(desk: Desk) -> None:
    run(desk, *orders("failed", 0))
    run(desk, *orders("failed", 1, work="calls"))
    desk.post.answers = [AlertRefusedError("blocked")]
    run(desk, *orders("done", 0), *orders("failed", 1, day=NEXT))
    desk.pass_time(2 * HOUR)
    [subject] = run(desk, *orders("done", 1, day=NEXT))
    assert subject == f"orders recovered on 1 shard; calls: 1 slice of {DAY} still fails"


# The date


def test_a_failed_refresh_of_today_by_hand_does_not_silence_the_night(desk: Desk) -> None:
    """Whichever date is first: cron refreshes yesterday, a person today."""
    for day in (NEXT, DAY, NEXT + A_DAY):
        assert len(run(desk, *reports("failed", "city_orders", day=day))) == 1, day
        assert "unchanged" not in desk.post.last
        assert run(desk, *reports("failed", "city_orders", day=day)) == [], "the next line of the same date"


def test_a_dead_shard_is_told_once_a_day_and_not_every_six_hours(desk: Desk) -> None:
    for back in (2, 1, 0):
        day = DAY - back * A_DAY
        found = [run(desk, *orders("failed", 0, day=day), *orders("done", 1, day=day)) for _ in range(4)]
        assert [len(one) for one in found] == [1, 0, 0, 0], day
    assert "3 days in a row" in desk.post.last
    assert run(desk, *orders("done", 0, 1, day=NEXT)) == [
        f"orders recovered on 1 shard; 3 slices of 3 days from {DAY - 2 * A_DAY} to {DAY} still fail"
    ]
    assert remembered(desk) == []


def test_a_run_over_several_days_names_each_shard_once(desk: Desk) -> None:
    """And the days that the next one tries again are not news."""
    days = [DAY - back * A_DAY for back in (2, 1, 0)]
    items = [one for day in days for one in orders("failed", 0, 1, day=day)]
    assert run(desk, *items) == ["orders: 6 slices failed"]
    assert "orders: 2 shards" in desk.post.last
    assert desk.post.last.count("shard_000") == 1
    assert run(desk, *items) == []


def test_a_date_that_failed_before_a_success_recovers_by_itself_only(desk: Desk) -> None:
    """A later streak of the same shard does not make it look newer."""
    old = DAY - 3 * A_DAY
    run(desk, *orders("failed", 0, day=old))
    write(desk.store, new("shard_000", day=DAY - A_DAY), State.LOADED)
    run(desk, *orders("failed", 0, day=old), *orders("failed", 0))
    [subject] = run(desk, *orders("done", 0, day=NEXT))
    assert "recovered" in subject
    assert remembered(desk) == [("shard_000", old)]
    assert len(run(desk, *orders("done", 0, day=old))) == 1
    assert remembered(desk) == []


def test_a_day_that_is_loaded_recovers_while_another_one_of_its_shard_fails(desk: Desk) -> None:
    run(desk, *orders("failed", 0), *orders("failed", 0, day=NEXT))
    assert run(desk, *orders("done", 0), *orders("failed", 0, day=NEXT)) == [
        f"orders recovered on 1 shard; 1 slice of {NEXT} still fails"
    ]


def test_old_dates_are_forgotten(desk: Desk) -> None:
    for back in range(3, 0, -1):
        run(desk, *orders("failed", 0, day=DAY - back * A_DAY))
    desk.pass_time(31 * A_DAY)
    run(desk, *orders("failed", 0))
    assert remembered(desk) == [("shard_000", DAY)]


def remembered(desk: Desk) -> list[tuple[str, date]]:
    with desk.store.transaction("reading", "tell") as execute:
        return [(row[3], row[4]) for row in execute("alerts_facts", {"channel": "chat"})]


def test_what_an_earlier_version_remembered_is_taken_over(desk: Desk) -> None:
    """Its table had one row for all dates, with the newest one, or with none."""
    run(desk, *orders("failed", 0))
    stop = stopped("ConfigError")
    assert len(notifier.notify(desk.project, desk.store, stop)) == 1
    desk.change(
        "CREATE TABLE dwhctl_alert_facts (channel TEXT NOT NULL, work TEXT NOT NULL, connection TEXT NOT NULL,"
        " error_class TEXT NOT NULL, shard TEXT NOT NULL, told_at TIMESTAMPTZ NOT NULL, day DATE,"
        " newest BOOL NOT NULL, well BOOL NOT NULL, alert_id INTEGER, heard BOOL NOT NULL,"
        " PRIMARY KEY (channel, work, connection, error_class, shard))"
    )
    desk.change(
        "INSERT INTO dwhctl_alert_facts SELECT channel, work, connection, error_class, shard, told_at,"
        " nullif(day, '1000-01-01'), newest, well, alert_id, heard FROM dwhctl_alert_failures"
    )
    desk.change("DROP TABLE dwhctl_alert_failures")
    desk = replace(desk, store=desk.place.store())
    desk.store.prepare()
    assert desk.place.rows("SELECT count(*) FROM dwhctl_alert_facts") == [(2,)], (
        "an earlier version may still run"
    )
    assert notifier.notify(desk.project, desk.store, stop) == []
    assert run(desk, *orders("failed", 0)) == [f"{COMMAND} recovered; orders: 1 slice of {DAY} still fails"]
    assert len(run(desk, *orders("failed", 0, day=NEXT))) == 1
