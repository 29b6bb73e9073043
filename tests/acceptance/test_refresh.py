"""Reports are replaced whole: what readers see, what failures leave, what the sessions say. On DuckDB and Vertica."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dwhctl.runtime.events import ReportClosed, RunResult
from dwhctl.sessions import State
from tests.cli_support import dwh
from tests.servers.base import Fault
from tests.servers.vertica import VerticaServer
from tests.support.faulty import held_locks, wait_until
from tests.support.projects import DAY
from tests.support.reports import KEYS, ROWS, Place, a_place, whole
from tests.support.wire import Wire, needs_faults

SYSTEMS = ("duckdb", "vertica")


@pytest.fixture(params=SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A warehouse of each system."""
    with a_place(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def vertica(tmp_path: Path) -> Iterator[Place]:
    """A warehouse over the wire."""
    with a_place("vertica", tmp_path) as made:
        yield made


def server_of(place: Place) -> VerticaServer:
    """Our server."""
    assert isinstance(place.sandbox, Wire)
    assert place.sandbox.dwh is not None
    return place.sandbox.dwh


def failure_of(report: RunResult) -> str:
    """Class and message of the one failure."""
    (one,) = report.failures
    assert one.failure is not None
    return f"{one.failure.error_class}: {one.failure.message}"


def test_a_refresh_replaces_the_content_and_is_a_session(place: Place) -> None:
    assert place.refresh().failures == []
    assert place.content() == whole(1)
    place.fill(2)
    report = place.refresh("numbers")
    assert (place.content(), [one.rows for one in report.refreshed]) == (whole(2), [ROWS])
    first, second = place.sessions()
    assert (second.task_name, second.shard, second.day, second.attempt) == ("numbers", None, DAY, 1)
    assert (second.state, second.successful, second.loaded_rows) == (State.LOADED, True, ROWS)
    assert (second.run_id, second.comment) == (report.run_id, None)
    assert first.run_id != second.run_id
    assert held_locks(place.sandbox.root / "state") == []
    assert list((place.sandbox.root / "state/locks/runs").iterdir()) == []


def test_columns_go_by_name_and_a_default_fills_itself(place: Place) -> None:
    place.refresh()
    place.execute("ALTER TABLE reports.numbers ADD COLUMN noted INT DEFAULT 7")
    assert place.refresh().failures == []
    assert place.sandbox.warehouse("SELECT DISTINCT word, noted FROM reports.numbers") == [("abc", 7)]


@pytest.mark.parametrize("query", ["a query", "a file"])
def test_a_query_is_a_source(place: Place, query: str) -> None:
    sql = "SELECT id, version, '{{ ds[:3] }}' AS word FROM stage.numbers -- {{ report.name }}"
    place.sandbox.put("sql/reports/some.sql", f"{sql};\n")
    source = "reports/some.sql" if query == "a file" else sql
    place.put({"numbers": f'{KEYS}\nsource = "{source}"'})
    assert place.refresh().failures == []
    assert place.sandbox.warehouse("SELECT DISTINCT word FROM reports.numbers") == [("202",)]


# What fails leaves the old content


def fails_and_keeps_the_old(place: Place, *words: str, attempts: int = 1) -> None:
    """The next refresh fails, says why, and the version 1 stands."""
    report = place.refresh()
    text = failure_of(report)
    assert all(word in text for word in words), text
    assert place.content() == whole(1)
    states = [one.state for one in place.sessions()[1:]]
    assert states == [State.UP_FOR_RETRY] * (attempts - 1) + [State.FAILED]
    last = place.sessions()[-1]
    assert f"{last.error_class}: {last.comment}"[:300] == text[:300]
    assert held_locks(place.sandbox.root / "state") == []


def test_a_value_that_does_not_fit(place: Place) -> None:
    place.refresh()
    place.fill(2)
    place.execute("UPDATE stage.numbers SET word = 'too long' WHERE id = 99")
    if not isinstance(place.sandbox, Wire):
        # DuckDB knows no lengths: a number that is none stands for it.
        view = "CREATE OR REPLACE VIEW reports.numbers_view AS SELECT id, word, word::INT AS version FROM stage.numbers"
        path = place.sandbox.root / "sql/reports/numbers.sql"
        path.write_text(path.read_text() + view)
        fails_and_keeps_the_old(place, "TargetRefusedError", "Could not convert")
    else:
        fails_and_keeps_the_old(
            place, "ValueRefusedError", "reports.numbers.word: the value too long does not fit"
        )


def test_too_few_rows(place: Place) -> None:
    place.put({"numbers": f"{KEYS}\nmin_rows = {ROWS}"})
    place.refresh()
    place.fill(2, ROWS - 1)
    fails_and_keeps_the_old(place, "TooFewRowsError", f"gives {ROWS - 1} rows", f"min_rows = {ROWS}")


def test_other_columns_are_refused_by_name(place: Place) -> None:
    place.refresh()
    place.fill(2)
    path = place.sandbox.root / "sql/reports/numbers.sql"
    path.write_text(path.read_text().replace("SELECT word, id,", "SELECT word AS wrod, id,"))
    fails_and_keeps_the_old(
        place,
        "SchemaDriftError",
        "the source has wrod, which reports.numbers lacks",
        "reports.numbers has word, which the source lacks",
    )


def test_a_source_that_is_not_there(place: Place) -> None:
    place.refresh()
    place.put({"numbers": f'{KEYS}\nsource = "reports.nowhere"'})
    fails_and_keeps_the_old(place, "TargetRefusedError", "nowhere")


@needs_faults
@pytest.mark.parametrize("kind", ["reset", "error", pytest.param("close", marks=pytest.mark.long)])
def test_a_connection_lost_in_the_insert(vertica: Place, kind: str) -> None:
    vertica.refresh()
    vertica.fill(2)
    server_of(vertica).faults.add(Fault(kind, statement="^INSERT INTO .reports", application="refresh"))
    fails_and_keeps_the_old(vertica, "TargetError", attempts=2)
    server_of(vertica).faults.clear()
    assert vertica.refresh().failures == []
    assert vertica.content() == whole(2)


@needs_faults
@pytest.mark.parametrize(("kind", "stands"), [("lost_before_commit", 1), ("lost_after_commit", 2)])
def test_a_lost_commit_is_in_doubt_and_another_attempt_makes_it_right(
    vertica: Place, kind: str, stands: int
) -> None:
    vertica.refresh()
    vertica.fill(2)
    lost = server_of(vertica).faults.add(Fault(kind, application="refresh", times=1))
    report = vertica.refresh(retries=0)
    assert "CommitInDoubtError" in failure_of(report)
    assert "its old content or its new" in failure_of(report)
    assert vertica.content() == whole(stands)
    lost.struck = 0
    assert vertica.refresh(retries=1).failures == []
    assert [one.state for one in vertica.sessions()[-2:]] == [State.UP_FOR_RETRY, State.LOADED]
    assert vertica.content() == whole(2)


def lose_the_warehouse(place: Place, monkeypatch: pytest.MonkeyPatch, logins: int | None = None) -> None:
    """Lose it in mid-COMMIT, which happens late; so many logins are refused from then on, or all."""

    def reached(point: str) -> None:
        if point == "refresh.commit":
            monkeypatch.undo()
            server_of(place).faults.add(Fault("refuse_login", application="^dwhctl", times=logins))

    monkeypatch.setattr("dwhctl.core.faults.handler", reached)
    server_of(place).faults.add(Fault("late_commit", application=":refresh:", seconds=8, times=1))


@needs_faults
def test_a_commit_that_nobody_can_end_keeps_its_session_open(
    vertica: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertica.refresh()
    vertica.fill(2)
    lose_the_warehouse(vertica, monkeypatch)
    report = vertica.refresh(retries=1)
    assert (report.in_doubt, len(report.failures), report.exit_code) == (1, 1, 1)
    assert "CommitInDoubtError" in failure_of(report)
    left = vertica.sessions()[-1]
    assert (left.state, left.error_class, left.finished) == (State.RUNNING, "CommitInDoubtError", None)
    assert "Invalid username or password" in failure_of(vertica.refresh()), "blocked, and it says why"
    assert [one.state for one in vertica.sessions()[-2:]] == [State.RUNNING, State.FAILED]
    server_of(vertica).faults.clear()
    vertica.fill(3)
    assert vertica.refresh().failures == []
    assert [one.state for one in vertica.sessions()[-3:]] == [State.ABANDONED, State.FAILED, State.LOADED]
    wait_until(lambda: not server_of(vertica).sessions(), "the late commit is ended", seconds=10)
    assert vertica.content() == whole(3)


@needs_faults
def test_a_commit_in_doubt_is_ended_before_the_next_attempt(
    vertica: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertica.refresh()
    vertica.fill(2)
    lose_the_warehouse(vertica, monkeypatch, logins=1)
    events: list[ReportClosed] = []

    def listen(event: object) -> None:
        if isinstance(event, ReportClosed):
            events.append(event)

    report = vertica.refresh(listen=listen, retries=1)
    assert (report.failures, report.retried) == ([], 1)
    assert [one.state for one in events] == [State.RUNNING, State.LOADED]
    assert events[0].etl_id == events[1].etl_id
    assert vertica.sessions()[-1].state is State.LOADED
    assert vertica.content() == whole(2)


@needs_faults
def test_a_statement_past_the_timeout_is_ended_on_the_server(vertica: Place) -> None:
    vertica.put({"numbers": 'retries = 0\ntimeout = "1s"'})
    vertica.fill(2)
    hangs = Fault("hang_query", statement="^INSERT INTO .reports", application="refresh")
    server_of(vertica).faults.add(hangs)
    started = time.monotonic()
    assert "TimedOutError: not done after the report's timeout of 1s" in failure_of(vertica.refresh())
    assert time.monotonic() - started < 10
    until = time.monotonic() + 3
    while server_of(vertica).sessions_now:
        assert time.monotonic() < until
        time.sleep(0.02)
    server_of(vertica).faults.clear()
    assert vertica.refresh().failures == []
    assert vertica.content() == whole(2)


@needs_faults
def test_a_table_that_another_holds_is_tried_again(vertica: Place) -> None:
    vertica.refresh()
    vertica.fill(2)
    server_of(vertica).lock_timeout = 0.3
    assert isinstance(vertica.sandbox, Wire)
    with closing(vertica.sandbox._vertica()) as other, closing(other.cursor()) as cursor:
        cursor.execute("DELETE FROM reports.numbers")
        cursor.fetchall()
        events: list[ReportClosed] = []

        def listen(event: object) -> None:
            if isinstance(event, ReportClosed):
                events.append(event)
                other.rollback()

        report = vertica.refresh(listen=listen)
    assert (report.failures, report.retried) == ([], 1)
    assert events[0].failure is not None
    assert events[0].failure.error_class == "TargetBusyError"
    assert vertica.content() == whole(2)


def test_one_failing_report_costs_itself_only(place: Place) -> None:
    names = [f"numbers_{letter}" for letter in "abcd"]
    place.put(dict.fromkeys(names, "retries = 0"), "[refresh]\nmax_parallel = 3\n")
    broken = place.sandbox.root / "sql/reports/numbers_b.sql"
    broken.write_text(f"{broken.read_text()};\nSELECT nothing FROM stage.numbers; SELECT 1 AS one")
    report = place.refresh()
    assert [one.load for one in report.failures] == ["numbers_b"]
    assert "nothing" in failure_of(report)
    assert [place.content(name) for name in names if name != "numbers_b"] == [whole(1)] * 3


@needs_faults
def test_every_statement_is_sent_alone_and_none_commits_by_itself(vertica: Place) -> None:
    """vertica-python hides the errors of all statements but the first in a string of several."""
    vertica.refresh()
    server_of(vertica).forget()
    vertica.refresh()
    said = [one.sql for one in server_of(vertica).statements if ":refresh:" in one.application]
    assert not any(";" in sql or "TRUNCATE" in sql.upper() for sql in said)
    changing = [sql.split()[0] for sql in said if not sql.startswith("SELECT")]
    assert changing == ["DELETE", "INSERT", "COMMIT"]


def test_an_online_check_compares_the_columns(vertica: Place, capsys: pytest.CaptureFixture[str]) -> None:
    check = ("config", "check", "--online", "--project", vertica.sandbox.root)
    assert dwh(*check) == 0
    assert "numbers: warehouse: there is no table reports.numbers" in capsys.readouterr().err
    vertica.refresh()
    assert dwh(*check) == 0
    assert "Warning" not in capsys.readouterr().err.replace("Warning: config/dwhctl.toml", "")
    vertica.execute("ALTER TABLE reports.numbers ADD COLUMN more INT")
    assert dwh(*check) == 1
    assert "reports.numbers has more, which the source lacks" in capsys.readouterr().out
    assert vertica.content() == whole(1)


# What readers see

READER = """\
import duckdb, sys, time
seen = 0
while True:
    try:
        db = duckdb.connect(sys.argv[1], read_only=True)
    except duckdb.IOException:
        time.sleep(0.005)
        continue
    rows = db.execute("SELECT COUNT(*), MIN(version), MAX(version) FROM reports.numbers").fetchone()
    db.close()
    print(*rows, flush=True)
    time.sleep(0.03)
"""


def test_a_reader_never_sees_an_empty_or_mixed_report(place: Place) -> None:
    place.refresh()
    place.put({"numbers": KEYS}, creates=False)
    seen = list[tuple[int, ...]]()
    if isinstance(place.sandbox, Wire):
        done = threading.Event()
        reader = threading.Thread(target=poll, args=(place, seen, done))
        reader.start()
        try:
            refresh_twenty_times(place)
        finally:
            done.set()
            reader.join()
    else:
        file = str(place.sandbox.warehouse_file)
        with subprocess.Popen(
            [sys.executable, "-c", READER, file], stdout=subprocess.PIPE, text=True
        ) as other:
            try:
                refresh_twenty_times(place)
            finally:
                other.kill()
                assert other.stdout is not None
                seen += [tuple(map(int, line.split())) for line in other.stdout if line.count(" ") == 2]
    assert {rows for rows, _, _ in seen} == {ROWS}
    assert all(lowest == highest for _, lowest, highest in seen)
    assert [version for _, version, _ in seen] == sorted(version for _, version, _ in seen)
    assert len({version for _, version, _ in seen}) > 5


def poll(place: Place, seen: list[tuple[int, ...]], done: threading.Event) -> None:
    """Look again and again, on one connection."""
    assert isinstance(place.sandbox, Wire)
    with closing(place.sandbox._vertica()) as link, closing(link.cursor()) as cursor:
        while not done.is_set():
            cursor.execute("SELECT COUNT(*), MIN(version), MAX(version) FROM reports.numbers")
            seen.append(tuple(cursor.fetchall()[0]))
            link.commit()
            time.sleep(0.01)


def refresh_twenty_times(place: Place) -> None:
    """Each time another version."""
    for version in range(2, 22):
        place.fill(version)
        assert place.refresh().failures == []
    assert place.content() == whole(21)
