"""A connection to PostgreSQL that can COPY; every wait ends.

psycopg2 cannot COPY over the asynchronous connections of `client`. Here its calls block, and a timer shuts the socket
down when the server is silent for too long: the call then fails.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import psycopg2

from dwhctl.core.errors import AttemptError, SourceError, TargetError
from dwhctl.core.files import read_bytes
from dwhctl.core.waiting import interruptible, within
from dwhctl.systems.base import source
from dwhctl.systems.base.system import KEPT
from dwhctl.systems.postgres.client import LOST, connect_to_first, parameters
from dwhctl.systems.postgres.errors import ServerError, connect_error, translate_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg2.extensions import connection as PgConnection  # noqa: N812
    from psycopg2.extensions import cursor as PgCursor  # noqa: N812

    from dwhctl.systems.base.staging import BatchStream
    from dwhctl.systems.postgres.system import PostgresConnection

#: How long PostgreSQL may take to cancel a statement.
_CANCEL_SECONDS = 2.0
#: How much longer than statement_timeout to wait for the server's report that it has passed.
_LAST_WORD_SECONDS = 1.0
_COPY_BYTES = 2**20
_ERROR_RESPONSE = b"E"
#: psycopg2 raises its own errors, and these for a text or a bound that it cannot send or read.
_FAILURES = (psycopg2.Error, UnicodeError, ValueError, OverflowError)
#: The same texts whatever the server's settings.
_SETTINGS = (
    "SET standard_conforming_strings = on; SET bytea_output = 'hex'; SET DateStyle = 'ISO, YMD';"
    " SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET xmloption = 'content';"
    # The catalog's functions quote the names of types as well.
    " SET quote_all_identifiers = off"
)
#: In older versions a statement whose client is gone runs to its next row.
_CHECKS_CLIENT = 140_000
#: What a trigger did at the login is undone by DISCARD ALL, and would not be done again.
_LOGIN_TRIGGERS = 170_000, "SELECT 1 FROM pg_event_trigger WHERE evtevent = 'login' AND evtenabled <> 'D'"


class _Watch:
    """Calls `expire` once the block has been without a `touch` for so many seconds; with None never."""

    def __init__(self, seconds: float | None, expire: Callable[[], None]) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self.expire = expire
        self.expired = False
        self.until = math.inf

    def touch(self) -> None:
        """Begin to wait anew."""
        self.until = time.monotonic() + self._seconds
        _watcher.note(self)

    def pause(self) -> None:
        """Do not wait until the next `touch`."""
        self.until = math.inf

    def __enter__(self) -> Self:
        if self._seconds < math.inf:
            _watcher.add(self)
        self.touch()
        return self

    def __exit__(self, *_exc: object) -> None:
        _watcher.remove(self)


class _Watcher:
    """One thread for all watches of this process: to start one for each statement takes as long as the statement."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: set[_Watch] = set()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def add(self, watch: _Watch) -> None:
        """Begin to look after a watch."""
        with self._changed:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()

    def remove(self, watch: _Watch) -> None:
        """Forget a watch. After this it does not expire."""
        with self._changed:
            self._watches.discard(watch)

    def note(self, watch: _Watch) -> None:
        """Wake up in time for a watch."""
        with self._changed:
            if watch.until < self._wakes_at:
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for watch in [watch for watch in self._watches if watch.until <= now]:
                    self._watches.remove(watch)
                    watch.expired = True
                    watch.expire()
                self._wakes_at = min((watch.until for watch in self._watches), default=math.inf)
                self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


_watcher = _Watcher()


class CopyClient:
    """One connection in autocommit, used by one thread, except for `interrupt`. A network error closes it.

    `label` is its application_name on the server, `timeout` limits each wait for an answer (None: no limit), `target`
    says whose errors are raised. `settings` are sent after those of every connection. `keep` is whether
    it keeps its connection when finished, for the next one for which it is not None.
    """

    def __init__(
        self,
        connection: PostgresConnection,
        label: str | None,
        timeout: float | None,
        settings: str = "",
        *,
        target: bool,
        keep: bool | None = None,
    ) -> None:
        self.label = label or ""
        self._keep = keep
        self.timeout = timeout
        self._connection = connection
        self._settings = settings
        self._target = target
        self._raw: PgConnection | None = None
        self._socket: socket.socket | None = None
        self._interrupted = False

    def open(self) -> None:
        """Use the connection that is kept, or connect to the first of the servers that accepts. Raise AttemptError."""
        uses_kept = self._keep is not None
        kept = KEPT.take(self._connection, CopyClient, target=self._target) if uses_kept else None
        if kept is not None:
            self._move(kept, self)
            if self._answers(self._all_settings()):
                return
            self.close()  # the server was restarted, or it ended the session
        self._connect()

    def _connect(self) -> None:
        try:
            if self._connection.sslrootcert is not None:
                read_bytes(self._connection.sslrootcert)  # libpq would wait on a FIFO without a timeout
            self._raw = self._connected()
        except (*_FAILURES, OSError) as error:
            raise connect_error(error, self._connection, target=self._target) from None
        # A descriptor of its own: the driver's may be closed, and used for another file, at any moment.
        self._socket = socket.socket(fileno=os.dup(self._raw.fileno()))
        self._raw.autocommit = True
        if self._interrupted:
            self.interrupt()
        with source.closed_on_error(self):
            self.query(self._all_settings())
            since, triggers = _LOGIN_TRIGGERS
            if self._keep and self.raw.server_version >= since and self.query(triggers):
                self._keep = False

    def _all_settings(self) -> str:
        # Not by a query on pg_settings: it takes as long as the login.
        checks = self.raw.server_version >= _CHECKS_CLIENT
        check = "SET client_connection_check_interval = '10s'; " if checks else ""
        return f"{_SETTINGS}; {check}{self._timeouts()}; {self._settings}"

    def finish(self) -> None:
        """Close the connection; or keep it, as it was after its login, when that is asked for."""
        # It ends what outlives a transaction: settings, temporary tables, locks, prepared statements, cursors.
        if self._keep and not self._interrupted and self._answers("DISCARD ALL"):
            kept = CopyClient(self._connection, None, None, target=self._target)
            self._move(self, kept)
            KEPT.put(self._connection, kept, target=self._target)
        self.close()

    def _answers(self, sql: str) -> bool:
        """Return whether a statement between two slices succeeds soon."""
        usual, soon = self.timeout, self._connection.connect_timeout.total_seconds()
        self.timeout = min(soon, usual or soon)
        try:
            self.query(sql)
        except AttemptError:
            return False
        finally:
            self.timeout = usual
        return True

    @staticmethod
    def _move(old: CopyClient, new: CopyClient) -> None:
        new._raw, new._socket = old._raw, old._socket
        old._raw = old._socket = None

    def _connected(self) -> PgConnection:
        password = self._connection.password.reveal() if self._connection.password else None
        options = parameters(self._connection) | {"password": password}
        if self.label:
            options["application_name"] = self.label
        if not self._target:
            options["target_session_attrs"] = "any"

        def connect(attempt: dict[str, Any], _name: str) -> PgConnection:
            raw: PgConnection = interruptible(partial(psycopg2.connect, **{**options, **attempt}))
            return raw

        return connect_to_first(self._connection.addresses, self._connection.connect_timeout, connect)

    def _timeouts(self) -> str:
        """Return the settings that end a statement, a wait for a lock, and a transaction without statements."""
        if self.timeout is None:
            return "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '30min'"
        milliseconds = max(1, round(self.timeout * 1000))
        return (
            f"SET statement_timeout = {milliseconds}; SET lock_timeout = {max(1, milliseconds // 2)};"
            f" SET idle_in_transaction_session_timeout = {max(60_000, milliseconds)}"
        )

    @property
    def raw(self) -> PgConnection:
        """psycopg2's connection. Raise AttemptError when it is closed."""
        if self._raw is None:
            text = "interrupted" if self._interrupted else "the connection is closed"
            raise TargetError(text) if self._target else SourceError(text)
        return self._raw

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement, or several with semicolons between, and return the last one's rows. Raise AttemptError."""
        with self._executed(sql) as cursor:
            return list(cursor.fetchall()) if cursor.description else []

    def run(self, sql: str) -> int:
        """Run one statement and return the number of rows that it wrote. Raise AttemptError."""
        with self._executed(sql) as cursor:
            return int(cursor.rowcount)

    def run_together(self, statements: Sequence[str]) -> bool:
        """Run all statements or none, by one message, and return whether they succeeded. Raise AttemptError."""
        usual, self.timeout = self.timeout, self.timeout and len(statements) * self.timeout
        try:
            self.query("\n;\n".join(statements))  # a statement may end in a comment
        except AttemptError:
            if not self._answers("ROLLBACK"):  # of a transaction that they have begun themselves
                raise
            return False
        finally:
            self.timeout = usual
        return True

    def described(self, sql: str) -> Sequence[Any]:
        """Run one statement and return psycopg2's description of its columns. Raise AttemptError."""
        with self._executed(sql) as cursor:
            return list(cursor.description or ())

    @contextmanager
    def _executed(self, sql: str) -> Iterator[PgCursor]:
        with self._translated(sql) as watch, self.raw.cursor() as cursor:
            interruptible(partial(cursor.execute, sql), self.interrupt)
            watch.pause()
            yield cursor

    def copy_out(self, sql: str, file: Any) -> None:
        """Run a COPY ... TO STDOUT into a binary file; the caller limits the time. Raise AttemptError."""
        with self._translated(sql, limited=False), self.raw.cursor() as cursor:
            cursor.copy_expert(sql, file)

    @property
    def is_plain(self) -> bool:
        """Whether the socket carries PostgreSQL's protocol as it is: no TLS, and `parameters` excludes Kerberos."""
        return self._socket is not None and self._raw is not None and not self._raw.info.ssl_in_use

    def copy_out_plain(self, sql: str, read: Callable[[socket.socket], None]) -> None:
        """Let `read` send a COPY ... TO STDOUT and read its answer; it limits the time. Raise AttemptError."""
        with self._translated(sql, limited=False):
            raw, made = self.raw, self._socket
            if made is None:
                raise psycopg2.InterfaceError("the connection is closed")
            try:
                read(made)
            except BaseException as error:
                # libpq does not see that the connection is gone, or in the middle of an answer.
                if not isinstance(error, ServerError) or error.is_fatal or self._is_lost(error):
                    raw.close()
                raise

    def copy_in(self, sql: str, stream: BatchStream) -> int:
        """Run a COPY ... FROM STDIN with the bytes of the stream, and return the number of rows. Raise AttemptError."""
        with self._translated(sql) as watch, self.raw.cursor() as cursor:
            cursor.copy_expert(sql, _Watched(stream, watch), size=_COPY_BYTES)
            return int(cursor.rowcount)

    def has_refused(self) -> bool:
        """Return whether the server has answered a running COPY with an error: it reads no more rows then.

        Always False over TLS, where the answer cannot be read in advance.
        """
        if self._socket is None or not self.is_plain:
            return False
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        with suppress(OSError):
            return bool(readable.poll(0)) and self._socket.recv(1, socket.MSG_PEEK) == _ERROR_RESPONSE
        return False

    @contextmanager
    def _translated(self, sql: str, *, limited: bool = True) -> Iterator[_Watch]:
        seconds = None if self.timeout is None or not limited else self.timeout + _LAST_WORD_SECONDS
        with _Watch(seconds, self.sever) as watch:
            try:
                yield watch
            except _FAILURES as error:
                raise self._error(error, sql, watch) from error

    def _error(self, error: Exception, sql: str, watch: _Watch) -> AttemptError:
        kind = TargetError if self._target else SourceError
        if self._interrupted:
            return kind("interrupted")
        if watch.expired:
            return kind(
                f"no answer from {self._connection.name} for {self.timeout:g} s; the connection is closed"
            )
        limited, lost = self.timeout is not None, self._is_lost(error)
        return translate_error(
            error, self._connection.name, sql, is_lost=lost, target=self._target, limited=limited
        )

    def _is_lost(self, error: Exception) -> bool:
        code = getattr(error, "pgcode", None) or ""
        is_client = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        # After the last warning of a server that crashed, psycopg2 raises the bare DatabaseError.
        no_code = (is_client or type(error) is psycopg2.DatabaseError) and not code
        return self._raw is None or bool(self._raw.closed) or no_code or code.startswith(LOST)

    def interrupt(self) -> None:
        """Cancel the running statement on the server, and make it and every later one fail."""
        self._interrupted = True
        if (raw := self._raw) is not None:
            with suppress(TimeoutError, *_FAILURES):
                within(_CANCEL_SECONDS, raw.cancel)
        self.sever()

    def sever(self) -> None:
        """Shut the connection's socket down, so that a call that waits for the server fails. From any thread."""
        if (made := self._socket) is not None:
            with suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection without waiting, and roll back. Idempotent."""
        raw, self._raw = self._raw, None
        made, self._socket = self._socket, None
        if raw is not None:
            with suppress(*_FAILURES):
                raw.close()
        if made is not None:
            made.close()


class _Watched:
    """A stream as psycopg2 reads it; the watch is for the server's time, not for that of the stream."""

    def __init__(self, stream: BatchStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        self._watch.pause()
        try:
            return self._stream.read(size)
        finally:
            self._watch.touch()

    def readline(self, _size: int = -1, /) -> bytes:
        """Fail: psycopg2 asks for the method, and does not call it."""
        raise NotImplementedError
