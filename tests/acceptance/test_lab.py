"""The reference project: its commands, and what its init container makes of SQL Servers."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pymssql
import pytest

from dwhctl.core.sql import split_statements
from dwhctl.project.read import read_project
from dwhctl.project.templates import render_file
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.system import VerticaConnection
from tests.cli_support import dwh
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer
from tests.support.sqlcmd import batches, run_fill

REPOSITORY = Path(__file__).parents[2]
TOTALS = """\
SELECT COUNT(*), COUNT(DISTINCT id), COUNT(DISTINCT CAST(start_time AS date)), MIN(start_time), MAX(start_time),
    COUNT(end_time), COUNT(price), SUM(price), COUNT(comment)
FROM dbo.Orders"""


_ORDER = "INSERT INTO stage.orders VALUES ('{}', 1, {}, {}, '{}', {}, '{}', 1, {}, {}, '{}', {}, {})"
LOADED_ORDERS = [
    _ORDER.format(
        "abakan", 1, 1, "2020-07-14 10:00", "'2020-07-14 10:30'", "Anna", 10, 100.50, "done", "TRUE", "NULL"
    ),
    _ORDER.format(
        "abakan", 2, 2, "2020-07-14 11:00", "NULL", "Anna", "NULL", "NULL", "cancelled", "FALSE", "'Call!'"
    ),
    _ORDER.format(
        "chita", 3, 1, "2020-07-13 23:00", "'2020-07-14 00:15'", "Ivan", 4, 50, "done", "FALSE", "''"
    ),
    "COMMIT",
]
_13, _14 = dt.date(2020, 7, 13), dt.date(2020, 7, 14)
#: What the five reports make of those three orders.
REPORTS: dict[str, list[list[object]]] = {
    "city_orders": [["abakan", _14, 2, 1, Decimal("100.50")], ["chita", _13, 1, 0, Decimal("50.00")]],
    "client_calls": [["abakan", "Anna", 1, 1, dt.datetime(2020, 7, 14, 11)]],  # noqa: DTZ001
    "client_rates": [["abakan", "Anna", 2, 0.5, 0.5, 10.05], ["chita", "Ivan", 1, 1.0, 0.0, 12.5]],
    "daily_orders": [[_13, 1, 1, 1, 0, Decimal("50.00")], [_14, 1, 2, 1, 1, Decimal("100.50")]],
    "order_duration": [["abakan", _14, 1, 30.0, 30.0], ["chita", _13, 1, 75.0, 75.0]],
}


def in_vertica(one: VerticaConnection, *statements: str) -> list[list[object]]:
    """Run statements in one session; the rows of the last."""
    session = VerticaClient(one, "test", dt.timedelta(seconds=20))
    session.open()
    rows: list[list[object]] = []
    for statement in statements:
        rows = session.query(statement)
    session.close()
    return rows


class Totals(NamedTuple):
    """What tells one city's orders from another's."""

    orders: int
    keys: int
    days: int
    first: dt.datetime
    last: dt.datetime
    ended: int
    priced: int
    sum: Decimal
    commented: int


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the reference project, its environment as in the example, its sessions in a file."""
    for name in ("config", "sql"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for name in [each for each in os.environ if each.startswith("DWHCTL_")]:
        monkeypatch.delenv(name)
    for line in (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    monkeypatch.setenv("DWHCTL_CONN_ETL", "sqlite:state/sessions.sqlite")
    return tmp_path


def test_its_configuration_is_right(lab: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert dwh("config", "check", "--project", lab) == 0
    assert "5 connections, 150 shards, 1 load" in capfd.readouterr().out


def test_a_day_is_planned_for_every_city(lab: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert dwh("load", "--date", "2020-07-14", "--dry-run", "--project", lab) == 0
    assert "would load 150 slices" in capfd.readouterr().out


def test_its_reports_are_refreshed_from_what_a_load_leaves(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with VerticaServer() as dwh_server:
        one = dwh_server.connection()
        password = one.password.reveal() if one.password else ""
        url = f"vertica://{one.user}:{password}@{one.host}:{one.port}/{one.database}?tlsmode=disable"
        monkeypatch.setenv("DWHCTL_CONN_DWH", url)
        project = read_project(lab)
        orders = project.loads["orders"]
        assert orders.create is not None
        in_vertica(one, *split_statements(render_file(project, orders.create, orders)), *LOADED_ORDERS)
        text = (lab / "config/reports.toml").read_text()
        (lab / "config/reports.toml").write_text(re.sub("(?m)^needs .*$", "", text))
        code = dwh("refresh-reports", "--date", "2020-07-14", "--project", lab)
        assert code == 0, capfd.readouterr()
        found = {name: in_vertica(one, f"SELECT * FROM reports.{name} ORDER BY 1, 2") for name in REPORTS}
    assert found == REPORTS


@pytest.fixture
def servers() -> Iterator[dict[str, TdsServer]]:
    """Three SQL Servers without a database."""
    with ExitStack() as stack:
        yield {f"mssql_{number}": stack.enter_context(TdsServer(databases=())) for number in range(3)}


def test_the_init_container_fills_the_servers_once(servers: dict[str, TdsServer], tmp_path: Path) -> None:
    code, scripts = run_fill(tmp_path)
    assert (code, sorted(scripts)) == (0, sorted(servers))
    first = {name: fill(server, scripts[name]) for name, server in servers.items()}
    assert [len(cities) for cities in first.values()] == [50, 50, 50]
    cities = [totals for made in first.values() for totals in made.values()]
    assert all(1_000 <= city.orders == city.keys <= 2_000 for city in cities)
    assert {city.days for city in cities} == {30}
    assert len(set(cities)) == 150
    again = "mssql_1"
    assert fill(servers[again], scripts[again]) == first[again]


def fill(server: TdsServer, script: str) -> dict[str, Totals]:
    """Send a script as sqlcmd does; the totals of every city that allows snapshot isolation then."""
    with closing(connect(server)) as connection, connection.cursor() as cursor:
        for batch in batches(script):
            cursor.execute(batch)
        cursor.execute(
            "SELECT name FROM sys.databases WHERE database_id > 4 AND snapshot_isolation_state = 1 ORDER BY name"
        )
        return {city: totals(cursor, city) for city in [str(name) for (name,) in cursor.fetchall()]}


def totals(cursor: pymssql.Cursor, city: str) -> Totals:
    """Look into one city."""
    cursor.execute(f"USE [{city}]")
    cursor.execute(TOTALS)
    (row,) = cursor.fetchall()
    return Totals(*row)  # type: ignore[arg-type]


def connect(server: TdsServer) -> pymssql.Connection:
    """Log in as the init container does, to master."""
    return pymssql.connect(
        server="127.0.0.1",
        port=str(server.port),
        user="sa",
        password="Secret_123",
        database="master",
        autocommit=True,
        tds_version="7.4",
    )
