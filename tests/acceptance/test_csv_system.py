"""A system of another package through the real command line: CSV files, installed as the entry point `csv`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_support import dwh_process
from tests.support.csv_system import install, search_path

MAIN = """\
[project]
timezone = "Europe/Moscow"
max_workers = 2

[sessions]
connection = "sessions"

[connections.sessions]
type = "sqlite"
path = "state/sessions.sqlite"

[connections.server_0]
type = "csv"
path = "server_0"

[connections.dwh]
type = "csv"
path = "warehouse"

[shards.cities]
server_0 = ["abakan", "chita"]
"""
LOAD = """\
shards = "cities"
extract = "orders.sql"
create = "create.sql"
target = "dwh"
table = "stage.orders"
key = ["id"]
slice_by = "ordered"
start_date = 2020-07-14
retries = 0
"""
EXTRACT = "SELECT id, note, ordered FROM orders WHERE ordered >= :start AND ordered < :end\n"
CREATE = """\
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.orders (
    etl_source VARCHAR NOT NULL, etl_id BIGINT, hash_id BIGINT, id BIGINT, note VARCHAR, ordered TIMESTAMP
);
CREATE TABLE IF NOT EXISTS stage.notes (note VARCHAR, orders BIGINT);
"""
REPORTS = """\
[reports.notes]
connection = "dwh"
source = "reports/notes.sql"
target = "stage.notes"
"""
NOTES = "SELECT note, count(*) AS orders FROM stage.orders GROUP BY note\n"
ORDERS = """\
id:BIGINT,note:VARCHAR,ordered:TIMESTAMP
1,,2020-07-14 10:00:00
2,"",2020-07-14 23:59:59.999999
3,"a ""quoted"" ёлка, and
a line",2020-07-14 12:00:00
4,another day,2020-07-15 00:00:00
"""


class CsvProject:
    """A project whose shards and warehouse are folders of CSV files, and the commands over it."""

    def __init__(self, root: Path, site: Path) -> None:
        self.root = root
        self._environment = search_path(site)
        for name, text in {
            "config/dwhctl.toml": MAIN, "config/loads/orders.toml": LOAD, "config/reports.toml": REPORTS,
            "sql/orders.sql": EXTRACT, "sql/create.sql": CREATE, "sql/reports/notes.sql": NOTES,
            "server_0/abakan/orders.csv": ORDERS,
            "server_0/chita/orders.csv": "id:BIGINT,note:VARCHAR,ordered:TIMESTAMP\n1,x,2020-07-14 00:00:00\n",
        }.items():  # fmt: skip
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command in a process of its own, and return what it prints."""
        done = dwh_process(*arguments, folder=self.root, environment=self._environment)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout + (done.stderr if code else "")


@pytest.fixture
def project(tmp_path: Path) -> CsvProject:
    return CsvProject(tmp_path / "project", install(tmp_path / "site"))


def test_check_load_verify_and_query(project: CsvProject) -> None:
    project.run("config", "check")
    project.run("load", "--date", "2020-07-14")
    written = (project.root / "warehouse" / "stage.orders.csv").read_bytes().decode()
    assert written.startswith('"etl_source:VARCHAR NOT NULL","etl_id:BIGINT"')
    assert ',"3","a ""quoted"" ёлка, and\na line","2020-07-14 12:00:00"\n' in written
    project.run("verify", "--date", "2020-07-14")
    sql = "SELECT etl_source, id, note FROM stage.orders ORDER BY 1, 2"
    assert json.loads(project.run("query", "dwh", sql, "--format", "json")) == [
        {"etl_source": "abakan", "id": 1, "note": None},
        {"etl_source": "abakan", "id": 2, "note": ""},
        {"etl_source": "abakan", "id": 3, "note": 'a "quoted" ёлка, and\na line'},
        {"etl_source": "chita", "id": 1, "note": "x"},
    ]


@pytest.mark.long
def test_connections(project: CsvProject) -> None:
    tested = json.loads(project.run("connections", "test", "--format", "json"))["connections"]
    assert {(trip["connection"], trip["database"], trip["ok"]) for trip in tested} == {
        ("sessions", None, True), ("dwh", None, True), ("server_0", "abakan", True), ("server_0", "chita", True),
    }  # fmt: skip


@pytest.mark.long
def test_every_other_command_over_it(project: CsvProject) -> None:
    listed = project.run("connections", "list")
    assert "csv" in listed
    assert "warehouse" in listed
    assert "FROM orders" in project.run("render", "orders", "--date", "2020-07-14")
    project.run("load", "--date", "2020-07-14", "--lookback", "1")
    project.run("config", "check", "--online")
    project.run("load", "--date", "2020-07-15")
    for online in ([], ["--online"]):
        shown = project.run("render", "orders", "--date", "2020-07-14", "--part", "publish", *online)
        assert "stage.orders" in shown
        assert "stage.notes" in project.run("render", "notes", "--date", "2020-07-14", *online)
    project.run("refresh-reports", "--date", "2020-07-14")
    counts = json.loads(project.run("query", "dwh", "FROM stage.notes ORDER BY note", "--format", "json"))
    assert len(counts) == 5
    assert {"note": "another day", "orders": 1} in counts
    assert json.loads(
        project.run(
            "query", "server_0", "--shard", "abakan", "SELECT max(id) AS m FROM orders", "--format", "json"
        )
    ) == [{"m": 4}]
    path = project.root / "server_0" / "abakan" / "orders.csv"
    path.write_text(ORDERS.replace("another day", "changed"))
    project.run("verify", "--date", "2020-07-15")
    toml = project.root / "config" / "loads" / "orders.toml"
    toml.write_text(f'{LOAD}verify_columns = ["note"]\n')
    assert "abakan" in project.run("verify", "--date", "2020-07-15", code=1)
    project.run("load", "--date", "2020-07-15")
    project.run("verify", "--date", "2020-07-15")
    path.write_text(ORDERS.replace("2020-07-15 00:00:00", "2020-07-15 25:00:00"))
    failed = project.run("load", "--date", "2020-07-15", code=1)
    assert "orders.csv: column ordered: the value 2020-07-15 25:00:00 is not of the type TIMESTAMP" in failed


@pytest.mark.long
def test_what_is_wrong_with_it_is_said_by_name(project: CsvProject) -> None:
    config = project.root / "config" / "dwhctl.toml"
    config.write_text(
        MAIN.replace('"chita"]', '"omsk"]').replace('path = "warehouse"', 'path = "warehouse"\npaht = 1')
    )
    said = project.run("config", "check", code=2)
    assert "paht" in said
    config.write_text(MAIN.replace('"chita"]', '"omsk"]'))
    (project.root / "sql" / "orders.sql").write_text("DELETE FROM orders\n")
    assert "an extract is one SELECT; this is DELETE" in project.run("config", "check", code=2)
    (project.root / "sql" / "orders.sql").write_text(EXTRACT)
    assert "server_0/omsk of the shard omsk is missing" in project.run("config", "check", code=2)
    project.run("query", "dwh", "--write", "DELETE FROM stage.orders", code=2)
