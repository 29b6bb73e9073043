"""Publishing in Vertica: commits in doubt, locks, interrupts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest

from dwhctl.core.errors import AttemptError, TargetBusyError, TargetError
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.target import VerticaTarget
from tests.contract.way import a_slice
from tests.integration.vertica_target_kit import (
    TABLE,
    TIMEOUT,
    a_batch,
    a_prepared_target,
    a_server,
    a_target,
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


@pytest.mark.parametrize(("kind", "there"), [("lost_before_commit", {}), ("lost_after_commit", {7: 2})])
def test_a_lost_commit_is_decided_by_looking(
    server: VerticaServer, target: VerticaTarget, kind: str, there: Mapping[int, int]
) -> None:
    stage(target, "one", a_batch(target, 1, 2))
    server.faults.add(Fault(kind, application="publish", times=1))
    with pytest.raises(TargetError), within(5):
        publish(target, "one", [a_slice()])
    assert target.published_rows(TABLE, [7, 8]) == there


def test_a_silent_commit_is_ended_before_anybody_looks(server: VerticaServer, target: VerticaTarget) -> None:
    stage(target, "one", a_batch(target, 1, 2))
    server.faults.add(Fault("hang_query", statement="^COMMIT", application="publish", times=1))
    with pytest.raises(TargetError, match="no answer"), within(5):
        publish(target, "one", [a_slice()], timedelta(seconds=0.5))
    server.forget()
    assert target.published_rows(TABLE, [7]) == {}
    said = [one.sql for one in server.statements]
    looked = next(n for n, sql in enumerate(said) if "COUNT(*)" in sql)
    assert any("v_monitor.sessions" in sql for sql in said[:looked])
    publish(target, "one", [a_slice()])
    assert target.published_rows(TABLE, [7]) == {7: 2}


def test_the_rows_of_the_slices_are_replaced(target: VerticaTarget) -> None:
    stage(target, "one", a_batch(target, 1, 2))
    stage(target, "two", a_batch(target, 2, 3, etl_id=8))
    publish(target, "one", [a_slice()])
    publish(target, "two", [a_slice()])
    assert target.published_rows(TABLE, [7, 8]) == {8: 2}
    with target.publication(TABLE, "moment", TIMEOUT) as publication:
        assert publication.held_rows([a_slice(shard="chita"), a_slice()]) == {"abakan": 2}
        assert publication.held_rows([a_slice(a_slice().day + timedelta(days=1))]) == {}


def test_a_table_that_another_holds_is_busy(server: VerticaServer, target: VerticaTarget) -> None:
    stage(target, "one", a_batch(target, 1))
    publish(target, "one", [a_slice()])
    other = VerticaClient(server.connection(), "other", TIMEOUT)
    other.open()
    other.query(f"DELETE FROM {TABLE}")
    with pytest.raises(TargetBusyError) as caught, within(10):
        publish(target, "one", [a_slice()])
    assert not caught.value.permanent
    assert target.columns(TABLE)
    other.close()
    publish(target, "one", [a_slice()])


@pytest.mark.parametrize("statement", ["^DELETE", "^INSERT", "^COMMIT"])
def test_an_interrupt_ends_whatever_is_waited_for(
    server: VerticaServer, target: VerticaTarget, statement: str
) -> None:
    stage(target, "one", a_batch(target, 1))
    server.faults.add(Fault("hang_query", statement=statement, application="publish"))
    failures: list[AttemptError] = []

    def run() -> None:
        try:
            publish(target, "one", [a_slice()])
        except AttemptError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until = time.monotonic() + 5
    while not any(
        one.sql.startswith(statement[1:]) and "publish" in one.application for one in server.statements
    ):
        assert time.monotonic() < until
        time.sleep(0.02)
    with within(2):
        target.interrupt()
        thread.join(5)
    assert [type(one) for one in failures] == [TargetError]
    server.faults.clear()
    with pytest.raises(TargetError):
        target.columns(TABLE)
    # What stands there, and what is to be cleared away, is still asked for.
    assert target.published_rows(TABLE, [7]) == {}
    target.drop_run("run")


def test_an_interrupt_ends_a_login_that_hangs(server: VerticaServer) -> None:
    server.faults.add(Fault("hang_login"))
    target = a_target(server, connect_timeout=timedelta(seconds=30))
    failures: list[AttemptError] = []

    def run() -> None:
        try:
            target.version()
        except AttemptError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    with within(3):
        target.interrupt()
        thread.join(5)
    assert [type(one) for one in failures] == [TargetError]
