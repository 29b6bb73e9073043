"""A project whose shards and warehouse are PostgreSQL: every command, and a load that is killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest

from tests.postgres import PostgresServer, any_server
from tests.support.faulty import Faults, wait_for_end, wait_until
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import DAY

DAYS = (DAY, DAY - timedelta(days=1))
POINTS = (
    "prepare.create", "stage.describe", "stage.extract", "stage.write", "stage.finished", "publish.begin",
    "publish.held", "publish.delete", "publish.insert", "publish.fenced", "publish.committed", "publish.drop",
)  # fmt: skip
IN_GATE = ("publish.insert",)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server."""
    with any_server() as running:
        yield running


@pytest.fixture
def sandbox(server: PostgresServer, tmp_path: Path) -> Iterator[PostgresSandbox]:
    """Two shards and a warehouse."""
    servers = {"server_0": ["abakan", "achinsk"]}
    made = PostgresSandbox(tmp_path / "project", servers=servers, max_workers=1, server=server).write()
    yield made.fill(5, DAYS)
    made.drop()


def left_behind(sandbox: PostgresSandbox) -> list[tuple[object, ...]]:
    return sandbox.warehouse("SELECT relname FROM pg_class WHERE relname LIKE 'dwhctl%'")


def test_a_signal_ends_a_create_and_its_statement(sandbox: PostgresSandbox, tmp_path: Path) -> None:
    """libpq goes on waiting after a signal: the command ended with the statement."""
    faults = Faults(tmp_path / "log")
    sandbox.put("sql/orders/create.sql", "CREATE SCHEMA IF NOT EXISTS stage;\nSELECT pg_sleep(30)")
    process = sandbox.start("load", "--date", str(DAY), env=faults.env())
    faults.wait_for("prepare.create")
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: sandbox.warehouse(sleeping) != [], "the statement runs")
    process.terminate()
    _, err = wait_for_end(process, seconds=5)
    assert (process.returncode, "interrupted" in err) == (143, True), err
    assert sandbox.warehouse(sleeping) == []


def test_every_command_works_on_it(sandbox: PostgresSandbox) -> None:
    sandbox.put("config/reports.toml", (
        '[reports.sums]\nconnection = "warehouse"\nsource = "stage.sums_view"\ntarget = "stage.sums"\n'
    ))  # fmt: skip
    assert sandbox.load(*DAYS).exit_code == 0
    assert sandbox.target_rows() == sandbox.source_rows()
    sandbox.change_warehouse(
        "CREATE VIEW stage.sums_view AS SELECT etl_source, count(*) AS n FROM stage.orders GROUP BY etl_source",
        "CREATE TABLE stage.sums (etl_source text, n bigint)",
    )
    refreshed = sandbox.run("refresh-reports", "--date", str(DAY))
    assert refreshed.returncode == 0, refreshed.stderr
    assert sandbox.warehouse("SELECT * FROM stage.sums ORDER BY 1") == [("abakan", 10), ("achinsk", 10)]
    for command in (
        ("config", "check", "--online"),
        ("connections", "test"),
        ("verify", "--date", str(DAY)),
        ("render", "orders", "--date", str(DAY), "--shard", "abakan"),
    ):
        done = sandbox.run(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    sandbox.change_warehouse(
        "UPDATE stage.orders SET amount = amount + 1 WHERE etl_source = 'abakan' AND id = 3"
    )
    sandbox.change_warehouse("DELETE FROM stage.orders WHERE etl_source = 'achinsk' AND id = 1")
    found = sandbox.run("verify", "--date", str(DAY), "--format", "json")
    assert found.returncode == 1
    assert "achinsk" in found.stdout
    counted = sandbox.run("query", "warehouse", "SELECT count(*) AS n FROM stage.orders", "--format", "json")
    assert json.loads(counted.stdout)[0]["n"] == 19
    assert left_behind(sandbox) == []


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in IN_GATE else pytest.mark.long) for point in POINTS]
)
def test_a_load_that_is_killed_anywhere_is_put_right_by_the_next(
    sandbox: PostgresSandbox, point: str, tmp_path: Path
) -> None:
    assert sandbox.load(*DAYS).exit_code == 0
    sandbox.in_shard("abakan", "UPDATE orders SET amount = amount + 1", "DELETE FROM orders WHERE id % 5 = 1")
    before = sandbox.target_rows()
    faults = Faults(tmp_path / "faults")
    faults.at(point, "kill group")
    killed = sandbox.run("load", "--date", str(DAY), "--lookback", "1", env=faults.env())
    assert killed.returncode == -9
    slices = {(row[0], row[4].date()) for row in before}
    now, wanted = sandbox.target_rows(), sandbox.source_rows()
    for shard, day in slices:
        rows = [
            [row for row in rows if (row[0], row[4].date()) == (shard, day)] for rows in (now, before, wanted)
        ]
        assert rows[0] in rows[1:], "a slice is whole: its old rows or its new ones"
    done = sandbox.run("load", "--date", str(DAY), "--lookback", "1")
    assert done.returncode == 0, done.stderr
    assert sandbox.target_rows() == wanted
    assert left_behind(sandbox) == []


DOCUMENTS = (
    '\'{"b": 1.10, "a": [null, "Ж\\u20ac", 1e2], "a": {}}\'',
    "'[]'",
    "'\"text\"'",
    "NULL",
)
XML = (
    '\'<?xml version="1.0" encoding="UTF-8"?><a  b="1">é</a>\'',
    '\'<?xml version="1.1" standalone="yes"?><a/>\'',
    "' text <b/>&amp; '",
    "NULL",
)


def has_libxml(server: PostgresServer) -> bool:
    """Whether the server has values of type xml: the package's has none, DWHCTL_TEST_POSTGRES may have."""
    with closing(server.connect(server.admin_database)) as db, suppress(psycopg2.errors.FeatureNotSupported):
        db.cursor().execute("SELECT CAST('<a/>' AS xml)")
        return True
    return False


@pytest.mark.parametrize("is_made", [False, True], ids=["into the same types", "into a table that is made"])
def test_json_and_xml_of_postgres_arrive_as_they_are(
    server: PostgresServer, tmp_path: Path, *, is_made: bool
) -> None:
    sandbox = PostgresSandbox(
        tmp_path / "project",
        servers={"server_0": ["abakan"]},
        max_workers=1,
        server=server,
        create="" if is_made else (
            "CREATE SCHEMA IF NOT EXISTS stage;\nCREATE TABLE IF NOT EXISTS stage.orders (id bigint, b jsonb, j json,"
            " x xml, start_time timestamp, etl_source text, etl_id bigint, hash_id bigint);\n"
        ),
        extract="SELECT id, b, j, x, start_time FROM orders WHERE start_time >= :start AND start_time < :end",
        load_keys='retries = 0\nverify_columns = ["b", "j", "x"]',
    ).write()  # fmt: skip
    try:
        xmls = XML if has_libxml(server) else ("NULL",) * len(XML)
        sandbox.in_shard(
            "abakan",
            "CREATE TABLE orders (id bigint, b jsonb, j json, x xml, start_time timestamp)",
            *(
                f"INSERT INTO orders VALUES ({number}, {document}, {document}, {xml}, '{DAY} 12:00')"
                for number, (document, xml) in enumerate(zip(DOCUMENTS, xmls, strict=True))
            ),
        )
        for _ in range(2):
            assert [failed.failure.message for failed in sandbox.load().failures] == []
        with closing(server.connect(sandbox.databases["abakan"])) as db, db.cursor() as cursor:
            cursor.execute("SELECT id, b::text, j::text, x::text FROM orders ORDER BY id")
            expected = cursor.fetchall()
        sql = "SELECT id, b::text, j::text, x::text FROM stage.orders ORDER BY id"
        assert sandbox.warehouse(sql) == expected
        verified = sandbox.run("verify", "--date", str(DAY))
        assert verified.returncode == 0, verified.stdout
    finally:
        sandbox.drop()
