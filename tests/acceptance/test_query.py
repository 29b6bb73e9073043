"""`dwhctl query` over every kind of connection: what it gives, and that read only is real."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from dwhctl.core.errors import AttemptError, LockHeldError, QueryError, TimedOutError, UsageError
from dwhctl.query import AnswerEnd, Changed, QueryColumns, QueryRequest, Rows, running_query
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.slots import Slots
from dwhctl.systems.base.system import CursorOptions, system_of
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.servers.faults import Fault
from tests.support.faulty import wait_until
from tests.support.projects import DAY, Sandbox
from tests.support.wire import Wire, a_wire, needs_faults

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """SQL Server and Vertica with a few rows each."""
    folder = tmp_path_factory.mktemp("query_wire")
    with a_wire(folder / "project", {"server_0": ["abakan"]}, source_keys="max_connections = 4") as made:
        made.fill(3)
        made.warehouse(f"CREATE SCHEMA {made.schema}")
        made.warehouse(f"CREATE TABLE {made.schema}.notes (id INT, text VARCHAR(80))")
        ask(made, "warehouse", f"INSERT INTO {made.schema}.notes VALUES (1, 'a')", write=True)
        yield made


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Files: a warehouse, two shards, a SQLite database."""
    made = Sandbox(tmp_path, servers={"server_0": ["abakan", "chita"]}).write().fill(3)
    (tmp_path / "state").mkdir()
    with closing(duckdb.connect(str(made.warehouse_file))) as db:
        db.execute("CREATE TABLE notes (id BIGINT, text VARCHAR)")
        db.execute("INSERT INTO notes VALUES (1234567, NULL), (2, ''), (3, 'esc' || chr(27) || '[31m')")
    with closing(sqlite3.connect(tmp_path / "state" / "sessions.sqlite")) as lite, lite:
        lite.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        lite.execute("INSERT INTO notes VALUES (1, 'a')")
    return made


def ask(sandbox: Sandbox, connection: str, sql: str, **more: Any) -> list[tuple[Any, ...]]:
    """The rows that a query gives; how many a statement wrote as one row."""
    rows: list[tuple[Any, ...]] = []
    request = QueryRequest(connection, sql, **more)
    with running_query(sandbox.project(), request) as parts:
        for part in parts:
            if isinstance(part, Rows):
                rows += map(tuple, part.rows)
            elif isinstance(part, Changed):
                rows.append((part.rows,))
    return rows


def run_unchecked(sandbox: Sandbox, connection: str, sql: str) -> None:
    """Run a statement as a query that only reads runs it, whatever it begins with."""
    cursor = system_of(sandbox.project().connections[connection]).open_cursor(
        sandbox.project().connections[connection], None, CursorOptions(write=False)
    )
    try:
        cursor.open()
        for answer in cursor.execute(sql, 10):
            list(answer.batches)
    finally:
        cursor.close()


def query(sandbox: Sandbox, *arguments: str) -> int:
    return dwh("query", "--project", sandbox.root, *arguments)


# What it gives


def test_a_table_has_numbers_without_separators_and_tells_null(sandbox: Sandbox, capsys: Captured) -> None:
    assert query(sandbox, "warehouse", "SELECT * FROM notes ORDER BY id DESC") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["id", "text"],
        ["1234567", "NULL"],
        ["3", "esc\\x1b[31m"],
        ["2"],
    ]


def test_csv_and_json_hold_the_values_as_they_are(sandbox: Sandbox, capsys: Captured) -> None:
    sql = (
        "SELECT id, text, 1.50::DECIMAL(9, 3) AS d, '1000000000000000000000000000000'::DECIMAL(38, 0) AS big,"
        " encode('é') AS b,"
        " TIMESTAMP '2020-07-13 01:02:03.000004' AS ts, [1.5::DECIMAL(2, 1)] AS list, 7 AS id"
        " FROM notes ORDER BY notes.id"
    )
    assert query(sandbox, "warehouse", sql, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[2] == {
        "id": 1234567, "text": None, "d": "1.500", "big": "1" + "0" * 30, "b": "0xc3a9",
        "ts": "2020-07-13T01:02:03.000004", "list": ["1.5"], "id_2": 7,
    }  # fmt: skip
    assert [row["text"] for row in rows] == ["", "esc\x1b[31m", None]
    assert query(sandbox, "warehouse", sql, "--format", "csv") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].startswith('2,"",1.500,1000')
    assert text.splitlines()[3].startswith("1234567,,1.500,1000")
    read = list(csv.DictReader(io.StringIO(text)))
    assert read[1]["text"] == "esc\x1b[31m"
    assert Decimal(read[0]["big"]) == Decimal(10) ** 30
    assert read[0]["ts"] == "2020-07-13 01:02:03.000004"
    assert read[0]["b"] == "0xc3a9"


def test_no_rows_are_an_empty_listing(sandbox: Sandbox, capsys: Captured) -> None:
    for form, shown in (("table", "id  text\n"), ("json", "[]\n"), ("csv", "id,text\n")):
        assert query(sandbox, "warehouse", "SELECT * FROM notes WHERE id = 0", "--format", form) == 0
        assert capsys.readouterr().out == shown


def test_a_limit_cuts_and_says_so(sandbox: Sandbox, capsys: Captured) -> None:
    assert query(sandbox, "warehouse", "SELECT * FROM range(5000)") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1001
    assert captured.err == "there are more rows than these 1,000; --limit 0 shows all\n"
    assert query(sandbox, "warehouse", "SELECT * FROM range(3)", "--limit", "3") == 0
    assert capsys.readouterr().err == ""
    assert query(sandbox, "warehouse", "SELECT * FROM range(5000)", "--format", "csv") == 0
    captured = capsys.readouterr()
    assert (len(captured.out.splitlines()), captured.err) == (5001, "")


def test_sql_is_a_template(sandbox: Sandbox, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.load_keys += '\nparams = { city = "Abakan" }'
    sandbox.write()
    sql = "SELECT '{{ ds }} {{ params.city }} {{ shard.name }}' AS s"
    more = ("--date", str(DAY), "--load", "orders", "--shard", "abakan", "--format", "csv")
    assert query(sandbox, "server_0", sql, *more) == 0
    assert capsys.readouterr().out == f's\n"{DAY} Abakan abakan"\n'
    file = sandbox.put("sql/count.sql", "-- all of them\nSELECT count(*) AS n FROM orders;\n")
    for given in (str(file), "count.sql"):
        assert query(sandbox, "server_0", "--shard", "chita", "-f", given, "--format", "csv") == 0
        assert capsys.readouterr().out == "n\n3\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 5 AS five"))
    assert query(sandbox, "warehouse", "-", "--format", "csv") == 0
    assert capsys.readouterr().out == "five\n5\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("warehous", "SELECT 1"), "there is no connection 'warehous'; did you mean 'warehouse'?"),
        (("warehouse",), "give the SQL once"),
        (("warehouse", "SELECT {{ dss }}"), "'dss' is undefined"),
        (("warehouse", " -- nothing\n"), "there is no statement"),
        (("warehouse", "SELECT 1; SELECT 2"), "without --write a query is one statement"),
        (("server_0", "SELECT 1"), "name one with --database or --shard (there: abakan, chita)"),
        (("server_0", "SELECT 1", "--shard", "chitta"), "did you mean 'chita'?"),
        (("server_0", "SELECT 1", "--database", "../../state/warehouse"), "is no name of a database"),
        (("sessions", "SELECT 1", "--database", "x"), "has one database"),
        (("warehouse", "SELECT 1", "--load", "order"), "did you mean 'orders'?"),
    ],
)
def test_wrong_usage_is_named(
    sandbox: Sandbox, capsys: Captured, arguments: tuple[str, ...], said: str
) -> None:
    assert query(sandbox, *arguments) == 2
    assert said in capsys.readouterr().err


def test_an_error_comes_in_the_systems_words_without_secrets(sandbox: Sandbox, capsys: Captured) -> None:
    toml = sandbox.root / "config" / "dwhctl.toml"
    toml.write_text(toml.read_text() + '\n[variables]\ntoken = { env = "TG_TOKEN" }\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TG_TOKEN", "s3cret-t0ken")
        assert query(sandbox, "warehouse", 'SELECT * FROM "{{ var.value.token }}"') == 1
        captured = capsys.readouterr()
        assert "does not exist" in captured.err
        assert query(sandbox, "warehouse", "SELECT '{{ var.value.token }}'") == 0
        captured = captured.__class__(captured.out + capsys.readouterr().out, captured.err)
    assert "s3cret" not in captured.out + captured.err


# Read only


@pytest.mark.parametrize(
    ("sql", "word"), [("SELEC 1", "SELECT"), ("-- x\nwiht a AS (SELECT 1) FROM a", "WITH")]
)
def test_a_mistyped_word_is_no_statement_that_writes(sandbox: Sandbox, sql: str, word: str) -> None:
    with pytest.raises(UsageError, match=rf"begins no statement; did you mean '{word}'\?$"):
        ask(sandbox, "warehouse", sql)


def test_a_duckdb_file_is_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "out"
    secret = tmp_path / "secret.csv"
    secret.write_text("s3cret")
    for sql in (
        "INSERT INTO notes VALUES (9, 'x')",
        "DROP TABLE notes",
        f"COPY notes TO '{out}'",
        f"ATTACH '{out}'",
        f"EXPORT DATABASE '{out}'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        f"/* SELECT /* */ 1 */ COPY notes TO '{out}'",
    ):
        with pytest.raises(UsageError, match="--write lets"):
            ask(sandbox, "warehouse", sql)
    for sql in (
        f"EXPLAIN ANALYZE COPY notes TO '{out}'",
        "EXPLAIN ANALYZE DELETE FROM notes",
        f"FROM read_text('{secret}')",
        f"SELECT * FROM '{secret}'",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        f"SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{out}')",
        "PRAGMA enable_profiling",
    ):
        with pytest.raises(QueryError):
            ask(sandbox, "warehouse", sql)
    with pytest.raises(QueryError, match="no other file, server or extension here; --write lets it"):
        ask(sandbox, "warehouse", f"FROM read_text('{secret}')")
    assert not out.exists()
    assert ask(sandbox, "warehouse", f"SELECT content FROM read_text('{secret}')", write=True) == [
        ("s3cret",)
    ]
    assert ask(sandbox, "warehouse", "PRAGMA table_info('notes')")[0][1] == "id"
    assert ask(sandbox, "warehouse", "((SELECT 1))") == [(1,)]
    assert ask(sandbox, "warehouse", "SELECT count(*) FROM notes") == [(3,)]


def test_a_sqlite_file_is_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for sql in (
        "INSERT INTO notes VALUES (9, 'x')",
        "DROP TABLE notes",
        "CREATE TEMP TABLE x (a)",
        f"ATTACH '{out}' AS o",
        f"VACUUM INTO '{out}'",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = OFF",
    ):
        with pytest.raises((QueryError, UsageError), match="--write lets"):
            ask(sandbox, "sessions", sql)
        # Not only by its first word: SQLite itself refuses.
        with pytest.raises(QueryError, match="--write lets"):
            run_unchecked(sandbox, "sessions", sql)
    assert not out.exists()
    assert ask(sandbox, "sessions", "WITH n AS (SELECT * FROM notes) SELECT * FROM n") == [(1, "a")]
    assert ask(sandbox, "sessions", "PRAGMA table_info(notes)")[0][1] == "id"
    assert ask(sandbox, "sessions", "EXPLAIN QUERY PLAN SELECT 1")


@pytest.fixture
def postgres(sandbox: Sandbox, postgres_server: PostgresServer, postgres_database: str) -> Sandbox:
    """Beside the files, a connection `etl` to PostgreSQL."""
    connection = postgres_server.connection(postgres_database)
    toml = sandbox.root / "config" / "dwhctl.toml"
    password = f'password = "{postgres_server.password}"\n' if postgres_server.password else ""
    toml.write_text(
        f'{toml.read_text()}\n[connections.etl]\ntype = "postgres"\nhost = "{connection.host}"\n'
        f'port = {connection.port}\nuser = "{connection.user}"\ndatabase = "{connection.database}"\n{password}'
    )
    postgres_server.run("CREATE TABLE notes (id SERIAL PRIMARY KEY, text TEXT)", postgres_database)
    postgres_server.run("INSERT INTO notes (text) VALUES ('a')", postgres_database)
    return sandbox


def test_a_postgres_query_is_read_only_streamed_and_typed(postgres: Sandbox) -> None:
    for sql in (
        "INSERT INTO notes (text) VALUES ('x')",
        "WITH gone AS (DELETE FROM notes RETURNING id) SELECT * FROM gone",
        "SELECT nextval('notes_id_seq')",
        "SELECT * INTO copied FROM notes",
        "TRUNCATE notes",
        "CREATE TABLE x (a INT)",
        "DO $$ BEGIN DELETE FROM notes; END $$",
        "EXPLAIN ANALYZE DELETE FROM notes",
    ):
        with pytest.raises((QueryError, UsageError), match="--write lets"):
            ask(postgres, "etl", sql)
        # Not only by its first word: the server itself refuses.
        with pytest.raises(QueryError):
            run_unchecked(postgres, "etl", sql)
    with pytest.raises(QueryError, match=r"read-only transaction \(25006\); --write lets"):
        ask(postgres, "etl", "WITH gone AS (DELETE FROM notes RETURNING id) SELECT * FROM gone")
    assert ask(postgres, "etl", "SELECT * FROM notes") == [(1, "a")]
    [row] = ask(postgres, "etl", "SELECT 1.50::numeric(9, 3), 'é'::bytea, NULL::int, '{\"a\": 1}'::jsonb")
    assert (row[0], bytes(row[1]), row[2], row[3]) == (Decimal("1.500"), "é".encode(), None, {"a": 1})
    assert ask(postgres, "etl", "SHOW transaction_read_only") == [("on",)]
    assert ask(postgres, "etl", "SELECT generate_series(1, 100000000)", limit=2) == [(1,), (2,)]
    assert len(ask(postgres, "etl", "SELECT * FROM generate_series(1, 5000) -- all")) == 5000


def test_values_that_python_does_not_have_are_shown_as_they_are(postgres: Sandbox) -> None:
    """Infinity was shown as the year 9999, 24:00 as midnight, a month as 30 days; other years ended the query."""
    texts = {
        "date": ["infinity", "20000-01-01", "0044-03-15 BC"],
        "timestamp": ["-infinity", "20000-01-01 00:00:00"],
        "timestamptz": ["infinity", "0044-03-15 00:00:00+00 BC"],
        "time": ["24:00:00"],
        "interval": ["1 mon -3 days", "infinity"],
    }
    shown = [text for some in texts.values() for text in some]
    sql = ", ".join(f"'{text}'::{kind}" for kind, some in texts.items() for text in some)
    assert ask(postgres, "etl", f"SET TimeZone = 'UTC'; SELECT {sql}", write=True)[-1] == tuple(shown)
    assert ask(postgres, "etl", "SELECT ARRAY[date 'infinity', NULL], date '2020-07-14', NULL::date") == [
        (["infinity", None], DAY, None)
    ]


def test_duckdb_values_that_python_does_not_have_are_shown_as_they_are(sandbox: Sandbox) -> None:
    """A month was shown as 30 days, infinity as the year 9999, and nanoseconds were cut."""
    sql = (
        "SELECT INTERVAL 1 MONTH AS a, 'infinity'::DATE AS a, '-infinity'::TIMESTAMP AS t, 1 AS n, DATE '2020-07-14',"
        " TIMESTAMP_NS '2020-07-14 00:00:00.123456789' AS ns UNION ALL SELECT NULL, NULL, NULL, 0, NULL, NULL"
        " ORDER BY n DESC; -- all"
    )
    row = ("1 month", "infinity", "-infinity", 1, DAY, "2020-07-14 00:00:00.123456789")
    assert ask(sandbox, "warehouse", sql) == [row, (None, None, None, 0, None, None)]
    with pytest.raises(QueryError, match="Referenced column"):
        ask(sandbox, "warehouse", "SELECT no_such, INTERVAL 1 MONTH FROM notes")


#: Statements of which the splitting sees one that reads, and PostgreSQL two.
HIDDEN = (
    "SELECT U&'\\0041' UESCAPE '; {second}; --'",
    "SELECT ARRAY [ 1 /* ] ' */ ] ; {second} --'",
    "SELECT 1 -- '\r; {second} --'",
    "SELECT 3 #$$'$$::int; {second} --'",
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which the server's user may write too."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_postgres_runs_no_program_and_no_second_statement(postgres: Sandbox, open_folder: Path) -> None:
    out = open_folder / "out"
    program = f"COPY (SELECT 1) TO PROGRAM 'touch {out}'"
    for sql in (
        program,
        f"COPY notes TO '{out}'",
        "COPY notes TO STDOUT",
        f"COPY notes FROM PROGRAM 'touch {out}'",
        f"/* SELECT /* */ 1 */ {program}",
        f"-- SELECT\n{program}",
        "SET TRANSACTION READ WRITE",
        "COMMIT",
        "CALL nothing()",
        "LISTEN x",
        f'"SELECT" {program}',
    ):
        with pytest.raises(UsageError, match="does more than read; --write lets a statement write"):
            ask(postgres, "etl", sql)
        with pytest.raises(QueryError):
            run_unchecked(postgres, "etl", sql)
    for second in (program, "COMMIT; DELETE FROM notes", "SET TRANSACTION READ WRITE; DELETE FROM notes"):
        for hidden in HIDDEN:
            with pytest.raises((QueryError, UsageError)):
                ask(postgres, "etl", hidden.format(second=second.replace("'", "''")))
            with pytest.raises(QueryError):
                run_unchecked(postgres, "etl", hidden.format(second=second))
    with pytest.raises(QueryError, match="read-write mode"):
        ask(postgres, "etl", "SELECT set_config('transaction_read_only', 'off', false)")
    assert not out.exists()
    assert ask(postgres, "etl", "SELECT count(*) FROM notes") == [(1,)]
    assert ask(postgres, "etl", "EXPLAIN SELECT 1")
    assert ask(postgres, "etl", "SELECT '50%', 'it''s; \"x\"' -- ;") == [("50%", 'it\'s; "x"')]
    assert ask(postgres, "etl", "TABLE notes") == ask(postgres, "etl", "(SELECT * FROM notes)")
    assert ask(postgres, "etl", program, write=True) == [(1,)]
    assert out.exists()


def test_postgres_statements_that_write(postgres: Sandbox, postgres_server: PostgresServer) -> None:
    both = "INSERT INTO notes (text) VALUES ('b'), ('c'); UPDATE notes SET text = 'd' WHERE id = 1;"
    assert ask(postgres, "etl", both + " SELECT count(*) FROM notes", write=True) == [(2,), (1,), (3,)]
    with pytest.raises(QueryError, match="division by zero"):
        ask(postgres, "etl", "DELETE FROM notes; SELECT 1/0", write=True)
    assert ask(postgres, "etl", "SELECT count(*) FROM notes") == [(3,)]
    assert len(ask(postgres, "etl", "DELETE FROM notes RETURNING id", write=True, limit=1)) == 1
    assert ask(postgres, "etl", "SELECT count(*) FROM notes") == [(0,)]
    assert ask(postgres, "etl", "VACUUM notes", write=True) == [(None,)]


def test_files_are_written_all_or_nothing(sandbox: Sandbox, capsys: Captured) -> None:
    for connection in ("warehouse", "sessions"):
        assert ask(sandbox, connection, "INSERT INTO notes VALUES (10, 'x')", write=True) == [(1,)]
        with pytest.raises(QueryError):
            ask(sandbox, connection, "DELETE FROM notes; SELECT * FROM nowhere", write=True)
        assert ask(sandbox, connection, "SELECT text FROM notes WHERE id = 10") == [("x",)]
        assert query(sandbox, connection, "--write", "BEGIN; DELETE FROM notes; ROLLBACK") == 0
        assert ask(sandbox, connection, "SELECT text FROM notes WHERE id = 10") == [("x",)]
    trigger = "CREATE TRIGGER t AFTER DELETE ON notes BEGIN SELECT 1; SELECT 2; END; DELETE FROM notes"
    assert ask(sandbox, "sessions", trigger, write=True)
    assert ask(sandbox, "sessions", "SELECT count(*) FROM notes") == [(0,)]
    capsys.readouterr()
    assert query(sandbox, "warehouse", "--write", "DELETE FROM notes WHERE id = 2", "--format", "csv") == 0
    assert capsys.readouterr() == ("", "1 row changed\n")


# Over the wire


def test_a_vertica_query_is_read_only(wire: Wire, capsys: Captured) -> None:
    notes = f"{wire.schema}.notes"
    for sql in (
        f"DELETE FROM {notes}",
        f"TRUNCATE TABLE {notes}",
        "DROP SCHEMA x",
        f"SELECT * INTO {notes}_2 FROM {notes}",
        f"/* SELECT */ UPDATE {notes} SET id = 2",
        "COMMIT",
        f"PROFILE DELETE FROM {notes}",
        "EXPORT TO PARQUET (directory = '/tmp/x') AS SELECT 1",
        f"COPY {notes} FROM '/etc/passwd'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    ):
        assert query(wire, "warehouse", sql) == 2
        assert "more than read; --write" in capsys.readouterr().err
    assert query(wire, "warehouse", f"SELECT * FROM {notes}", "--format", "csv") == 0
    assert capsys.readouterr().out == 'id,text\n1,"a"\n'
    assert query(wire, "warehouse", "SELECT * FROM nowhere") == 1
    assert 'Relation "nowhere" does not exist' in capsys.readouterr().err
    # Not only by its first word: the session itself refuses.
    with pytest.raises(AttemptError, match="read-only transaction"):
        run_unchecked(wire, "warehouse", f"DELETE FROM {notes}")
    # What the server may read as several statements.
    second = "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"
    for hidden in (*HIDDEN, f"/* /* */ SELECT */ DELETE FROM {notes}"):
        assert query(wire, "warehouse", hidden.format(second=second)) == 2, hidden
        assert "--write" in capsys.readouterr().err
    assert query(wire, "warehouse", "SELECT 'a;b' AS t -- ;", "--format", "csv") == 0
    assert capsys.readouterr().out == 't\n"a;b"\n'


def test_vertica_statements_that_write(wire: Wire) -> None:
    notes = f"{wire.schema}.notes"
    ask(
        wire,
        "warehouse",
        f"INSERT INTO {notes} VALUES (2, 'b'); DELETE FROM {notes} WHERE id = 2",
        write=True,
    )
    assert ask(wire, "warehouse", f"SELECT * FROM {notes}") == [(1, "a")]
    with pytest.raises(AttemptError, match="does not exist"):
        ask(wire, "warehouse", f"DELETE FROM {notes}; DELETE FROM nowhere; SELECT 1", write=True)
    assert ask(wire, "warehouse", f"SELECT * FROM {notes}") == [(1, "a")]


def test_a_sql_server_query_is_one_select_and_rolled_back(wire: Wire, capsys: Captured) -> None:
    shard = ("server_0", "--shard", "abakan")
    for sql in (
        "DELETE FROM dbo.Orders",
        "SELECT 1 DELETE FROM dbo.Orders",
        "SELECT * INTO dbo.copied FROM dbo.Orders",
        "EXEC sp_who",
        "WITH a AS (SELECT * FROM dbo.Orders) DELETE FROM a",
        "SELECT * FROM OPENROWSET('x', 'y', 'DELETE FROM t')",
        "SELECT 1 COMMIT",
        "SELECT 1; SELECT 2",
        "SELECT 1 /* /* */ ' */ EXEC xp_cmdshell 'dir' --'",
        "SELECT 1 -- '\rEXEC xp_cmdshell 'dir' --'",
        "SELECT 1 a[']; EXEC xp_cmdshell 'dir' --']",
        "SELECT 1DELETE FROM dbo.Orders",
        "SELECT 1e1EXEC xp_cmdshell 'dir'",
        "SELECT 0xUPDATE dbo.Orders SET id = 1",
        "SELECT $1COMMIT",
        "SELECT 1 USE master",
        "sp_configure 'show advanced options', 1",
    ):
        assert query(wire, *shard, sql) == 2, sql
        assert "--write" in capsys.readouterr().err
    assert query(wire, *shard, "SELECT 0xADBCC AS b, 1e1 AS n", "--format", "json") == 0
    capsys.readouterr()
    sql = "SELECT id % 10 AS id, customer, [amount] AS [update], 'delete' FROM dbo.Orders ORDER BY 1"
    assert query(wire, *shard, sql, "--format", "csv") == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["id,customer,update,column_4", '0,,0.00,"delete"']
    assert query(wire, *shard, "SELECT 1/0") == 1
    assert "Divide by zero" in capsys.readouterr().err


def test_sql_server_batches_that_write(wire: Wire) -> None:
    database = f"{wire.prefix}abakan"
    of: dict[str, Any] = {"database": database, "write": True}
    ask(wire, "server_0", "CREATE TABLE dbo.notes (id INT)\nGO\nINSERT INTO dbo.notes VALUES (1), (2)", **of)
    assert ask(wire, "server_0", "SELECT COUNT(*) FROM dbo.notes", database=database) == [(2,)]
    with pytest.raises(QueryError, match="nowhere"):
        ask(wire, "server_0", "DELETE FROM dbo.notes\nGO\nSELECT * FROM dbo.nowhere", **of)
    # The second statement of a batch: the driver tells of it only when its answer is asked for.
    with pytest.raises(QueryError, match="Divide by zero"):
        ask(wire, "server_0", "SELECT 1; SELECT 1/0", **of)
    assert ask(wire, "server_0", "SELECT COUNT(*) FROM dbo.notes", database=database) == [(2,)]


# Bounds


def test_a_slot_of_the_connection_is_held(sandbox: Sandbox) -> None:
    toml = sandbox.root / "config" / "dwhctl.toml"
    toml.write_text(toml.read_text().replace('lock_wait = "5s"', 'lock_wait = "5s"\nmax_connections = 1'))
    state = StateDir(sandbox.root / "state")
    state.make()
    held = Slots(state.slots, {"warehouse": 1}).held("warehouse")
    with held, pytest.raises(LockHeldError, match="max_connections allows; wait for one with --wait"):
        ask(sandbox, "warehouse", "SELECT 1")
    with running_query(sandbox.project(), QueryRequest("warehouse", "SELECT 1")) as parts:
        assert Slots(state.slots, {"warehouse": 1}).try_take("warehouse") is None
        assert list(parts) == [QueryColumns(("1",)), Rows([(1,)]), AnswerEnd(1, cut=False)]
    assert Slots(state.slots, {"warehouse": 1}).try_take("warehouse") is not None


@pytest.mark.long
@pytest.mark.parametrize("connection", ["warehouse", "etl"])
@pytest.mark.parametrize("form", ["csv", "json"])
def test_memory_does_not_grow_with_the_rows(postgres: Sandbox, connection: str, form: str) -> None:
    peaks = []
    for rows in (50_000, 2_000_000):
        series = (
            f"range({rows}) AS g(i)" if connection == "warehouse" else f"generate_series(1, {rows}) AS g(i)"
        )
        sql = f"SELECT i, 'some text of a row ' || i AS text, i * 1.5 AS number FROM {series}"
        out = postgres.root / "out"
        with out.open("wb") as file:
            command = ["dwhctl", "query", connection, sql, "--format", form, "--project", str(postgres.root)]
            process = psutil.Popen([sys.executable, "-m", *command], stdout=file)
            peak = 0
            while process.poll() is None:
                with suppress(psutil.Error):
                    peak = max(peak, process.memory_info().rss)
                time.sleep(0.02)
        assert process.returncode == 0
        assert out.read_text().count("some text of a row") == rows
        peaks.append(peak / 2**20)
    print(f"\n{connection} {form}: {peaks[0]:.0f} MiB, {peaks[1]:.0f} MiB")
    assert peaks[1] < peaks[0] + 60


ENDLESS = {
    "warehouse": "SELECT count(*) FROM range(10000000000) a, range(100000) b",
    "sessions": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "etl": "SELECT pg_sleep(3600)",
}


@pytest.mark.parametrize("connection", list(ENDLESS))
def test_a_timeout_ends_the_query(
    postgres: Sandbox, postgres_server: PostgresServer, connection: str
) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOutError, match="longer than --timeout"):
        ask(postgres, connection, ENDLESS[connection], timeout=timedelta(seconds=0.3))
    assert time.monotonic() - started < 10
    if connection == "etl":
        wait_until(lambda: not _sleeping(postgres_server), "the server has ended it")


def _sleeping(server: PostgresServer) -> bool:
    with closing(server.connect(server.admin_database)) as link, link.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'FETCH % dwhctl_query' AND state = 'active'"
        )
        return cursor.fetchone() is not None


@needs_faults
@pytest.mark.parametrize("connection", ["server_0", "warehouse"])
def test_ctrl_c_ends_the_process_and_the_query_on_the_server(wire: Wire, connection: str) -> None:
    server = wire.own_sources["server_0"] if connection == "server_0" else wire.dwh
    assert server is not None
    fault = server.faults.add(Fault("hang_query", statement="SELECT 42"))
    try:
        process = wire.start("query", connection, "SELECT 42 AS hangs")
        wait_until(lambda: fault.struck, "the query runs", seconds=20)
        interrupted = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (130, "Error: interrupted\n")
        assert time.monotonic() - interrupted < 8
        wait_until(lambda: server.sessions_now == 0, "the server has ended it")
    finally:
        server.faults.remove(fault)
