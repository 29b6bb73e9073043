"""PostgreSQL as source and as target when things go wrong: locks, lost connections, odd values, what others left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from datetime import timedelta

import psycopg2
import pyarrow as pa
import pytest
from msgspec.structs import replace

from dwhctl.core.columns import Kind
from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    CountsDifferError,
    QueryError,
    SessionsError,
    SourceError,
    StagingError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
    ValueRefusedError,
)
from dwhctl.core.secrets import Secret
from dwhctl.core.sql import literal
from dwhctl.project.names import RowSource
from dwhctl.project.query import Query
from dwhctl.systems.base.target import Narrowing, StagingGroup
from dwhctl.systems.postgres.client import connect as connect_sessions
from dwhctl.systems.postgres.client import reason
from dwhctl.systems.postgres.console import PostgresCursor
from dwhctl.systems.postgres.copy_client import CopyClient
from dwhctl.systems.postgres.errors import connect_error
from dwhctl.systems.postgres.source import PostgresSource, _value
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.postgres.target import PostgresPublication, PostgresTarget
from tests.contract.way import a_slice
from tests.postgres import PostgresServer, any_server, standby_server

TABLE, GROUP = "stage.t", StagingGroup("run", "group", "stage.t")
TIMEOUT = timedelta(seconds=20)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server."""
    with any_server() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> Iterator[str]:
    """A database."""
    name = server.make_database()
    yield name
    server.drop_database(name)


@pytest.fixture
def connection(server: PostgresServer, database: str) -> PostgresConnection:
    """A connection to it."""
    return server.connection(database, "dwh")


@pytest.fixture
def target(connection: PostgresConnection) -> PostgresTarget:
    """A warehouse with a table and an open group."""
    made = PostgresTarget(connection, TIMEOUT, "dwhctl:run")
    made.run_statements(
        [
            "CREATE SCHEMA stage",
            f"CREATE TABLE {TABLE} (id bigint, v jsonb, etl_source text, etl_id bigint, hash_id bigint)",
        ]
    )
    made.open_group(GROUP)
    return made


def test_the_settings_of_a_role_change_neither_types_nor_values(
    server: PostgresServer, database: str, connection: PostgresConnection
) -> None:
    settings = {"quote_all_identifiers": "on", "extra_float_digits": "-15", "IntervalStyle": "iso_8601"}
    for name, value in settings.items():
        server.run(f"ALTER DATABASE {database} SET {name} = '{value}'")
    sql = "SELECT CAST('a' AS bytea) AS b, CAST(0.1 AS float8) + 0.2 AS f"
    with PostgresSource(connection, database, "UTC") as source:
        [batch] = source.batches(Query(sql, {}), 10)
        assert [column.declared for column in source.columns(Query(sql, {}))] == ["bytea", "double precision"]
    assert batch.to_pylist() == [{"b": b"a", "f": 0.1 + 0.2}]
    cursor = PostgresCursor(connection, write=False)
    with closing(cursor):
        cursor.open()
        cursor.begin()
        results = cursor.execute("SELECT CAST(0.1 AS float8) + 0.2, INTERVAL '1 day'", 10)
        found = [tuple(row) for result in results for rows in result.batches for row in rows]
    assert found == [(0.1 + 0.2, "1 day")]


def test_xml_is_read_with_its_declaration(connection: PostgresConnection, database: str) -> None:
    """What COPY writes is without it, so that `verify` would find another text."""
    query = Query("SELECT CAST(NULL AS xml) AS x, CAST(1 AS integer) AS id", {})
    with PostgresSource(connection, database, "UTC") as source:
        columns = source.columns(query)
        assert [batch.to_pylist() for batch in source.batches(query, 10)] == [[{"x": None, "id": 1}]]
    assert [_value(column) for column in columns] == ['CAST("x" AS text) AS "x"', '"id"']


_NO_DELETE = (
    "CREATE FUNCTION stage.no_delete() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    f"CREATE TRIGGER no_delete BEFORE DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION stage.no_delete()",
)


@pytest.mark.parametrize(
    "kept",
    [
        _NO_DELETE,
        (f"CREATE RULE kept AS ON DELETE TO {TABLE} DO INSTEAD NOTHING",),
        (
            f"CREATE TABLE stage.old (LIKE {TABLE}); ALTER TABLE stage.old INHERIT {TABLE}",
            f"INSERT INTO stage.old SELECT * FROM {TABLE}; TRUNCATE ONLY {TABLE}",
            *(statement.replace(f"ON {TABLE}", "ON stage.old") for statement in _NO_DELETE),
        ),
        (
            (
                "CREATE FUNCTION stage.again() RETURNS trigger LANGUAGE plpgsql"
                f" AS 'BEGIN INSERT INTO {TABLE} SELECT OLD.*; RETURN NULL; END'"
            ),
            f"CREATE TRIGGER again AFTER DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION stage.again()",
        ),
    ],
    ids=["trigger", "rule", "trigger of a part", "trigger afterwards"],
)
def test_a_table_that_keeps_its_old_rows_is_refused(target: PostgresTarget, kept: tuple[str, ...]) -> None:
    """The new rows would stand beside the old ones, with a session that says that all is well."""
    target.run_statements([f"INSERT INTO {TABLE} VALUES (1, '1', 'abakan', 1, 1)", *kept])
    columns, slice_ = target.columns(TABLE), a_slice()
    with (
        pytest.raises(CountsDifferError, match="a trigger or rule of the table keeps them"),
        target.write_slice(GROUP, "token", columns, slice_, None) as stage,
    ):
        stage.write(iter([batch(1)]))
    with target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.held_rows([slice_]) == {"abakan": 1}
        with pytest.raises(CountsDifferError, match="a trigger or rule of the table keeps them"):
            publication.delete([slice_])
    with (
        target.refresh(TABLE, RowSource("SELECT 2 AS id", is_query=True), TIMEOUT) as refresh,
        pytest.raises(CountsDifferError, match="a trigger or rule of the table keeps them"),
    ):
        refresh.delete()


_NO_INSERT = (
    (
        "CREATE FUNCTION stage.no_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        f" CREATE TRIGGER no_insert BEFORE INSERT ON {TABLE} FOR EACH ROW WHEN (NEW.id = 2)"
        " EXECUTE FUNCTION stage.no_insert()"
    ),
)


@pytest.mark.parametrize(
    "wide", [(), (f"ALTER TABLE {TABLE} ALTER v TYPE numeric(50, 2) USING 1",)], ids=["copy", "text"]
)
def test_a_table_that_leaves_rows_out_is_refused(target: PostgresTarget, wide: tuple[str, ...]) -> None:
    """Another attempt would meet the same trigger."""
    target.run_statements([*_NO_INSERT, *wide])
    columns, slice_, words = (
        target.columns(TABLE),
        a_slice(),
        "2 rows were written to .*, but it took 1: a trigger",
    )
    rows = batch(1, 2).cast(pa.schema([(one.name, one.type) for one in columns]))
    with (
        pytest.raises(CountsDifferError, match=words),
        target.write_slice(GROUP, "token", columns, slice_, None) as stage,
    ):
        stage.write(iter([rows]))
    group = StagingGroup("run", "later", TABLE)
    target.open_group(group)
    with target.stage(group, "token", columns) as stage:
        stage.write(iter([rows]))
    with target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.staged_rows(group, ["token"]) == {"token": 2}
        with pytest.raises(CountsDifferError, match=words):
            publication.insert(group, ["token"])


@pytest.mark.parametrize(
    "way",
    [
        "CREATE TRIGGER way BEFORE INSERT ON {} FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION stage.way()",
        "CREATE TRIGGER way AFTER INSERT ON {} FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION stage.way()",
        (
            "CREATE CONSTRAINT TRIGGER way AFTER INSERT ON {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            " WHEN (NEW.id = 2) EXECUTE FUNCTION stage.way()"
        ),
        "CREATE RULE way AS ON INSERT TO {} WHERE NEW.id = 2 DO INSTEAD NOTHING",
    ],
    ids=["before", "after", "deferred", "rule"],
)
def test_a_report_whose_table_leaves_rows_out_is_refused(target: PostgresTarget, way: str) -> None:
    """Its success lacked rows of the source. A trigger that leaves the rows as they are is no mistake."""
    target.run_statements(
        [
            "CREATE TABLE stage.report (id bigint); INSERT INTO stage.report VALUES (7)",
            (
                "CREATE FUNCTION stage.way() RETURNS trigger LANGUAGE plpgsql"
                " AS 'BEGIN DELETE FROM stage.report WHERE id = NEW.id; RETURN NULL; END'"
            ),
            way.format("stage.report"),
        ]
    )
    source = RowSource("SELECT generate_series(1, {}) AS id", is_query=True)
    for last in (3, 1):
        with target.refresh(
            "stage.report", replace(source, text=source.text.format(last)), TIMEOUT
        ) as refresh:
            refresh.delete()
            if last == 1:
                assert refresh.insert(["id"]) == 1
                refresh.commit()
                continue
            with pytest.raises(
                CountsDifferError, match=r"3 rows were written to stage\.report, but it took 2: a"
            ):
                refresh.insert(["id"])
    with target.inspection("stage.report", None) as inspection:
        assert inspection._ask("SELECT id FROM stage.report", {}) == [(1,)]


_CHANGE = "CREATE FUNCTION stage.change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {}; RETURN NEW; END'"
_TRIGGER = f"CREATE TRIGGER change BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION stage.change()"


_DEFERRED = (
    f"CREATE CONSTRAINT TRIGGER change AFTER INSERT ON {TABLE} DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION stage.change()"
)


@pytest.mark.parametrize(
    ("change", "trigger", "moves"),
    [
        ("NEW.etl_source := ''x''", _TRIGGER, True),
        ("NEW.v := ''2''", _TRIGGER, False),
        (f"UPDATE {TABLE} SET etl_source = ''x'' WHERE id = NEW.id", _DEFERRED, True),
        (f"UPDATE {TABLE} SET v = ''2'' WHERE id = NEW.id", _DEFERRED, False),
    ],
    ids=["at once", "another column", "at COMMIT", "another column at COMMIT"],
)
def test_a_trigger_may_not_move_rows_to_another_slice(
    target: PostgresTarget, change: str, trigger: str, moves: bool
) -> None:
    """Each reload added them once more, with a session that says that all is well."""
    target.run_statements([_CHANGE.format(change), trigger])
    columns, slices = target.columns(TABLE), [a_slice(), replace(a_slice(), shard="chita")]
    refused = pytest.raises(
        CountsDifferError, match=r"2 rows were written to .*, but 0 are in their slices now"
    )
    with (
        refused if moves else nullcontext(),
        target.write_slice(GROUP, "token", columns, slices[0], None) as stage,
    ):
        stage.write(iter([batch(1, 2)]))
        stage.discard()
    group = StagingGroup("run", "later", TABLE)
    target.open_group(group)
    with target.stage(group, "token", columns) as stage:
        stage.write(iter([batch(1, 2)]))
    # Rows that stay: those of a slice that is not replaced.
    target.run_statements([f"INSERT INTO {TABLE} VALUES (3, '1', 'abakan', 1, 1), (4, '1', 'chita', 1, 1)"])
    with target.publication(TABLE, None, TIMEOUT) as publication:
        publication.held_rows(slices)
        publication.delete(slices[:1])
        with refused if moves else nullcontext():
            assert publication.insert(group, ["token"]) == 2


def test_a_missing_partition_is_the_tables_fault(target: PostgresTarget) -> None:
    """The advice was to correct the value at the source."""
    columns = target.columns(TABLE)
    target.run_statements(
        [
            f"ALTER TABLE {TABLE} RENAME TO plain",
            f"CREATE TABLE {TABLE} (LIKE stage.plain) PARTITION BY LIST (id)",
        ]
    )
    with (
        pytest.raises(TargetRefusedError, match="create the partition of these rows, or one that is DEFAULT"),
        target.write_slice(GROUP, "token", columns, a_slice(), None) as stage,
    ):
        stage.write(iter([batch(1)]))


READ_ONLY = "is a standby, or its default_transaction_read_only is on"


def test_a_read_only_server_is_a_reason_to_try_again(
    server: PostgresServer, database: str, target: PostgresTarget
) -> None:
    """In a failover the standby becomes the primary, or the address moves to it."""
    server.run(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with (
        pytest.raises(TargetError, match=READ_ONLY) as caught,
        target.write_slice(GROUP, "token", target.columns(TABLE), a_slice(), None) as stage,
    ):
        stage.write(iter([batch(1)]))
    assert not caught.value.permanent
    with pytest.raises(TargetError, match=READ_ONLY) as caught:
        target.run_statements(["CREATE TABLE stage.other (id bigint)"])
    assert not caught.value.permanent
    with pytest.raises(TargetError, match=READ_ONLY) as caught:
        target.open_group(StagingGroup("run", "other", TABLE))
    assert not caught.value.permanent


def test_hosts_that_only_read_are_refused_with_the_reason(
    server: PostgresServer, database: str, connection: PostgresConnection
) -> None:
    server.run(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    hosts = connection.model_copy(update={"host": None, "hosts": (server.host, server.host)})
    with pytest.raises(ConnectError, match=READ_ONLY) as caught:
        PostgresTarget(hosts, TIMEOUT, "dwhctl:run").version()
    assert not caught.value.permanent
    with pytest.raises(SessionsError, match=READ_ONLY):
        connect_sessions(hosts, "SELECT 1", TIMEOUT)
    with closing(PostgresCursor(hosts, write=True)) as cursor, pytest.raises(ConnectError, match=READ_ONLY):
        cursor.open()
    with PostgresSource(hosts, database, "UTC") as source:
        assert [column.name for column in source.columns(Query("SELECT 1 AS one", {}))] == ["one"]


@pytest.mark.long
def test_a_target_of_several_hosts_writes_to_the_primary_before_and_after_a_failover(
    server: PostgresServer, database: str, connection: PostgresConnection
) -> None:
    with standby_server(database) as standby:
        both = {"host": None, "hosts": (standby.host, server.host)}
        hosts = connection.model_copy(update=both)
        target = PostgresTarget(hosts, TIMEOUT, "dwhctl:run")
        target.run_statements(["CREATE TABLE on_primary (id bigint)"])
        alone = PostgresTarget(standby.connection(database, "dwh"), TIMEOUT, "dwhctl:run")
        with pytest.raises(TargetError, match=READ_ONLY) as caught:
            alone.run_statements(["CREATE TABLE on_standby (id bigint)"])
        assert not caught.value.permanent
        with connect_sessions(hosts, "SELECT 1", TIMEOUT).execute("SELECT pg_is_in_recovery()") as cursor:
            assert cursor.fetchall() == [(False,)]
        standby.run("SELECT pg_promote()")
        alone.run_statements(["CREATE TABLE on_standby (id bigint)"])
        target.run_statements(["CREATE TABLE on_first (id bigint)"])
        assert [column.name for column in alone.columns("on_first")] == ["id"]


def test_a_trigger_that_deletes_in_its_own_way_is_no_mistake(target: PostgresTarget) -> None:
    """A view's trigger need not count what it deletes."""
    target.run_statements(
        [
            f"CREATE VIEW stage.v AS SELECT * FROM {TABLE}",
            f"INSERT INTO {TABLE} VALUES (1, '1', 'abakan', 1, 1)",
            (
                "CREATE FUNCTION stage.own() RETURNS trigger LANGUAGE plpgsql"
                f" AS 'BEGIN DELETE FROM {TABLE} WHERE id = OLD.id; RETURN NULL; END'"
            ),
            "CREATE TRIGGER own INSTEAD OF DELETE ON stage.v FOR EACH ROW EXECUTE FUNCTION stage.own()",
        ]
    )
    slice_ = a_slice()
    with closing(target._client("test", TIMEOUT)) as client:
        client.open()
        publication = PostgresPublication(client, "stage.v", None, None)
        assert publication.held_rows([slice_]) == {"abakan": 1}
        publication.delete([slice_])
        assert publication.held_rows([slice_]) == {}
    target.run_statements([f"INSERT INTO {TABLE} VALUES (1, '1', 'abakan', 1, 1), (2, '1', 'abakan', 1, 1)"])
    with target.write_slice(
        replace(GROUP, table="stage.v"), "token", target.columns("stage.v"), slice_, None
    ) as stage:
        stage.write(iter([batch(1)]))
        # The guard against a source that shrinks compares with it.
        assert stage.held == 2
        stage.discard()


def test_many_tables_are_described_by_one_query(
    target: PostgresTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"stage.t_{number}" for number in range(20)]
    target.run_statements([f"CREATE TABLE {name} (LIKE {TABLE})" for name in names])
    asked: list[str] = []
    query = CopyClient.query

    def counted(self: CopyClient, sql: str) -> list[tuple[object, ...]]:
        asked.append(sql)
        return query(self, sql)

    monkeypatch.setattr(CopyClient, "query", counted)
    found = target.described([*names, TABLE, "stage.missing"])
    assert sum("pg_attribute" in sql for sql in asked) == 1
    assert [found[name] for name in names] == [found[TABLE]] * 20
    assert found[TABLE] == target.columns(TABLE)
    assert isinstance(found["stage.missing"], TargetRefusedError)


def test_row_level_security_that_hides_old_rows_is_refused(
    server: PostgresServer, database: str, target: PostgresTarget
) -> None:
    role = f"limited_{database}"
    server.run(f"CREATE ROLE {role} LOGIN")
    limited = PostgresTarget(
        server.connection(database, "dwh").model_copy(update={"user": role}), TIMEOUT, "dwhctl:run"
    )
    target.run_statements(
        [
            f"GRANT USAGE ON SCHEMA stage TO {role}",
            f"GRANT SELECT, INSERT, DELETE ON {TABLE} TO {role}",
            f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY few ON {TABLE} USING (id < 10) WITH CHECK (true)",
        ]
    )
    try:
        with pytest.raises(TargetRefusedError, match="row-level security hides rows of stage"):
            limited.columns(TABLE)
        target.run_statements([f"CREATE POLICY everything ON {TABLE} TO {role} USING (true)"])
        assert len(limited.columns(TABLE)) == 5
        assert len(target.columns(TABLE)) == 5
        target.run_statements(
            [
                f"DROP POLICY everything ON {TABLE}",
                f"CREATE POLICY all_are_seen ON {TABLE} FOR SELECT USING (true)",
                f"CREATE POLICY few_are_new ON {TABLE} AS RESTRICTIVE FOR INSERT WITH CHECK (id > 0)",
                f"CREATE POLICY for_others ON {TABLE} AS RESTRICTIVE TO pg_monitor USING (false)",
            ]
        )
        with pytest.raises(TargetRefusedError, match="row-level security hides rows of stage"):
            limited.columns(TABLE)
        target.run_statements([f"CREATE POLICY all_go ON {TABLE} FOR DELETE USING (true)"])
        assert len(limited.columns(TABLE)) == 5
        target.run_statements([f"CREATE POLICY less ON {TABLE} AS RESTRICTIVE FOR DELETE USING (id < 10)"])
        with pytest.raises(TargetRefusedError, match="row-level security hides rows of stage"):
            limited.columns(TABLE)
    finally:
        target.run_statements([f"DROP OWNED BY {role}"])
        server.run(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "said", ["error with status PGRES_COPY_OUT and no message from the libpq", "invalid socket\n"]
)
def test_a_session_that_the_server_ended_is_said_in_plain_words(said: str) -> None:
    assert reason(psycopg2.OperationalError(said)) == "the server closed the connection"


def test_a_create_that_is_refused_is_not_taken_for_one_that_was_done(target: PostgresTarget) -> None:
    """PostgreSQL has one code for a column that exists and for one that a CREATE TABLE has twice."""
    with pytest.raises(TargetRefusedError, match="specified more than once"):
        target.run_statements(["CREATE TABLE IF NOT EXISTS stage.x (a int, a int)"])


def test_the_statements_of_a_create_are_one_message_where_they_can_be(
    target: PostgresTarget, server: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    query = CopyClient.query

    def noted(self: CopyClient, sql: str) -> list[tuple[object, ...]]:
        sent.extend([sql] if "stage." in sql else [])
        return query(self, sql)

    monkeypatch.setattr(CopyClient, "query", noted)
    target.run_statements(
        ["CREATE TABLE stage.a (id bigint) -- the first", "CREATE TABLE stage.b (id bigint)"]
    )
    assert len(sent) == 1
    alone = "CREATE INDEX CONCURRENTLY one ON stage.a (id)"
    target.run_statements(["CREATE TABLE stage.c (id bigint)", alone])
    with pytest.raises(TargetRefusedError, match="already exists"):
        target.run_statements(["CREATE TABLE stage.d (id bigint)", "CREATE TABLE stage.a (id bigint)"])
    target.run_statements(["BEGIN", "CREATE TABLE stage.e (id bigint)", "COMMIT"])
    monkeypatch.undo()
    with closing(server.connect(database)) as opened, opened.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname IN ('a', 'b', 'c', 'd', 'e', 'one')")
        assert sorted(name for (name,) in cursor.fetchall()) == ["a", "b", "c", "d", "e", "one"]


def batch(*ids: int, value: str = "1") -> pa.RecordBatch:
    size = len(ids)
    arrays = [pa.array(ids, pa.int64()), pa.array([value] * size), pa.array(["abakan"] * size)]
    arrays += [pa.array([1] * size), pa.array(ids)]
    return pa.RecordBatch.from_arrays(arrays, names=["id", "v", "etl_source", "etl_id", "hash_id"])


def stage(target: PostgresTarget, token: str, *batches: pa.RecordBatch) -> None:
    with target.stage(GROUP, token, target.columns(TABLE)) as opened:
        opened.write(iter(batches))


def publish(target: PostgresTarget, token: str) -> None:
    with target.publication(TABLE, None, TIMEOUT) as publication:
        publication.insert(GROUP, [token])
        publication.commit()


def sessions(server: PostgresServer, database: str) -> list[str]:
    with closing(server.connect(database)) as db, db.cursor() as cursor:
        cursor.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        return [name for (name,) in cursor.fetchall()]


# The target


def test_a_locked_table_is_waited_for_so_long_and_no_longer(
    server: PostgresServer, database: str, target: PostgresTarget
) -> None:
    with closing(server.connect(database)) as other:
        other.cursor().execute(f"BEGIN; LOCK TABLE {TABLE} IN SHARE ROW EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(TargetBusyError) as caught, target.publication(TABLE, None, timedelta(seconds=1)):
            pass
    assert 0.3 < time.monotonic() - began < 5
    assert not caught.value.permanent


def test_readers_are_not_locked_out(server: PostgresServer, database: str, target: PostgresTarget) -> None:
    stage(target, "one", batch(1, 2))
    with target.publication(TABLE, None, TIMEOUT) as publication, closing(server.connect(database)) as reader:
        publication.delete([a_slice(sliced=False)])
        publication.insert(GROUP, ["one"])
        cursor = reader.cursor()
        cursor.execute(f"SET lock_timeout = 200; SELECT count(*) FROM {TABLE}")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_in_doubt_is_ended_and_looked_at(
    server: PostgresServer,
    database: str,
    target: PostgresTarget,
    happened: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage(target, "one", batch(1, 2))
    query, close = CopyClient.query, CopyClient.close
    left: list[CopyClient] = []

    def lost(self: CopyClient, sql: str) -> list[tuple[object, ...]]:
        if sql != "COMMIT":
            return query(self, sql)
        if happened:
            query(self, sql)
        left.append(self)
        raise TargetError("the answer to COMMIT was lost")

    monkeypatch.setattr(CopyClient, "query", lost)
    monkeypatch.setattr(CopyClient, "close", lambda self: None if self in left else close(self))
    with pytest.raises(TargetError):
        publish(target, "one")
    # The old session stands, with its transaction and its lock on the table.
    assert [name for name in sessions(server, database) if ":publish:" in name]
    assert target.published_rows(TABLE, [1]) == ({1: 2} if happened else {})
    assert not [name for name in sessions(server, database) if ":publish:" in name]
    monkeypatch.undo()
    close(left[0])


def test_a_session_that_is_ended_in_copy_costs_its_slice(
    server: PostgresServer, database: str, target: PostgresTarget
) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield batch(*range(1000))
        with closing(server.connect(database)) as other:
            other.cursor().execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%'"
            )
        for _ in range(50):
            yield batch(*range(100_000))

    with (
        pytest.raises((TargetError, StagingError)) as caught,
        target.stage(GROUP, "one", target.columns(TABLE)) as opened,
    ):
        opened.write(batches())
    assert not caught.value.permanent
    with suppress(AttemptError), target.publication(TABLE, None, TIMEOUT) as publication:
        assert not publication.staged_rows(GROUP, ["one"])


def test_a_staging_table_that_a_crash_emptied_costs_another_attempt(
    server: PostgresServer, database: str, target: PostgresTarget
) -> None:
    stage(target, "one", batch(1))
    with closing(server.connect(database)) as other:
        other.cursor().execute("DO 'BEGIN EXECUTE (SELECT ''TRUNCATE '' || oid::regclass FROM pg_class"
                               " WHERE relpersistence = ''u'' AND relkind = ''r''); END'")  # fmt: skip
    with (
        pytest.raises(StagingError, match="after a crash") as caught,
        target.publication(TABLE, None, TIMEOUT) as publication,
    ):
        publication.staged_rows(GROUP, ["one"])
    assert not caught.value.permanent


def test_a_value_that_the_server_refuses_names_column_and_row(target: PostgresTarget) -> None:
    with pytest.raises(ValueRefusedError, match=r"column v, row 3 of the slice"):
        stage(target, "one", batch(1, 2), batch(3, value="{no json"))


def test_what_a_dead_run_left_is_ended_and_dropped(
    server: PostgresServer, database: str, target: PostgresTarget, connection: PostgresConnection
) -> None:
    stage(target, "one", batch(1))
    dead = CopyClient(connection, "dwhctl:run:publish:x", 10.0, target=True)
    dead.open()
    dead.query(f"BEGIN; LOCK TABLE {TABLE}")
    other = CopyClient(connection, "dwhctl:running:publish:x", 10.0, target=True)
    other.open()
    PostgresTarget(connection, TIMEOUT, "dwhctl:later").drop_run("run")
    left = sessions(server, database)
    assert "dwhctl:running:publish:x" in left
    assert not [name for name in left if name.startswith("dwhctl:run:")]
    with pytest.raises(TargetError):
        dead.query("COMMIT")
    with closing(server.connect(database)) as db, db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'dwhctl%'")
        assert cursor.fetchone() == (0,)
    other.close()
    dead.close()


def test_a_missing_index_and_missing_privileges_are_warned_of(
    server: PostgresServer, database: str, target: PostgresTarget, connection: PostgresConnection
) -> None:
    [warning] = target.warnings(TABLE)
    assert "no index with etl_source" in warning.text
    assert not warning.blocks
    role = f"reader_{database}"
    with closing(server.connect(database)) as db:
        db.cursor().execute(f"CREATE INDEX ON {TABLE} (etl_source); CREATE ROLE {role} LOGIN")
        db.cursor().execute(f"GRANT USAGE ON SCHEMA stage TO {role}; GRANT SELECT ON {TABLE} TO {role}")
    try:
        reader = PostgresTarget(connection.model_copy(update={"user": role}), TIMEOUT, "dwhctl:run")
        texts = [warning.text for warning in reader.warnings(TABLE)]
        assert texts[0] == f"the user has no INSERT, DELETE on {TABLE}: GRANT it"
        assert "may not create staging tables in the schema stage" in texts[1]
    finally:
        with closing(server.connect(database)) as db:
            db.cursor().execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("column", "value"),
    [("numeric(10,2)", "1.005"), ("varchar(3)", "'ёлка'"), ("char(3)", "'x  '"), ("smallint", "40000"),
     ("timestamp(0)", "TIMESTAMP '2020-07-14 12:00:00.5'")],
)  # fmt: skip
def test_a_report_does_not_round_or_cut(
    target: PostgresTarget, server: PostgresServer, database: str, column: str, value: str
) -> None:
    wide = {"n": "numeric(20,6)", "v": "text", "c": "text", "s": "bigint", "t": "timestamp"}[column[0]]
    target.run_statements(
        [
            f"CREATE TABLE report (v {column})",
            f"CREATE VIEW seen AS SELECT CAST({value} AS {wide}) AS v",
        ]
    )
    with (  # noqa: PT012
        pytest.raises(ValueRefusedError, match="does not fit") as caught,
        target.refresh("report", RowSource("seen"), TIMEOUT) as refresh,
    ):
        columns = refresh.columns()
        refresh.delete()
        refresh.insert(["v"], [Narrowing(columns.source[0], columns.table[0])])
    assert f"report.v: the value {value.strip(chr(39)).removeprefix('TIMESTAMP ').strip(chr(39))}" in str(
        caught.value
    )


def test_a_table_that_leaves_staging_no_column_is_refused_with_the_limit(target: PostgresTarget) -> None:
    columns = ", ".join(f"c{number} int" for number in range(1_600))
    target.run_statements([f"CREATE TABLE widest ({columns})"])
    with pytest.raises(TargetRefusedError, match=r"\(54011\); a table that is loaded may have 1,599"):
        target.open_group(StagingGroup("run", "widest", "widest"))


def test_a_report_is_refused_by_a_deferred_constraint_before_its_commit(target: PostgresTarget) -> None:
    """At COMMIT it was taken for an answer that was lost, and tried again."""
    target.run_statements(
        [
            "CREATE TABLE city (id int PRIMARY KEY)",
            "CREATE TABLE report (id int REFERENCES city DEFERRABLE INITIALLY DEFERRED)",
        ]
    )
    with (
        target.refresh("report", RowSource("SELECT 1 AS id", is_query=True), TIMEOUT) as refresh,
        pytest.raises(TargetRefusedError, match="violates foreign key constraint"),
    ):
        refresh.insert(["id"])


# The source


@pytest.fixture
def source(connection: PostgresConnection, database: str) -> Iterator[PostgresSource]:
    """The database as a shard."""
    with PostgresSource(connection, database, "Asia/Kolkata") as opened:
        yield opened


def read(source: PostgresSource, sql: str) -> list[object]:
    return [row["v"] for got in source.batches(Query(sql, {}), 100) for row in got.to_pylist()]


@pytest.mark.parametrize(
    "value",
    ["'infinity'::timestamp", "'-infinity'::timestamptz", "'0044-03-15 BC'::date", "'12020-01-01'::date",
     "'infinity'::date", "'24:00'::time", "'NaN'::numeric(10,2)", "'12020-01-01'::timestamptz"],
)  # fmt: skip
def test_a_value_without_a_place_is_refused_by_column_and_row(source: PostgresSource, value: str) -> None:
    type_ = value.rpartition("::")[2]
    sql = f"SELECT CASE WHEN i = 777 THEN {value} END::{type_} AS v FROM generate_series(1, 2000) AS i"
    with pytest.raises(ValueRefusedError, match=r"column v, row 777 of the answer: the value "):
        read(source, sql)


def test_instants_of_odd_old_offsets_domains_and_enums(
    source: PostgresSource, target: PostgresTarget
) -> None:
    target.run_statements(["CREATE DOMAIN price AS numeric(10,2)", "CREATE TYPE mood AS ENUM ('ok', '')"])
    (moment,) = read(source, "SELECT '1900-01-01 00:00:00+00'::timestamptz AS v")
    assert str(moment) == "1900-01-01 00:00:00+00:00"
    (priced,) = source.columns(Query("SELECT CAST(1 AS price) AS v", {}))
    assert (priced.kind, str(priced.type)) == (Kind.DECIMAL, "decimal128(10, 2)")
    assert read(source, "SELECT unnest(enum_range(NULL::mood)) AS v") == ["ok", ""]


def test_a_statement_timeout_of_the_role_is_named(
    server: PostgresServer, database: str, connection: PostgresConnection
) -> None:
    server.run(f"ALTER DATABASE {database} SET statement_timeout = '50ms'")
    query = Query("SELECT 1 AS id FROM pg_sleep(2)", {})
    with PostgresSource(connection, database, "UTC") as source:
        source.columns(query)
        with pytest.raises(SourceError, match="the database has a statement_timeout: raise it"):
            list(source.batches(query, 10))


def test_octets_of_a_database_without_an_encoding_are_converted_in_the_extract(
    server: PostgresServer, connection: PostgresConnection
) -> None:
    database = server.make_database("ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        server.run(r"CREATE TABLE t AS SELECT 1 AS id, E'\xe9' AS name", database)
        with PostgresSource(connection, database, "UTC") as source:
            with pytest.raises(
                QueryError, match=r"SQL_ASCII holds octets of any encoding: .* AS name"
            ) as refused:
                list(source.batches(Query("SELECT id, name FROM t", {}), 10))
            shown = str(refused.value).partition("as in ")[2].removesuffix(" (22021)")
            [batch] = source.batches(Query(f"SELECT {shown} FROM t", {}), 10)
    finally:
        server.drop_database(database)
    assert batch.to_pylist() == [{"name": "й"}]


def test_the_source_cannot_write(source: PostgresSource, target: PostgresTarget) -> None:
    target.run_statements(
        [
            "CREATE FUNCTION add() RETURNS bigint LANGUAGE sql AS 'INSERT INTO stage.t (id) VALUES (1) RETURNING id'"
        ]
    )
    with pytest.raises(QueryError, match="read-only transaction"):
        read(source, "SELECT add() AS v")


@pytest.fixture(params=["socket", "libpq"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which way the rows come: from the socket, or from libpq as over TLS."""
    if request.param == "libpq":
        monkeypatch.setattr(CopyClient, "is_plain", False)


@pytest.mark.usefixtures("way")
def test_a_silent_server_is_given_up(
    connection: PostgresConnection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the server's own limits: the watch must end it.
    monkeypatch.setattr(CopyClient, "_timeouts", lambda self: "SELECT 1")
    with PostgresSource(connection, database, "UTC", timeout=0.5) as source:
        began = time.monotonic()
        with pytest.raises(SourceError, match="no answer"):
            read(source, "SELECT 1 AS v FROM pg_sleep(30)")
    with (
        PostgresSource(connection, database, "UTC", timeout=0.5) as source,
        pytest.raises(SourceError, match="no answer"),
    ):
        source.count_nulls(Query("SELECT CAST(pg_sleep(30) AS text) AS v", {}), "v")
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("way")
def test_a_server_that_ends_the_session_in_mid_copy(
    server: PostgresServer, database: str, source: PostgresSource
) -> None:
    stream = source.batches(
        Query("SELECT i AS v, repeat('x', 1000) AS w FROM generate_series(1, 1000000) i", {}), 100
    )
    next(stream)
    server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    with pytest.raises(SourceError, match="connection to dwh is lost") as caught:
        list(stream)
    assert not caught.value.permanent
    assert source._client.raw.closed, "who keeps connections sees that this one is gone"


@pytest.mark.usefixtures("way")
def test_an_error_in_the_middle_of_a_copy(source: PostgresSource) -> None:
    sql = "SELECT repeat('x', 1000) AS w,\n 1 / (20000 - i) AS v\nFROM generate_series(1, 30000) i"
    with pytest.raises(QueryError, match=r"division by zero \(22012\)"):
        read(source, sql)
    assert read(source, "SELECT 1 AS v") == [1]


@pytest.mark.usefixtures("way")
def test_notices_of_the_extract_are_passed_over(source: PostgresSource, target: PostgresTarget) -> None:
    body = "BEGIN RAISE WARNING ''row %'', i; RETURN i; END"
    target.run_statements([f"CREATE FUNCTION loud(i bigint) RETURNS bigint LANGUAGE plpgsql AS '{body}'"])
    sql = "SELECT loud(i) AS v FROM generate_series(1, 3000) AS i"
    assert read(source, sql) == [*range(1, 3001)]


def test_a_line_of_the_extract_is_named(source: PostgresSource) -> None:
    with pytest.raises(QueryError) as caught:
        source.columns(Query("SELECT 1 AS v,\n       nothing\nFROM pg_class", {}))
    assert caught.value.line == 2


def test_no_password_in_an_error(connection: PostgresConnection) -> None:
    known = connection.model_copy(update={"password": Secret("pass'word 7")})
    text = "invalid dsn: password=pass'word 7 FATAL: no"
    assert "pass" not in str(connect_error(ValueError(text), known, target=True)).partition("password=")[2]


@pytest.mark.usefixtures("way")
def test_blocks_end_where_rows_end(
    source: PostgresSource, target: PostgresTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwhctl.systems.postgres.copy_out._BLOCK_BYTES", 500)
    texts = [None, "", "a\nb", '"\n"', ",\r\n", "\\.", "x" * 2_000]
    values = ", ".join(
        f"({n}, {'NULL' if text is None else literal(text)})" for n, text in enumerate(texts * 40)
    )
    sql = f"SELECT v FROM (VALUES {values}) AS t (n, v) ORDER BY n"
    assert read(source, sql) == texts * 40
    for rows in (0, 1, 31, 32, 33, 64, 1000):
        assert read(source, f"SELECT i AS v FROM generate_series(1, {rows}) AS i") == [*range(1, rows + 1)]


@pytest.mark.usefixtures("way")
def test_rows_that_come_slowly_are_waited_for(
    connection: PostgresConnection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CopyClient, "_timeouts", lambda self: "SELECT 1")
    with PostgresSource(connection, database, "UTC", timeout=0.8) as source:
        sql = "SELECT repeat('x', 3000) AS v FROM generate_series(1, 160) WHERE pg_sleep(0.01) IS NOT NULL"
        assert len(read(source, sql)) == 160
