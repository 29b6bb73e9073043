"""Connect to SQL Server with pymssql, and find out why a login failed.

DB-Library keeps its time-outs and the numbers of failed logins per process. So connections are opened one at a time,
and the timeout of every connection is that of the connection opened last.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pymssql
from pymssql import _mssql

from dwhctl.core.errors import AttemptError, ConnectError, DatabaseMissingError, SourceBusyError, TlsError
from dwhctl.systems.base import source
from dwhctl.systems.mssql.errors import (
    QUERY_ERRORS,
    ServerMessage,
    is_refused_login,
    offers_tls,
    one_line,
    read,
    refused,
    translate_error,
    unreached,
)
from dwhctl.systems.mssql.sql import literal

if TYPE_CHECKING:
    from dwhctl.systems.mssql.system import MssqlConnection

#: The driver ignores less severe messages. DB-Library reports a character that it could not convert, and replaced with
#: a question mark, with severity 4 (2403).
_mssql.min_error_severity = 4

APPLICATION = "dwhctl"
ARROW_DRIVER = "mssql-python"
_TDS_VERSION = "7.4"
_LOGIN_LOCK = threading.Lock()
_CALLS = itertools.count()
_START_SECONDS = 10.0

#: Variables that override the arguments of FreeTDS: another server, an older protocol, a file with every packet that
#: all users may read. https://www.freetds.org/userguide/envvar.html
_IGNORED = ("TDSHOST", "TDSPORT", "TDSVER", "TDSDUMP", "TDSDUMPCONFIG")

#: What the driver sets after a login: without TEXTSIZE a text ends after 4,096 octets.
DRIVER_SETTINGS = (
    "SET ARITHABORT ON; SET CONCAT_NULL_YIELDS_NULL ON; SET ANSI_NULLS ON; SET ANSI_NULL_DFLT_ON ON;"
    " SET ANSI_PADDING ON; SET ANSI_WARNINGS ON; SET CURSOR_CLOSE_ON_COMMIT ON; SET QUOTED_IDENTIFIER ON;"
    " SET TEXTSIZE 2147483647;"
)
#: With mssql-python a session has the language of its login: in Russian '2020-07-05' would be the 7th of May for a
#: datetime. pymssql always asks for us_english: https://learn.microsoft.com/en-us/sql/t-sql/statements/
#: set-dateformat-transact-sql
SETTINGS = DRIVER_SETTINGS + " SET DATEFORMAT mdy; SET DATEFIRST 7;"

#: DB-Library's numbers of a login that failed, and beside it of a connection that the process lost earlier.
_NO_LOGIN, _LOST_BEFORE = 20002, 20047

#: The database that every login may open.
_MASTER = "master"
_STATE = """
SELECT state_desc, user_access_desc, HAS_DBACCESS({name}) FROM sys.databases WHERE name = {name}
"""
#: States that end without intervention: https://learn.microsoft.com/en-us/sql/relational-databases/databases/
#: database-states
_TRANSIENT_STATES = ("RESTORING", "RECOVERING", "RECOVERY_PENDING")


@dataclass(frozen=True, slots=True)
class Address:
    """One server of a connection, and how to log in to it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    seconds: int
    encryption: str
    read_only: bool
    driver: str = "pymssql"
    #: For a check of the server's certificate: the file of authorities, and the name in it where it is not the host.
    authorities: str | None = None
    tls_name: str | None = None

    @property
    def server(self) -> str:
        """The server for DB-Library, which looks up the port of a named instance."""
        if "\\" in self.host:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except pymssql.Error as error:
        raise translate_error(error) from error


def connect(
    connection: MssqlConnection,
    database: str,
    timeout: float | None,
    login_known: bool | None = None,
    *,
    settings: str = SETTINGS,
) -> pymssql.Connection:
    """Log in to a database on the first of the connection's servers that answers.

    `timeout` is the seconds without an answer after which the driver gives up, None for no limit. `login_known` is
    whether the server accepted the login a moment ago, None when that is not known. With empty `settings` the caller
    sends SETTINGS with its first batch. Raise ConnectError when no server can be reached (TlsError when TLS is the
    reason), LoginRefusedError, DatabaseMissingError or SourceBusyError.
    """
    failures: list[ConnectError] = []
    for address in addresses(connection, database):
        try:
            return log_in(address, database, timeout, settings)
        except pymssql.Error as error:
            failure = _LoginFailure(connection, address, database, login_known).translate_error(read(error))
            if not isinstance(failure, ConnectError):
                raise failure from error
            failures.append(failure)
    # Try again if one of the servers may come back.
    raise next((failure for failure in failures if not failure.permanent), failures[-1])


def check_server_database(name: str, here: object, database: str) -> None:
    """Raise DatabaseMissingError when the server opened another database: the driver does not check that."""
    if str(here).lower() != database.lower():
        raise DatabaseMissingError(
            f"connection {name}: the server opened the database {here}, not {database}"
        )


def addresses(connection: MssqlConnection, database: str) -> Iterator[Address]:
    """Yield the connection's servers; each call begins with another one."""
    servers = connection.addresses
    first = (zlib.crc32(database.encode()) + next(_CALLS)) % len(servers)
    for host, port in servers[first:] + servers[:first]:
        yield Address(
            host=host,
            port=port,
            user=connection.user,
            password=connection.password.reveal() if connection.password is not None else "",
            seconds=max(1, math.ceil(connection.connect_timeout.total_seconds())),
            encryption=connection.tls,
            read_only=connection.read_only,
            driver=connection.driver,
            authorities=None if (authorities := source.authorities(connection)) is None else str(authorities),
            tls_name=connection.tls_hostname,
        )


class _Session(_mssql.MSSQLConnection):
    """The driver's connection without its USE after the login, which has opened the database or was refused."""

    def select_db(self, dbname: str) -> None:
        """Send nothing."""


def log_in(
    address: Address, database: str, timeout: float | None = None, settings: str = SETTINGS
) -> pymssql.Connection:
    """Log in with the connection's driver. Raise pymssql.Error."""
    if address.driver == ARROW_DRIVER:
        from dwhctl.systems.mssql import arrow_client

        # It has what dwhctl uses of pymssql's connection.
        return cast("pymssql.Connection", arrow_client.log_in(address, database, timeout, settings))
    seconds = math.ceil(timeout) if timeout else 0
    with _LOGIN_LOCK:
        for variable in _IGNORED:
            os.environ.pop(variable, None)
        _mssql.login_timeout = address.seconds
        try:
            session = _Session(
                server=address.server,
                port=str(address.port),
                user=address.user,
                password=address.password,
                database=database,
                appname=APPLICATION,
                encryption=address.encryption,
                read_only=address.read_only,
                tds_version=_TDS_VERSION,
                charset="UTF-8",
                conn_properties=settings,
            )
        except _mssql.MSSQLDatabaseException as error:
            raise pymssql.OperationalError(error.args[0]) from error
        except _mssql.MSSQLDriverException as error:
            raise pymssql.InterfaceError(error.args[0]) from error
        # Without a timeout the driver would keep the one of an earlier connection.
        session.query_timeout = seconds
    return pymssql.Connection(session, False, True)


def close(opened: pymssql.Connection) -> None:
    """Close a connection in whatever state it is."""
    with suppress(pymssql.Error):
        opened.close()


@dataclass(frozen=True)
class _LoginFailure:
    connection: MssqlConnection
    address: Address
    database: str
    login_known: bool | None

    @property
    def _at(self) -> str:
        return f"connection {self.connection.name}, server {self.address.server}: database {self.database}"

    @property
    def _place(self) -> str:
        return f"server {self.address.server}, database {self.database},"

    def translate_error(self, message: ServerMessage) -> AttemptError:
        """Return the error; log in a second time where the message is ambiguous."""
        if (known := self._database_error(message)) is not None:
            return known
        if not is_refused_login(message) and not message.hidden:
            return self._unreached(message)
        # A missing database looks like a refused login (4060 is not sent): a login to another one shows which it is.
        home = self.connection.database
        elsewhere = home if self.database.lower() != home.lower() else _MASTER
        if message.hidden:
            # After a refused login this process's driver hides the server's answer: a new process logs in.
            return self._checked(check_login(self.address, elsewhere, self.database))
        # Another login would count towards the account's lockout if the last one was refused.
        if self.login_known is False or self.database.lower() == elsewhere:
            return self._refused(message)
        try:
            opened = log_in(self.address, elsewhere)
        except pymssql.Error as error:
            again = read(error)
            return self._twice(message) if is_refused_login(again) or again.hidden else self._unreached(again)
        return self._state(check_database(opened, self.database))

    def _twice(self, message: ServerMessage) -> AttemptError:
        if self.login_known:
            user = self.address.user
            return SourceBusyError(
                f"{self._at}: the login of {user}, accepted a moment ago, was refused twice"
            )
        return self._refused(message)

    def _checked(self, check: LoginCheck | None) -> AttemptError:
        if check is None:
            return self._refused(None)
        if (message := check.failure) is None:
            return self._state(check)
        return self._database_error(message) or (
            self._twice(message) if is_refused_login(message) else self._unreached(message)
        )

    def _database_error(self, message: ServerMessage) -> AttemptError | None:
        kind = QUERY_ERRORS.get(message.number or 0)
        if kind is DatabaseMissingError:
            return self._missing(f"{message.number}: {message.words}")
        if kind is SourceBusyError:
            return SourceBusyError(one_line(f"{self._at}: {message.words} ({message.number})"))
        return None

    def _state(self, check: LoginCheck) -> AttemptError:
        """Return why the database cannot be opened although the login is accepted."""
        if check.state in _TRANSIENT_STATES:
            return SourceBusyError(f"{self._at} is {check.state}")
        if check.access == "SINGLE_USER":
            return SourceBusyError(f"{self._at} is in single-user mode")
        if not check.state:
            return self._missing(f"there is no such database, or {self.address.user} may not see it")
        if check.state != "ONLINE":
            return self._missing(f"it is {check.state}")
        if check.open:
            return SourceBusyError(f"{self._at} could not be opened a moment ago")
        return self._missing(f"it cannot be opened by this login, {self.address.user}")

    def _missing(self, why: str) -> DatabaseMissingError:
        return DatabaseMissingError(one_line(f"{self._at} cannot be read: {why}"))

    def _unreached(self, message: ServerMessage) -> ConnectError:
        remedy = self._tls_remedy(message)
        why = remedy or unreached(message, self.address.seconds)
        text = f"connection {self.connection.name}: {self._place} cannot be reached: {why}"
        return (TlsError if remedy else ConnectError)(one_line(text), connection=self.connection.name)

    def _tls_remedy(self, message: ServerMessage) -> str | None:
        """Return what to do when TLS is the reason: the driver does not report it, the server's greeting does."""
        address = self.address
        if address.driver == ARROW_DRIVER:
            return source.remedy(message.words, self.connection)
        if address.encryption != "require" or _NO_LOGIN not in message.db_lib:
            return None
        if "\\" not in address.host and offers_tls(address.host, address.port, address.seconds) is False:
            return source.no_tls(self.connection)
        if {*message.db_lib} - {_NO_LOGIN, _LOST_BEFORE}:
            return None
        return (
            "the TLS handshake failed: the server must speak TLS 1.2; where freetds.conf has a ca file, it must hold"
            " the server's certificate authority, and the certificate must be for this host"
        )

    def _refused(self, message: ServerMessage | None) -> AttemptError:
        if self.login_known:
            return self._state(LoginCheck("ONLINE"))
        return refused(self.connection.name, self._place, self.address.user, message)


@dataclass(frozen=True, slots=True)
class LoginCheck:
    """The result of a second login: the database's state, or the `failure` to log in."""

    state: str = ""
    access: str = ""
    open: bool = False
    failure: ServerMessage | None = None


def check_database(opened: pymssql.Connection, database: str) -> LoginCheck:
    """Find out from another database why this one cannot be opened, and close the connection."""
    try:
        with opened.cursor() as cursor:
            cursor.execute(_STATE.format(name=literal(database)))
            row: Any = cursor.fetchone()
    except pymssql.Error:
        return LoginCheck("ONLINE")  # the login is accepted, which was the question
    finally:
        close(opened)
    return LoginCheck(str(row[0] or ""), str(row[1] or ""), row[2] == 1) if row else LoginCheck()


def check_login(address: Address, database: str, wanted: str | None = None) -> LoginCheck | None:
    """Log in from a new process, whose driver reports what the server says; None when that did not work."""
    order = {"address": asdict(address), "database": database, "wanted": wanted or database}
    try:
        # The password goes through the pipe: other users can read arguments and environment.
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=2 * address.seconds + _START_SECONDS,
            check=True,
        )
        answer = json.loads(done.stdout)
        failure = answer.pop("failure")
        return LoginCheck(**answer, failure=ServerMessage(**failure) if failure else None)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _answer(order: dict[str, Any]) -> LoginCheck:
    try:
        opened = log_in(Address(**order["address"]), order["database"])
    except pymssql.Error as error:
        return LoginCheck(failure=read(error))
    return check_database(opened, order["wanted"])


if __name__ == "__main__":
    json.dump(asdict(_answer(json.load(sys.stdin))), sys.stdout)
