"""At the door of Vertica: who is let in, who is refused, and who never gets an answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from dwhctl.core.errors import AttemptError, ConnectError, LoginRefusedError, TargetError
from dwhctl.core.secrets import Secret
from dwhctl.systems.base.system import TargetOptions, system_of
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.system import VerticaConnection
from tests.integration.vertica_target_kit import (
    CREATE,
    GROUP,
    NO_STATE,
    TIMEOUT,
    a_batch,
    a_server,
    a_target,
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


def test_what_is_wrong_at_the_door_names_connection_and_cause(server: VerticaServer) -> None:
    def refuse() -> None:
        server.faults.add(Fault("refuse_login"))

    def silent_at_accept() -> None:
        server.faults.add(Fault("hang_accept"))

    def silent_at_login() -> None:
        server.faults.add(Fault("hang_login"))

    cases: list[tuple[Callable[[], None], type[AttemptError]]] = [
        (refuse, LoginRefusedError),
        (silent_at_accept, ConnectError),
        (silent_at_login, ConnectError),
        (server.kill, ConnectError),
    ]
    for prepare, kind in cases:
        server.faults.clear()
        prepare()
        target = a_target(server, connect_timeout=timedelta(seconds=0.5))
        with pytest.raises(AttemptError) as caught, within(4):
            target.version()
        assert type(caught.value) is kind, prepare
        assert isinstance(caught.value, ConnectError | LoginRefusedError)
        assert caught.value.connection == "dwh"
        assert str(server.port) in str(caught.value)


def test_a_wrong_password_is_refused_once_and_never_shown(server: VerticaServer) -> None:
    target = a_target(server, password=Secret("Quite_wrong_9"))
    with pytest.raises(LoginRefusedError) as caught:
        target.version()
    assert caught.value.permanent
    assert "Quite_wrong_9" not in str(caught.value)
    assert server.logins == 1


def test_no_more_sessions_than_the_server_allows_may_go_away() -> None:
    with VerticaServer(max_sessions=1) as server:
        held = VerticaClient(server.connection(), "held", TIMEOUT)
        held.open()
        with pytest.raises(ConnectError) as caught:
            a_target(server).version()
        assert not caught.value.permanent
        held.close()
        assert a_target(server).version()


def test_hosts_stand_in_for_each_other(server: VerticaServer) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}"
        connection = VerticaConnection(
            name="dwh", hosts=(dead, f"127.0.0.1:{server.port}"), user="dbadmin", database="docker",
            password=Secret("Secret_456"), tlsmode="disable",
        )  # fmt: skip
        for _ in range(6):
            assert system_of(connection).open_target(connection, TargetOptions(NO_STATE)).version()
        both_dead = connection.model_copy(update={"hosts": (dead, dead)})
        with pytest.raises(ConnectError) as caught:
            system_of(both_dead).open_target(both_dead, TargetOptions(NO_STATE)).version()
    assert str(caught.value).count(dead) == 2


def test_the_socket_neither_stalls_nor_waits_for_the_dead(server: VerticaServer) -> None:
    session = VerticaClient(server.connection(), "label", timedelta(seconds=77))
    session.open()
    assert session.socket is not None
    assert session.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert session.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert session.socket.gettimeout() == 77
    session.close()
    session.close()
    with pytest.raises(TargetError):
        session.query("SELECT 1")


@pytest.mark.parametrize(
    ("mode", "error"),
    [("disable", None), ("prefer", None), ("require", ConnectError), ("verify-full", ConnectError)],
)
def test_tls_that_the_server_does_not_speak(
    server: VerticaServer, mode: str, error: type[AttemptError] | None
) -> None:
    target = a_target(server, tlsmode=mode)
    if error is None:
        assert target.version()
    else:
        with pytest.raises(error, match="SSL"):
            target.version()


def test_tls() -> None:
    with VerticaServer(tls=True) as server:
        for mode in ("prefer", "require", "verify-ca", "verify-full"):
            target = a_target(server, tlsmode=mode)
            target.run_statements(CREATE)
            target.open_group(GROUP)
            stage(target, mode, a_batch(target, *range(1000)))
        with pytest.raises(ConnectError, match="certificate"):
            a_target(server, tlsmode="verify-full", tls_cafile=None).version()
