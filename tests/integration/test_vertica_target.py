"""The Vertica target when things go wrong: lost and silent connections, locks, interrupts, what others left."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, StagingError, TargetError, TargetRefusedError, ValueRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.systems.base.fingerprint import Measure
from dwhctl.systems.base.target import StagingGroup
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.staging import VerticaStage
from dwhctl.systems.vertica.target import VerticaTarget
from tests.contract.way import a_slice
from tests.integration.vertica_target_kit import (
    CREATE,
    GROUP,
    STAGING,
    TABLE,
    TIMEOUT,
    a_batch,
    a_prepared_target,
    a_server,
    a_target,
    columns_of,
    publish,
    stage,
    within,
)
from tests.servers.base import Fault
from tests.servers.vertica import VerticaServer


@pytest.fixture
def server() -> Iterator[VerticaServer]:
    """A server."""
    with a_server() as running:
        yield running


@pytest.fixture
def target(server: VerticaServer) -> VerticaTarget:
    """A warehouse with a table and an open group."""
    return a_prepared_target(server)


def test_what_copy_is_told(server: VerticaServer, target: VerticaTarget) -> None:
    server.forget()
    assert stage(target, "0a1b", a_batch(target, 1, 2)) > 100
    copies = [one for one in server.statements if one.sql.startswith("COPY")]
    assert len(copies) == 1
    assert copies[0].application.startswith("dwhctl:run:stage:")
    assert copies[0].application.endswith(":0a1b")
    for clause in ("ENFORCELENGTH", "ABORT ON ERROR", "NO COMMIT", "STREAM NAME 'dwhctl-0a1b'"):
        assert clause in copies[0].sql
    assert not any(";" in one.sql for one in server.statements)
    assert all(one.application.startswith("dwhctl:run:") for one in server.statements)


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("after", [0, 3 * 2**20])
def test_a_connection_lost_in_copy_is_lost_once(
    server: VerticaServer, target: VerticaTarget, kind: str, after: int
) -> None:
    batches = [a_batch(target, *range(n * 50_000, n * 50_000 + 50_000)) for n in range(6)]
    server.forget()
    logins = server.logins
    server.faults.add(Fault(kind, statement="^COPY", after_bytes=after, times=1))
    with pytest.raises(AttemptError) as caught, within(5):
        stage(target, "lost", *batches)
    assert isinstance(caught.value, TargetError | StagingError)
    assert not caught.value.permanent
    # One for the columns, one for the COPY: the driver did not come back by itself.
    assert server.logins == logins + 2
    assert server.connections_most <= 2
    with target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.staged_rows(GROUP, ["lost"]) == {}


def test_a_server_silent_in_copy_is_waited_for_so_long_and_no_longer(
    server: VerticaServer, target: VerticaTarget
) -> None:
    impatient = a_target(server, timeout=0.5)
    server.faults.add(Fault("hang_query", statement="^COPY", times=1))
    with pytest.raises(TargetError, match="no answer"), within(5):
        stage(impatient, "hangs", a_batch(target, 1))


def test_the_sources_error_comes_out_also_when_the_connection_is_lost(
    server: VerticaServer, target: VerticaTarget
) -> None:
    problem = ValueRefusedError("column v, row id=7: no")
    impatient = a_target(server, timeout=0.5)

    def batches() -> Iterator[pa.RecordBatch]:
        yield a_batch(target, 1)
        server.faults.add(Fault("hang_accept"))
        server.kill()
        server.revive()
        raise problem

    columns = columns_of(target)
    with (
        pytest.raises(ValueRefusedError) as caught,
        within(5),
        impatient.stage(GROUP, "t", columns) as staged,
    ):
        staged.write(batches())
    assert caught.value is problem
    server.faults.clear()


def test_a_rejected_row_is_named_by_its_number(target: VerticaTarget) -> None:
    # Twenty characters of 21 octets: the run's own check would have found them.
    odd = a_batch(target, 3, note="ё" + "secret".ljust(19, "x"))
    with pytest.raises(ValueRefusedError, match="row 3 of the slice") as caught:
        stage(target, "bad", a_batch(target, 1, 2), odd, a_batch(target, 4))
    assert "secret" not in str(caught.value)
    assert caught.value.permanent
    with target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.staged_rows(GROUP, ["bad"]) == {}


def test_a_column_that_staging_lacks_is_an_error(target: VerticaTarget) -> None:
    target.add_columns(TABLE, [Column("more", Kind.INTEGER, pa.int64(), "BIGINT")])
    with pytest.raises(StagingError) as caught:
        stage(target, "late", a_batch(target, 1, more=5))
    assert not caught.value.permanent


def test_a_group_that_is_older_than_a_column_is_published_by_its_own_columns(target: VerticaTarget) -> None:
    stage(target, "early", a_batch(target, 1, 2))
    target.add_columns(TABLE, [Column("more", Kind.INTEGER, pa.int64(), "BIGINT")])
    with target.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.insert(GROUP, ["early"]) == 2
        publication.commit()
    assert target.published_rows(TABLE, [7]) == {7: 2}


def test_a_commit_that_is_lost_while_staging_stages_nothing(
    server: VerticaServer, target: VerticaTarget
) -> None:
    for kind in ("lost_before_commit", "lost_after_commit"):
        server.faults.add(Fault(kind, application=f"stage:.*:{kind}", times=1))
        with pytest.raises(AttemptError), within(5):
            stage(target, kind, a_batch(target, 1))


def test_many_small_copies_do_not_stall(target: VerticaTarget) -> None:
    columns, batch = columns_of(target), a_batch(target, 1)
    started = time.monotonic()
    for n in range(20):
        with target.stage(GROUP, f"t{n}", columns) as staged:
            staged.write(iter([batch]))
    assert (time.monotonic() - started) / 20 < 0.2


def test_staging_goes_to_its_own_schema(server: VerticaServer, target: VerticaTarget) -> None:
    elsewhere = a_target(server, staging_schema="Apart")
    with pytest.raises(TargetRefusedError):
        elsewhere.open_group(GROUP)
    elsewhere.run_statements(["CREATE SCHEMA Apart"])
    elsewhere.open_group(GROUP)
    stage(elsewhere, "one", a_batch(target, 1))
    with elsewhere.publication(TABLE, None, TIMEOUT) as publication:
        assert publication.insert(GROUP, ["one"]) == 1
        publication.commit()
    elsewhere.drop_run("run")
    with pytest.raises(StagingError), elsewhere.publication(TABLE, None, TIMEOUT) as publication:
        publication.staged_rows(GROUP, ["one"])


# What others left


def test_the_sessions_of_a_dead_run_are_ended_before_its_staging_is_dropped(
    server: VerticaServer, target: VerticaTarget
) -> None:
    left = [
        VerticaClient(server.connection(), label, TIMEOUT) for label in ("dwhctl:run", "dwhctl:run:stage:abc")
    ]
    others = [
        VerticaClient(server.connection(), label, TIMEOUT) for label in ("dwhctl:run2:stage:abc", "vsql", "")
    ]
    for session in (*left, *others):
        session.open()
        session.query("SELECT 1")
    left[1].query(f"DELETE FROM {STAGING}")
    reaper = a_target(server)
    reaper.drop_run("run")
    for session in left:
        with pytest.raises(TargetError):
            session.query("SELECT 1")
    for session in others:
        assert session.query("SELECT 1")
        session.close()
    for session in left:
        session.close()
    with pytest.raises(StagingError):
        stage(target, "late", a_batch(target, 1))


def test_the_sessions_of_a_load_with_a_long_name_are_found(
    server: VerticaServer, target: VerticaTarget
) -> None:
    """Vertica cuts a session's label after 255 characters."""
    group = StagingGroup("run", f"{'x' * 300}.20200714.1", TABLE)
    other = StagingGroup("run", f"{'x' * 300}.20200714.2", TABLE)
    target.open_group(group)
    stages = [target.stage(each, "token", columns_of(target)) for each in (group, other)]
    client, kept = (each._client for each in stages if isinstance(each, VerticaStage))
    client.open()
    kept.open()
    target.drop_group(group)
    with pytest.raises(TargetError):
        client.query("SELECT 1")
    assert kept.query("SELECT 1")
    for each in (client, kept):
        each.close()


def test_what_is_too_large_for_vertica_is_not_tried_again(target: VerticaTarget) -> None:
    """SQLSTATE 54011: every later attempt meets it too."""
    columns = ", ".join(f"c{number} LONG VARCHAR(32000000)" for number in range(2))
    with pytest.raises(TargetRefusedError, match="MaxRowSize"):
        target.run_statements([f"CREATE TABLE stage.large ({columns})"])


@pytest.mark.parametrize(
    "columns",
    [
        {"v": "VARCHAR(64880)"},
        {"v": "VARBINARY(32440)"},
        {f"v{number}": "VARCHAR(3230)" for number in range(20)},
        {"d": "NUMERIC(38,4)", "t": "TIMESTAMP", "u": "UUID", "b": "BOOLEAN", "v": "VARCHAR(64400)"},
    ],
)
def test_texts_as_long_as_vertica_hashes_are_measured(target: VerticaTarget, columns: dict[str, str]) -> None:
    """Vertica judges an expression by the declared lengths: what could exceed 65,000 octets is refused (54000)."""
    listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    target.run_statements(
        [
            f"CREATE TABLE stage.wide (id INTEGER, {listed}, etl_source VARCHAR(40), etl_id INTEGER, hash_id INTEGER)",
            "INSERT INTO stage.wide (id, etl_source) VALUES (1, 'abakan')",
        ]
    )
    with target.inspection("stage.wide", None) as inspection:
        by_name = {column.name: column for column in inspection.columns()}
        measure = Measure((by_name["id"],), tuple(by_name[name] for name in columns))
        (measured,) = inspection.fingerprints([a_slice(sliced=False)], measure).values()
        assert measured.rows == 1
        key = Measure((by_name["id"], by_name[next(iter(columns))]))
        (measured,) = inspection.fingerprints([a_slice(sliced=False)], key).values()
        assert measured.rows == 1


def test_a_table_that_another_run_makes_at_the_same_moment_is_no_error(
    server: VerticaServer, target: VerticaTarget
) -> None:
    exists = ("42710", 4213, "Object already exists")
    server.faults.add(Fault("error", statement="^CREATE TABLE", error=exists, times=2))
    target.run_statements(CREATE)
    with pytest.raises(TargetRefusedError):
        target.run_statements(["CREATE TABLE stage.orders (id INTEGER)"])


def test_no_error_of_a_later_statement_is_hidden(target: VerticaTarget) -> None:
    with pytest.raises(TargetRefusedError):
        target.run_statements([f"SELECT 1; SELECT nothing FROM {TABLE}"])


def test_a_column_that_vertica_fills_itself_is_not_written(target: VerticaTarget) -> None:
    target.run_statements(["CREATE TABLE stage.odd (n IDENTITY, id INTEGER DEFAULT 5, hash_id INTEGER)"])
    assert [column.name for column in target.columns("stage.odd")] == ["id", "hash_id"]


def test_what_stands_in_the_way_of_loads_is_named(server: VerticaServer, target: VerticaTarget) -> None:
    assert target.warnings(TABLE) == []
    target.run_statements(
        ["CREATE TABLE stage.keyed (id INTEGER, CONSTRAINT pk PRIMARY KEY (id) ENABLED)",
         "CREATE TABLE stage.loose (id INTEGER, CONSTRAINT pk2 PRIMARY KEY (id) DISABLED)"]
    )  # fmt: skip
    (concern,) = target.warnings("stage.keyed")
    assert "pk" in concern.text
    assert not concern.blocks
    assert target.warnings("stage.loose") == []
    server.create_user("dwh", "Secret_789")
    server.execute("GRANT USAGE ON SCHEMA stage TO dwh")
    server.execute(f"GRANT SELECT, INSERT ON {TABLE} TO dwh")
    (concern,) = a_target(server, user="dwh", password=Secret("Secret_789")).warnings(TABLE)
    assert concern.blocks
    assert "DELETE" in concern.text


def test_a_user_who_may_no_more_than_needed_loads(server: VerticaServer, target: VerticaTarget) -> None:
    target.drop_run("run")
    server.create_user("dwh", "Secret_789")
    for grant in ("USAGE, CREATE ON SCHEMA stage", f"SELECT, INSERT, DELETE ON {TABLE}"):
        server.execute(f"GRANT {grant} TO dwh")
    humble = a_target(server, user="dwh", password=Secret("Secret_789"))
    assert humble.warnings(TABLE) == []
    humble.open_group(GROUP)
    stage(humble, "one", a_batch(humble, 1, 2))
    publish(humble, "one", [a_slice()])
    publish(humble, "one", [a_slice()])
    assert humble.published_rows(TABLE, [7]) == {7: 2}
    humble.drop_run("run")
    with pytest.raises(StagingError):
        stage(humble, "late", a_batch(humble, 1))
