"""What reports wait for: the loads that they need, and each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.refresh.run import RefreshRequest, plan_refresh
from dwhctl.runtime.events import Readiness, ReportWaits
from dwhctl.sessions import Closing, NewSession, State, open_store
from tests.cli_support import dwh
from tests.support.faulty import Faults, flocked, wait_for_end
from tests.support.projects import DAY
from tests.support.reports import KEYS, ROWS, Place, a_place, whole

COMMAND = ("refresh-reports", "--date", str(DAY))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A warehouse with a load of three shards."""
    with a_place("duckdb", tmp_path / "project") as made:
        yield made


def need(place: Place, at_least: float = 1.0) -> None:
    """Have the report need the load."""
    place.put({"numbers": f'{KEYS}\nneeds = [{{ load = "orders", at_least = {at_least} }}]'})


def have_loaded(place: Place, *shards: str, day: date = DAY, state: State = State.LOADED) -> None:
    """Write the sessions of a load that did well just now, or ended in another state."""
    now = datetime.now(UTC)
    with open_store(place.sandbox.project().sessions) as store:
        store.prepare()
        ids = store.open(
            [NewSession("run", "orders", shard, day, 1, f"{shard}{now}", now) for shard in shards]
        )
        store.close([Closing(one, state, now) for one in ids])


def test_not_ready(place: Place) -> None:
    need(place)
    report = place.refresh()
    assert report.seconds < 3, "when nothing is left to do, nothing is waited for"
    (one,) = report.failures
    assert one.failure is not None
    assert one.failure.error_class == "NotReady"
    assert one.failure.message.startswith(
        "orders: 0 of 3 slices are complete, missing abakan, achinsk, chita. A slice is complete when"
    )
    assert f"dwhctl load orders --date {DAY} --only-missing" in one.failure.message
    (session,) = place.sessions()
    assert (session.state, session.error_class, session.attempt) == (State.FAILED, "NotReady", 1)
    assert place.content() == (0, None, None)


def test_the_session_of_a_report_that_waited_begins_with_the_run(place: Place) -> None:
    need(place)
    place.refresh(wait=timedelta(seconds=2.5))
    (session,) = place.sessions()
    assert session.finished is not None
    assert session.finished - session.started > timedelta(seconds=0.8)


def test_a_part_is_enough_where_the_report_says_so_and_the_missing_are_known(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    have_loaded(place, "abakan", "chita")
    need(place, 0.6)
    report = place.refresh()
    assert report.refreshed[0].without == (Readiness("orders", 0.6, 3, ("achinsk",)),)
    assert place.content() == whole(1)
    need(place, 0.7)
    assert len(place.refresh().failures) == 1
    need(place, 0.6)
    assert dwh(*COMMAND, "--project", place.sandbox.root) == 0
    shown = capsys.readouterr().out
    assert "  numbers has 2 of 3 slices of orders 2020-07-14; it does without achinsk" in shown


def test_a_day_that_is_not_over_is_no_day_to_load_again(place: Place) -> None:
    """The command for it would be in vain: what it loads is not complete."""
    place.sandbox.fill()
    need(place)
    report = place.refresh(day=datetime.now(place.sandbox.project().zone).date())
    (failed,) = report.failures
    assert (failure := failed.failure) is not None
    assert "is complete when it was loaded after its end, and " in failure.message
    assert ": load and refresh it then" in failure.message
    assert "dwhctl load" not in failure.message


def test_a_reload_that_fails_takes_nothing_away(place: Place) -> None:
    have_loaded(place, "abakan", "chita", "achinsk")
    have_loaded(place, "abakan", "chita", state=State.FAILED)
    need(place)
    assert place.refresh().failures == []


@pytest.mark.parametrize(
    ("at_least", "missing", "met"),
    [(1.0, 0, True), (1.0, 1, False), (0.98, 3, True), (0.98, 4, False), (0, 150, True)],
)
def test_a_share_is_counted_as_it_is_written(at_least: float, missing: int, met: bool) -> None:
    shards = tuple(f"city_{number}" for number in range(missing))
    assert Readiness("orders", at_least, 150, shards).is_met is met


def test_a_load_reaps_a_refresh_that_died(place: Place) -> None:
    place.sandbox.fill()
    with open_store(place.sandbox.project().sessions) as store:
        store.prepare()
        store.open(
            [NewSession("20200101T000000-deadbeef", "numbers", None, DAY, 1, "token", datetime.now(UTC))]
        )
    assert place.sandbox.load().failed == 0
    (session,) = place.sessions()
    assert (session.state, session.error_class) == (State.ABANDONED, "RunDied")


def test_it_waits_until_a_load_beside_it_completes(place: Place) -> None:
    place.sandbox.fill()
    need(place)
    waits = threading.Event()
    process = place.sandbox.start("load", "--date", str(DAY), "--quiet", "--inline")
    report = place.refresh(
        listen=lambda event: waits.set() if isinstance(event, ReportWaits) else None,
        wait=timedelta(minutes=1),
    )
    assert wait_for_end(process)[0] == ""
    assert (report.failures, waits.is_set()) == ([], True)
    assert place.content() == whole(1)
    assert [one.state for one in place.sessions()] == [State.LOADED]


@pytest.mark.parametrize(
    ("head", "own", "wait", "waits"),
    [
        ('wait = "1m"', "", None, True),
        ("", 'wait = "1m"', None, True),
        ('wait = "0s"', 'wait = "1m"', None, True),
        ('wait = "1m"', 'wait = "0s"', None, False),
        ('wait = "1m"', 'wait = "1m"', timedelta(0), False),
        ("", "", None, False),
    ],
)
def test_it_waits_as_long_as_the_configuration_says_unless_the_command_does(
    place: Place, head: str, own: str, wait: timedelta | None, waits: bool
) -> None:
    keys = f'{KEYS}\n{own}\nneeds = [{{ load = "orders" }}]'
    place.put({"numbers": keys}, f"[refresh]\n{head}\n")

    def load(event: object) -> None:
        if isinstance(event, ReportWaits):
            have_loaded(place, "abakan", "achinsk", "chita")

    report = place.refresh(listen=load, wait=wait)
    assert (place.content() == whole(1), report.failures == []) == (waits, waits)


def test_the_next_run_of_the_date_refreshes_what_was_not_ready(place: Place) -> None:
    need(place)
    assert len(place.refresh().failures) == 1
    have_loaded(place, "abakan", "achinsk", "chita")
    command = (*COMMAND, "--quiet", "--project", place.sandbox.root)
    assert dwh(*command) == ExitCode.DONE
    assert place.content() == whole(1)
    assert [one.state for one in place.sessions()] == [State.FAILED, State.LOADED]


def test_a_day_loaded_before_its_end_is_not_complete(place: Place) -> None:
    need(place)
    today = datetime.now(place.sandbox.project().zone).date()
    have_loaded(place, "abakan", "achinsk", "chita", day=today)
    (one,) = place.refresh(day=today).failures
    assert one.failure is not None
    assert "0 of 3 slices are complete" in one.failure.message


def test_before_the_first_day_nothing_is_missing(place: Place) -> None:
    place.sandbox.load_keys = "start_date = 2020-07-01"
    place.sandbox.write()
    need(place)
    assert place.refresh(day=date(2020, 6, 30)).failures == []


def test_two_at_once(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place.refresh()
    faults = Faults(tmp_path / "log").at("refresh.held", "pause")
    process = place.sandbox.start(*COMMAND, env=faults.env())
    faults.wait_for("refresh.held")
    second = ("refresh-reports", "numbers", "--date", "2020-07-13", "--project", place.sandbox.root)
    assert dwh(*second) == ExitCode.LOCK_HELD
    told = capsys.readouterr().err
    assert f"report numbers is being refreshed by pid {process.pid}" in told
    assert " ".join(COMMAND) in told
    faults.go_on()
    wait_for_end(process)
    assert process.returncode == 0
    assert place.refresh().failures == []


def test_a_slot_of_the_warehouse_is_held(place: Place) -> None:
    path = place.sandbox.root / "config/dwhctl.toml"
    keys = '"state/warehouse.duckdb"\nmax_connections = 1'
    path.write_text(path.read_text().replace('"state/warehouse.duckdb"', keys))
    place.refresh()
    with ExitStack() as stack:
        stack.enter_context(flocked(place.sandbox.root / "state/slots/warehouse.0.lock"))
        timer = threading.Timer(0.5, stack.close)
        timer.start()
        report = place.refresh()
        timer.join()
    assert report.failures == []
    assert report.seconds >= 0.4


def test_a_dry_run_touches_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    need(place)
    state = place.sandbox.root / "state"
    before = sorted(state.rglob("*"))
    assert dwh(*COMMAND, "--dry-run", "--project", place.sandbox.root) == 0
    shown = capsys.readouterr().out
    assert "orders: 0 of 3 slices are complete, missing abakan, achinsk, chita" in shown
    assert shown.endswith("would refresh 0 reports of 2020-07-14; 1 not ready\n")
    assert sorted(state.rglob("*")) == before
    (one,) = plan_refresh(place.sandbox.project(), RefreshRequest(DAY))
    assert one.sql.source.text == "reports.numbers_view"


def test_a_day_before_the_start_of_a_needed_load_is_said(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.sandbox.load_keys += "\nstart_date = 2020-07-15"
    place.sandbox.write()
    need(place)
    assert dwh(*COMMAND, "--dry-run", "--project", place.sandbox.root) == 0
    assert "orders: no slice is expected on this day" in capsys.readouterr().out
    assert dwh(*COMMAND, "--project", place.sandbox.root) == 0
    shown = capsys.readouterr().out
    assert "numbers has no slice of orders: none is expected on 2020-07-14" in shown


def test_names_that_are_none(place: Place) -> None:
    with pytest.raises(UsageError, match="no report 'number'; did you mean 'numbers'"):
        place.refresh("number")
    place.put({})
    with pytest.raises(UsageError, match=r"write one in config/reports\.toml"):
        place.refresh()


def test_the_command_tells_what_it_did(place: Place) -> None:
    need(place, 0)
    place.sandbox.put(
        "config/reports.toml",
        (place.sandbox.root / "config/reports.toml").read_text()
        + '[reports.broken]\nconnection = "warehouse"\nsource = "reports.nowhere"\ntarget = "reports.broken"\n',
    )
    done = place.sandbox.run(*COMMAND)
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert said[0].startswith(f"1 report refreshed, 1 failed; {ROWS} rows in ")
    assert said[1].startswith("  numbers has 0 of 3 slices of orders 2020-07-14; it does without abakan")
    assert said[3].startswith("1 report failed: TargetRefusedError: ")
    assert said[4] == f"  broken {DAY}"
    correct, again = said[5].split(", then: ")
    assert correct == "  create the table there or correct config/reports.toml"
    assert again.startswith(f"dwhctl refresh-reports broken --date {DAY} --project ")
    assert f"refreshed: numbers: {ROWS} rows in " in done.stderr
    assert "Traceback" not in done.stderr
