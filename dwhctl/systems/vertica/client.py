"""Connect to Vertica through vertica-python, with a timeout for every wait.

This module changes the driver (vertica-python 1.4.0) in these points:

- The driver connects again, and waits without a timeout, when it loses a connection in COPY, `close` and `cancel`. Here
  a lost connection stays lost.
- It leaves TCP_NODELAY off: each small COPY then takes 44 ms longer.
- It sends the rows of a COPY 8 KiB at a time. Here a megabyte is one call.
- It hides the errors of every result but the first. Here each answer is read to its end.
- Its `connection_timeout` limits connecting and every later wait alike. Here there are two limits.
"""

from __future__ import annotations

import random
import select
import socket as net
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Never

import vertica_python
from vertica_python import errors as driver_errors
from vertica_python.vertica import messages

from dwhctl.core.errors import ConnectError, TargetError, TlsError
from dwhctl.core.files import read_bytes
from dwhctl.systems.base import source
from dwhctl.systems.base.system import KEPT
from dwhctl.systems.vertica.catalog import connect_error, lost, translate_error
from dwhctl.systems.vertica.types import answer_type

if TYPE_CHECKING:
    from dwhctl.systems.base.staging import BatchStream
    from dwhctl.systems.vertica.system import VerticaConnection


_CHUNK_BYTES = 2**20
_ERROR_RESPONSE: bytes = messages.ErrorResponse.message_id
_CLOSE_SECONDS = 1.0
# Detect a dead peer within a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class VerticaClient:
    """One connection to Vertica without autocommit, used by one thread. A network error closes it.

    `label` is that of its session on the server; `timeout` limits every wait for an answer. It uses the connection that
    is kept for its `group`, whose label holds for all slices of the group. With `keep` it keeps its own when finished.
    """

    def __init__(
        self,
        connection: VerticaConnection,
        label: str,
        timeout: timedelta,
        group: str = "",
        *,
        keep: bool = False,
    ) -> None:
        self.label = label
        self.keep = keep
        self._key = connection, group
        self._was_kept = False
        self._connection = connection
        self.timeout = timeout.total_seconds()
        self._wire: _Wire | None = None
        self._interrupted = False
        #: The open socket, and the server's last error: the driver's connection sets them.
        self.socket: net.socket | None = None
        self.refusal: Any = None

    def open(self) -> None:
        """Use the connection that is kept, or connect to the first of the hosts that answers, in random order.

        Raise LoginRefusedError, ConnectError when no host accepts the session, TlsError when all of them fail over TLS,
        TargetRefusedError when the database does not exist.
        """
        kept = KEPT.take(self._key, VerticaClient, target=True) if self._key[1] else None
        if kept is not None:
            self._was_kept = True
            self._move(kept, self)
            # What came meanwhile is the server's end of the session.
            if not self._is_readable():
                return None
            self.break_off()
        hosts = list(self._connection.addresses)
        first = random.randrange(len(hosts))  # noqa: S311
        failures: list[ConnectError] = []
        for host, port in hosts[first:] + hosts[:first]:
            try:
                return self._connect(host, port)
            except ConnectError as error:
                if self._interrupted:
                    raise TargetError("interrupted") from error
                failures.append(error)
        kind = TlsError if all(isinstance(failure, TlsError) for failure in failures) else ConnectError
        raise kind("; ".join(map(str, failures)), connection=self._connection.name)

    def _connect(self, host: str, port: int) -> None:
        self.refusal = None
        try:
            if (authorities := self._connection.tls_cafile) is not None:
                read_bytes(authorities)  # ssl would wait on a FIFO without a timeout
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
        """Run one statement and return the rows of its first result. Raise AttemptError."""
        return self._query(sql)[1]

    def dicts(self, sql: str) -> list[dict[str, Any]]:
        """Run one statement and return its rows by column name. Raise AttemptError."""
        columns, rows = self._query(sql)
        return [dict(zip([str(column.name) for column in columns], row, strict=True)) for row in rows]

    def declared(self, sql: str) -> list[tuple[str, str]]:
        """Run one statement and return name and type of its columns. Raise AttemptError."""
        columns, _ = self._query(sql)
        return [(str(column.name), answer_type(column)) for column in columns]

    def _query(self, sql: str) -> tuple[list[Any], list[list[Any]]]:
        with self._executed(sql) as cursor:
            columns = list(cursor.description or ())
            rows: list[list[Any]] = cursor.fetchall()
            _read_to_end(cursor)
            return columns, rows

    def results(self, sql: str, rows: int) -> Iterator[tuple[tuple[str, ...], Iterator[list[list[Any]]]]]:
        """Run one statement; yield the columns of each result, and its rows in batches of at most `rows`.

        The rows of a result must be read before the next result is. Raise AttemptError.
        """
        with self._executed(sql) as cursor:
            more = True
            while more:
                yield (
                    tuple(str(column.name) for column in cursor.description or ()),
                    self._batches(cursor, rows),
                )
                more = cursor.nextset()

    def _batches(self, cursor: Any, rows: int) -> Iterator[list[list[Any]]]:
        with self._translate_error():
            while batch := cursor.fetchmany(rows):
                yield batch

    def copy(self, sql: str, stream: BatchStream) -> None:
        """Run one `COPY ... FROM STDIN` with the bytes of the stream. Raise AttemptError.

        The driver sends the text of an exception of the stream to the server's log.
        """
        try:
            self._copy(sql, stream)
        except TargetError:
            is_open, self._was_kept, was_kept = self._wire is not None, False, self._was_kept
            if is_open or not was_kept or stream.bytes or stream.failure or self._interrupted:
                raise
            # The session had ended while it was kept: nothing was sent in it.
            self.open()
            self._copy(sql, stream)

    def _copy(self, sql: str, stream: BatchStream) -> None:
        with self._translate_error():
            cursor = self._driver().cursor()
            cursor.copy(sql, stream, buffer_size=_CHUNK_BYTES)
            cursor.fetchall()
            _read_to_end(cursor)

    @contextmanager
    def _executed(self, sql: str) -> Iterator[Any]:
        with self._translate_error():
            cursor = self._driver().cursor()
            cursor.execute(sql)
            yield cursor

    def has_refused(self) -> bool:
        """Return whether the server has answered a running COPY with an error: it reads no more rows then.

        Always False over TLS, where the answer cannot be read in advance.
        """
        if self.socket is None or self.socket.fileno() < 0 or isinstance(self.socket, ssl.SSLSocket):
            return False
        with suppress(OSError):
            return self._is_readable() and self.socket.recv(1, net.MSG_PEEK) == _ERROR_RESPONSE
        return False

    def _is_readable(self) -> bool:
        readable = select.poll()
        readable.register(self.socket or -1, select.POLLIN)
        return bool(readable.poll(0))

    def finish(self) -> None:
        """Close the connection after a COMMIT; or keep it, when that is asked for."""
        if self.keep and self._wire is not None and not self._interrupted:
            kept = VerticaClient(self._connection, self.label, timedelta(seconds=self.timeout))
            self._move(self, kept)
            KEPT.put(self._key, kept, target=True)
        self.close()

    @staticmethod
    def _move(old: VerticaClient, new: VerticaClient) -> None:
        new._wire, new.socket, old._wire = old._wire, old.socket, None
        if new._wire is not None:
            new._wire._client = new
            new._wire.socket.settimeout(new.timeout)

    def interrupt(self) -> None:
        """Fail every wait of this connection at once and from now on. Called from another thread."""
        self._interrupted = True
        if (there := self.socket) is not None:
            # Not through SSLSocket, which would take the lock that the reading thread holds.
            with suppress(OSError):
                net.socket.shutdown(there, net.SHUT_RDWR)

    def close(self) -> None:
        """End the session, which rolls back, and wait for the server for a second at most. Idempotent."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def break_off(self) -> None:
        """Close the socket without ending the session: for a connection in the middle of a COPY."""
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
            # The stream of a COPY raised: the driver has sent that, and the connection is usable.
            raise TargetError("the rows ended by an error") from error
        except (driver_errors.Error, OSError) as error:
            self.break_off()
            if self._interrupted:
                raise TargetError("interrupted") from error
            raise lost(error, self._connection.name, self.timeout) from error


def _read_to_end(cursor: Any) -> None:
    while cursor.nextset():
        cursor.fetchall()


def _set_options(made: net.socket) -> None:
    made.setsockopt(net.IPPROTO_TCP, net.TCP_NODELAY, 1)
    made.setsockopt(net.SOL_SOCKET, net.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(net, name, None)) is not None:
            made.setsockopt(net.IPPROTO_TCP, option, value)


class _Wire(vertica_python.Connection):  # type: ignore[misc]
    """The driver's connection, which connects once only.

    It overrides only methods without an underscore; a unit test checks that the driver still calls them.
    """

    socket: Any
    socket_as_file: Any
    parameters: dict[str, Any]

    def __init__(self, client: VerticaClient, options: dict[str, Any]) -> None:
        self._client = client
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
        return self._client.socket_to(self.options["host"], self.options["port"])

    def enable_ssl(self, raw_socket: net.socket, ssl_context: ssl.SSLContext, force: bool) -> net.socket:
        try:
            secured = super().enable_ssl(raw_socket, ssl_context, force=True)
        except driver_errors.SSLNotSupported:
            if force:
                raise
            return raw_socket
        self._client.socket = secured
        return secured  # type: ignore[no-any-return]

    def write(self, message: Any, vsocket: net.socket | None = None) -> None:
        """Send the rows of a COPY as they are: the driver would send 8 KiB at a time."""
        if not isinstance(message, messages.CopyData) or self.socket is None:
            super().write(message, vsocket)
            return
        try:
            self.socket.sendall(message.get_message())
        except OSError as error:
            self.close_socket()
            raise driver_errors.ConnectionError(str(error)) from error

    def read_message(self) -> Any:
        message = super().read_message()
        if isinstance(message, messages.ErrorResponse):
            self._client.refusal = message
        return message

    def reset_values(self) -> None:
        """Keep the resolved address, which the driver would drop for a new connection."""
        self.parameters = {}
        self.session_id = self.backend_pid = self.backend_key = self.transaction_status = None
        self.socket = self.socket_as_file = None

    def cancel(self) -> Never:
        """Raise: on Ctrl-C the driver would open another connection and wait for its answer."""
        raise KeyboardInterrupt

    def close(self) -> None:
        if self.socket is None:
            return
        until = time.monotonic() + _CLOSE_SECONDS
        with suppress(OSError):
            self.socket.settimeout(_CLOSE_SECONDS)
            self.socket.sendall(messages.Terminate().get_message())
            while self.socket.recv(65_536) and time.monotonic() < until:
                pass
        self.close_socket()

    def close_socket(self) -> None:
        with suppress(OSError):
            super().close_socket()
