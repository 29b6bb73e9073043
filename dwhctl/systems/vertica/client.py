"""Vertica through vertica-python: sessions that never hang without end, and what its errors mean.

What the driver does not do by itself, and is done here (seen with vertica-python 1.4.0):

- It opens a new connection, and waits on it for ever, when it loses one in COPY, in `close` and in `cancel`. Here a
  lost connection stays lost.
- It leaves TCP_NODELAY off: each small COPY then stalls for 44 ms.
- It hides the errors of every result but the first: here each answer is read to its end.
- Its `connection_timeout` bounds connecting and every later wait alike: here there are two bounds.
"""

from __future__ import annotations

import random
import select
import socket as net
import ssl
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Never

import vertica_python
from vertica_python import errors as driver_errors
from vertica_python.vertica import messages

from dwhctl.core.errors import ConnectError, TargetError, TlsError
from dwhctl.core.files import read_bytes
from dwhctl.systems.base import source
from dwhctl.systems.vertica.errors import connect_error, lost, translate_error
from dwhctl.systems.vertica.types import answer_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta
    from typing import Protocol

    from dwhctl.systems.vertica.system import VerticaConnection

    class Stream(Protocol):
        """What COPY reads its bytes from."""

        def read(self, size: int) -> bytes:
            """Give some bytes; none at the end."""


_CHUNK_BYTES = 2**20
_ERROR_RESPONSE: bytes = messages.ErrorResponse.message_id
_GOODBYE_SECONDS = 1.0
# A peer that is gone is noticed within a minute, whatever is waited for.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class VerticaClient:
    """One connection to Vertica, used by one thread; `interrupt` may be called from another.

    It does not connect before `open`. Autocommit is off. A network error ends it for good.
    """

    def __init__(self, connection: VerticaConnection, label: str, timeout: timedelta) -> None:
        self.label = label
        self._connection = connection
        #: How long an answer is waited for, seconds.
        self.timeout = timeout.total_seconds()
        self._wire: _Wire | None = None
        self._interrupted = False
        #: The socket in use, and the server's last error answer: the driver's connection sets them.
        self.socket: net.socket | None = None
        self.refusal: Any = None

    def open(self) -> None:
        """Connect to the first of the hosts that answers, beginning with any of them.

        Raise LoginRefusedError, ConnectError when no host takes another session, TlsError when TLS is why on all of
        them, TargetRefusedError for a database that is not there.
        """
        hosts = list(self._connection.addresses)
        first = random.randrange(len(hosts))  # noqa: S311
        reasons: list[ConnectError] = []
        for host, port in hosts[first:] + hosts[:first]:
            try:
                return self._connect(host, port)
            except ConnectError as error:
                if self._interrupted:
                    raise TargetError("interrupted") from error
                reasons.append(error)
        kind = TlsError if all(isinstance(each, TlsError) for each in reasons) else ConnectError
        raise kind("; ".join(map(str, reasons)), connection=self._connection.name)

    def _connect(self, host: str, port: int) -> None:
        self.refusal = None
        try:
            if (authorities := self._connection.tls_cafile) is not None:
                read_bytes(authorities)  # ssl itself waits for ever at a FIFO
            self._wire = _Wire(self, self._options(host, port))
            self._wire.socket.settimeout(self.timeout)
        except Exception as error:
            hint, name = source.remedy(str(error), self._connection), self._connection.name
            raise connect_error(error, self.refusal, f"{host}:{port}", name, hint) from error

    def _options(self, host: str, port: int) -> dict[str, Any]:
        connection, password = self._connection, self._connection.password
        cafile = source.authorities(connection)
        return {
            "host": host,
            "port": port,
            "user": connection.user,
            "password": password.reveal() if password is not None else "",
            "database": connection.database,
            "session_label": self.label,
            "tlsmode": connection.tls,
            "tls_cafile": str(cafile) if cafile else None,
            "unicode_error": "strict",
        }

    def socket_to(self, host: str, port: int) -> net.socket:
        """Open a TCP connection. Raise OSError."""
        problem: OSError = TimeoutError("no address")
        for family, kind, protocol, _, address in net.getaddrinfo(host, port, 0, net.SOCK_STREAM):
            made = net.socket(family, kind, protocol)
            try:
                self.socket = made
                if self._interrupted:
                    raise TimeoutError("interrupted")
                made.settimeout(min(self.timeout, self._connection.connect_timeout.total_seconds()))
                _set_options(made)
                made.connect(address)
            except OSError as error:
                made.close()
                problem = error
            else:
                return made
            if self._interrupted:
                break
        raise problem

    def query(self, sql: str) -> list[list[Any]]:
        """Run one statement and give the rows of its answer. Raise AttemptError."""
        return self._query(sql)[1]

    def dicts(self, sql: str) -> list[dict[str, Any]]:
        """Run one statement and give the rows of its answer by column name. Raise AttemptError."""
        names, rows = self._query(sql)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def declared(self, sql: str) -> list[tuple[str, str]]:
        """Run one statement and give name and type of its answer's columns. Raise AttemptError."""
        with self._translate_error():
            cursor = self._driver().cursor()
            cursor.execute(sql)
            columns = [(str(column.name), answer_type(column)) for column in cursor.description or ()]
            cursor.fetchall()
            return columns

    def _query(self, sql: str) -> tuple[list[str], list[list[Any]]]:
        with self._translate_error():
            cursor = self._driver().cursor()
            cursor.execute(sql)
            names = [str(column.name) for column in cursor.description or ()]
            rows: list[list[Any]] = cursor.fetchall()
            while cursor.nextset():
                cursor.fetchall()
            return names, rows

    def answers(self, sql: str, rows: int) -> Iterator[tuple[tuple[str, ...], Iterator[list[list[Any]]]]]:
        """Run one statement; give of each of its answers the columns, and the rows as they come, so many at once.

        The rows of an answer must be taken before the next answer is. Raise AttemptError.
        """
        with self._translate_error():
            cursor = self._driver().cursor()
            cursor.execute(sql)
            more = True
            while more:
                yield (
                    tuple(str(column.name) for column in cursor.description or ()),
                    self._pieces(cursor, rows),
                )
                more = cursor.nextset()

    def _pieces(self, cursor: Any, rows: int) -> Iterator[list[list[Any]]]:
        with self._translate_error():
            while piece := cursor.fetchmany(rows):
                yield piece

    def copy(self, sql: str, stream: Stream) -> None:
        """Run one `COPY ... FROM STDIN` with the bytes that the stream gives. Raise AttemptError.

        The text of an exception that the stream raises goes to the server's log.
        """
        with self._translate_error():
            cursor = self._driver().cursor()
            cursor.copy(sql, stream, buffer_size=_CHUNK_BYTES)
            cursor.fetchall()
            while cursor.nextset():
                cursor.fetchall()

    def has_refused(self) -> bool:
        """Tell, in the middle of a COPY, whether the server has answered with an error: it reads no more rows then.

        Over TLS there is no looking ahead, and the answer is no.
        """
        if self.socket is None or self.socket.fileno() < 0 or isinstance(self.socket, ssl.SSLSocket):
            return False
        readable = select.poll()
        readable.register(self.socket, select.POLLIN)
        with suppress(OSError):
            return bool(readable.poll(0)) and self.socket.recv(1, net.MSG_PEEK) == _ERROR_RESPONSE
        return False

    def interrupt(self) -> None:
        """From another thread, for good: whatever this session waits for fails at once."""
        self._interrupted = True
        if (there := self.socket) is not None:
            # Not through SSLSocket, which would take the lock that the reading thread holds.
            with suppress(OSError):
                net.socket.shutdown(there, net.SHUT_RDWR)

    def close(self) -> None:
        """Say goodbye and wait, for a second at most, until the server has ended the session; twice is once.

        What was not committed is rolled back.
        """
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def break_off(self) -> None:
        """Close without a word: for a session in the middle of a COPY."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close_socket()

    def _driver(self) -> _Wire:
        if self._wire is None:
            raise TargetError("the connection to the warehouse is closed")
        return self._wire

    @contextmanager
    def _translate_error(self) -> Iterator[None]:
        try:
            yield
        except driver_errors.QueryError as error:
            raise translate_error(error) from error
        except driver_errors.DataError as error:
            # The rows of a COPY ended by an exception; the server was told so, and is ready for more.
            raise TargetError("the rows ended by an error") from error
        except (driver_errors.Error, OSError) as error:
            self.break_off()
            if self._interrupted:
                raise TargetError("interrupted") from error
            raise lost(error, self._connection.name, self.timeout) from error


def _set_options(made: net.socket) -> None:
    made.setsockopt(net.IPPROTO_TCP, net.TCP_NODELAY, 1)
    made.setsockopt(net.SOL_SOCKET, net.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(net, name, None)) is not None:
            made.setsockopt(net.IPPROTO_TCP, option, value)


class _Wire(vertica_python.Connection):  # type: ignore[misc]
    """The driver's connection, which connects once and never again.

    It overrides only methods without an underscore; a unit test checks that the driver still calls them.
    """

    socket: Any
    socket_as_file: Any
    parameters: dict[str, Any]

    def __init__(self, session: VerticaClient, options: dict[str, Any]) -> None:
        self._session = session
        self._connected = False
        # The driver would turn notices into Python warnings.
        self.notice_handler = lambda _notice: None
        try:
            super().__init__(options)
        except BaseException:
            self.close_socket()
            raise

    def establish_socket_connection(self, _addresses: object) -> net.socket:
        if self._connected:
            raise driver_errors.ConnectionError("the connection is lost")
        self._connected = True
        return self._session.socket_to(self.options["host"], self.options["port"])

    def enable_ssl(self, raw_socket: net.socket, ssl_context: ssl.SSLContext, force: bool) -> net.socket:
        try:
            secured = super().enable_ssl(raw_socket, ssl_context, force=True)
        except driver_errors.SSLNotSupported:
            if force:
                raise
            return raw_socket
        self._session.socket = secured
        return secured  # type: ignore[no-any-return]

    def read_message(self) -> Any:
        message = super().read_message()
        if isinstance(message, messages.ErrorResponse):
            self._session.refusal = message
        return message

    def reset_values(self) -> None:
        """Keep what is known of the address: the driver would resolve it for a new connection."""
        self.parameters = {}
        self.session_id = self.backend_pid = self.backend_key = self.transaction_status = None
        self.socket = self.socket_as_file = None

    def cancel(self) -> Never:
        """What the driver does on Ctrl-C: it would open another connection and then wait for the answer."""
        raise KeyboardInterrupt

    def close(self) -> None:
        if self.socket is None:
            return
        until = time.monotonic() + _GOODBYE_SECONDS
        with suppress(OSError):
            self.socket.settimeout(_GOODBYE_SECONDS)
            self.socket.sendall(messages.Terminate().get_message())
            while self.socket.recv(65_536) and time.monotonic() < until:
                pass
        self.close_socket()

    def close_socket(self) -> None:
        with suppress(OSError):
            super().close_socket()


def quote(name: str) -> str:
    """Quote a name for SQL: a dot in it is a letter like any other."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Give a text as a literal: a backslash in it is a character like any other."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Sequence[str]) -> str:
    """Give texts as a list for IN."""
    return ", ".join(map(literal, texts))
