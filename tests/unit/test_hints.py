"""Hints: what was probably meant is said, what only looks like it is not."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dwhctl.core.words import did_you_mean, nearest
from dwhctl.project.fields import zone_problem
from tests.cli_support import dwh
from tests.support.projects import DAY, Sandbox

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("kee", ["key", "slice_by"], "key"),
        ("laod", ["load", "query"], "load"),
        ("Order", ["orders"], "orders"),
        ("username", ["user", "host"], "user"),
        ("tls_mode", ["tlsmode", "sslmode"], "tlsmode"),
        ("DWH", ["dwh"], "dwh"),
        ("mysql", ["duckdb", "mssql", "postgres"], None),
        ("import", ["report", "init"], None),
        ("timezone", ["timeout"], None),
        ("etl", ["dwh", "sql"], None),
    ],
)
def test_only_what_is_close_is_proposed(typed: str, known: list[str], meant: str | None) -> None:
    assert did_you_mean(typed, known) == (f"did you mean '{meant}'?" if meant else "")
    assert nearest(typed, known).startswith("did you mean" if meant else "known: ")


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("MSK", "an abbreviation is not a zone: write Europe/Moscow"),
        ("cst", "an abbreviation is not a zone: write America/Chicago or Asia/Shanghai"),
        (
            "UTC+3",
            "an offset is not a zone: write one as Europe/Moscow, or Etc/GMT-3 where the clock never changes",
        ),
        ("-05:00", "or Etc/GMT+5 where"),
        ("UTC+5:30", "an offset is not a zone: write one as Europe/Moscow"),
        ("New York", "did you mean 'America/New_York'?"),
        ("chita", "did you mean 'Asia/Chita'?"),
        ("europe/moscow", "did you mean 'Europe/Moscow'?"),
        ("Europe/Moskow", "did you mean 'Europe/Moscow'?"),
        ("XST", "write one as Europe/Moscow or UTC"),
    ],
)
def test_time_zones(zone: str, words: str) -> None:
    problem = zone_problem(zone)
    assert problem is not None
    assert words in problem
    assert "MST" not in problem


@pytest.mark.parametrize("zone", ["CET", "EST", "MST", "UTC", "Etc/GMT-3", "W-SU"])
def test_names_of_the_tz_database_are_zones(zone: str) -> None:
    assert zone_problem(zone) is None


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    sandbox = Sandbox(tmp_path).write()
    sandbox.put(
        "config/reports.toml",
        '[reports.city_orders]\nconnection = "warehouse"\nsource = "stage.orders"\ntarget = "stage.copy"\n',
    )
    return sandbox


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("load city_orders --date {day}", "no load 'city_orders'; it is a report: dwhctl refresh-reports city_orders"),
        ("backfill city_orders -s {day} -e {day}", "it is a report: dwhctl refresh-reports city_orders"),
        ("verify city_orders --date {day}", "it is a report: dwhctl refresh-reports city_orders"),
        ("adopt city_orders -s {day} -e {day}", "it is a report: dwhctl refresh-reports city_orders"),
        ("load city_orders --date {day} --table a.b", "it is a report: dwhctl refresh-reports city_orders"),
        ("refresh-reports orders", "there is no report 'orders'; it is a load: dwhctl load orders --date yesterday"),
        ("load warehouse --date {day}", "there is no load 'warehouse'; it is a connection of type duckdb"),
        ("load chita --date {day}", "it is a shard of the group cities on server_1: --shard chita"),
        ("load cities --date {day}", "it is a shard group, which the load orders reads"),
        ("load Stage.Orders --date {day}", "it is the table of load 'orders'"),
        ("load oders --date {day}", "there is no load 'oders'; did you mean 'orders'?"),
        ("load invoices --date {day}", "there is no load 'invoices'; known: orders"),
        ("query chita 'SELECT 1'", "there is no connection 'chita'; it is a shard of the group cities on server_1"),
        ("connections test orders", "there is no connection 'orders'; it is a load"),
        ("load --date {day} --shard warehouse", "no shard matches 'warehouse'; it is a connection of type duckdb"),
        ("report grid --shard cities", "no shard matches 'cities'; it is a shard group"),
    ],
    ids=lambda text: text.partition(" --date")[0] if isinstance(text, str) else None,
)  # fmt: skip
def test_a_name_of_something_else_is_named(
    command: str, words: str, sandbox: Sandbox, capsys: Captured
) -> None:
    assert dwh(*shlex.split(command.format(day=DAY)), "--project", sandbox.root) == 2
    shown = capsys.readouterr().err
    assert words in shown, shown


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('[connections.server_1]\ntype = "duckdb"', '[connections.server_1]\ntype = "mysql"',
         'server_1.type: expected one of "duckdb", "sqlite", "postgres", "mssql", "vertica"'),
        ("['chita']", "['chita.duckdb']", "server_1[0]: a database is written without .duckdb, which dwhctl adds"),
        ("['chita']", '[{ name = "c", database = "chita.duckdb" }]', "a database is written without .duckdb"),
        ("['chita']", "['*']", "server_1[0]: a shard group lists each database, patterns are not expanded;"),
        ("['chita']", "['*']", "`dwhctl connections test server_1` shows those that are in no shard group"),
        ("[project]\n", "[variables]\n[pings]\nproxy = { ENV = 'X' }\n[project]\n", "write env in lower case"),
        ("[project]\n", "[pings]\nproxy = { env = '$X' }\n[project]\n", "write the variable's name alone"),
    ],
)  # fmt: skip
def test_what_a_key_holds(before: str, after: str, words: str, sandbox: Sandbox, capsys: Captured) -> None:
    text = (sandbox.root / "config/dwhctl.toml").read_text()
    assert before in text
    sandbox.put("config/dwhctl.toml", text.replace(before, after, 1))
    assert dwh("config", "check", "--project", sandbox.root) == 2
    shown = capsys.readouterr().err
    assert words in shown, shown
    assert "did you mean" not in shown


def test_a_name_of_another_kind_in_the_configuration(sandbox: Sandbox, capsys: Captured) -> None:
    reports = (sandbox.root / "config/reports.toml").read_text()
    sandbox.put("config/reports.toml", reports + 'needs = [{ load = "city_orders" }]\n')
    orders = (sandbox.root / "config/loads/orders.toml").read_text()
    sandbox.put(
        "config/loads/orders.toml",
        orders.replace('target = "warehouse"', 'target = "cities"').replace('"cities"\n', '"server_0"\n', 1),
    )
    assert dwh("config", "check", "--project", sandbox.root) == 2
    shown = capsys.readouterr().err
    assert "needs[0].load: no load 'city_orders'; it is a report" in shown
    assert "shards: no shard group 'server_0'; it is a connection" in shown
    assert "target: no connection 'cities'; it is a shard group" in shown
