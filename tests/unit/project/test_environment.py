"""Connections and variables from the environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.core import secrets
from dwhctl.core.secrets import Secret
from dwhctl.project.files import table_of_url
from dwhctl.project.read import read_project
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.vertica.system import VerticaConnection
from tests.unit.projects import LOAD, MAIN, the_problem, write_project


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_remembered() -> Iterator[None]:
    """Made-up passwords must not be masked in the messages of other tests."""
    before = set(secrets._secrets)
    yield
    secrets._secrets.intersection_update(before)
    secrets._masks = None


URL = "vertica://etl%40x:p%40ss%2Fword%3A1@host:5434/my%20db?tlsmode=require&max_connections=2&staging_schema=st"


def test_a_url_replaces_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWHCTL_CONN_DWH", URL)
    project = read_project(write_project(tmp_path))
    dwh = project.connections["dwh"]
    assert isinstance(dwh, VerticaConnection)
    assert (dwh.name, dwh.user, dwh.host, dwh.port, dwh.database) == ("dwh", "etl@x", "host", 5434, "my db")
    assert (dwh.tlsmode, dwh.max_connections, dwh.staging_schema) == ("require", 2, "st")
    assert dwh.password is not None
    assert dwh.password.reveal() == "p@ss/word:1"
    assert project.warnings == ()
    assert "p@ss" not in repr(project)


def test_a_url_defines_a_connection_and_mends_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWHCTL_CONN_SESSIONS", "postgresql://etl@db_1,db_2:5433/etl")
    write_project(tmp_path, MAIN.replace('"sqlite"', '"sqlight"'))
    sessions = read_project(tmp_path).connections["sessions"]
    assert isinstance(sessions, PostgresConnection)
    assert sessions.addresses == (("db_1", 5432), ("db_2", 5433))
    assert sessions.password is None


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("duckdb:state/a b.duckdb", "state/a b.duckdb"),
        ("sqlite:state/s.sqlite?max_connections=3", "state/s.sqlite"),
        ("duckdb:/srv/x.duckdb", "/srv/x.duckdb"),
        ("sqlite:///srv/x.sqlite", "/srv/x.sqlite"),
        ("DuckDB:a%20b.duckdb", "a b.duckdb"),
    ],
)
def test_a_path_stands_as_written(url: str, path: str) -> None:
    assert table_of_url(url)["path"] == path


WRONG = {
    "verticca://x:hunter2@h/db": "DWHCTL_CONN_DWH: is not a URL of a connection; did you mean 'vertica'? write",
    "hunter2": "DWHCTL_CONN_DWH: is not a URL of a connection; write vertica://",
    "": "DWHCTL_CONN_DWH: is not a URL of a connection; write vertica://",
    "hunter2:x": "DWHCTL_CONN_DWH: is not a URL of a connection; write vertica://",
    "vertica:h/db": "DWHCTL_CONN_DWH: is not a URL of a server; write",
    "vertica://u:hunter2@h:54x/db": "DWHCTL_CONN_DWH: the port in the URL is not a number; percent-encode",
    "vertica://u:hunter2@::1/db": "DWHCTL_CONN_DWH: the port in the URL is not a number",
    "vertica://u:hunter2@h": 'DWHCTL_CONN_DWH.database: is missing; add database = "docker"',
    "vertica://h/db": 'DWHCTL_CONN_DWH.user: is missing; add user = "dwh"',
    "vertica://u@/db": 'DWHCTL_CONN_DWH.host: is missing; add host = "SERVER"',
    "vertica://u@h/db?tls_mode=require": "DWHCTL_CONN_DWH: the URL has an unknown key after its '?'; did you mean",
    "vertica://u@h/db?max_connections=x": "DWHCTL_CONN_DWH.max_connections: expected a whole number, got a text of 1",
    "vertica://u:12?hunter2@h/db": "DWHCTL_CONN_DWH: the URL has an unknown key after its '?'; known: ",
    "vertica://u:12?hunter2": "DWHCTL_CONN_DWH: the URL has an unknown key after its '?'; known: ",
    "vertica://u:p@12?hunter2=x@h/db": "DWHCTL_CONN_DWH: the URL has an unknown key after its '?'; known: ",
    "vertica://u:12/hunter2@h/db": "DWHCTL_CONN_DWH: the URL has an '@' after its server; percent-encode",
    "vertica://u:1@2/hunter2@h/db": "DWHCTL_CONN_DWH: the URL has an '@' after its server; percent-encode",
    "vertica://u@h/db?tlsmode=hunter2@h/db": "DWHCTL_CONN_DWH.tlsmode: expected one of",
    "duckdb:": "DWHCTL_CONN_DWH.path: is empty; write a path",
}


@pytest.mark.parametrize(("url", "words"), WRONG.items(), ids=WRONG)
def test_a_wrong_url_is_told_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("DWHCTL_CONN_DWH", url)
    write_project(tmp_path)
    line = the_problem(tmp_path)
    assert line.startswith(f"environment: {words}")
    assert "hunter2" not in line


def test_other_variables_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWHCTL_CONN_", "x")
    monkeypatch.setenv("DWHCTL_CONNECT", "x")
    assert "x" not in read_project(write_project(tmp_path)).connections


def test_a_name_from_the_environment_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWHCTL_CONN_A__B", "sqlite:x")
    assert the_problem(write_project(tmp_path)).endswith("rename the variable")


def test_variables_come_from_the_environment_and_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWHCTL_VAR_CHAT", "from outside")
    monkeypatch.setenv("DWHCTL_VAR_NEW", "3")
    main = (
        MAIN
        + '[variables]\nChat = "inside"\n'
        + 'bot = { token = { env = "TG" }, since = 2020-01-01, n = [1, true] }\n'
    )
    variables = read_project(write_project(tmp_path, main)).variables
    assert variables == {
        "Chat": "from outside",
        "new": "3",
        "bot": {"token": Secret("TG", kind="env"), "since": "2020-01-01", "n": [1, True]},
    }


def test_a_connection_that_is_nowhere_is_told_even_with_others_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWHCTL_CONN_DWH_2", "duckdb:state/x.duckdb")
    write_project(tmp_path, load=LOAD.replace('target = "dwh"', 'target = "dwh_3"'))
    assert "no connection 'dwh_3'; did you mean 'dwh" in the_problem(tmp_path)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1)


@given(user=texts, password=texts, database=texts)
def test_every_login_survives_percent_encoding(user: str, password: str, database: str) -> None:
    url = f"mssql://{quote(user, safe='')}:{quote(password, safe='')}@host/{quote(database, safe='')}"
    table = table_of_url(url)
    assert (table["user"], table["password"].reveal(), table["database"]) == (user, password, database)
