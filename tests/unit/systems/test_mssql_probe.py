"""A sign of life of a SQL Server, without a login."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from dwhctl.core.errors import ConnectError
from dwhctl.systems.mssql.errors import probe
from dwhctl.systems.mssql.system import MssqlConnection

SECOND = timedelta(seconds=1)


@contextmanager
def listener(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads one packet and answers, closes (b"") or hangs (None)."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            there, _ = server.accept()
            with there:
                heard.append(there.recv(4096))
                if answer is None:
                    there.settimeout(10)
                    there.recv(1)
                elif answer:
                    there.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        thread.join(5)


def connection(*ports: int) -> MssqlConnection:
    hosts = tuple(f"127.0.0.1:{port}" for port in ports)
    return MssqlConnection(name="mssql_0", hosts=hosts, user="sa", connect_timeout=SECOND)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_server_that_greets_is_there() -> None:
    with listener(b"\x04\x01") as (port, heard):
        probe(connection(port))
    # A PRELOGIN packet of one's own length, as MS-TDS 2.2.6.5 has it.
    assert heard[0][:2] == b"\x12\x01"
    assert int.from_bytes(heard[0][2:4], "big") == len(heard[0])
    assert heard[0][8] == 0
    version_at, version_length = (int.from_bytes(heard[0][n : n + 2], "big") for n in (9, 11))
    assert (version_at, version_length) == (26, 6)


@pytest.mark.parametrize(("answer", "says"), [(b"", "closed"), (None, "did not answer within 1 s")])
def test_one_that_closes_or_hangs_is_not(answer: bytes | None, says: str) -> None:
    with listener(answer) as (port, _), pytest.raises(ConnectError, match=says) as refused:
        probe(connection(port))
    assert refused.value.connection == "mssql_0"
    assert f"127.0.0.1:{port}" in str(refused.value)


def test_one_that_refuses_is_named_and_another_stands_in() -> None:
    port = free_port()
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port}: Connection refused"):
        probe(connection(port))
    with listener(b"\x04") as (good, _):
        probe(connection(port, good))


def test_it_knocks_at_the_test_servers_too() -> None:
    from tests.servers.tds import TdsServer

    with TdsServer() as server:
        probe(server.connection())
        assert server.logins == 0


@pytest.mark.parametrize("host", ["sql..example", ".example", "a" * 64 + ".example"])
def test_a_name_that_is_none_is_no_answer(host: str) -> None:
    with pytest.raises(ConnectError) as refused:
        probe(MssqlConnection(name="mssql_0", host=host, user="sa", connect_timeout=SECOND))
    assert host in str(refused.value)
