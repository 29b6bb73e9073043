"""Connect to SQL Server with pymssql, and say in our words what stood in the way.

DB-Library keeps its time-outs and the numbers of failed logins for the whole process, so connections are opened one
at a time, and the silence after which a connection gives up is that of the connection opened last.
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
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

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
    unreached,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.systems.mssql.system import MssqlConnection

#: The driver drops what is less severe. 4 is DB-Library's for a character that it could not convert: it puts a
#: question mark in its place, and says so with this severity (2403).
_mssql.min_error_severity = 4

APPLICATION = "dwhctl"
_TDS_VERSION = "7.4"
_DOOR = threading.Lock()
_TURNS = itertools.count()
_PROBE_SECONDS = 10.0

#: Variables that FreeTDS puts above what it is told: they lead to another server, to an older protocol, or write every
#: packet into a file that all may read. https://www.freetds.org/userguide/envvar.html
_IGNORED = ("TDSHOST", "TDSPORT", "TDSVER", "TDSDUMP", "TDSDUMPCONFIG")

#: What DB-Library says when a login came to no end, and beside it, in a process that lost a connection before, of that.
_NO_LOGIN, _LOST_BEFORE = 20002, 20047

_STATE = """
SELECT state_desc, user_access_desc, HAS_DBACCESS({name}) FROM sys.databases WHERE name = {name}
"""
#: What a database is waited for in: https://learn.microsoft.com/en-us/sql/relational-databases/databases/
#: database-states
_ON_ITS_WAY = ("RESTORING", "RECOVERING", "RECOVERY_PENDING")


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

    @property
    def server(self) -> str:
        """The server as DB-Library wants it; a named instance is asked for its port."""
        if "\\" in self.host:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_link(
    connection: MssqlConnection, database: str, timeout: float | None, login_known: bool | None = None
) -> pymssql.Connection:
    """Log in to a database, on the connection's servers in turn.

    `timeout` is the seconds of silence after which the driver gives up, None for none. `login_known` says whether the
    login was let in or refused a moment ago, if anybody asked. Raise ConnectError when no
    server could be reached (TlsError where TLS is the reason), LoginRefusedError, DatabaseMissingError or
    SourceBusyError.
    """
    failures: list[ConnectError] = []
    for address in in_turn(connection, database):
        try:
            return _open(connection, address, database, timeout, login_known)
        except ConnectError as error:
            failures.append(error)
    # A server that is down may come back: it decides whether to try again.
    raise next((each for each in failures if not each.permanent), failures[-1])


def in_turn(connection: MssqlConnection, database: str) -> Iterator[Address]:
    """Give the connection's servers, each time beginning with another."""
    servers = connection.addresses
    first = zlib.crc32(database.encode()) + next(_TURNS)
    password = connection.password.reveal() if connection.password is not None else ""
    for number in range(len(servers)):
        host, port = servers[(first + number) % len(servers)]
        yield Address(
            host=host,
            port=port,
            user=connection.user,
            password=password,
            seconds=max(1, math.ceil(connection.connect_timeout.total_seconds())),
            encryption=connection.tls,
            read_only=connection.read_only,
        )


def _open(
    connection: MssqlConnection,
    address: Address,
    database: str,
    timeout: float | None,
    login_known: bool | None,
) -> pymssql.Connection:
    try:
        return log_in(address, database, timeout)
    except pymssql.Error as error:
        said = read(error)
        raise _Door(connection, address, database, login_known).translate_error(said) from error


def log_in(address: Address, database: str, timeout: float | None = None) -> pymssql.Connection:
    """Log in, once. Raise pymssql.Error."""
    seconds = math.ceil(timeout) if timeout else 0
    with _DOOR:
        for variable in _IGNORED:
            os.environ.pop(variable, None)
        link = pymssql.connect(
            server=address.server,
            port=str(address.port),
            user=address.user,
            password=address.password,
            database=database,
            login_timeout=address.seconds,
            timeout=seconds,
            appname=APPLICATION,
            encryption=address.encryption,
            read_only=address.read_only,
            autocommit=True,
            tds_version=_TDS_VERSION,
            charset="UTF-8",
        )
        # The driver sets no time-out when it is asked for none: one that an earlier connection set would stay.
        with suppress(AttributeError):
            link._conn.query_timeout = seconds
    return link


class _Door:
    """Why one server did not let us in."""

    def __init__(
        self, connection: MssqlConnection, address: Address, database: str, login_known: bool | None
    ) -> None:
        self._connection = connection
        self._address = address
        self._database = database
        self._login_known = login_known
        self._server = f"server {address.server}"
        self._place = f"{self._server}, database {database},"

    def translate_error(self, said: ServerMessage) -> AttemptError:
        """Give the error; look a second time where the first answer may mean several things."""
        if (known := self._about_the_database(said.number, said.words)) is not None:
            return known
        if not is_refused_login(said) and not said.hidden:
            return self._unreached(said)
        if self._login_known is False and not said.hidden:
            # Each more would count towards the account's lockout.
            return self._refused(said)
        if self._database.lower() != self._connection.database.lower():
            return self._second_look(said)
        return self._told(probe(self._address, self._database)) if said.hidden else self._refused(said)

    def _second_look(self, said: ServerMessage) -> AttemptError:
        """An unknown database looks like a refused login, for its own error (4060) is not told.

        The connection's own database tells the two apart. It is asked in a fresh process when this one's driver has
        swallowed the server's answer, as it does after a refused login.
        """
        home = self._connection.database
        if said.hidden:
            return self._told(probe(self._address, home, self._database))
        try:
            link = log_in(self._address, home)
        except pymssql.Error as error:
            again = read(error)
            return self._refused(said) if is_refused_login(again) or again.hidden else self._unreached(again)
        return self._state(look(link, self._database))

    def _told(self, answer: LoginCheck | None) -> AttemptError:
        if answer is None:
            return self._refused(None)
        if answer.inside:
            return self._state(answer)
        if (known := self._about_the_database(answer.number, answer.words)) is not None:
            return known
        said = ServerMessage(answer.number, answer.severity, answer.words, tuple(answer.db_lib), answer.net)
        return self._refused(said) if is_refused_login(said) else self._unreached(said)

    def _about_the_database(self, number: int | None, words: str) -> AttemptError | None:
        kind = QUERY_ERRORS.get(number or 0)
        if kind is DatabaseMissingError:
            return self._missing(f"{number}: {words}")
        return (
            SourceBusyError(one_line(f"{self._at} {words} ({number})")) if kind is SourceBusyError else None
        )

    def _state(self, answer: LoginCheck) -> AttemptError:
        """The login is good: it is the database that cannot be had."""
        if answer.state in _ON_ITS_WAY:
            return SourceBusyError(f"{self._at} database {self._database} is {answer.state}")
        if answer.access == "SINGLE_USER":
            return SourceBusyError(f"{self._at} database {self._database} has one user at a time now")
        if not answer.state:
            return self._missing(f"there is no such database, or {self._address.user} may not see it")
        if answer.state != "ONLINE":
            return self._missing(f"it is {answer.state}")
        if answer.open:
            return SourceBusyError(f"{self._at} database {self._database} could not be opened a moment ago")
        return self._missing(f"it cannot be opened by this login, {self._address.user}")

    @property
    def _at(self) -> str:
        return f"connection {self._connection.name}, {self._server}:"

    def _missing(self, why: str) -> DatabaseMissingError:
        return DatabaseMissingError(one_line(f"{self._at} database {self._database} cannot be read: {why}"))

    def _unreached(self, said: ServerMessage) -> ConnectError:
        remedy = self._tls_remedy(said)
        why = remedy or unreached(said, self._address.seconds)
        message = f"connection {self._connection.name}: {self._place} cannot be reached: {why}"
        kind = TlsError if remedy else ConnectError
        return kind(one_line(message), connection=self._connection.name)

    def _tls_remedy(self, said: ServerMessage) -> str | None:
        """Say what to do when the login ended for want of TLS: the driver says nothing of it, but the server does."""
        address = self._address
        if address.encryption != "require" or _NO_LOGIN not in said.db_lib:
            return None
        if "\\" not in address.host and offers_tls(address.host, address.port, address.seconds) is False:
            return source.no_tls(self._connection)
        if {*said.db_lib} - {_NO_LOGIN, _LOST_BEFORE}:
            return None
        return (
            "the TLS handshake failed: the server must speak TLS 1.2; where freetds.conf names a ca file, its"
            " certificate must come from there and be made for this name"
        )

    def _refused(self, said: ServerMessage | None) -> AttemptError:
        if self._login_known:
            return self._missing(f"it cannot be opened by this login, {self._address.user}")
        return refused(self._connection.name, self._place, self._address.user, said)


@dataclass(frozen=True, slots=True)
class LoginCheck:
    """What a second look found: inside the database's state, outside what the server said."""

    inside: bool
    state: str = ""
    access: str = ""
    open: bool = False
    number: int | None = None
    severity: int = 0
    words: str = ""
    db_lib: tuple[int, ...] = ()
    net: str = ""


def look(link: pymssql.Connection, database: str) -> LoginCheck:
    """From inside another database, look why this one cannot be opened, and close the link."""
    from dwhctl.systems.mssql.types import literal

    try:
        with link.cursor() as cursor:
            cursor.execute(_STATE.format(name=literal(database)))
            row: Any = cursor.fetchone()
    except pymssql.Error:
        # The login is good, and that is what was to be found out.
        row = ("ONLINE", "", 0)
    finally:
        with suppress(pymssql.Error):
            link.close()
    return LoginCheck(True, str(row[0] or ""), str(row[1] or ""), row[2] == 1) if row else LoginCheck(True)


def probe(address: Address, database: str, wanted: str | None = None) -> LoginCheck | None:
    """Log in from a fresh process, whose driver tells what the server says; None when that did not work out."""
    order = {"address": asdict(address), "database": database, "wanted": wanted or database}
    try:
        # The password goes through the pipe: arguments and environment can be read by others.
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=2 * address.seconds + _PROBE_SECONDS,
            check=True,
        )
        return LoginCheck(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None


def _answer(order: dict[str, Any]) -> LoginCheck:
    try:
        link = log_in(Address(**order["address"]), order["database"])
    except pymssql.Error as error:
        said = read(error)
        return LoginCheck(
            inside=False,
            number=said.number,
            severity=said.severity,
            words=said.words,
            db_lib=said.db_lib,
            net=said.net,
        )
    return look(link, order["wanted"])


if __name__ == "__main__":
    json.dump(asdict(_answer(json.load(sys.stdin))), sys.stdout)
