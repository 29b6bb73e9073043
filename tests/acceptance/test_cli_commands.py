"""Commands on small projects, as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from dwhctl.cli.reference import reference
from tests.cli_support import EXTRACT, LOAD, PROJECT, dwh, dwh_process, make_databases, small_project, write
from tests.postgres import PostgresServer
from tests.servers.base import Fault
from tests.servers.tds import TdsServer
from tests.support.prefork import DwhctlProcess

DAY = "2020-07-13"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    monkeypatch.chdir(small_project(tmp_path))
    return tmp_path


def one_worker(project: Path) -> None:
    """Let its loads start one worker process: these tests look at what a command says."""
    text = PROJECT.replace("[project]\n", "[project]\nmax_workers = 1\n")
    write(project, {"config/dwhctl.toml": text})


# init


def test_init_makes_a_project_that_passes_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dwh("init", "new") == 0
    assert "cd new" in capsys.readouterr().out
    assert dwh("config", "check", "--project", "new") == 0
    shown = capsys.readouterr()
    assert "the configuration is right: 3 connections, 3 shards, 1 load" in shown.out
    assert "MSSQL_0_PASSWORD is not set" in shown.err
    monkeypatch.setenv("MSSQL_0_PASSWORD", "a-secret")
    monkeypatch.setenv("DWH_PASSWORD", "b-secret")
    assert dwh("config", "check", "--project", "new") == 0
    assert capsys.readouterr().err == ""
    assert dwh("render", "orders", "--date", DAY, "--project", "new") == 0
    assert "FROM dbo.Orders" in capsys.readouterr().out


def test_init_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write(tmp_path, {"sql/orders/extract.sql": "mine"}))
    assert dwh("init") == 2
    assert "already has sql/orders/extract.sql" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["extract.sql"]


def test_init_says_when_it_may_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert dwh("init", tmp_path / "file" / "new") == 2
    assert "Not a directory" in capsys.readouterr().err


# config check


def test_config_check_names_every_problem_of_the_templates(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_databases(project)
    write(project, {"sql/orders.sql": "SELECT {{ nothing }} FROM x", "sql/create.sql": "-- nothing"})
    assert dwh("config", "check") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "sql/orders.sql: line 1: 'nothing' is undefined" in shown.err
    assert "sql/create.sql: has no statement" in shown.err
    assert shown.err.startswith("Error: 2 problems:")


def test_config_check_warns_of_a_literal_secret_and_never_shows_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = '\n[variables]\ntoken = { env = "NO_SUCH_TOKEN" }\n[connections.pg]\ntype = "postgres"\n'
    variables += 'host = "h"\ndatabase = "d"\nuser = "u"\npassword = "open-sesame-77"\n'
    write(project, {"config/dwhctl.toml": PROJECT + variables})
    assert dwh("config", "check") == 0
    shown = capsys.readouterr()
    assert (
        "Warning: config/dwhctl.toml: connections.pg.password: the secret itself is in the file" in shown.err
    )
    assert "NO_SUCH_TOKEN is not set" in shown.err
    assert dwh("connections", "list", "--format", "json") == 0
    listed = capsys.readouterr().out
    assert json.loads(listed)[-1] == {
        "name": "pg",
        "type": "postgres",
        "address": "h:5432/d",
        "user": "u",
        "password": "********",
        "max_connections": 4,
        "used_for": "nothing",
    }
    assert "open-sesame" not in shown.out + shown.err + listed


def test_config_check_is_quiet_when_asked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_databases(project)
    assert dwh("config", "check", "-q") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"load": LOAD.replace("slice_by", "slice_bye")}, "did you mean 'slice_by'?"),
        ({"project": PROJECT + "oops = ["}, "config/dwhctl.toml"),
        ({"load": LOAD.replace("orders.sql", "nothing.sql")}, "nothing.sql"),
    ],
)
def test_a_wrong_configuration_ends_every_command_with_2(
    tmp_path: Path, changed: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small_project(tmp_path, **changed)
    before = sorted(tmp_path.rglob("*"))
    for command in (["config", "check"], ["load", "--date", DAY], ["connections", "list"]):
        assert dwh(*command, "--project", tmp_path) == 2
        shown = capsys.readouterr()
        assert words in shown.err
        assert shown.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_no_project_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    assert dwh("config", "check") == 2
    assert "dwhctl init" in capsys.readouterr().err


# render


def test_render_shows_the_sql_and_its_values(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("render", "orders", "--date", DAY, "--shard", "chita") == 0
    assert capsys.readouterr().out == (
        "-- load orders, shard chita, day 2020-07-13: database chita on server_1\n"
        "-- :start = 2020-07-13 00:00:00\n"
        "-- :end = 2020-07-14 00:00:00\n" + EXTRACT
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["oders", "--date", DAY], "there is no load 'oders'; did you mean 'orders'?"),
        (
            ["orders", "--date", DAY, "--shard", "chit"],
            "no shard 'chit' in the load 'orders'; did you mean 'chita'?",
        ),
        (["orders", "--date", "2020-02-30"], "'2020-02-30' is not a day: the calendar has no such date"),
    ],
)
def test_render_says_what_was_meant(
    project: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh("render", *arguments) == 2
    assert words in capsys.readouterr().err


# connections


def test_connections_list(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("connections", "list", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["name"], row["address"], row["used_for"]) for row in rows] == [
        ("sessions", "state/sessions.sqlite", "sessions"),
        ("server_0", "server_0", "2 shards"),
        ("server_1", "server_1", "1 shard"),
        ("dwh", "dwh.duckdb", "target of 1 load"),
    ]


def test_connections_list_counts_each_use_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = '[reports.{0}]\nconnection = "dwh"\nsource = "stage.{0}_view"\ntarget = "stage.{0}"\n'
    write(project, {"config/reports.toml": "".join(report.format(name) for name in ("sums", "tops"))})
    assert dwh("connections", "list", "--format", "json") == 0
    uses = {row["name"]: row["used_for"] for row in json.loads(capsys.readouterr().out)}
    assert uses["dwh"] == "target of 1 load, 2 reports"


def trips(capsys: pytest.CaptureFixture[str], *names: str, code: int) -> list[dict[str, object]]:
    assert dwh("connections", "test", *names, "--format", "json") == code
    result = json.loads(capsys.readouterr().out)
    assert result["exit_code"] == code
    rows: list[dict[str, object]] = result["connections"]
    return rows


def test_connections_test_makes_a_round_trip_in_every_database(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_databases(project)
    rows = trips(capsys, code=0)
    assert [(row["connection"], row["database"], row["ok"]) for row in rows] == [
        ("sessions", None, True),
        ("server_0", "abakan", True),
        ("server_0", "achinsk", True),
        ("server_1", "chita", True),
        ("dwh", None, True),
    ]
    assert "first load makes it" in str(rows[0]["reason"])
    assert str(rows[1]["version"]).startswith("DuckDB ")
    assert isinstance(rows[1]["latency_ms"], float)
    assert not (project / "dwh.duckdb").exists()
    assert not (project / "state").exists()


def test_connections_test_says_why_one_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_databases(project)
    (project / "server_0" / "abakan.duckdb").write_bytes(b"no database" * 1000)
    (project / "server_1" / "chita.duckdb").unlink()
    rows = trips(capsys, "server_0", "server_1", code=1)
    assert [(row["database"], row["ok"]) for row in rows] == [
        ("abakan", False),
        ("achinsk", True),
        ("chita", False),
    ]
    assert "not a DuckDB database" in str(rows[0]["reason"])
    assert "there is no file" in str(rows[2]["reason"])


def test_connections_test_asks_a_dead_server_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = trips(capsys, "server_0", code=1)
    assert "there is no folder" in str(rows[0]["reason"])
    assert str(rows[1]["reason"]).startswith("not tried: ")


def test_connections_test_refuses_a_connection_that_cannot_be_what_it_is_used_for(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DWHCTL_CONN_SERVER_1", "vertica://sa:pass-word-9@127.0.0.1:1/chita")
    assert dwh("connections", "test", "server_1") == 2
    shown = capsys.readouterr().err
    assert "'server_1' is of type vertica, which cannot be a shard's server; use one of type duckdb" in shown
    assert "pass-word-9" not in shown


def test_connections_test_says_why_a_sql_server_is_out_of_reach(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DWHCTL_CONN_SERVER_0", "mssql://sa:pass-word-9@127.0.0.1:1")
    rows = trips(capsys, "server_0", code=1)
    assert [(row["type"], row["database"]) for row in rows] == [("mssql", "abakan"), ("mssql", "achinsk")]
    assert "server 127.0.0.1:1, database abakan, cannot be reached: Connection refused" in str(
        rows[0]["reason"]
    )
    assert str(rows[1]["reason"]).startswith("not tried: ")
    assert "pass-word-9" not in json.dumps(rows)


def test_connections_test_tries_a_sql_server_that_nothing_uses_yet(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with TdsServer() as server:
        connection = server.connection()
        assert connection.password is not None
        password = connection.password.reveal()
        address = f"mssql://{connection.user}:{password}@127.0.0.1:{server.port}"
        monkeypatch.setenv("DWHCTL_CONN_EXTRA", address)
        (row,) = trips(capsys, "extra", code=0)
        assert row["database"] == "master"
        assert "SQL Server" in str(row["version"])
        server.faults.add(Fault("hang_query", statement="VERSION"))
        monkeypatch.setenv("DWHCTL_CONN_EXTRA", f"{address}?connect_timeout=1s")
        (row,) = trips(capsys, "extra", code=1)
        assert "broke off" in str(row["reason"])
        assert password not in json.dumps(row)


def test_connections_test_with_an_unknown_name(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("connections", "test", "servr_0") == 2
    assert "did you mean 'server_0'?" in capsys.readouterr().err


def test_connections_test_of_sessions_in_postgres(
    project: Path,
    postgres_server: PostgresServer,
    postgres_database: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = postgres_server
    table = f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\nuser = "{server.user}"\n'
    table += f'database = "{postgres_database}"\n'
    table += f'password = "{server.password}"\n' if server.password else ""
    text = PROJECT.replace('type = "sqlite"\npath = "state/sessions.sqlite"\n', table)
    write(project, {"config/dwhctl.toml": text})
    (row,) = trips(capsys, "sessions", code=0)
    assert str(row["version"]).startswith("PostgreSQL ")
    write(project, {"config/dwhctl.toml": text.replace(postgres_database, "no_such_database")})
    (row,) = trips(capsys, "sessions", code=1)
    assert "no_such_database" in str(row["reason"])


# load


def test_load_brings_the_day_and_says_so(project: Path) -> None:
    one_worker(project)
    make_databases(project)
    done = dwh_process("load", "--date", DAY, folder=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 slices loaded, 0 skipped (no rows), 0 failed; 6 rows in ")
    assert "started: 3 slices of 1 load from 2 servers, 2020-07-13" in done.stderr
    with duckdb.connect(str(project / "dwh.duckdb")) as db:
        assert db.sql("SELECT count(*) FROM stage.orders").fetchall() == [(6,)]
    quiet = dwh_process("load", "orders", "orders", "--date", DAY, "-q", folder=project)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    with duckdb.connect(str(project / "dwh.duckdb")) as db:
        assert db.sql("SELECT count(*) FROM stage.orders").fetchall() == [(6,)]


def test_a_failed_slice_is_told_with_the_command_that_tries_it_again(project: Path) -> None:
    one_worker(project)
    make_databases(project)
    (project / "server_1" / "chita.duckdb").unlink()
    done = dwh_process("load", "--date", DAY, "--project", ".", folder=project)
    assert done.returncode == 1
    assert "2 slices loaded, 0 skipped (no rows), 1 failed" in done.stdout
    assert "1 slice failed: DatabaseMissingError: " in done.stdout
    assert (
        "make the database readable for connection server_1, or correct the shard in config/dwhctl.toml"
        in done.stdout
    )
    assert f", then: dwhctl load orders --date {DAY} --shard chita --project ." in done.stdout
    assert "failed: orders chita 2020-07-13 (from server_1): attempt 1 failed" in done.stderr
    quiet = dwh_process("load", "--date", DAY, "-q", folder=project)
    assert quiet.returncode == 1
    assert quiet.stdout.strip().startswith("1 slice failed: DatabaseMissingError: ")
    assert quiet.stderr == ""


def test_a_dry_run_shows_the_plan_and_touches_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(project.rglob("*"))
    assert dwh("load", "--date", "2020-07-02", "--lookback", "3", "--shard", "a*", "--dry-run") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "load    first day   last day    days  shards  slices",
        "orders  2020-07-01  2020-07-02     2       2       4",
        "would load 4 slices; left out: 4 before their start date",
        "no past durations to tell how long 4 workers will take",
    ]
    assert shown.err == ""
    assert dwh("load", "--date", DAY, "--dry-run", "-v") == 0
    assert "orders  chita    2020-07-13  server_1" in capsys.readouterr().out
    assert sorted(project.rglob("*")) == before


def test_relative_days_are_two_arguments(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("load", "--date", "-3d", "--dry-run") == 0
    assert "would load 3 slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--date", "2020-02-30"], "the calendar has no such date"),
        (["--date", "2999-01-01"], "lies in the future"),
        (["--date", DAY, "--shard", "omsk"], "no shard matches 'omsk'"),
        (["oders", "--date", DAY], "did you mean 'orders'?"),
    ],
)
def test_load_refuses_what_does_not_fit(
    project: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(project.rglob("*"))
    assert dwh("load", *arguments) == 2
    assert words in capsys.readouterr().err
    assert sorted(project.rglob("*")) == before


def test_tomorrow_may_be_loaded(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import time_machine

    with time_machine.travel("2020-07-12T21:30:00Z", tick=False):  # the 13th in Moscow
        assert dwh("load", "--date", "2020-07-14", "--dry-run") == 0
        assert dwh("load", "--date", "2020-07-15", "--dry-run") == 2
    assert "today is 2020-07-13 in Europe/Moscow" in capsys.readouterr().err


def on_a_terminal(*arguments: str, folder: Path, **environment: str) -> tuple[str, str]:
    """Run a command whose stderr is a terminal; give what went to stdout and to the terminal."""
    mine, theirs = pty.openpty()
    with DwhctlProcess(
        *arguments,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment},
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            seen += chunk
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(mine)
    return out, seen.decode()


def test_a_terminal_gets_live_progress_and_stdout_only_the_summary(project: Path) -> None:
    one_worker(project)
    make_databases(project)
    out, seen = on_a_terminal("load", "--date", DAY, folder=project)
    assert out.startswith("3 slices loaded")
    assert "\x1b[" not in out
    assert "server_1" in seen
    assert "3/3" in seen
    assert "\x1b[3" in seen
    assert "started: " not in seen
    _, plain = on_a_terminal("load", "--date", DAY, folder=project, NO_COLOR="1")
    assert "3/3" in plain
    assert "\x1b[3" not in plain
    _, dumb = on_a_terminal("load", "--date", DAY, folder=project, TERM="dumb")
    assert "started: " in dumb


# completion


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("dwhctl load o", ["orders"]),
        ("dwhctl load --shard a", ["abakan", "achinsk"]),
        ("dwhctl render --shard c", ["chita"]),
        ("dwhctl connections test se", ["server_0", "server_1", "sessions"]),
        ("dwhctl con", ["connections", "config"]),
        ("dwhctl load --loo", ["--lookback"]),
        ("dwhctl load --project /nowhere o", []),
    ],
)
def test_a_shell_completes(project: Path, typed: str, completed: list[str]) -> None:
    words = typed.split(" ")
    asked = {"_DWHCTL_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = dwh_process(folder=project, environment=asked)
    assert [line.partition(",")[2] for line in done.stdout.split()] == completed
    assert done.stderr == ""


def test_completion_is_silent_on_a_broken_project(project: Path) -> None:
    write(project, {"config/dwhctl.toml": "nonsense"})
    asked = {"_DWHCTL_COMPLETE": "bash_complete", "COMP_WORDS": "dwhctl load o", "COMP_CWORD": "2"}
    done = dwh_process(folder=project, environment=asked)
    assert (done.stdout.strip(), done.stderr) == ("", "")


# reference


def test_the_reference_has_every_command_and_key(tmp_path: Path) -> None:
    page = reference()
    for words in ("### `dwhctl connections test`", "--only-missing", "`latency_ms`", "| 75 |", "slice_zone"):
        assert words in page
    assert page.count("\n# ") == 0
    file = write(tmp_path, {"reference.md": page}) / "reference.md"
    check = [sys.executable, "-m", "dwhctl.cli.reference", "--check", str(file)]
    assert subprocess.run(check, check=False).returncode == 0
    file.write_text(page + "x", encoding="utf-8")
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python -m dwhctl.cli.reference >" in done.stderr
