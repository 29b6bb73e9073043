"""`dwhctl report failures`, `runs`, `sessions`, `durations`, as a user runs them."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import sqlite3
import struct
import termios
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.cli.report import history as report_durations
from dwhctl.cli.report import history as report_runs
from dwhctl.cli.report import history as report_sessions
from dwhctl.cli.report import slices as report_failures
from dwhctl.cli.report.history import sparkline
from dwhctl.project.read import read_project
from dwhctl.sessions import Closing, NewSession, State, open_store
from tests.cli_support import dwh, small_project
from tests.postgres import PostgresServer
from tests.support.prefork import DwhctlProcess
from tests.support.projects import DAY, Sandbox

COLUMNS = {
    "failures": report_failures.FAILURES.names,
    "runs": report_runs.RUNS.names,
    "sessions": report_sessions.SESSIONS.names,
    "durations": report_durations.DURATIONS.names,
}
REPORTS = pytest.mark.parametrize("name", list(COLUMNS))
LONG = "cannot connect to server_0: " + "the quick brown fox " * 12
NOW = datetime.now(UTC)
OLD_RUN, RUN = (f"{NOW - timedelta(hours=hours):%Y%m%dT%H%M%S}-0123abcd" for hours in (75, 3))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    monkeypatch.chdir(small_project(tmp_path))
    return tmp_path


@pytest.fixture
def project(empty: Path) -> Path:
    """A project whose achinsk fails since two days and whose chita failed three days ago."""
    rows = [
        # run, shard, day, attempt, hours ago, state, comment
        (OLD_RUN, "abakan", 13, 1, 75, State.LOADED, None),
        (OLD_RUN, "chita", 13, 1, 74, State.FAILED, "three days ago"),
        (RUN, "abakan", 14, 1, 3, State.LOADED, None),
        (RUN, "achinsk", 13, 1, 2, State.FAILED, "the day before"),
        (RUN, "achinsk", 14, 1, 2, State.UP_FOR_RETRY, "first"),
        (RUN, "achinsk", 14, 2, 1, State.ABANDONED, LONG),
    ]
    with open_store(read_project(empty).sessions) as store:
        store.prepare()
        for number, (run, shard, day, attempt, hours, state, comment) in enumerate(rows):
            began = NOW - timedelta(hours=hours)
            session = NewSession(run, "orders", shard, date(2020, 7, day), attempt, f"t{number}", began)
            good = state is State.LOADED
            [session_id] = store.open([session])
            end = began + timedelta(seconds=90.5)
            store.close(
                [
                    Closing(
                        session_id,
                        state,
                        end,
                        1234 if good else None,
                        None,
                        None,
                        None if good else "X",
                        comment,
                    )
                ]
            )
    return empty


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """Give the rows of a report's JSON, after a look that CSV holds the same."""
    assert dwh("report", *arguments, "--format", "json") == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert dwh("report", *arguments, "--format", "csv") == 0
    in_csv = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    as_text = {None: "", True: "true", False: "false"}
    texts = [
        {key: as_text.get(value, str(value)) if not isinstance(value, int) or isinstance(value, bool) else str(value)
         for key, value in row.items()}
        for row in rows
    ]  # fmt: skip
    assert in_csv == texts
    return rows


# What they tell


def test_failures_are_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [task] = listed(capsys, "failures")
    assert tuple(task) == COLUMNS["failures"]
    assert (task["task_name"], task["load"], task["shard"]) == ("orders__achinsk", "orders", "achinsk")
    assert (task["streak"], task["failed"], task["up_for_retry"], task["since"]) == (2, 2, 0, "2020-07-13")
    assert datetime.fromisoformat(task["last_failed"]) == NOW - timedelta(hours=1) + timedelta(seconds=90.5)
    assert task["last_error"] == f"X: {LONG}"
    assert [task["shard"] for task in listed(capsys, "failures", "--days", "9")] == ["achinsk", "chita"]
    assert [task["shard"] for task in listed(capsys, "failures", "--days", "9", "--shard", "c*")] == ["chita"]
    assert listed(capsys, "failures", "--load", "orders", "--shard", "abakan") == []


@pytest.mark.parametrize(("arguments", "code"), [(("--shard", "achinsk"), 1), (("--shard", "abakan"), 0)])
def test_a_script_asks_by_exit_code(
    project: Path, arguments: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh("report", "failures", "--exit-code", *arguments) == code
    assert ("nothing is failing" in capsys.readouterr().err) == (code == 0)


def test_runs_are_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    young, old = listed(capsys, "runs")
    assert tuple(young) == COLUMNS["runs"]
    assert (young["run_id"], old["run_id"]) == (RUN, OLD_RUN)
    counts = [
        young[name]
        for name in ("slices", "loaded", "skipped", "failed", "up_for_retry", "abandoned", "running")
    ]
    assert counts == [3, 1, 0, 1, 1, 1, 0]
    assert (young["loads"], young["rows"], young["pid"]) == ("orders", 1234, os.getpid())
    assert young["seconds"] == 2 * 3600 + 90.5
    assert len(listed(capsys, "runs", "--limit", "1")) == len(listed(capsys, "runs", "--days", "2")) == 1


def test_a_refresh_is_listed_with_its_reports(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refresh = f"{NOW - timedelta(minutes=9):%Y%m%dT%H%M%S}-0123abcd"
    with open_store(read_project(project).sessions) as store:
        for name in ("sums", "tops", "best"):
            [one] = store.open([NewSession(refresh, name, None, date(2020, 7, 14), 1, name, NOW)])
            store.close([Closing(one, State.LOADED, NOW + timedelta(seconds=2.5), 1)])
    report, load, _ = listed(capsys, "runs")
    assert (report["run_id"], report["loads"], report["reports"]) == (refresh, "", "best, sums, tops")
    assert (load["loads"], load["reports"]) == ("orders", "")
    assert dwh("report", "runs") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split("  ")[3:4] == ["3 reports"]
    assert "3 loads" not in out


def test_sessions_are_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "sessions")
    assert tuple(rows[0]) == COLUMNS["sessions"]
    assert [row["id"] for row in rows] == [6, 5, 4, 3, 2, 1]
    assert (rows[0]["state"], rows[0]["successful"], rows[0]["comment"]) == ("abandoned", False, LONG)
    assert (rows[0]["slice_date"], rows[0]["attempt"], rows[0]["staged"]) == ("2020-07-14", 2, "t5")

    def ids(*arguments: str) -> list[int]:
        return [row["id"] for row in listed(capsys, "sessions", *arguments)]

    assert ids("--state", "failed") == [4, 2]
    assert ids("--state", "failed", "--state", "abandoned", "--days", "2") == [6, 4]
    assert ids("--run", OLD_RUN, "--load", "orders") == [2, 1]
    assert ids("--run", OLD_RUN[:-1]) == [2, 1]
    assert ids("--run", "last") == [6, 5, 4, 3]
    assert dwh("report", "sessions", "--run", "20", "--project", project) == 2
    several = f"'20' is the beginning of several runs: {OLD_RUN}, {RUN}; write more of it"
    assert several in capsys.readouterr().err
    assert ids("--shard", "a*", "--limit", "2") == [6, 5]


def test_durations_are_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [task] = listed(capsys, "durations", "--shard", "a*")
    expected = ("orders", "abakan", 2, 90.5, 90.5, 90.5, "▄▄")
    assert task == dict(zip(COLUMNS["durations"], expected, strict=True))
    assert listed(capsys, "durations", "--days", "1", "--load", "orders")[0]["sessions"] == 1


def test_a_sparkline_shows_ups_and_downs() -> None:
    assert sparkline([0, 1, 7]) == "▁▂█"
    assert sparkline([10, 10.5]) == "▄▄"
    assert sparkline([0, 0]) == "▄▄"


def test_a_load_that_failed_is_among_the_failures(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, load_keys="retries = 0").write()
    sandbox.fill(shards=["abakan", "achinsk"])
    assert sandbox.load().failed == 1
    told = sandbox.run("report", "failures", "--exit-code")
    assert told.returncode == 1
    assert re.search(rf"orders__chita +orders +chita +1 +1 +0 +{DAY} ", told.stdout)
    assert "failed=1" not in told.stderr


# What is not there, or wrong


@REPORTS
def test_a_project_without_sessions_has_nothing_to_tell(
    name: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh("report", name, "--format", "json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == []
    assert shown.err.startswith("no sessions yet")
    assert dwh("report", name, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert not (empty / "state").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_state_folder_that_is_gone_is_no_new_project(
    kind: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = empty / "state"
    if kind == "file":
        state.write_text("")
        said = "is a file in the place of a folder; move it away"
    else:
        state.symlink_to(empty / "not_mounted")
        said = f"is a link to {empty / 'not_mounted'}, which does not exist"
    assert dwh("report", "failures") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{state} {said}\n" in shown.err


@REPORTS
def test_a_broken_sessions_database_is_an_error(
    name: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty / "state").mkdir()
    (empty / "state" / "sessions.sqlite").write_text("this is a letter to my aunt, not a database\n" * 50)
    assert dwh("report", name) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"^Error: sessions in .*not a database; the file is of another kind", shown.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("failures", "--load", "order"), "there is no load 'order'; did you mean 'orders'?"),
        (("durations", "--shard", "chitta"), "no shard matches 'chitta'; did you mean 'chita'?"),
        (("sessions", "--run", f"x{RUN}"), f"there is no run 'x{RUN}'; did you mean '{RUN}'?"),
        (("sessions", "--state", "faild"), "'faild'"),
        (("failures", "--days", "0"), "'--days'"),
        (("failure",), "did you mean 'failures'?"),
    ],
    # A run's id holds the time of this moment: no part of a test's name.
    ids=["load", "shard", "run", "state", "days", "report"],
)
def test_typing_mistakes_are_told_what_was_meant(
    arguments: tuple[str, ...], words: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh("report", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err


# How they look


def on_terminal(project: Path, width: int, *arguments: str, **environment: str) -> str:
    """Give what a report writes to a terminal of this width."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    process = DwhctlProcess(
        "report",
        *arguments,
        "--project",
        str(project),
        stdin=child,
        stdout=child,
        stderr=child,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(child)
    output = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the terminal's other end is closed
            break
        output += part
    os.close(parent)
    assert process.wait() == 0
    return output.decode().replace("\r\n", "\n")


def lines_of(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize(
    ("width", "name", "header"),
    [
        (80, "failures", "task name streak since last error"),
        (200, "failures", "task name load shard streak failed retry since last failed last error"),
        (80, "sessions", "task name slice date state comment"),
        (80, "runs", "run id slices loaded failed rows seconds loads"),
    ],
)
def test_a_table_fits_the_terminal(width: int, name: str, header: str, project: Path) -> None:
    lines = lines_of(on_terminal(project, width, name))
    if name == "failures":  # below the table are commands, each on a line that can be copied
        end = lines.index("try again:")
        assert lines[end + 1].startswith(
            "  dwhctl backfill orders -s 2020-07-13 -e 2020-07-14 --shard achinsk"
        )
        lines = lines[: end - 1]
    assert max(map(len, lines)) <= width
    [rule] = [number for number, line in enumerate(lines) if line.startswith("───")]
    assert " ".join(lines[rule - 1].split()) == header
    assert not any("…" in line for line in lines[:rule])
    text = " ".join(" ".join(lines).split())
    if name == "failures":
        assert "X: cannot connect to server_0: the quick" in text
        assert text.endswith("…")  # a long error is cut, and whole with -v
        whole = " ".join(" ".join(lines_of(on_terminal(project, 250, name, "-v"))).split())
        assert whole.count("brown") == 12


def test_states_are_coloured_and_stand_there_as_words(project: Path) -> None:
    coloured = on_terminal(project, 120, "sessions")
    assert "\x1b[35mabandoned" in coloured
    assert "\x1b[31mfailed" in coloured
    plain = on_terminal(project, 120, "sessions", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain)
    assert [line.split() for line in lines_of(plain)] == [line.split() for line in lines_of(coloured)]


def test_a_file_gets_plain_lines_with_everything(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("report", "failures") == 0
    header, line, _, again, command = capsys.readouterr().out.splitlines()
    assert (again, command.split(" --")[0]) == (
        "try again:",
        "  dwhctl backfill orders -s 2020-07-13 -e 2020-07-14",
    )
    assert header.split("  ")[0] == "task name"
    assert line.endswith(LONG.strip())
    assert dwh("report", "sessions") == 0
    assert "\x1b" not in capsys.readouterr().out


# PostgreSQL

POSTGRES = (
    '[connections.sessions]\ntype = "postgres"\nhost = "{0}"\nport = {1}\nuser = "{2}"\ndatabase = "{3}"\n'
)
SQLITE = '[connections.sessions]\ntype = "sqlite"\npath = "state/sessions.sqlite"\n'


def in_postgres(folder: Path, *place: object) -> Path:
    file = folder / "config" / "dwhctl.toml"
    text = file.read_text()
    assert SQLITE in text
    file.write_text(text.replace(SQLITE, POSTGRES.format(*place)))
    return folder


def test_postgres_tells_the_same(
    project: Path, postgres_server: PostgresServer, postgres_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows are copied, so that even ids and times are the same."""
    in_sqlite = {name: listed(capsys, name) for name in COLUMNS}
    with closing(sqlite3.connect(project / "state" / "sessions.sqlite")) as db:
        cursor = db.execute("SELECT * FROM sessions ORDER BY id")
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    in_postgres(project, postgres_server.host, postgres_server.port, postgres_server.user, postgres_database)
    assert listed(capsys, "failures") == []
    with open_store(read_project(project).sessions) as store:
        store.prepare()
    with closing(postgres_server.connect(postgres_database)) as connection, connection.cursor() as writer:
        for row in rows:
            values = row | {"successful": bool(row["successful"])}
            marks = ", ".join(f"%({name})s" for name in names)
            writer.execute(f"INSERT INTO sessions ({', '.join(names)}) VALUES ({marks})", values)
    assert {name: listed(capsys, name) for name in COLUMNS} == in_sqlite


@REPORTS
def test_a_server_that_does_not_answer_is_an_error(
    name: str, empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_postgres(empty, tmp_path, 5432, "etl", "etl")
    assert dwh("report", name) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"^Error: sessions in PostgreSQL .*connecting: .*check connections.sessions", shown.err)
