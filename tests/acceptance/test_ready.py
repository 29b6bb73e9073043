"""`ready`: a load waits until its shards say that the day is there, on DuckDB and over the wire."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dwhctl.runtime.events import Event, RunStarted, SliceWaits
from dwhctl.sessions import State
from tests.cli_support import dwh
from tests.support.faulty import wait_for_end, wait_until
from tests.support.projects import DAY, Sandbox
from tests.support.wire import a_wire, needs_faults

Captured = pytest.CaptureFixture[str]
KEYS = 'retries = 1\nretry_delay = "1s"\nready = "orders/ready.sql"\nready_interval = "1s"\n'
READY = "SELECT bool_or(done)\nFROM etl_done\nWHERE day >= :start AND day < :end\n"


def a_sandbox(root: Path, timeout: str = "1s", query: str = READY) -> Sandbox:
    """Three shards with orders, and with a table that says which days are done: none is."""
    sandbox = Sandbox(root, load_keys=f'{KEYS}ready_timeout = "{timeout}"').write().fill()
    sandbox.put("sql/orders/ready.sql", query)
    for shard in sandbox.shards():
        sandbox.in_shard(shard, f"CREATE TABLE etl_done AS SELECT DATE '{DAY}' AS day, false AS done")
    return sandbox


def finish(sandbox: Sandbox, *shards: str) -> None:
    for shard in shards:
        sandbox.in_shard(shard, "UPDATE etl_done SET done = true")


def finishing(finish_one: Callable[[str], None], *shards: str) -> Callable[[Event], None]:
    """Have a shard ready when the run first waits for it."""

    def listen(event: Event) -> None:
        if isinstance(event, SliceWaits) and event.shard in shards:
            finish_one(event.shard)

    return listen


def test_a_slice_is_loaded_when_its_shard_is_ready_and_the_others_next_time(tmp_path: Path) -> None:
    sandbox = a_sandbox(tmp_path)
    finish(sandbox, "abakan")
    begun: list[datetime] = []
    flip = finishing(lambda shard: finish(sandbox, shard), "chita")

    def listen(event: Event) -> None:
        flip(event)
        if isinstance(event, RunStarted):
            begun.append(datetime.now(UTC))

    result = sandbox.load(listen=listen)
    assert (result.loaded, result.failed, result.retried) == (2, 1, 0)
    assert sandbox.target_rows() == sandbox.source_rows(shards=["abakan", "chita"])
    (group,) = result.groups
    assert group.failure.error_class == "NotReady"
    assert group.failure.message.startswith("sql/orders/ready.sql was not true since 20")
    assert group.advice == "see why sql/orders/ready.sql is not true there, then"
    assert group.command.startswith(f"dwhctl load orders --date {DAY}")
    failed = next(session for session in sandbox.sessions_newest_first() if session.shard == "achinsk")
    assert (failed.state, failed.attempt, failed.error_class) == (State.FAILED, 1, "NotReady")
    assert abs(failed.started - begun[0]) < timedelta(seconds=1)
    assert failed.finished is not None
    assert failed.finished - failed.started >= timedelta(seconds=0.9)
    finish(sandbox, "achinsk")
    assert sandbox.load(only_missing=True).loaded == 1
    assert sandbox.target_rows() == sandbox.source_rows()


def test_the_run_shows_and_logs_what_waits_and_ctrl_c_ends_it(tmp_path: Path, capsys: Captured) -> None:
    sandbox = a_sandbox(tmp_path, timeout="10m")
    finish(sandbox, "abakan")
    process = sandbox.start("load", "--date", str(DAY), "--verbose")
    logs = tmp_path / "state" / "logs"

    def log() -> list[dict[str, object]]:
        return [json.loads(line) for path in logs.glob("*.jsonl") for line in path.read_text().splitlines()]

    def waiting() -> set[object]:
        return {line["shard"] for line in log() if line["event"] == "slice_waits"}

    def is_loaded() -> bool:
        sessions = sandbox.sessions_newest_first()
        return bool(sessions and sessions[0].successful)

    wait_until(lambda: waiting() == {"achinsk", "chita"} and is_loaded(), "one loaded, two wait")
    process.send_signal(signal.SIGINT)
    out, _ = wait_for_end(process, seconds=5)
    assert process.returncode == 130
    assert "1 slice loaded" in out
    (line,) = [line for line in log() if line["event"] == "slice_waits" and line["shard"] == "chita"]
    assert line["message"] == "sql/orders/ready.sql is not true"
    assert str(line["until"]) > str(line["time"])
    assert [session.shard for session in sandbox.sessions_newest_first()] == ["abakan"]
    assert dwh("report", "log", "last", "--project", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "slice_waits" in shown
    assert "sql/orders/ready.sql is not true" in shown


def test_a_wrong_query_fails_its_slices_with_file_and_line(tmp_path: Path, capsys: Captured) -> None:
    sandbox = a_sandbox(tmp_path, query="SELECT done\nFROM etl_don\n")
    result = sandbox.load()
    assert (result.loaded, result.failed, result.retried) == (0, 3, 0)
    (group,) = result.groups
    assert (group.failure.error_class, group.advice) == (
        "QueryError",
        "create the table there or correct sql/orders/ready.sql (line 2), then",
    )
    assert group.failure.message.startswith("sql/orders/ready.sql: ")
    assert dwh("config", "check", "--online", "--project", tmp_path) == 1
    assert "orders: sql/orders/ready.sql: " in capsys.readouterr().out


def test_a_dry_run_and_render_and_the_defaults(tmp_path: Path, capsys: Captured) -> None:
    sandbox = a_sandbox(tmp_path)
    sandbox.put(
        "config/loads/orders.toml", (tmp_path / "config/loads/orders.toml").read_text().replace(KEYS, "")
    )
    main = (tmp_path / "config/dwhctl.toml").read_text()
    sandbox.put("config/dwhctl.toml", f"{main}\n[load_defaults]\n{KEYS}")
    command = ("--date", str(DAY), "--project", tmp_path)
    assert dwh("load", *command, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "orders: each slice waits until sql/orders/ready.sql is true, up to 1s" in shown
    assert not (tmp_path / "state").exists()
    assert dwh("render", "orders", *command, "--part", "ready", "--shard", "chita") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "-- ready of load orders, shard chita, day 2020-07-14: database chita on server_1:"
        " every 1s, up to 1s\n-- :start = 2020-07-14 00:00:00\n"
    )
    assert shown.endswith(f"\n{READY}")
    sandbox.put("config/dwhctl.toml", main)
    assert dwh("render", "orders", *command, "--part", "ready") == 2
    assert "orders is a load, which has no ready" in capsys.readouterr().err


#: Queries, and what `config check` says of them.
WRONG = {
    "SELECT {{ dss }}": "sql/orders/ready.sql: line 1: 'dss' is undefined; did you mean 'ds'?",
    "SELECT 1;\nSELECT 2": "sql/orders/ready.sql: has 2 statements; a ready query is one SELECT",
    "SELECT\n:stat": "sql/orders/ready.sql: line 2: ':stat' is not a bind parameter; did you mean ':start'?",
    "SELEC 1": "sql/orders/ready.sql: line 1 as rendered: Parser Error",
}


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, capsys: Captured) -> None:
    sandbox = Sandbox(tmp_path, {"server_0": ["abakan"]}, load_keys=KEYS).write().fill(1)
    for command in (("config", "check"), ("load", "--date", str(DAY))):
        assert dwh(*command, "--project", tmp_path) == 2
        assert "orders.toml: ready: the file sql/orders/ready.sql is missing" in capsys.readouterr().err
    for query, problem in WRONG.items():
        sandbox.put("sql/orders/ready.sql", query)
        assert dwh("config", "check", "--project", tmp_path) == 2
        assert problem in capsys.readouterr().err
    sandbox.put("sql/orders/ready.sql", next(iter(WRONG)))
    assert dwh("load", "--date", str(DAY), "--project", tmp_path) == 2
    assert "'dss' is undefined" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_source_without_sql_cannot_have_it(tmp_path: Path, capsys: Captured) -> None:
    sandbox = Sandbox(tmp_path, load_keys=KEYS).write()
    sandbox.put("sql/orders/ready.sql", READY)
    path = tmp_path / "config/dwhctl.toml"
    keys = 'type = "http"\nbase_url = "http://127.0.0.1:1/"\n'
    path.write_text(path.read_text().replace('type = "duckdb"\npath = "servers/server_1"\n', keys))
    assert dwh("config", "check", "--project", tmp_path) == 2
    shown = capsys.readouterr().err
    assert "orders.toml: ready: is a query on the shards, and those of type http run no SQL; drop it" in shown


@needs_faults
def test_over_the_wire_beside_a_dead_server(tmp_path: Path) -> None:
    cities = {"mssql_0": ["abakan", "achinsk"], "mssql_1": ["chita", "chernogorsk", "omsk"]}
    keys = f'{KEYS}ready_timeout = "2s"'
    with a_wire(
        tmp_path, cities, load_keys=keys, source_keys='max_connections = 2\nconnect_timeout = "5s"'
    ) as wire:
        # A column without a name, and a bound.
        query = "SELECT CASE WHEN EXISTS (SELECT 1 FROM dbo.Done WHERE day >= :start AND day < :end) THEN 1 ELSE 0 END"
        wire.put("sql/orders/ready.sql", query)
        wire.fill(5)
        done = f"INSERT INTO dbo.Done (day) VALUES (CAST('{DAY}' AS DATETIME2(3)))"
        for shard in wire.shards():
            wire.in_shard(shard, "CREATE TABLE dbo.Done (day DATETIME2(3))")
        wire.own_sources["mssql_1"].kill()
        wire.in_shard("achinsk", done.replace(str(DAY), "2020-07-13"))
        result = wire.load(DAY, listen=finishing(lambda shard: wire.in_shard(shard, done), "abakan"))
        found = {session.shard: session for session in wire.sessions_newest_first()}
        assert {shard: found[shard].error_class for shard in wire.shards()[:2]} == {
            "abakan": None,
            "achinsk": "NotReady",
        }
        assert (result.loaded, result.failed) == (1, 4)
        assert wire.target_rows() == wire.source_rows(shards=["abakan"])
        assert "mssql_1" in str(found["omsk"].comment)
        assert {found[shard].error_class for shard in cities["mssql_1"]} <= {"ConnectError", "ParkedError"}
