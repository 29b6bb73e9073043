"""The kit of ClickHouse: the engine behind the HTTP server of the tests, or the one that DWHCTL_TEST_CLICKHOUSE names.

    DWHCTL_TEST_CLICKHOUSE=clickhouse://user:password@host:8123/default

On a real server the database `stage` and a few tables of `default` are dropped before each test.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit
from uuid import UUID

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, ConnectError, LoginRefusedError, TargetRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.project.connections import Connection
from dwhctl.systems.base.target import Target
from dwhctl.systems.clickhouse.system import ClickHouseConnection
from dwhctl.systems.clickhouse.target import ClickHouseTarget
from dwhctl.systems.clickhouse.types import declaration, literal
from tests.contract.kit_base import NASTY_TEXTS, TargetKit, TypeCase
from tests.servers.clickhouse import ClickHouseServer, texts_of

REAL = os.environ.get("DWHCTL_TEST_CLICKHOUSE")
#: The suites write plain SQL.
PROFILE = {"data_type_default_nullable": 1, "create_table_empty_primary_key_by_default": 1}

WORDS = {
    Kind.INTEGER: "BIGINT",
    Kind.DECIMAL: "Decimal(38, 10)",
    Kind.FLOAT: "Float64",
    Kind.BOOLEAN: "Bool",
    Kind.TEXT: "String",
    Kind.UUID: "UUID",
    Kind.BINARY: "String",
    Kind.DATE: "Date32",
    Kind.TIME: "Time64(6)",
    Kind.TIMESTAMP: "DateTime64(6)",
    Kind.TIMESTAMPTZ: "DateTime64(6, 'UTC')",
}
_YEARS = range(1900, 2300)


def _cast(declared: str, *values: str) -> tuple[str, ...]:
    return tuple(f"CAST('{value}' AS {declared})" for value in values)


def _types() -> tuple[TypeCase, ...]:
    short = tuple(_text(text) for text in NASTY_TEXTS if text is not None and len(text) < 100)
    return (
        TypeCase("BIGINT", Kind.INTEGER, _cast("BIGINT", str(2**63 - 1), str(-(2**63)), "9007199254740993", "0")),
        TypeCase("INTEGER", Kind.INTEGER, _cast("INTEGER", str(2**31 - 1), str(-(2**31)))),
        TypeCase("SMALLINT", Kind.INTEGER, _cast("SMALLINT", "32767", "-32768")),
        TypeCase("TINYINT", Kind.INTEGER, _cast("TINYINT", "127", "-128")),
        TypeCase("UInt64", Kind.INTEGER, _cast("UInt64", str(2**64 - 1))),
        TypeCase("DECIMAL(18,2)", Kind.DECIMAL, _cast("DECIMAL(18,2)", "9" * 16 + ".99", "-0.01")),
        TypeCase("DECIMAL(38,10)", Kind.DECIMAL, _cast("DECIMAL(38,10)", "9" * 28 + "." + "9" * 10, "-0.0000000001")),
        TypeCase("Decimal(76, 38)", Kind.DECIMAL, _cast("Decimal(76, 38)", "1.5")),
        TypeCase("DOUBLE", Kind.FLOAT, _cast("DOUBLE", "0.1", "nan", "inf", "5e-324", "1.7e308")),
        TypeCase("FLOAT", Kind.FLOAT, _cast("FLOAT", "0.1", "-inf")),
        TypeCase("BOOLEAN", Kind.BOOLEAN, _cast("BOOLEAN", "true", "false")),
        TypeCase("String", Kind.TEXT, short),
        TypeCase("Enum8('a' = 1, 'it\\'s' = 2, 'ё' = -3)", Kind.TEXT, _cast("Enum8('a' = 1, 'ё' = -3)", "a", "ё")),
        TypeCase("FixedString(4)", Kind.BINARY, ("unhex('00010200')",)),
        TypeCase("UUID", Kind.UUID, _cast("UUID", *(str(UUID(digit * 32)) for digit in "0f"))),
        TypeCase("Date", Kind.DATE, _cast("Date", "1970-01-01", "2149-06-06")),
        TypeCase("Date32", Kind.DATE, _cast("Date32", "1900-01-01", "2299-12-31")),
        TypeCase("Time64(6)", Kind.TIME, _cast("Time64(6)", "00:00:00", "23:59:59.999999")),
        TypeCase("DateTime", Kind.TIMESTAMP, _cast("DateTime", "1970-01-01 00:00:00", "2106-02-07 06:28:15")),
        TypeCase("DateTime('Europe/Moscow')", Kind.TIMESTAMPTZ, _cast("DateTime", "2020-07-14 00:00:00")),
        TypeCase("DateTime64(3)", Kind.TIMESTAMP, _cast("DateTime64(3)", "2020-07-14 12:34:56.789")),
        TypeCase("DateTime64(6)", Kind.TIMESTAMP, _cast("DateTime64(6)", "1900-01-01", "2299-12-31 23:59:59.999999")),
        TypeCase("DateTime64(9)", Kind.TIMESTAMP, _cast("DateTime64(9)", "2020-07-14 12:34:56.789000000")),
        TypeCase("DateTime64(6, 'UTC')", Kind.TIMESTAMPTZ, _cast("DateTime64(6, 'UTC')", "2020-07-14 12:34:56.5")),
    )  # fmt: skip


def _text(value: str) -> str:
    # A real NUL would end the query for the engine's C interface.
    return literal(value).replace("\x00", "\\0")


class _PlainSql(ClickHouseTarget):
    """Understands the CREATE SCHEMA of the suites, and that a column of theirs may be NULL."""

    def run_statements(self, statements: Sequence[str]) -> None:
        plain = (one.replace("CREATE SCHEMA", "CREATE DATABASE") for one in statements)
        with self._writing("create") as client:
            for one in plain:
                client.run(re.sub(r"(ADD COLUMN \w+) (\w+)$", r"\1 Nullable(\2)", one), PROFILE)


class ClickHouseTargetKit(TargetKit):
    """A ClickHouse server, one for all tests of a process."""

    name = "clickhouse"
    real = REAL is not None
    types = _types()
    computed = "next_id Int64 MATERIALIZED assumeNotNull(id) + 1, also_id Int64 ALIAS assumeNotNull(id) + 1"
    refused = ("Int256", "IPv4", "DateTime64(4)")
    words = WORDS
    misfits = (
        (Kind.INTEGER, 2**40, "INTEGER"),
        (Kind.INTEGER, -1, "UInt64"),
        (Kind.INTEGER, 1000, "Decimal(4, 1)"),
        (Kind.DECIMAL, Decimal("1.005"), "Decimal(10, 2)"),
        (Kind.DECIMAL, Decimal("9" * 19), "Decimal(18, 0)"),
        (Kind.DATE, date(1969, 12, 31), "Date"),
        (Kind.DATE, date(2300, 1, 1), "Date32"),
        (Kind.TIMESTAMP, datetime(1899, 12, 31), "DateTime64(6)"),  # noqa: DTZ001
        (Kind.TIMESTAMP, datetime(2106, 2, 7, 6, 28, 16), "DateTime"),  # noqa: DTZ001
        (Kind.TIMESTAMP, datetime(2020, 7, 14, 0, 0, 0, 1), "DateTime64(3)"),  # noqa: DTZ001
        (Kind.BINARY, b"123", "FixedString(4)"),
        (Kind.BINARY, b"12345", "FixedString(4)"),
        (Kind.TEXT, "c", "Enum8('a' = 1, 'b' = 2)"),
    )

    def __init__(self) -> None:
        self._cleaned: Path | None = None

    @cached_property
    def server(self) -> ClickHouseServer:
        """The server of the tests of this process."""
        folder = tempfile.TemporaryDirectory(prefix="dwhctl-clickhouse-")
        server = ClickHouseServer(Path(folder.name)).start()
        atexit.register(folder.cleanup)
        atexit.register(server.stop)
        return server

    def literal(self, kind: Kind, value: object) -> str:
        word = WORDS[kind]
        if value is None:
            return f"CAST(NULL AS Nullable({word}))"
        if isinstance(value, bytes):
            return f"CAST(unhex('{value.hex()}') AS Nullable(String))"
        if isinstance(value, str) and kind is Kind.TEXT:
            return f"CAST({_text(value)} AS Nullable(String))"
        if isinstance(value, datetime):
            value = value.replace(tzinfo=None) if value.tzinfo is None or not value.utcoffset() else value
        return f"CAST('{value}' AS Nullable({word}))"

    def holds(self, kind: Kind, value: object) -> bool:
        return not isinstance(value, date) or value.year in _YEARS

    def layout(self, slice_by: str | None, columns: str, zone: str) -> str:
        if slice_by is None:
            return ""
        zoned = re.search(rf"\b{slice_by} DateTime64\(6, 'UTC'\)", columns) is not None
        day = f"toDate({slice_by}, '{zone}')" if zoned else f"toDate({slice_by})"
        return f" PARTITION BY {day} ORDER BY tuple() SETTINGS allow_nullable_key = 1"

    def word(self, column: Column) -> str:
        return declaration(column)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        connection = self._real() if REAL else self.server.connection()
        if root != self._cleaned:
            self._cleaned = root
            self.texts(connection, "DROP DATABASE IF EXISTS stage SYNC")
            for table in self.texts(
                connection, "SELECT name FROM system.tables WHERE database = 'default'" if not REAL
                else "SELECT name FROM system.tables WHERE database = 'default' AND match(name, '^(like_it|odd_)')",
            ):  # fmt: skip
                self.texts(connection, f"DROP TABLE IF EXISTS default.`{table[0]}` SYNC")
        return connection

    def _real(self) -> ClickHouseConnection:
        parts = urlsplit(REAL or "")
        return ClickHouseConnection(
            name="dwh", host=parts.hostname, port=parts.port or 8123, user=unquote(parts.username or "default"),
            password=Secret(unquote(parts.password or "")), database=parts.path.strip("/") or "default",
        )  # fmt: skip

    def open(self, connection: Connection, root: Path) -> Target:
        from datetime import timedelta

        assert isinstance(connection, ClickHouseConnection)
        return _PlainSql(connection, timedelta(seconds=30), "dwhctl")

    def texts(self, connection: Connection, sql: str) -> list[tuple[str | None, ...]]:
        assert isinstance(connection, ClickHouseConnection)
        (host, port), password = connection.addresses[0], connection.password
        settings = {
            "default_format": "JSONCompactStringsEachRow",
            "cast_keep_nullable": 1,
            "max_query_size": 2**24,
        }
        url = f"http://{host}:{port}/?{urlencode(settings)}"
        return [
            tuple(row) for row in texts_of(url, sql, connection.user, password.reveal() if password else "")
        ]

    def busy(self, connection: Connection) -> AbstractContextManager[None]:
        raise NotImplementedError("a server makes nobody wait")

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, type[AttemptError], str]]:
        good: Any = self.connection(root)
        yield "no server", good.model_copy(update={"port": 1}), ConnectError, "dwh"
        yield (
            "wrong password",
            good.model_copy(update={"password": Secret("wrong")}),
            LoginRefusedError,
            "dwh",
        )
        yield "no database", good.model_copy(update={"database": "nowhere"}), TargetRefusedError, "nowhere"
