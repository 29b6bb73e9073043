"""Connections that a worker keeps from one slice to the next: fewer logins, and nothing else changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest

from dwhctl.core.errors import ExitCode
from dwhctl.core.secrets import Secret
from dwhctl.project.query import Query
from dwhctl.systems.base.staging import run_label
from dwhctl.systems.base.system import KEPT, SourceOptions, TargetOptions, system_of
from dwhctl.systems.base.target import StagingGroup
from dwhctl.systems.postgres import copy_client
from dwhctl.systems.postgres.source import PostgresSource
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.vertica.target import VerticaTarget
from tests.integration.vertica_target_kit import GROUP, NO_STATE, a_batch, a_prepared_target, a_server
from tests.postgres import PostgresServer, any_server
from tests.servers.base import Fault
from tests.servers.vertica import VerticaServer
from tests.support.faulty import Faults, held_locks, wait_for_end, wait_until
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import CREATE, DAY, EXTRACT, days_from

LOADS = [f"orders_{number}" for number in range(8)]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server."""
    with any_server() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    """Leave no connection to the next test."""
    yield
    KEPT.close()


@pytest.fixture
def make(server: PostgresServer, tmp_path: Path) -> Iterator[Callable[..., PostgresSandbox]]:
    """Make projects of one shard, with so many connections at once."""
    made: list[PostgresSandbox] = []

    def make(most: int = 4, workers: int = 2) -> PostgresSandbox:
        root = tmp_path / f"project_{len(made)}"
        sandbox = PostgresSandbox(
            root, servers={"server_0": ["abakan"]}, server=server, max_workers=workers
        ).write()
        made.append(sandbox)
        toml = root / "config/dwhctl.toml"
        text = toml.read_text().replace('type = "postgres"', f'type = "postgres"\nmax_connections = {most}')
        toml.write_text(text)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.drop()


def with_loads(
    sandbox: PostgresSandbox, names: Sequence[str] = LOADS, extract: str = EXTRACT
) -> PostgresSandbox:
    """Have a table for each of several loads, each of one slice: they are written directly."""
    keys = (sandbox.root / "config/loads/orders.toml").read_text()
    (sandbox.root / "config/loads/orders.toml").unlink()
    for name in names:
        own = keys.replace('"stage.orders"', f'"stage.{name}"').replace('"orders/', f'"{name}/')
        sandbox.put(f"config/loads/{name}.toml", own)
        sandbox.put(f"sql/{name}/extract.sql", extract)
        sandbox.put(f"sql/{name}/create.sql", CREATE.replace("stage.orders", f"stage.{name}"))
    return sandbox.fill(10)


def logins(server: PostgresServer, sandbox: PostgresSandbox, name: str) -> int:
    """Count the sessions that a database has had."""
    with closing(server.connect(server.admin_database)) as db, db.cursor() as cursor:
        cursor.execute("SELECT sessions FROM pg_stat_database WHERE datname = %s", (sandbox.databases[name],))
        return int(cursor.fetchone()[0])  # type: ignore[index]


def sessions(sandbox: PostgresSandbox) -> list[tuple[str, int, str]]:
    """List the sessions of dwhctl in the project's databases, with the application's name."""
    names = ", ".join(f"'{name}'" for name in sandbox.databases.values())
    assert sandbox.server is not None
    with closing(sandbox.server.connect(sandbox.server.admin_database)) as db, db.cursor() as cursor:
        cursor.execute(
            "SELECT datname, pid, application_name FROM pg_stat_activity"
            f" WHERE datname IN ({names}) AND application_name LIKE 'dwhctl%'"
        )
        return [(str(database), int(pid), str(application)) for database, pid, application in cursor]


def backfill(days: list[date]) -> list[str]:
    """Return the arguments of a backfill of these days: they are staged."""
    return ["backfill", "orders", "--start", str(days[0]), "--end", str(days[-1])]


@pytest.mark.parametrize("direct", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_run_logs_in_once_for_each_worker_and_not_for_each_slice(
    make: Callable[..., PostgresSandbox], server: PostgresServer, direct: bool
) -> None:
    sandbox = make()
    days = days_from(DAY, len(LOADS))
    if direct:
        with_loads(sandbox)
        arguments = ["load", "--date", str(DAY)]
    else:
        sandbox.fill(10, days)
        arguments = backfill(days)
    before = {name: logins(server, sandbox, name) for name in sandbox.databases}
    done = sandbox.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert len(sandbox.sessions_newest_first()) == len(LOADS)
    wait_until(lambda: not sessions(sandbox), "all have ended")
    made = {name: logins(server, sandbox, name) - count for name, count in before.items()}
    if direct:
        assert made["abakan"] <= 2, "one for each worker"
        # And the run's own: the etl_ids and columns of the tables, the drop of what it staged.
        assert made["warehouse"] <= 2 + 3
    else:
        # A worker closes its connections where the slice begins a group that the run makes under its slot.
        assert made["abakan"] <= len(days) // 2


def test_nothing_of_a_slice_is_in_the_session_of_the_next(
    make: Callable[..., PostgresSandbox], server: PostgresServer
) -> None:
    sandbox = make()
    sandbox.in_shard(
        "abakan",
        "CREATE SCHEMA other",
        "CREATE FUNCTION spoil() RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_advisory_lock(7); PERFORM set_config('search_path', 'other', false);"
        " PERFORM set_config('my.own', 'left', false); PERFORM set_config('statement_timeout', '9s', false);"
        " PERFORM set_config('TimeZone', 'Asia/Tokyo', false);"
        " EXECUTE 'PREPARE left_over AS SELECT 1'; RETURN 'done'; END $$",
    )
    connection = server.connection(sandbox.databases["abakan"], "server_0")
    first, *_ = rows_of(connection, "UTC", "SELECT pg_backend_pid() AS pid, spoil() AS spoilt")
    assert KEPT.kept == (True, False)
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database"
    assert sandbox.warehouse(f"{held} WHERE datname = '{sandbox.databases['abakan']}')") == [(0,)]
    second, *_ = rows_of(
        connection,
        "Asia/Yekaterinburg",
        "SELECT pg_backend_pid() AS pid, current_setting('search_path') AS path,"
        " current_setting('TimeZone') AS zone, coalesce(current_setting('my.own', true), '') AS own,"
        " current_setting('statement_timeout') AS timeout,"
        " current_setting('default_transaction_read_only') AS read_only,"
        " (SELECT count(*) FROM pg_prepared_statements) AS prepared",
    )
    assert second["pid"] == first["pid"], "the same session"
    assert second["path"] == '"$user", public'
    assert second["zone"] == "Asia/Yekaterinburg"
    assert (second["own"], second["timeout"], second["read_only"], second["prepared"]) == ("", "0", "on", 0)


def rows_of(connection: PostgresConnection, zone: str, sql: str) -> list[dict[str, object]]:
    """Read a query as a slice does, and keep the connection."""
    opened = system_of(connection).open_source(
        connection, str(connection.database), SourceOptions(zone, keep=True)
    )
    with opened as source:
        rows = [row for batch in source.batches(Query(sql, {}), 100) for row in batch.to_pylist()]
        source.finish()
    return rows


def test_a_session_that_a_trigger_has_set_up_at_its_login_is_not_kept(
    make: Callable[..., PostgresSandbox], server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DISCARD ALL undoes what it set: a setting by which row-level security chooses the rows, for example."""
    sandbox = make()
    sandbox.in_shard(
        "abakan",
        "CREATE FUNCTION at_login() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER set_up ON ddl_command_start EXECUTE FUNCTION at_login()",
        # Before PostgreSQL 17 there is no such event: the server passes over the trigger.
        "SET allow_system_table_mods = on; UPDATE pg_event_trigger SET evtevent = 'login'",
    )
    connection = server.connection(sandbox.databases["abakan"], "server_0")
    monkeypatch.setattr(copy_client, "_LOGIN_TRIGGERS", (0, copy_client._LOGIN_TRIGGERS[1]))
    rows_of(connection, "UTC", PID)
    assert KEPT.kept == (False, False)
    sandbox.in_shard(
        "abakan", "SET allow_system_table_mods = on; UPDATE pg_event_trigger SET evtenabled = 'D'"
    )
    rows_of(connection, "UTC", PID)
    assert KEPT.kept == (True, False)


PID = "SELECT pg_backend_pid() AS pid"


def test_a_kept_connection_that_has_died_costs_nothing(
    make: Callable[..., PostgresSandbox], server: PostgresServer
) -> None:
    sandbox = make()
    connection = server.connection(sandbox.databases["abakan"], "server_0")
    (first,) = rows_of(connection, "UTC", PID)
    sandbox.warehouse(f"SELECT pg_terminate_backend({first['pid']})")
    (second,) = rows_of(connection, "UTC", PID)
    assert second != first
    other = connection.model_copy(update={"database": sandbox.databases["warehouse"]})
    (third,) = rows_of(other, "UTC", PID)
    assert third != second, "another database is another connection"
    wait_until(
        lambda: not sandbox.warehouse(f"SELECT 1 FROM pg_stat_activity WHERE pid = {second['pid']}"),
        "the one before is closed: its slot is for the new one",
    )


def test_an_error_closes_what_is_kept(make: Callable[..., PostgresSandbox], server: PostgresServer) -> None:
    sandbox = make()
    connection = server.connection(sandbox.databases["abakan"], "server_0")
    rows_of(connection, "UTC", PID)
    source = PostgresSource(connection, str(connection.database), "UTC", keep=True)
    assert KEPT.kept == (False, False), "it is in use"
    with source, pytest.raises(Exception, match="division by zero"):
        list(source.batches(Query("SELECT 1 / n AS x FROM generate_series(0, 3) AS n", {}), 10))
    assert KEPT.kept == (False, False)


def test_the_label_of_a_session_is_that_of_its_slice_and_of_the_run_between_slices(
    make: Callable[..., PostgresSandbox], server: PostgresServer
) -> None:
    """By it a run that reaps another ends its sessions, and the drop of a group those that still stage in it."""
    sandbox = make()
    sandbox.change_warehouse("CREATE SCHEMA stage", CREATE.partition(";")[2])
    connection = server.connection(sandbox.databases["warehouse"], "warehouse")
    target = system_of(connection).open_target(
        connection, TargetOptions(NO_STATE, timedelta(seconds=20), "dwhctl:run", keep=True)
    )
    columns = [column for column in target.columns("stage.orders") if column.name in ("etl_source", "id")]
    labels = []

    def of_worker() -> list[tuple[int, str]]:
        found = sessions(sandbox)
        return [(pid, name) for _, pid, name in found if name.endswith((run_label("run"), f":token{number}"))]

    for number in range(2):
        group = StagingGroup("run", f"orders.{number}", "stage.orders")
        target.open_group(group)
        with target.stage(group, f"token{number}", columns) as stage:
            stage.write(iter(()))
            labels += of_worker()
        assert KEPT.kept == (False, True)
        labels += of_worker()
        target.drop_group(group)
    assert len({pid for pid, _ in labels}) == 1, labels
    first, between, second, _ = [name for _, name in labels]
    assert between == run_label("run")
    assert first.endswith(":token0")
    assert second.endswith(":token1")
    target.drop_run("run")
    wait_until(lambda: not sessions(sandbox), "the kept session of a run that is reaped is ended")


def test_the_sessions_of_a_user_whose_logins_have_another_role_are_ended(
    make: Callable[..., PostgresSandbox], server: PostgresServer
) -> None:
    """The kept session has that role again for the next slice, and a run that reaps this one ends it."""
    sandbox = make()
    database, user = sandbox.databases["warehouse"], f"etl_{sandbox.databases['warehouse'][-12:]}"
    owner = f"{user}_owner"
    server.run(f"CREATE ROLE {owner}; CREATE ROLE {user} LOGIN PASSWORD 'etl' IN ROLE {owner};"
               f" ALTER ROLE {user} SET role = '{owner}'")  # fmt: skip
    try:
        sandbox.change_warehouse(f"CREATE SCHEMA stage AUTHORIZATION {owner}", CREATE.partition(";")[2])
        sandbox.change_warehouse(f"ALTER TABLE stage.orders OWNER TO {owner}")
        connection = server.connection(database, "warehouse").model_copy(
            update={"user": user, "password": Secret("etl")}
        )
        options = TargetOptions(NO_STATE, timedelta(seconds=20), "dwhctl:run", keep=True)
        target = system_of(connection).open_target(connection, options)
        columns = [column for column in target.columns("stage.orders") if column.name in ("etl_source", "id")]
        group = StagingGroup("run", "orders.1", "stage.orders")
        target.open_group(group)
        for token in ("a", "b"):
            with target.stage(group, token, columns) as stage:
                stage.write(iter(()))
        assert len(sessions(sandbox)) == 1
        target.drop_run("run")
        wait_until(lambda: not sessions(sandbox), "the kept session is ended", seconds=5)
    finally:
        KEPT.close()
        sandbox.drop()
        server.run(f"DROP ROLE {user}; DROP ROLE {owner}")


@pytest.mark.long
def test_limits_hold_over_two_runs_and_the_workers_of_one(make: Callable[..., PostgresSandbox]) -> None:
    # Slow slices: a run has more workers than connections only if more of them would save time.
    slow = EXTRACT.replace("SELECT", "WITH slow AS MATERIALIZED (SELECT pg_sleep(0.4))\nSELECT", 1)
    slow = slow.replace("FROM orders", "FROM orders CROSS JOIN slow")
    names = [f"{name}{half}" for half in "ab" for name in LOADS]
    sandbox = with_loads(make(most=2, workers=6), names, slow)
    over: list[tuple[float, str, set[int]]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            found = sessions(sandbox)
            now = time.monotonic()
            for name in sandbox.databases.values():
                over.append((now, name, {pid for database, pid, _ in found if database == name}))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    halves = names[: len(LOADS)], names[len(LOADS) :]
    runs = [sandbox.start("load", *some, "--date", str(DAY), "--quiet") for some in halves]
    try:
        for run in runs:
            out, err = wait_for_end(run)
            assert run.returncode == 0, out + err
    finally:
        ended.set()
        watcher.join()
    # A backend whose client has disconnected is still shown for a moment: one that stays is in use.
    stay = {
        name: max(len(before & after) for at, one, before in over for later, other, after in over
                  if one == other == name and 0.2 < later - at < 0.3)
        for name in sandbox.databases.values()
    }  # fmt: skip
    assert list(stay.values()) == [2, 2]
    assert {sandbox.warehouse(f"SELECT count(*) FROM stage.{name}")[0] for name in names} == {(10,)}
    assert held_locks(sandbox.root / "state") == []


def test_nothing_stays_open_while_the_last_slices_are_published(
    make: Callable[..., PostgresSandbox], tmp_path: Path
) -> None:
    sandbox = make()
    days = days_from(DAY, 4)
    sandbox.fill(10, days)
    faults = Faults(tmp_path / "log").at("publish.begin", "pause", until=4)
    run = sandbox.start(*backfill(days), env=faults.env())
    faults.wait_for("stage.finished", nth=4)
    wait_until(lambda: not sessions(sandbox), "no worker keeps a connection", seconds=5)
    assert run.poll() is None
    faults.go_on()
    _, err = wait_for_end(run)
    assert run.returncode == 0, err
    assert sandbox.target_rows() == sandbox.source_rows()


def test_a_worker_that_is_killed_between_two_slices_costs_one_attempt(
    make: Callable[..., PostgresSandbox], tmp_path: Path
) -> None:
    sandbox = make(most=1, workers=1)
    days = days_from(DAY, 4)
    sandbox.fill(10, days)
    faults = Faults(tmp_path / "log").at("stage.connect", "kill worker", nth=3)
    done = sandbox.run(*backfill(days), env=faults.env())
    assert done.returncode == ExitCode.DONE, done.stderr
    assert sandbox.target_rows() == sandbox.source_rows()


@pytest.fixture
def vertica() -> Iterator[VerticaServer]:
    """A server, on which no session is left."""
    with a_server() as running:
        yield running
        KEPT.close()


def kept(server: VerticaServer) -> VerticaTarget:
    """A target whose stages keep their connection."""
    connection = server.connection()
    target = system_of(connection).open_target(
        connection, TargetOptions(NO_STATE, timedelta(seconds=20), "dwhctl:run", keep=True)
    )
    assert isinstance(target, VerticaTarget)
    return target


def test_vertica_keeps_a_session_for_the_slices_of_a_group(vertica: VerticaServer) -> None:
    target = kept(vertica)
    a_prepared_target(vertica)
    columns, batch = list(target.columns(GROUP.table)), a_batch(target, 1, 2)
    vertica.forget()
    for token in ("a", "b", "c"):
        with target.stage(GROUP, token, columns) as stage:
            stage.write(iter([batch]))
            assert KEPT.kept == (False, False)
        assert KEPT.kept == (False, True)
    assert vertica.traffic.logins == 1
    assert len(vertica.statements) == 6, [one.sql for one in vertica.statements]
    other = StagingGroup("run", "other", GROUP.table)
    target.open_group(other)
    vertica.forget()
    with target.stage(other, "d", columns) as stage:
        stage.write(iter([batch]))
    assert vertica.sessions_most == 1, "the session of the other group is closed first"
    (copy,) = (one for one in vertica.statements if one.sql.startswith("COPY"))
    assert copy.application == "dwhctl:run:stage:other:d"


@pytest.mark.parametrize("lost", ["closed", "reset in COPY"])
def test_a_session_of_vertica_that_has_died_costs_nothing(vertica: VerticaServer, lost: str) -> None:
    target = kept(vertica)
    a_prepared_target(vertica)
    columns, batch = list(target.columns(GROUP.table)), a_batch(target, 1, 2)
    with target.stage(GROUP, "a", columns) as stage:
        stage.write(iter([batch]))
    if lost == "closed":
        ((session,),) = vertica.execute(
            "SELECT session_id FROM v_monitor.sessions WHERE client_label LIKE '%:a'"
        )
        vertica.execute(f"SELECT CLOSE_SESSION('{session}')")
        wait_until(lambda: vertica.sessions_now == 0, "it is closed")
    else:
        vertica.faults.add(Fault("reset", statement="^COPY", after_bytes=0, times=1))
    with target.stage(GROUP, "b", columns) as stage:
        stage.write(iter([batch]))
    with target.publication(GROUP.table, "moment", timedelta(seconds=20)) as publication:
        assert dict(publication.staged_rows(GROUP, ["a", "b"])) == {"a": 2, "b": 2}


def test_vertica_keeps_no_session_with_another_zone(vertica: VerticaServer) -> None:
    target = kept(vertica)
    a_prepared_target(vertica)
    columns = list(target.columns(GROUP.table))
    with target.stage(GROUP, "a", columns) as stage:
        stage.write(iter([a_batch(target, 1), a_batch(target, 1)]))
        assert stage.duplicate_key(["id"]) == (1,)
    assert KEPT.kept == (False, False)
