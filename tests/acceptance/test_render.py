"""`dwhctl render` shows what a load's publication and a report's refresh send, as it is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest

from dwhctl.cli.common.options import Settings
from dwhctl.cli.query import render_command
from dwhctl.systems.duckdb.target import DuckdbTarget
from tests.cli_support import dwh
from tests.support.projects import Sandbox
from tests.support.reports import KEYS, Place, a_place
from tests.support.wire import Wire, a_wire, needs_faults

DATE = ("--date", "2020-07-14")
HEADER = (
    "-- load orders, shard abakan, day 2020-07-14: database abakan on server_0\n"
    "-- :start = 2020-07-14 00:00:00\n-- :end = 2020-07-15 00:00:00\n"
)


class Recorder:
    """A connection to DuckDB that writes down what is sent in a transaction."""

    def __init__(self, db: Any, sent: list[str]) -> None:
        self._db, self._sent = db, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, sql: str, *values: Any) -> Any:
        """Write it down and execute it."""
        self._sent.append(sql)
        return self._db.execute(sql, *values)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process sends to a DuckDB warehouse."""
    recorded: list[str] = []
    connect = DuckdbTarget._connect

    def recording(self: DuckdbTarget, *arguments: Any, **keys: Any) -> Any:
        return Recorder(connect(self, *arguments, **keys), recorded)

    monkeypatch.setattr(DuckdbTarget, "_connect", recording)
    return recorded


def shown(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    """What the command shows."""
    capsys.readouterr()
    assert dwh("render", *arguments, *DATE, "--project", root) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def statements(text: str) -> list[str]:
    """The statements without the comments; a COMMIT that is a comment is one as well."""
    text = re.sub(r"^-- COMMIT is a comment here.*$", "COMMIT;", text, flags=re.MULTILINE)
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("-- "))
    return [one.strip() for one in re.split(r";$", lines, flags=re.MULTILINE) if one.strip()]


def is_in(wanted: list[str], sent: list[str]) -> bool:
    """Whether they were sent one after the other."""
    return any(sent[at : at + len(wanted)] == wanted for at in range(len(sent)))


def test_a_load_on_duckdb(tmp_path: Path, sent: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox(tmp_path).write().fill(shards=["abakan"])
    extract = shown(capsys, tmp_path, "orders")
    assert extract == HEADER + sandbox.extract
    publish = shown(capsys, tmp_path, "orders", "--part", "publish")
    assert sent == []
    assert not sandbox.warehouse_file.exists()
    assert "-- $start = <start>\n" in publish
    assert f"-- $files = ['{tmp_path}/state/staging/<run>/<group>/<token>.parquet']\n" in publish
    for _ in range(2):
        assert sandbox.load(shards=("abakan",)).failed == 0
    assert is_in(statements(publish), sent)
    assert len(statements(publish)) == 6
    online = shown(capsys, tmp_path, "orders", "--part", "publish", "--online")
    assert statements(online) == statements(publish)
    assert "-- $start = 2020-07-14 00:00:00\n" in online
    assert shown(capsys, tmp_path, "orders", "--create") == (
        "-- create of load orders: warehouse, each statement commits\n" + sandbox.create
    )
    everything = shown(capsys, tmp_path, "orders", "--part", "all")
    assert everything.startswith(HEADER + sandbox.extract.rstrip() + ";\n\n-- create of load orders")
    assert everything.endswith(publish)
    assert shown(capsys, tmp_path, "orders", "-q") == sandbox.extract


@needs_faults
def test_a_load_on_vertica(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_wire(tmp_path, {"server_0": ["abakan"]}) as wire:
        assert wire.dwh is not None
        before = len(wire.dwh.statements)
        publish = shown(capsys, tmp_path, "orders", "--part", "publish")
        assert len(wire.dwh.statements) == before
        wire.fill()
        for _ in range(2):
            assert wire.load().failed == 0
        sent = [one.sql for one in wire.dwh.statements]
        sent = [re.sub(r'"dwhctl_\w+"', '"<staging table>"', one) for one in sent]
        sent = [re.sub(r"(dwhctl_token IN \()'\w+'", r"\1'<token>'", one) for one in sent]
        # Between them the catalog is asked for the columns of the staging table.
        sent = [one for one in sent if "v_catalog" not in one]
        online = shown(capsys, tmp_path, "orders", "--part", "publish", "--online")
        assert is_in(statements(online), sent)
        assert len(statements(online)) == 5
        names = '"etl_source", "etl_id", "hash_id", "id", "customer", "amount", "start_time"'
        assert f"({names}) SELECT {names} FROM" in online
        known = online.replace(names, "<columns of stage.orders>")
        known = known.replace("TIMESTAMP '2020-07-14 00:00:00'", "<start>")
        known = known.replace("TIMESTAMP '2020-07-15 00:00:00'", "<end>")
        assert statements(publish) == statements(known)
        assert "-- <start>, <end>: 2020-07-14 00:00:00 and 2020-07-15 00:00:00, in the type of" in publish


@pytest.fixture(params=["duckdb", "vertica"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield stack.enter_context(a_place(request.param, tmp_path))


def test_a_report(place: Place, sent: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A narrowed column is checked by a CASE, which only the warehouse's types show."""
    query = (
        "SELECT id, CAST(version AS DECIMAL(20, 0)) AS version, 'a' AS word FROM stage.numbers -- a comment"
    )
    place.put({"numbers": f'{KEYS}\nmin_rows = 2\nsource = "{query}"'})
    root = place.sandbox.root
    everything = shown(capsys, root, "numbers")
    parts = {part: shown(capsys, root, "numbers", "--part", part) for part in ("create", "source", "publish")}
    assert sent == []
    assert everything.count("-- ") == sum(text.count("-- ") for text in parts.values())
    assert parts["source"] == f"-- source of report numbers, date 2020-07-14: warehouse\n{query}\n"
    assert statements(parts["create"])[0] == "CREATE SCHEMA IF NOT EXISTS reports"
    assert len(statements(parts["create"])) == 3
    assert (
        "(<columns of reports.numbers>) SELECT <columns of reports.numbers> FROM (SELECT" in parts["publish"]
    )
    assert "fewer rows than min_rows = 2" in parts["publish"]
    assert "\nCOMMIT" not in parts["publish"]
    [closed] = place.refresh("numbers").closed
    assert closed.failure is None
    if isinstance(place.sandbox, Wire):
        assert place.sandbox.dwh is not None
        sent = [one.sql for one in place.sandbox.dwh.statements]
    # Between them the types of the columns are asked for.
    done = [one for one in sent if not re.search("v_catalog|LIMIT 0|DESCRIBE|table_info|duckdb_columns", one)]
    rows = place.content()
    online = shown(capsys, root, "numbers", "--part", "publish", "--online")
    assert place.content() == rows
    assert "CASE WHEN" in online
    assert online.endswith("\nCOMMIT;\n")
    assert is_in(statements(online), done)
    assert len(statements(online)) == (3 if isinstance(place.sandbox, Wire) else 4)


def test_online_makes_no_warehouse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    report = 'connection = "warehouse"\nsource = "stage.a_view"\ntarget = "stage.a"\n'
    sandbox.put("config/reports.toml", f"[reports.sums]\n{report}")
    for name in ("orders", "sums"):
        assert dwh("render", name, *DATE, "--part", "publish", "--online", "--project", tmp_path) == 1
        assert "there is no warehouse" in capsys.readouterr().err
    assert not sandbox.warehouse_file.exists()


def test_loads_and_reports_are_completed(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write()
    report = 'connection = "warehouse"\nsource = "stage.a_view"\ntarget = "stage.a"\n'
    sandbox.put("config/reports.toml", f"[reports.old_orders]\n{report}")
    context = click.Context(render_command, obj=Settings(project=tmp_path))
    [name, *_] = render_command.params
    for typed, found in (("o", ["old_orders", "orders"]), ("or", ["orders"])):
        assert [one.value for one in name.shell_complete(context, typed)] == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["orders", "--part", "source"],
            "orders is a load, which has no source; its parts are extract, create",
        ),
        (
            ["sums", "--part", "extract"],
            "sums is a report, which has no extract; its parts are create, source",
        ),
        (["sums", "--shard", "abakan"], "sums is a report, which has no shards; leave --shard out"),
        (["sums", "--create"], "the report sums has no create; its table has to be there"),
        (["summs"], "there is no load or report 'summs'; did you mean 'sums'?"),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    sandbox = Sandbox(tmp_path).write()
    report = 'connection = "warehouse"\nsource = "stage.a_view"\ntarget = "stage.a"\n'
    sandbox.put("config/reports.toml", f"[reports.sums]\n{report}")
    assert dwh("render", *arguments, *DATE, "--project", tmp_path) == 2
    assert words in capsys.readouterr().err
    everything = shown(capsys, tmp_path, "sums")
    assert "-- create of report sums: none, the table has to exist\n" in everything
    assert "SELECT * FROM stage.a_view;\n" in everything
