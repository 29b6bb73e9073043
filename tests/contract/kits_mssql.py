"""The kit of SQL Server: over the test server of this repository, or the server that the environment names.

`DWHCTL_TEST_MSSQL=mssql://user:password@host:1433` names a real one (2022 or newer, for GENERATE_SERIES); the user
may create and drop databases, and those whose names begin with dwhctl_contract_ are the tests' own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pymssql

from dwhctl.core.columns import Kind
from dwhctl.core.errors import AttemptError, ConnectError, DatabaseMissingError, LoginRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.project.connections import Connection
from dwhctl.systems.mssql.sql import quote
from dwhctl.systems.mssql.system import MssqlConnection
from tests.contract.kit_base import NASTY_TEXTS, SourceKit, TypeCase
from tests.servers.base import Fault
from tests.servers.tds import TdsServer

_REAL = os.environ.get("DWHCTL_TEST_MSSQL")
_PREFIX = "dwhctl_contract_"
#: Servers of tests that are over are stopped when there are so many younger ones.
_SERVERS_AT_ONCE = 4
_WORDS = {
    Kind.INTEGER: "bigint",
    Kind.DECIMAL: "decimal(38,10)",
    Kind.FLOAT: "float",
    Kind.BOOLEAN: "bit",
    Kind.TEXT: "nvarchar(max)",
    Kind.UUID: "uniqueidentifier",
    Kind.BINARY: "varbinary(max)",
    Kind.DATE: "date",
    Kind.TIME: "time(6)",
    Kind.TIMESTAMP: "datetime2(6)",
    Kind.TIMESTAMPTZ: "datetimeoffset(6)",
}
_SMALLEST_FLOAT = 2.3e-308
#: Behind it, among the private characters of the last plane, the test server keeps halves of surrogate pairs.
LAST_CHARACTER = 0x10C7FF


def text_literal(value: str) -> str:
    """A text as an expression of nvarchar: its NUL characters cannot stand in SQL."""
    parts = ("N'" + part.replace("'", "''") + "'" for part in value.split("\0"))
    # The first part decides that the sum is not cut at 4,000 characters.
    return " + NCHAR(0) + ".join(f"CAST({part} AS nvarchar(max))" for part in parts)


def _literal(kind: Kind, value: object) -> str:
    if value is None:
        written = "NULL"
    elif isinstance(value, str):
        written = text_literal(value)
    elif isinstance(value, bytes):
        written = f"0x{value.hex()}"
    elif isinstance(value, bool):
        written = str(int(value))
    elif isinstance(value, Decimal):
        written = f"'{value:f}'"
    elif isinstance(value, datetime):
        written = f"'{value.isoformat()}'"
    else:
        written = f"'{value}'"
    return f"CAST({written} AS {_WORDS[kind]})"


def _case(declared: str, kind: Kind, values: Mapping[str, object]) -> TypeCase:
    """A type's values: as SQL writes them (a text unless it is a number of SQL or an expression), and as Python."""
    written = tuple(f"CAST({value} AS {declared})" for value in values)
    return TypeCase(declared, kind, written, tuple(values.values()))


def _numbers() -> Iterator[TypeCase]:
    whole = {"tinyint": (0, 255), "smallint": (-(2**15), 2**15 - 1), "int": (-(2**31), 2**31 - 1)}
    for declared, ends in (whole | {"bigint": (-(2**63), 2**63 - 1, 2**53 + 1, -(2**53) - 1)}).items():
        yield _case(declared, Kind.INTEGER, {f"'{value}'": value for value in (*ends, 1)})
    for precision, scale in ((38, 0), (38, 10), (38, 37), (38, 38), (18, 2), (9, 9), (4, 1), (1, 0)):
        # Not by arithmetic, which rounds to 28 digits.
        written = (f"{digits}E-{scale}" for digits in ("9" * precision, "-" + "9" * precision, "1", "0"))
        values = {f"'{value:f}'": value for value in map(Decimal, written)}
        yield _case(f"decimal({precision},{scale})", Kind.DECIMAL, values)
    yield _case("numeric(12,3)", Kind.DECIMAL, {"'-123456789.125'": Decimal("-123456789.125")})
    for declared, digits in (("money", "922337203685477.5807"), ("smallmoney", "214748.3647")):
        amounts = [Decimal(digits), -Decimal(digits), Decimal("0.0001"), Decimal("1234.56")]
        yield _case(declared, Kind.DECIMAL, {f"'{value}'": value for value in amounts})
    floats = (0.1, 0.0, -1.5, 1.7976931348623157e308, -1.7976931348623157e308, 2.3e-308, 1 / 3, 1e22)
    yield _case("float", Kind.FLOAT, {f"'{value!r}'": value for value in floats})
    # 1.1 and 3.4e38 as 32 bits hold them.
    yield _case(
        "real", Kind.FLOAT, {"'1.1'": 1.100000023841858, "'-0.5'": -0.5, "'3.4e38'": 3.3999999521443642e38}
    )
    yield _case("bit", Kind.BOOLEAN, {"1": True, "0": False})


def _texts() -> Iterator[TypeCase]:
    nasty = {text_literal(value): value for value in NASTY_TEXTS if value is not None}
    yield _case("nvarchar(max)", Kind.TEXT, nasty)
    short = {text_literal(value): value for value in NASTY_TEXTS if value is not None and len(value) < 60}
    yield _case("nvarchar(60)", Kind.TEXT, short)
    yield _case("ntext", Kind.TEXT, {"N''": "", "N'ёлка '": "ёлка ", "N'\U0001f600'": "\U0001f600"})
    yield _case("nchar(4)", Kind.TEXT, {"N'ё'": "ё   ", "N''": "    ", "N'\U0001f600ab'": "\U0001f600ab"})
    plain = {"''": "", "'a'": "a", "' b '": " b ", "'NULL'": "NULL", "'€'": "€", "'naïve'": "naïve"}
    for declared in ("varchar(20)", "varchar(max)", "text"):
        yield _case(declared, Kind.TEXT, plain)
    yield _case("char(3)", Kind.TEXT, {"'a'": "a  ", "''": "   ", "'abc'": "abc"})
    yield _case("sysname", Kind.TEXT, {"N'dbo'": "dbo", "N'ё'": "ё"})
    uuids = ("6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-000000000000")
    yield _case("uniqueidentifier", Kind.UUID, {f"'{value.upper()}'": value for value in uuids})
    octets = {"0x": b"", "0x00": b"\0", "0x00FF0A5C27": b"\0\xff\n\\'"}
    for declared in ("varbinary(10)", "varbinary(max)", "image"):
        yield _case(declared, Kind.BINARY, octets)
    yield _case("binary(4)", Kind.BINARY, {"0x01": b"\1\0\0\0", "0xFFFFFFFF": b"\xff" * 4})
    yield _case("rowversion", Kind.BINARY, {"0x00000000000007D1": b"\0\0\0\0\0\0\x07\xd1"})


def _moment(text: str) -> datetime:
    # A seventh digit is cut off, here as there.
    return datetime.fromisoformat(text)


def _moments() -> Iterator[TypeCase]:
    days = (date(2020, 2, 29), date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31))
    yield _case("date", Kind.DATE, {f"'{day}'": day for day in days})
    yield _case("smalldatetime", Kind.TIMESTAMP, {f"'{each}'": _moment(each) for each in (
        "1900-01-01T00:00:00", "2079-06-06T23:59:00", "2020-07-14T12:34:00")})  # fmt: skip
    yield _case("datetime", Kind.TIMESTAMP, {f"'{each}'": _moment(each) for each in (
        "1753-01-01T00:00:00", "9999-12-31T23:59:59.997", "2020-07-14T12:34:56.123", "1899-12-31T23:59:59.003",
        "2020-07-14T12:34:56.127")})  # fmt: skip
    for scale in range(8):
        digits = f".{'123456789'[:scale]}" if scale else ""
        last = f".{'9' * scale}" if scale else ""
        clocks = (f"12:34:56{digits}", "00:00:00", f"23:59:59{last}")
        yield _case(f"time({scale})", Kind.TIME, {f"'{each}'": time.fromisoformat(each) for each in clocks})
        stamps = [f"2020-07-14T{clocks[0]}", "0001-01-01T00:00:00", f"9999-12-31T{clocks[2]}"]
        yield _case(f"datetime2({scale})", Kind.TIMESTAMP, {f"'{each}'": _moment(each) for each in stamps})
        offsets = (f"{stamps[0]}+03:00", f"{stamps[1]}+00:00", f"{stamps[2]}+00:00", f"{stamps[0]}-14:00",
                   "2020-07-14T00:00:00+05:45", "0001-01-01T00:00:00-14:00", "9999-12-31T23:59:59+14:00")  # fmt: skip
        instants = {f"'{each}'": _moment(each).astimezone(UTC) for each in offsets}
        yield _case(f"datetimeoffset({scale})", Kind.TIMESTAMPTZ, instants)


class MssqlSourceKit(SourceKit):
    """A SQL Server with the databases of a test."""

    name = "mssql"
    real = _REAL is not None
    types = (*_numbers(), *_texts(), *_moments())
    refused: ClassVar[Mapping[str, str]] = {
        "xml": "CAST('<a/>' AS xml)",
        "sql_variant": "CAST(1 AS sql_variant)",
        "hierarchyid": "CAST(NULL AS hierarchyid)",
        "geometry": "CAST(NULL AS geometry)",
        "geography": "CAST(NULL AS geography)",
    }
    fails_midway = "CAST(CASE WHEN i = 150000 THEN 'x' ELSE '1' END AS int)"
    many = (150_000, 2_000)
    waits = False
    words = _WORDS

    def __init__(self) -> None:
        self._servers: dict[Path, TdsServer] = {}
        self._made: set[tuple[int, str]] = set()

    def literal(self, kind: Kind, value: object) -> str:
        return _literal(kind, value)

    def holds(self, kind: Kind, value: object) -> bool:
        if isinstance(value, str):
            return self.real or max(map(ord, value), default=0) <= LAST_CHARACTER
        if not isinstance(value, float):
            return True
        return (value == 0 and math.copysign(1, value) > 0) or (
            math.isfinite(value) and abs(value) > _SMALLEST_FLOAT
        )

    def null(self, case: TypeCase) -> str:
        return f"CAST(NULL AS {case.declared})"

    def repeat(self, text: str, times: int) -> str:
        return f"REPLICATE('{text}', {times})"

    def numbers(self, rows: int) -> str:
        if not rows:
            return "(SELECT CAST(0 AS bigint) AS i WHERE 1 = 0) AS numbers"
        return f"(SELECT CAST(value AS bigint) AS i FROM GENERATE_SERIES(0, {rows - 1})) AS numbers"

    def create_as(self, table: str, select: str) -> tuple[str, ...]:
        return f"DROP TABLE IF EXISTS {table}", f"SELECT * INTO {table} FROM ({select}) AS made"

    def connection(self, root: Path, wait: float = 5) -> Connection:
        if _REAL is not None:
            return self._real(_REAL)
        if root not in self._servers:
            server = self._servers[root] = TdsServer().start()
            # It may listen where a stopped one did.
            self._made = {one for one in self._made if one[0] != server.port}
            while len(self._servers) > _SERVERS_AT_ONCE:
                self._servers.pop(next(iter(self._servers))).stop()
        return self._servers[root].connection(name="server_0")

    def _real(self, url: str) -> MssqlConnection:
        parts = urlsplit(url)
        connection = MssqlConnection(
            name="server_0",
            host=parts.hostname or "localhost",
            port=parts.port or 1433,
            user=unquote(parts.username or "sa"),
            password=Secret(unquote(parts.password or "")),
        )
        for _, database in self._made:
            _execute(connection, "master", f"DROP DATABASE IF EXISTS {quote(database)}")
        self._made.clear()
        return connection

    def database(self, name: str) -> str:
        return f"{_PREFIX}{name}" if self.real else name

    def run(self, connection: Connection, database: str, *statements: str) -> None:
        assert isinstance(connection, MssqlConnection)
        database = self.database(database)
        if (connection.port, database) not in self._made:
            name = database.replace("'", "''")
            _execute(connection, "master", f"IF DB_ID(N'{name}') IS NULL CREATE DATABASE {quote(database)}")
            self._made.add((connection.port, database))
        _execute(connection, database, *statements)

    @contextmanager
    def busy(self, connection: Connection, database: str) -> Iterator[None]:
        assert isinstance(connection, MssqlConnection)
        if self.real:
            with _single_user(connection, self.database(database)):
                yield
            return
        (server,) = (each for each in self._servers.values() if each.port == connection.port)
        words = f"Database '{database}' is being recovered. Waiting until recovery is finished."
        fault = server.faults.add(Fault("refuse_login", database=database, error=(922, 14, words)))
        yield
        server.faults.remove(fault)

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        here = self.connection(root)
        assert isinstance(here, MssqlConnection)
        self.run(here, "abakan", "CREATE TABLE t (i bigint)")
        gone = here.model_copy(
            update={"host": "127.0.0.1", "port": 1, "connect_timeout": timedelta(seconds=2)}
        )
        yield "no server", gone, "abakan", ConnectError, "127.0.0.1:1"
        yield "no database", here, "missing", DatabaseMissingError, "missing"
        other = here.model_copy(update={"password": Secret("another_1")})
        yield "wrong password", other, "abakan", LoginRefusedError, "server_0"


def _link(connection: MssqlConnection, database: str) -> Any:
    return pymssql.connect(
        server=connection.addresses[0][0],
        port=str(connection.port),
        user=connection.user,
        password=connection.password.reveal() if connection.password else "",
        database=database,
        autocommit=True,
        tds_version="7.4",
    )


@contextmanager
def _single_user(connection: MssqlConnection, database: str) -> Iterator[None]:
    with closing(_link(connection, database)) as holder:
        cursor = holder.cursor()
        cursor.execute(f"ALTER DATABASE {quote(database)} SET SINGLE_USER WITH ROLLBACK IMMEDIATE")
        yield
        cursor.execute(f"ALTER DATABASE {quote(database)} SET MULTI_USER")


def _execute(connection: MssqlConnection, database: str, *statements: str) -> None:
    with closing(_link(connection, database)) as link:
        cursor = link.cursor()
        for statement in statements:
            cursor.execute(statement)
