"""For the tests of the server with Vertica's protocol: connections of the real client, and what its errors say."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from vertica_python import errors

from tests.servers.vertica import VerticaServer
from tests.support.vertica import open_vertica


def connect(server: VerticaServer, **keys: Any) -> Any:
    """A connection of vertica-python that takes the server's notices silently."""
    options = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "database": server.database,
        "tlsmode": "disable",
        "connection_timeout": 20,
        **keys,
    }
    connection = open_vertica(**options)
    connection.notice_handler = lambda message: None
    # Without it each small COPY waits 44 ms.
    connection._socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def connected(server: VerticaServer, **keys: Any) -> Iterator[Any]:
    """A connection that is closed at the end, also when it was lost."""
    connection = connect(server, **keys)
    try:
        yield connection
    finally:
        with suppress(errors.Error, OSError):
            connection.close()


def ask(connection: Any, sql: str, *parameters: Any) -> list[list[Any]]:
    """Run one statement and fetch all: without the fetch, an error may stay unseen."""
    cursor = connection.cursor()
    cursor.execute(sql, *parameters)
    rows: list[list[Any]] = cursor.fetchall()
    return rows


def load(connection: Any, sql: str, data: bytes | str) -> tuple[int, int]:
    """Run a COPY; rows accepted and rejected."""
    connection.cursor().copy(sql, data)
    ((accepted, rejected),) = ask(connection, "SELECT GET_NUM_ACCEPTED_ROWS(), GET_NUM_REJECTED_ROWS()")
    return accepted, rejected


@contextmanager
def fails(sqlstate: str, code: int | None = None) -> Iterator[pytest.ExceptionInfo[Any]]:
    """The block ends with an error of the server, of this SQLSTATE and number."""
    with pytest.raises(errors.QueryError) as caught:
        yield caught
    assert caught.value.sqlstate == sqlstate
    if code is not None:
        assert int(caught.value.error_code) == code


def refused(server: VerticaServer, **keys: Any) -> tuple[str, int]:
    """SQLSTATE and number with which a login is refused."""
    with pytest.raises(errors.ConnectionError) as caught:
        connect(server, **keys)
    found = re.search(r"Sqlstate: (\w+).*Error Code: (\d+)", str(caught.value))
    assert found is not None, caught.value
    return found[1], int(found[2])


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Aside:
    """Something that runs in a thread of its own."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run: Callable[[], Any]) -> None:
        try:
            self.result = run()
        except BaseException as error:
            self.error = error

    @property
    def runs(self) -> bool:
        """Whether it is not over."""
        return self._thread.is_alive()

    def end(self) -> Any:
        """Wait for its end; what it returned, or its error."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result
