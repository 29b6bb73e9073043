"""A shard's DuckDB file that an enemy wrote: what its views reach, and whom it harms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import duckdb
import pytest

from dwhctl.core.errors import QueryError
from dwhctl.project.query import Query
from dwhctl.systems.base.source import Source
from dwhctl.systems.base.system import SourceOptions, system_of
from dwhctl.systems.duckdb import client as engine
from tests.support.projects import DAY, ORDERS, Sandbox

#: Views over what is outside of the file. `{secret}` is a file of the victim, `{out}` one that must not appear,
#: `{url}` a server.
OUTSIDE = {
    "text": "SELECT content AS s FROM read_text('{secret}')",
    "bytes": "SELECT content AS s FROM read_blob('{secret}')",
    "csv": "SELECT * FROM read_csv('{secret}')",
    "path": "SELECT * FROM '{secret}'",
    "folder": "SELECT * FROM glob('{folder}/*')",
    "sniff": "SELECT * FROM sniff_csv('{secret}')",
    "macro": "SELECT * FROM peek()",
    "indirect": "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "serialized": (
        "SELECT * FROM json_execute_serialized_sql("
        "json_serialize_sql('SELECT * FROM read_text(''{secret}'')'))"
    ),
    "database": "SELECT * FROM read_duckdb('{other}', table_name = 't')",
    "parquet": "SELECT * FROM parquet_metadata('{secret}')",
    "log": "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{out}')",
    "environment": "SELECT content AS s FROM read_text('/proc/self/environ')",
}


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path, {"server_0": ["abakan", "chita"]}, load_keys="retries = 2").write()


def source_of(sandbox: Sandbox) -> Source:
    project = sandbox.project()
    return system_of(project.connections["server_0"]).open_source(
        project.connections["server_0"], "abakan", SourceOptions("UTC", state_dir=project.state_dir)
    )


def rows(source: Source, sql: str = "SELECT * FROM orders") -> list[dict[str, object]]:
    return [row for batch in source.batches(Query(sql, {}), 100) for row in batch.to_pylist()]


@pytest.mark.parametrize("attack", OUTSIDE)
def test_a_view_reaches_nothing_outside_of_its_file(sandbox: Sandbox, attack: str, tmp_path: Path) -> None:
    secret, out, other = (tmp_path / name for name in ("secret.csv", "out", "other.duckdb"))
    secret.write_text("a,b\ns3cret,2\n")
    with closing(duckdb.connect(str(other))) as db:
        db.execute("CREATE TABLE t AS SELECT 's3cret' AS s")
    places = {"secret": secret, "out": out, "folder": tmp_path, "other": other}
    sandbox.in_shard(
        "abakan",
        f"CREATE MACRO peek() AS TABLE SELECT * FROM read_text('{secret}')",
        f"CREATE VIEW orders AS {OUTSIDE[attack].format(**places)}",
    )
    (tmp_path / "state").mkdir()
    with source_of(sandbox) as source, pytest.raises(QueryError) as caught:
        rows(source)
    assert "s3cret" not in str(caught.value)
    assert caught.value.permanent
    assert not out.exists()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}", asked
    made.shutdown()
    thread.join()
    made.server_close()


def test_an_extension_is_neither_fetched_nor_loaded(sandbox: Sandbox, server: tuple[str, list[str]]) -> None:
    url, asked = server
    sandbox.in_shard("abakan", ORDERS)
    with source_of(sandbox) as source:
        for setting in (
            "autoinstall_known_extensions",
            "autoload_known_extensions",
            "enable_external_access",
        ):
            assert rows(source, f"SELECT current_setting('{setting}') AS is_on") == [{"is_on": False}], (
                setting
            )
        for sql in (
            f"SELECT * FROM read_csv('{url}/x.csv')",
            "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
            "SELECT * FROM st_read('/etc/passwd')",
            "SELECT * FROM read_xlsx('/etc/passwd')",
        ):
            with pytest.raises(QueryError):
                rows(source, sql)
    assert asked == []


def test_a_name_in_sql_is_no_variable_of_the_program(sandbox: Sandbox) -> None:
    import pandas as pd

    batch = pd.DataFrame({"a": [1]})
    sandbox.in_shard("abakan", ORDERS)
    with source_of(sandbox) as source, pytest.raises(QueryError, match="batch does not exist"):
        rows(source, "SELECT * FROM batch")
    assert len(batch) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{out}'",
        "ATTACH '{out}' AS other",
        "EXPORT DATABASE '{out}'",
        "INSTALL httpfs",
        "LOAD '{out}'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "SET allowed_directories = ['/']",
        "SET temp_directory = '{out}'",
    ],
)
def test_the_connection_is_locked(sandbox: Sandbox, sql: str, tmp_path: Path) -> None:
    sandbox.in_shard("abakan", ORDERS)
    with (
        closing(engine.open_file(sandbox.shard_file("abakan"), read_only=True, wait=1, config={})) as db,
        pytest.raises(duckdb.Error),
    ):
        db.execute(sql.format(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_let_in_lets_in_nothing_beside_it(tmp_path: Path) -> None:
    inside, beside = tmp_path / "staging", tmp_path / "staging_2"
    for folder in (inside, beside):
        folder.mkdir()
        (folder / "a.csv").write_text("a\n1\n")
    with closing(engine.connect(":memory:", {}, folders=[inside])) as db:
        assert db.execute(f"SELECT * FROM read_csv('{inside}/a.csv')").fetchall() == [(1,)]
        for path in (beside / "a.csv", inside / ".." / "staging_2" / "a.csv"):
            with pytest.raises(duckdb.PermissionException):
                db.execute(f"SELECT * FROM read_csv('{path}')").fetchall()


def test_a_hostile_shard_fails_once_and_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    sandbox.in_shard(
        "abakan",
        "CREATE VIEW orders AS SELECT 1::BIGINT AS id, content AS customer, 1::DECIMAL(18, 2) AS amount,"
        f" TIMESTAMP '{DAY}' AS start_time FROM read_text('{tmp_path / 'secret'}')",
    )
    sandbox.fill(5, shards=["chita"])
    report = sandbox.load()
    assert (report.loaded, report.failed) == (1, 1)
    [failed] = report.failures
    assert failed.failure.permanent
    assert failed.failure.error_class == "QueryError"
    assert "may reach no other file, server or extension" in failed.failure.message
    assert [one.state.value for one in sandbox.sessions_newest_first() if one.shard == "abakan"] == ["failed"]
    assert sandbox.target_rows() == sandbox.source_rows(shards=["chita"])


@pytest.mark.parametrize(
    "make",
    [
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE orders AS SELECT 'a'::mood AS id",
        "CREATE TABLE orders (id BIGINT, twice BIGINT GENERATED ALWAYS AS (id * 2)); INSERT INTO orders VALUES (1)",
        "CREATE SEQUENCE s; CREATE TABLE orders (id BIGINT DEFAULT nextval('s')); INSERT INTO orders DEFAULT VALUES",
        "CREATE MACRO now() AS 1; CREATE TABLE orders AS SELECT 1 AS id",
    ],
)
def test_what_is_harmless_is_read(sandbox: Sandbox, make: str) -> None:
    sandbox.in_shard("abakan", make)
    with source_of(sandbox) as source:
        assert len(rows(source)) == 1


def test_a_type_that_has_no_place_is_refused_by_name(sandbox: Sandbox) -> None:
    sandbox.in_shard("abakan", "CREATE TABLE orders AS SELECT {'a': 1} AS nested")
    with source_of(sandbox) as source, pytest.raises(QueryError, match="column nested"):
        source.columns(Query("SELECT * FROM orders", {}))
