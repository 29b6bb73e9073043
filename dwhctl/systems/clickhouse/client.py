"""Connect to ClickHouse through clickhouse-connect, with a timeout for every wait.

The driver shares one pool of connections between all clients, sends a request again when its connection breaks, and
goes through a proxy of the environment. Here each client has a pool of its own, which does none of that, and whose
sockets another thread can shut.
"""

from __future__ import annotations

import itertools
import logging
import socket as net
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import urllib3
from clickhouse_connect.driver import exceptions as driver_errors
from clickhouse_connect.driver.httpclient import HttpClient
from urllib3.connection import HTTPConnection, HTTPSConnection

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    LoginRefusedError,
    TargetError,
    TargetRefusedError,
    TlsError,
)
from dwhctl.core.files import read_bytes
from dwhctl.systems.base import source
from dwhctl.systems.clickhouse.errors import (
    LOGIN,
    UNKNOWN_DATABASE,
    UNKNOWN_IDENTIFIER,
    code_of,
    lost,
    network_words,
    tls_remedy,
    translate_error,
    words,
)
from dwhctl.systems.clickhouse.types import literal

if TYPE_CHECKING:
    from datetime import timedelta

    from dwhctl.systems.clickhouse.system import ClickHouseConnection

#: `read` and `timeout` also have a limit for each server of a query (`_leaf`): a single server minds both.
_LIMITED = ("distinct", "group_by", "join", "read", "result", "set", "sort", "timeout", "transfer")
#: Makes the server say where it would otherwise change a value or leave out a row, and keeps SQL's meaning of NULL. A
#: limit of the user's profile is an error, whatever the profile does at it.
#: Source: https://clickhouse.com/docs/operations/settings/settings
_SETTINGS: dict[str, Any] = {
    **{f"{what}_overflow_mode": "throw" for what in _LIMITED},
    **{f"{what}_overflow_mode_leaf": "throw" for what in ("read", "timeout")},
    "limit": 0,
    "offset": 0,
    "aggregate_functions_null_for_empty": 1,
    "alter_sync": 2,
    "async_insert": 0,
    "cast_keep_nullable": 1,
    "date_time_overflow_behavior": "throw",
    "except_default_mode": "DISTINCT",
    "input_format_arrow_allow_missing_columns": 0,
    "input_format_null_as_default": 0,
    "insert_allow_materialized_columns": 1,
    "insert_deduplicate": 0,
    "insert_null_as_default": 0,
    "join_use_nulls": 1,
    "mutations_sync": 2,
    "output_format_decimal_trailing_zeros": 0,
    "prefer_column_name_to_alias": 1,
    "transform_null_in": 0,
}
# What it logs is raised as well, and would be printed where nothing takes it.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


class ClickHouseClient:
    """One connection to ClickHouse, used by one thread. `label` begins the ids of its queries.

    `timeout` limits the silence of the server and the run time of a query. With `readonly` the server refuses writes.
    """

    def __init__(
        self,
        connection: ClickHouseConnection,
        label: str,
        timeout: timedelta | None,
        *,
        readonly: bool = False,
    ) -> None:
        self.label = label
        self.timeout = timeout.total_seconds() if timeout is not None else None
        self._connection = connection
        self._readonly = readonly
        self._numbers = itertools.count()
        self._driver: HttpClient | None = None
        self._pool: _Pool | None = None
        self._interrupted = False

    def open(self) -> None:
        """Connect to the first of the hosts that answers, in their order: a staging table is on one of them only.

        Raise LoginRefusedError, ConnectError when no host accepts, TlsError when all of them fail over TLS.
        """
        failures: list[ConnectError] = []
        for host, port in self._connection.addresses:
            try:
                return self._connect(host, port)
            except ConnectError as error:
                if self._interrupted:
                    raise TargetError("interrupted") from error
                failures.append(error)
        kind = TlsError if all(isinstance(failure, TlsError) for failure in failures) else ConnectError
        raise kind("; ".join(map(str, failures)), connection=self._connection.name)

    def _connect(self, host: str, port: int) -> None:
        connection, password = self._connection, self._connection.password
        where = f"connection {connection.name}, {host}:{port}"
        seconds = connection.connect_timeout.total_seconds()
        options: dict[str, Any] = {}
        if connection.is_secure:
            authorities = source.authorities(connection)
            if authorities is not None:
                read_bytes(authorities)  # ssl would wait on a FIFO without a timeout
            options = {"cert_reqs": "CERT_REQUIRED", "ca_certs": str(authorities) if authorities else None}
        self._pool = pool = _Pool(lambda: self._interrupted, **options)
        settings = _SETTINGS | ({"readonly": 2} if self._readonly else {})
        if self.timeout is not None:
            settings["max_execution_time"] = max(1, round(self.timeout))
        try:
            self._driver = HttpClient(
                "https" if connection.is_secure else "http", host, port, connection.user,
                password.reveal() if password is not None else "", connection.database,
                compress=False, query_retries=0, connect_timeout=max(1, round(seconds)),
                send_receive_timeout=max(1, round(min(seconds, self.timeout or seconds))),
                client_name="dwhctl", settings=settings, pool_mgr=pool, autogenerate_session_id=False,
                show_clickhouse_errors=True,
            )  # fmt: skip
        except Exception as error:
            self.close()
            raise self._connect_error(error, where) from error
        self._driver.timeout = urllib3.Timeout(connect=seconds, read=self.timeout)

    def _connect_error(self, error: Exception, where: str) -> AttemptError:
        name = self._connection.name
        if isinstance(error, driver_errors.Error) and (code := code_of(error)) is not None:
            text = f"{where}: {words(error)}"
            if code in LOGIN:
                return LoginRefusedError(text, connection=name)
            if code == UNKNOWN_DATABASE:
                return TargetRefusedError(
                    f"{text}; create the database, or write another in connections.{name}"
                )
            if code == UNKNOWN_IDENTIFIER:
                text += "; the server is too old: dwhctl needs ClickHouse 23.12 or newer"
            return ConnectError(text, connection=name)
        reason = network_words(error)
        if (hint := tls_remedy(reason, self._connection)) is not None:
            return TlsError(f"{where}: {reason}; {hint}", connection=name)
        return ConnectError(f"{where}: {reason}", connection=name)

    def query(self, sql: str, settings: Mapping[str, Any] | None = None) -> list[Sequence[Any]]:
        """Run one query and return its rows. Raise AttemptError."""
        with self._translate_error():
            return list(self._open().query(sql, settings=self._with_id(settings)).result_rows)

    def run(self, sql: str, settings: Mapping[str, Any] | None = None) -> int | None:
        """Run one statement without an answer; return the rows that it wrote. Raise AttemptError."""
        with self._translate_error():
            answer = self._open().command(sql, settings=self._with_id(settings), use_database=True)
        written = getattr(answer, "written_rows", None)
        return int(written) if written is not None else None

    def stream(self, sql: str) -> Iterator[tuple[tuple[str, ...], Sequence[Sequence[Any]]]]:
        """Run one query; yield its columns, first without rows, then with each block of them. Raise AttemptError."""
        with self._translate_error():
            answer = self._open().query_row_block_stream(sql, settings=self._with_id(None))
            with answer as blocks:
                columns = tuple(getattr(answer.source, "column_names", ()))
                yield columns, ()
                for block in blocks:
                    yield columns, block

    def insert(self, table: str, columns: Sequence[str], body: Iterator[bytes]) -> None:
        """Insert the Arrow stream whose bytes the body yields. What the body raises is raised as it is."""
        failure: list[BaseException] = []

        def pieces() -> Generator[bytes]:
            try:
                yield from body
            except BaseException as error:
                failure.append(error)
                raise

        try:
            with self._translate_error():
                # The time that the source takes counts as well: only the attempt's deadline ends it.
                settings = self._with_id({"max_execution_time": 0})
                self._open().raw_insert(table, columns, pieces(), settings, "ArrowStream")
        except BaseException:
            if failure:
                raise failure[0] from None
            raise

    def _with_id(self, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"query_id": f"{self.label}:{next(self._numbers)}", **(settings or {})}

    def interrupt(self) -> None:
        """Fail every wait of this connection at once and from now on. Called from another thread."""
        self._interrupted = True
        if (pool := self._pool) is not None:
            pool.shut()

    def close(self) -> None:
        """Close the connection. The server goes on with a statement that runs. Idempotent."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(Exception):
                driver.close()
        if self._pool is not None:
            self._pool.clear()

    def _open(self) -> HttpClient:
        if self._driver is None:
            raise TargetError("the connection to the warehouse is closed")
        return self._driver

    @contextmanager
    def _translate_error(self) -> Iterator[None]:
        try:
            yield
        except driver_errors.Error as error:
            if self._interrupted:
                raise TargetError("interrupted") from error
            raise translate_error(error, self._connection.name, self.timeout) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self._interrupted:
                raise TargetError("interrupted") from error
            raise lost(error, self._connection.name, self.timeout) from error


class _Pool(urllib3.PoolManager):
    """Connections whose sockets can be shut from another thread; none is made again for a request that failed."""

    def __init__(self, interrupted: Callable[[], bool], **options: Any) -> None:
        super().__init__(maxsize=1, block=False, retries=False, **options)
        sockets = self._sockets = set[net.socket]()

        def keep(made: net.socket | None) -> None:
            if made is not None:
                sockets.add(made)
            if interrupted():
                raise TimeoutError("interrupted")

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                keep(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                keep(self.sock)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Secure

        self.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def shut(self) -> None:
        """Shut the sockets, so that who waits on them fails."""
        for made in list(self._sockets):
            # Not through SSLSocket, which would take the lock that the reading thread holds.
            with suppress(OSError):
                net.socket.shutdown(made, net.SHUT_RDWR)


# Queries that the server still runs.

_END_SECONDS, _POLL_SECONDS = 30.0, 0.05


def kill_queries(client: ClickHouseClient, label: str) -> None:
    """Have the server end the queries whose ids begin with the label and a colon, and do not wait for it.

    Source: https://clickhouse.com/docs/sql-reference/statements/kill
    """
    with suppress(TargetRefusedError):  # they have just ended, or the user may not end any
        client.query(f"KILL QUERY WHERE {_others(client, label)} ASYNC")


def end_queries(client: ClickHouseClient, label: str, *, but: str = ":stage:") -> None:
    """End these queries, and wait until they are gone; not for those that stage, which wait for their client.

    Raise TargetError when they do not end within half a minute, or the client's timeout.
    """
    where = f"{_others(client, label)} AND position(query_id, {literal(but)}) = 0"
    until = time.monotonic() + min(_END_SECONDS, client.timeout or _END_SECONDS)
    kill_queries(client, label)
    while left := client.query(f"SELECT query_id FROM system.processes WHERE {where}"):
        if time.monotonic() > until:
            raise TargetError(f"{len(left)} queries of {label} do not end")
        time.sleep(_POLL_SECONDS)
        kill_queries(client, label)


def has_queries(client: ClickHouseClient, label: str) -> bool:
    """Return whether the server runs such queries."""
    return bool(client.query(f"SELECT 1 FROM system.processes WHERE {_others(client, label)} LIMIT 1"))


def _others(client: ClickHouseClient, label: str) -> str:
    return f"startsWith(query_id, {literal(label + ':')}) AND NOT startsWith(query_id, {literal(client.label + ':')})"
