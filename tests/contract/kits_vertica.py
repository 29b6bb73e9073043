"""The kit of Vertica: the protocol server of the tests, or the real one that DWHCTL_TEST_VERTICA names.

    DWHCTL_TEST_VERTICA=vertica://user:password@host:5433/database

On a real server the schema `stage` and a few tables of `public` are dropped before each test.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, ConnectError, LoginRefusedError, TargetRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.project.connections import Connection
from dwhctl.systems.vertica.system import VerticaConnection
from dwhctl.systems.vertica.types import declaration
from tests.contract.kit_base import NASTY_TEXTS, TargetKit, TypeCase
from tests.servers.vertica import VerticaServer
from tests.support.vertica import open_vertica

REAL = os.environ.get("DWHCTL_TEST_VERTICA")
_SERVERS_AT_ONCE = 3

WORDS = {
    Kind.INTEGER: "INTEGER",
    Kind.DECIMAL: "NUMERIC(38,10)",
    Kind.FLOAT: "FLOAT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.TEXT: "LONG VARCHAR(1048576)",
    Kind.UUID: "UUID",
    Kind.BINARY: "LONG VARBINARY(1048576)",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.TIMESTAMPTZ: "TIMESTAMPTZ",
}


def _cast(declared: str, *values: str) -> tuple[str, ...]:
    return tuple(f"CAST('{value}' AS {declared})" for value in values)


def _decimals(precision: int, scale: int) -> tuple[str, ...]:
    whole, part = "9" * (precision - scale) or "0", "9" * scale
    largest = f"{whole}.{part}" if part else whole
    least = f"0.{'0' * (scale - 1)}1" if scale else "1"
    return _cast(f"NUMERIC({precision},{scale})", largest, f"-{largest}", least, "0")


def _text(value: str) -> str:
    return " || CHR(0) || ".join("'" + part.replace("'", "''") + "'" for part in value.split("\x00"))


def _binary(value: bytes) -> str:
    return f"HEX_TO_BINARY('0x{value.hex()}')"


def _types() -> tuple[TypeCase, ...]:
    ends = (str(2**63 - 1), str(-(2**63) + 1), "9007199254740993", "0")
    moments = (
        "2020-07-14 12:34:56",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59.999999",
        "1969-12-31 23:59:59.5",
    )
    short = [text for text in NASTY_TEXTS if text is not None and len(text) < 100]
    octets = (b"\x00\xff\n\\|'", b"\x00", "ё\\.".encode())
    return (
        TypeCase("BIGINT", Kind.INTEGER, _cast("BIGINT", *ends)),
        *(
            TypeCase(f"NUMERIC({p},{s})", Kind.DECIMAL, _decimals(p, s))
            for p, s in ((38, 0), (38, 10), (38, 38), (18, 2), (1, 0), (60, 10), (76, 76))
        ),
        TypeCase("DOUBLE PRECISION", Kind.FLOAT, _cast("FLOAT", "0.1", "NaN", "Infinity", "5e-324", "1.7e308")),
        TypeCase("BOOLEAN", Kind.BOOLEAN, _cast("BOOLEAN", "t", "f")),
        TypeCase("VARCHAR(200)", Kind.TEXT, tuple(map(_text, short))),
        TypeCase("CHAR(10)", Kind.TEXT, ("'ёлка'", "'x'", "''", "' \\'")),
        TypeCase("LONG VARCHAR(1048576)", Kind.TEXT, tuple(map(_text, short))),
        TypeCase("UUID", Kind.UUID, _cast("UUID", *(str(UUID(digit * 32)) for digit in "0f"))),
        TypeCase("VARBINARY(80)", Kind.BINARY, tuple(map(_binary, octets))),
        TypeCase("LONG VARBINARY(1000)", Kind.BINARY, tuple(map(_binary, octets))),
        TypeCase("BINARY(4)", Kind.BINARY, (_binary(b"\x00\x01\x02\x00"),)),
        TypeCase("DATE", Kind.DATE, _cast("DATE", "2020-02-29", "0001-01-01", "9999-12-31")),
        TypeCase("TIME", Kind.TIME, _cast("TIME", "00:00:00", "23:59:59.999999")),
        TypeCase("TIMESTAMP", Kind.TIMESTAMP, _cast("TIMESTAMP", *moments)),
        TypeCase("TIMESTAMPTZ", Kind.TIMESTAMPTZ, _cast("TIMESTAMPTZ", *(f"{one}+00" for one in moments))),
    )  # fmt: skip


class VerticaTargetKit(TargetKit):
    """A Vertica database."""

    name = "vertica"
    real = REAL is not None
    types = _types()
    refused = ("NUMERIC(77,0)", *(("INTERVAL DAY TO SECOND", "TIMETZ", "TIMESTAMP(4)") if REAL else ()))
    words = WORDS
    misfits = (
        (Kind.INTEGER, -(2**63), "INTEGER"),
        (Kind.INTEGER, 1000, "NUMERIC(4,1)"),
        (Kind.DECIMAL, Decimal("1.005"), "NUMERIC(10,2)"),
        (Kind.DECIMAL, Decimal("9" * 19), "NUMERIC(18,0)"),
        (Kind.TEXT, "ёлка", "VARCHAR(7)"),
        (Kind.TEXT, "x ", "CHAR(10)"),
        (Kind.BINARY, b"12345", "VARBINARY(4)"),
    )

    def __init__(self) -> None:
        self._servers: dict[Path, VerticaServer] = {}
        self._cleaned: Path | None = None
        atexit.register(self.stop)

    def literal(self, kind: Kind, value: object) -> str:
        if value is None:
            return f"CAST(NULL AS {WORDS[kind]})"
        if isinstance(value, str) and kind is Kind.TEXT:
            return _text(value)
        if isinstance(value, bytes):
            return _binary(value)
        if isinstance(value, datetime) and value.tzinfo is None and kind is Kind.TIMESTAMPTZ:
            value = f"{value}+00"
        return f"CAST('{value}' AS {WORDS[kind]})"

    def holds(self, kind: Kind, value: object) -> bool:
        return not (kind is Kind.INTEGER and value == -(2**63))

    def word(self, column: Column) -> str:
        return declaration(column)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        if REAL:
            return self._real(root)
        return self.server(root).connection()

    def server(self, root: Path) -> VerticaServer:
        """The server of a test; those of tests that are over are stopped."""
        if root not in self._servers:
            while len(self._servers) >= _SERVERS_AT_ONCE:
                self._servers.pop(next(iter(self._servers))).stop()
            self._servers[root] = VerticaServer(lock_timeout=0.5).start()
        return self._servers[root]

    def stop(self) -> None:
        """Stop all servers."""
        while self._servers:
            self._servers.popitem()[1].stop()

    def _real(self, root: Path) -> VerticaConnection:
        parts = urlsplit(REAL or "")
        connection = VerticaConnection(
            name="dwh",
            host=parts.hostname,
            port=parts.port or 5433,
            user=unquote(parts.username or ""),
            password=Secret(unquote(parts.password or "")),
            database=parts.path.strip("/"),
        )
        if root != self._cleaned:
            self._cleaned = root
            tables = ("like_it", *(f"odd_{number}" for number in range(len(self.refused))))
            self.execute(
                connection,
                "DROP SCHEMA IF EXISTS stage CASCADE",
                *(f"DROP TABLE IF EXISTS {one}" for one in tables),
            )
        return connection

    def written(self, kind: Kind, value: object, word: str) -> str:
        sizes = [int(size) for size in re.findall(r"\d+", word)]
        if kind is Kind.DECIMAL and sizes[0] > 38 and REAL is None:
            # The test server's engine keeps wider decimals as texts.
            return f"'{value:.{sizes[1]}f}'" if isinstance(value, Decimal) else "CAST(NULL AS VARCHAR)"
        if isinstance(value, str) and word.startswith("CHAR("):
            value += " " * (sizes[0] - len(value.encode()))
        return super().written(kind, value, word)

    def texts(self, connection: Connection, sql: str) -> list[tuple[Any, ...]]:
        return self.execute(connection, "SET TIME ZONE TO 'UTC'", sql)

    def execute(self, connection: Connection, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements and commit; give the last answer, every value as the server's text."""
        assert isinstance(connection, VerticaConnection)
        (host, port), password = connection.addresses[0], connection.password
        with closing(
            open_vertica(
                host=host,
                port=port,
                user=connection.user,
                password=password.reveal() if password else "",
                database=connection.database,
                tlsmode="prefer" if REAL else "disable",
                connection_timeout=60,
            )
        ) as db:
            cursor = db.cursor()
            cursor.disable_sqldata_converter = True
            rows: list[list[bytes | None]] = []
            for statement in statements:
                cursor.execute(statement)
                rows = cursor.fetchall()
            db.commit()
            cursor.fetchall()
            return [tuple(None if one is None else bytes(one).decode() for one in row) for row in rows]

    def busy(self, connection: Connection) -> AbstractContextManager[None]:
        raise NotImplementedError(
            "Vertica locks tables, not itself: tests/integration/test_vertica_target.py"
        )

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, type[AttemptError], str]]:
        here = self.connection(root)
        assert isinstance(here, VerticaConnection)
        quick = {"connect_timeout": timedelta(seconds=2)}
        gone = here.model_copy(update={"host": "127.0.0.1", "hosts": None, "port": 1, **quick})
        yield "no server", gone, ConnectError, "127.0.0.1:1"
        wrong = here.model_copy(update={"password": Secret("wrong-password")})
        yield "wrong password", wrong, LoginRefusedError, f"{here.addresses[0][1]}"
        missing = here.model_copy(update={"database": "no_such_database"})
        yield "no database", missing, TargetRefusedError, "no_such_database"
