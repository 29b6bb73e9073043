"""Connect to SQL Server with mssql-python, whose batches come as Arrow, and read its errors.

The connection and its cursor have the methods of pymssql's that dwhctl uses, and raise errors that are pymssql's, so
that one translation serves both drivers. The driver comes with the extra `dwhctl[mssql-arrow]`.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pymssql

from dwhctl.core.errors import ConfigError, TlsError
from dwhctl.systems.mssql.errors import ServerMessage, network_problem, one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.systems.mssql.client import Address

#: Whether the connection is encrypted, and whether the server's certificate is trusted without a check. `request` and
#: `off` encrypt the login where the server has TLS: the driver always does.
_ENCRYPTION = {
    "require": ("yes", "yes"),
    "request": ("no", "yes"),
    "off": ("no", "yes"),
    "verify-full": ("yes", "no"),
}
#: Shared libraries that the driver's wheel does not have, with Debian's packages.
_LIBRARIES = {
    "libltdl.so.7": "libltdl7",
    "libkrb5.so.3": "libkrb5-3",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
}
#: The variable with which OpenSSL finds the certificate authorities: the driver has no key for them.
_AUTHORITIES = "SSL_CERT_FILE"
#: The provider in Rust. It reads the authorities once for each process.
_RUST = "mssql-odbc"
_LOGIN_LOCK = threading.Lock()
_read_authorities: list[str | None] = []

#: The driver keeps the numbers of errors to itself. After a login they are asked from the server; before it, the text
#: says which one it is. The texts: https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/
#: database-engine-events-and-errors
_LOGIN_NUMBERS = (
    ("Cannot open database", 4060),
    ("has not been recovered yet", 921),
    ("is being recovered", 922),
    ("already open and can only have one user", 924),
    ("in the middle of a restore", 927),
    ("is in transition", 952),
    ("availability group and is currently not accessible", 976),
    ("is not in the PRIMARY or SECONDARY role", 983),
    ("Logon failed for login", 17892),
    ("is not allowed to access the server", 40615),
    ("Login failed", 18456),
)
_OF_SERVER = "[SQL Server]"
_PREFIX = re.compile(r"^(?:\[[^\]]*\])+")
_TIMED_OUT = re.compile("(?i:timeout|timed out)")
_TLS = re.compile("(?i:SSL|TLS|encryption|certificate)")
#: The driver writes some network errors as bare numbers, of Linux or of Windows.
_NETWORK_CODE = re.compile(r"\bError code (0x[0-9A-Fa-f]+)")
_OF_WINDOWS = {
    10051: errno.ENETUNREACH,
    10053: errno.ECONNABORTED,
    10054: errno.ECONNRESET,
    10060: errno.ETIMEDOUT,
    10061: errno.ECONNREFUSED,
    10065: errno.EHOSTUNREACH,
}
_SEVERITY = "SELECT severity FROM sys.messages WHERE message_id = {number} AND language_id = 1033"
_USUAL_SEVERITY = 16
#: State of a lost connection: https://learn.microsoft.com/en-us/sql/odbc/reference/appendixes/
#: appendix-a-odbc-error-codes
_LOST = re.compile(r"\[08\w{3}\]")


class ArrowDriverError(pymssql.DatabaseError):
    """An error of mssql-python, as an error of pymssql."""

    def __init__(self, message: ServerMessage) -> None:
        super().__init__(message.words)
        self.message = message


class ArrowCursor:
    """The one open cursor of a connection."""

    def __init__(self, driver: Any, opened: Any) -> None:
        self._driver = driver
        self._opened = opened
        self._is_over = False
        self._changed = -1
        with self._translated():
            self._cursor = opened.cursor()

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        """The columns of the result; None when it has none."""
        found: Sequence[Sequence[Any]] | None = self._cursor.description
        return found or None

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement wrote; -1 when it is not known."""
        return self._changed

    @property
    def is_lost(self) -> bool:
        """Whether the driver has reported that the connection is lost, without an error."""
        return any(_LOST.search(str(state)) for state, *_ in self._cursor.messages)

    def execute(self, sql: str) -> None:
        """Run a batch, and go to its first result with columns."""
        with self._translated():
            self._cursor.execute(sql)
            self._changed = int(self._cursor.rowcount)
            if not self._cursor.description:
                self._next()

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row; None at the end."""
        with self._translated():
            row = self._cursor.fetchone()
        return None if row is None else tuple(row)

    def fetchall(self) -> list[tuple[Any, ...]]:
        with self._translated():
            return [tuple(row) for row in self._cursor.fetchall()]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def fetch_batch(self, rows: int) -> pa.RecordBatch:
        """Return the next rows in the driver's types; an empty batch at the end."""
        with self._translated():
            return self._cursor.arrow_batch(rows)

    def nextset(self) -> bool:
        """Go to the next result with columns; return whether there is one."""
        with self._translated():
            return self._next()

    def _next(self) -> bool:
        while not self._is_over:
            # At the end the driver must not be asked again.
            self._is_over = not self._cursor.nextset()
            if not self._is_over and self._cursor.description:
                return True
        return False

    def close(self) -> None:
        """Close the cursor. Idempotent."""
        with suppress(self._driver.Error):
            self._cursor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise ArrowDriverError(self._message(error)) from error

    def _message(self, error: Any) -> ServerMessage:
        words = _words(error)
        number, severity = None, _USUAL_SEVERITY
        if _OF_SERVER in error.ddbc_error:
            with suppress(self._driver.Error):
                number, severity = self._ask()
        return ServerMessage(number, severity, one_line(_with_reason(words)), (), "")

    def _ask(self) -> tuple[int, int]:
        """Ask the server for number and severity of the last error; 0 when another statement has run since."""
        cursor = self._opened.cursor()
        try:
            number = int(cursor.execute("SELECT @@ERROR").fetchone()[0])
            row = None
            with suppress(self._driver.Error):
                row = number and cursor.execute(_SEVERITY.format(number=number)).fetchone()
            return number, int(row[0]) if row else _USUAL_SEVERITY
        finally:
            cursor.close()


class ArrowConnection:
    """One connection with one cursor at a time."""

    def __init__(self, driver: Any, opened: Any) -> None:
        self._driver = driver
        self._opened = opened
        self._cursor: ArrowCursor | None = None

    def cursor(self) -> ArrowCursor:
        """Return a new cursor; the last one is closed."""
        if self._cursor is not None:
            self._cursor.close()
        self._cursor = ArrowCursor(self._driver, self._opened)
        return self._cursor

    @property
    def autocommit_state(self) -> bool:
        """Whether every statement is committed."""
        return bool(self._opened.autocommit)

    def autocommit(self, on: bool) -> None:
        """Commit every statement, or begin a transaction."""
        with _connection_errors(self._driver):
            self._opened.setautocommit(on)

    def commit(self) -> None:
        with _connection_errors(self._driver):
            self._opened.commit()

    def close(self) -> None:
        """Close the connection, and roll back. Idempotent."""
        with suppress(self._driver.Error, RuntimeError):
            self._opened.close()


@contextmanager
def _connection_errors(driver: Any) -> Iterator[None]:
    try:
        yield
    except driver.Error as error:
        message = ServerMessage(None, _USUAL_SEVERITY, one_line(_words(error)), (), "")
        raise ArrowDriverError(message) from error


def _words(error: Any) -> str:
    return _PREFIX.sub("", error.ddbc_error) or str(error.driver_error)


def load_driver() -> Any:
    """Import the driver and return it. Raise ConfigError when it is not installed."""
    try:
        driver = importlib.import_module("mssql_python")
    except ImportError as error:
        raise ConfigError(
            'driver = "mssql-python" needs a package that is not installed or not for this machine'
            f" ({error}); pip install 'dwhctl[mssql-arrow]'"
        ) from error
    # Else `close` keeps the session on the server.
    driver.pooling(enabled=False)
    return driver


def is_rust() -> bool:
    return bool(load_driver().native_provider == _RUST)


def log_in(address: Address, database: str, timeout: float | None, settings: str) -> ArrowConnection:
    """Log in. Raise pymssql.Error, TlsError or ConfigError."""
    driver = load_driver()
    encrypt, trust = _ENCRYPTION[address.encryption]
    keys = {
        "Server": _server(address),
        "Database": database,
        "UID": address.user,
        "PWD": address.password,
        "Encrypt": encrypt,
        "TrustServerCertificate": trust,
        # A connection that breaks is not made again unnoticed, with another session.
        "ConnectRetryCount": "0",
    }
    if address.read_only:
        keys["ApplicationIntent"] = "ReadOnly"
    if address.tls_name and trust == "no":
        keys["HostnameInCertificate"] = address.tls_name
    with _LOGIN_LOCK, _authorities(address if trust == "no" else None):
        try:
            opened = driver.connect(timeout=address.seconds, autocommit=True, **keys)
        except driver.Error as error:
            raise ArrowDriverError(_login_message(address, error)) from error
        except ValueError as error:  # a provider that does not exist
            raise ConfigError(f"mssql-python refused its settings: {one_line(str(error))}") from error
    opened.timeout = math.ceil(timeout) if timeout else 0
    connection = ArrowConnection(driver, opened)
    if settings:
        connection.cursor().execute(settings)
    return connection


def _server(address: Address) -> str:
    return address.host if "\\" in address.host else f"{address.host},{address.port}"


@contextmanager
def _authorities(address: Address | None) -> Iterator[None]:
    """Let OpenSSL find the authorities that check the server's certificate."""
    if address is None:
        yield
        return
    if is_rust():
        if _read_authorities and _read_authorities != [address.authorities]:
            raise TlsError(
                f"mssql-python's provider {_RUST} reads one file of certificate authorities in a process, and"
                f" has read {_read_authorities[0]}: put all authorities into one file"
            )
        _read_authorities[:] = [address.authorities]
    before = os.environ.get(_AUTHORITIES)
    try:
        if address.authorities:
            os.environ[_AUTHORITIES] = address.authorities
        yield
    finally:
        if before is None:
            os.environ.pop(_AUTHORITIES, None)
        else:
            os.environ[_AUTHORITIES] = before


def _login_message(address: Address, error: Any) -> ServerMessage:
    words = _words(error)
    number = None
    if "Failed to load the driver" in words:
        raise ConfigError(f"mssql-python cannot load its driver: {_missing_libraries()}") from error
    if _OF_SERVER in error.ddbc_error:
        number = next((number for text, number in _LOGIN_NUMBERS if text in words), None)
    elif not _TLS.search(words):
        timed_out = _TIMED_OUT.search(words)
        words = f"no answer within {address.seconds:g} s" if timed_out else _network_words(address, words)
    return ServerMessage(number, 14, one_line(words), (), "")


def _network_words(address: Address, words: str) -> str:
    """Return the system's reason: the driver reports numbers of Windows."""
    if "\\" in address.host:
        return _with_reason(words)
    return network_problem(address.host, address.port, min(address.seconds, 2)) or _with_reason(words)


def _with_reason(words: str) -> str:
    """Return a message in which the reason precedes the number of a network error."""

    def reason(found: re.Match[str]) -> str:
        code = int(found[1], 16)
        code = _OF_WINDOWS.get(code, code)
        return f"{os.strerror(code)} ({found[1]})" if code in errno.errorcode else found[0]

    return _NETWORK_CODE.sub(reason, words)


def _missing_libraries() -> str:
    missing = [package for library, package in _LIBRARIES.items() if not _can_load(library)]
    if not missing:
        return "the libraries that it needs are there; its log (mssql_python.setup_logging()) says more"
    return (
        f"shared libraries are missing; Debian: apt-get install {' '.join(missing)}, Red Hat: dnf install"
        " libtool-ltdl krb5-libs"
    )


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
