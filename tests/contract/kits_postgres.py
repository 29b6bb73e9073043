"""The kits of PostgreSQL: the server of a package, or the real one that DWHCTL_TEST_POSTGRES names."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    TargetRefusedError,
)
from dwhctl.project.connections import Connection
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.postgres.types import declaration
from tests.contract.kit_base import NASTY_TEXTS, SourceKit, TargetKit, TypeCase
from tests.postgres import PostgresServer, any_server

_DATABASES_AT_ONCE = 3

WORDS = {
    Kind.INTEGER: "bigint",
    Kind.DECIMAL: "numeric(38,10)",
    Kind.FLOAT: "double precision",
    Kind.BOOLEAN: "boolean",
    Kind.TEXT: "text",
    Kind.UUID: "uuid",
    Kind.BINARY: "bytea",
    Kind.DATE: "date",
    Kind.TIME: "time",
    Kind.TIMESTAMP: "timestamp",
    Kind.TIMESTAMPTZ: "timestamp with time zone",
}


def _cast(declared: str, kind: Kind, values: Mapping[str, object]) -> TypeCase:
    texts = tuple(f"CAST({literal(text)} AS {declared})" for text in values)
    return TypeCase(declared, kind, texts, tuple(values.values()))


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _decimals(precision: int, scale: int) -> TypeCase:
    whole, part = "9" * (precision - scale) or "0", "9" * scale
    largest = f"{whole}.{part}" if part else whole
    least = f"0.{'0' * (scale - 1)}1" if scale else "1"
    return _cast(
        f"numeric({precision},{scale})",
        Kind.DECIMAL,
        {text: Decimal(text) for text in (largest, f"-{largest}", least, "0")},
    )


def _types() -> tuple[TypeCase, ...]:
    moments = {
        text: datetime.fromisoformat(text)
        for text in (
            "2020-07-14 12:34:56",
            "0001-01-01 00:00:00",
            "9999-12-31 23:59:59.999999",
            "1969-12-31 23:59:59.5",
        )
    }
    instants = {f"{text}+00": moment.replace(tzinfo=UTC) for text, moment in moments.items()}
    integers = {"smallint": 15, "integer": 31, "bigint": 63}
    texts: dict[str, object] = {
        text: text for text in NASTY_TEXTS if text is not None and "\0" not in text and len(text) < 100
    }
    octets: dict[str, object] = {
        f"\\x{one.hex()}": one for one in (b"", b"\x00\xff\n\\|'", b"\x00", "ё\\.".encode())
    }
    return (
        *(
            _cast(name, Kind.INTEGER, {str(n): n for n in (-(2**bits), 2**bits - 1, 1)})
            for name, bits in integers.items()
        ),
        *(_decimals(p, s) for p, s in ((38, 0), (38, 10), (38, 38), (18, 2), (1, 0), (60, 10), (76, 76))),
        _cast("real", Kind.FLOAT, {"1.5": 1.5, "Infinity": float("inf"), "-0.25": -0.25}),
        _cast(
            "double precision",
            Kind.FLOAT,
            {
                "0.1": 0.1,
                "Infinity": float("inf"),
                "-Infinity": float("-inf"),
                "5e-324": 5e-324,
                "1.7e308": 1.7e308,
            },
        ),
        _cast("boolean", Kind.BOOLEAN, {"true": True, "false": False}),
        _cast("text", Kind.TEXT, texts),
        _cast("character varying(90)", Kind.TEXT, texts),
        _cast("character(10)", Kind.TEXT, {"ёлка": "ёлка", "x  ": "x", "": "", " \\": " \\"}),
        _cast("json", Kind.TEXT, {text: text for text in ('{"b": 1,  "a": [null]}', "null", '""')}),
        _cast("jsonb", Kind.TEXT, {'{"b": 1,  "a": [null]}': '{"a": [null], "b": 1}', "null": "null"}),
        _cast("uuid", Kind.UUID, {str(UUID(one * 32)): str(UUID(one * 32)) for one in "0f"}),
        _cast("bytea", Kind.BINARY, octets),
        _cast("date", Kind.DATE, {str(one): one for one in (date(2020, 2, 29), date.min, date.max)}),
        _cast(
            "time without time zone", Kind.TIME, {str(one): one for one in (time.min, time.max, time(12, 30))}
        ),
        _cast("timestamp without time zone", Kind.TIMESTAMP, moments),
        _cast("timestamp with time zone", Kind.TIMESTAMPTZ, instants),
    )


class _Server:
    """The server of this test process, started when it is first used, and a database for each name."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._server: PostgresServer | None = None
        self._lock = threading.Lock()
        self._databases: dict[tuple[str, str], str] = {}
        atexit.register(self._stack.close)

    @property
    def server(self) -> PostgresServer:
        with self._lock:
            if self._server is None:
                self._server = self._stack.enter_context(any_server())
            return self._server

    def database(self, root: Path, name: str) -> str:
        """Return the database of a test, empty when the test first asks for it."""
        key = (str(root), name)
        if key not in self._databases:
            mine = [one for one in self._databases if one[0] == str(root)]
            others = [one for one in self._databases if one not in mine]
            if len(others) >= _DATABASES_AT_ONCE:
                again = self._databases.pop(others[0])
                self.server.run(f"ALTER DATABASE {again} ALLOW_CONNECTIONS true")
                self.server.empty_database(again)
            else:
                again = self.server.make_database()
            self._databases[key] = again
        return self._databases[key]


_SERVER = _Server()


class _Postgres:
    """How PostgreSQL writes values."""

    def literal(self, kind: Kind, value: object) -> str:
        if value is None:
            return f"CAST(NULL AS {WORDS[kind]})"
        if isinstance(value, str) and kind is Kind.TEXT:
            return f"CAST({literal(value)} AS text)"
        if isinstance(value, bytes):
            return f"'\\x{value.hex()}'::bytea"
        if isinstance(value, datetime) and value.tzinfo is None and kind is Kind.TIMESTAMPTZ:
            value = f"{value}+00"
        return f"CAST('{value}' AS {WORDS[kind]})"

    def holds(self, kind: Kind, value: object) -> bool:
        return not (isinstance(value, str) and kind is Kind.TEXT and "\0" in value)


class PostgresSourceKit(_Postgres, SourceKit):
    """A PostgreSQL server; a shard is a database."""

    name = "postgres"
    words = WORDS
    types = _types()
    refused: ClassVar[Mapping[str, str]] = {
        "numeric": "1.5::numeric",
        "interval": "INTERVAL '1 day'",
        "time with time zone": "'12:00:00+03'::timetz",
        "bit": "B'0101'",
        "money": "1::text::money",
        "integer[]": "ARRAY[1, 2]",
        "int4range": "int4range(1, 2)",
        "record": "ROW(1, 2)",
        "inet": "'10.0.0.1'::inet",
    }
    fails_midway = "CAST(CASE WHEN i = 150000 THEN 'x' ELSE '1' END AS integer)"
    many = (1_500_000, 200)
    waits = False

    def __init__(self) -> None:
        self._root = Path()

    def only_nulls(self, case: TypeCase) -> str:
        # A CASE has no precision.
        return f"CAST(CASE WHEN i < 0 THEN {case.values[0]} END AS {case.declared})"

    def null(self, case: TypeCase) -> str:
        # json has no operator =, which nullif asks for.
        return f"CAST(NULL AS {case.declared})"

    def create_as(self, table: str, select: str) -> tuple[str, ...]:
        return (f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} AS {select}")

    def connection(self, root: Path, wait: float = 5) -> Connection:
        self._root = root
        return _SERVER.server.connection(_SERVER.server.admin_database, "server_0")

    def database(self, name: str) -> str:
        return name if name.startswith("no_such") else _SERVER.database(self._root, f"source {name}")

    def run(self, connection: Connection, database: str, *statements: str) -> None:
        with closing(_SERVER.server.connect(self.database(database))) as db:
            for statement in statements:
                db.cursor().execute(statement)

    def numbers(self, rows: int) -> str:
        return f"(SELECT n::bigint AS i FROM generate_series(0, {rows - 1}) AS n) AS numbers"

    @contextmanager
    def busy(self, connection: Connection, database: str) -> Iterator[None]:
        name = self.database(database)
        _SERVER.server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            _SERVER.server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        here = self.connection(root)
        assert isinstance(here, PostgresConnection)
        yield "no server", _nowhere(here), "abakan", ConnectError, "127.0.0.1:1"
        yield "no user", here.model_copy(update={"user": "nobody"}), "abakan", LoginRefusedError, "nobody"
        yield "no database", here, "no_such_database", DatabaseMissingError, "no_such_database"


class PostgresTargetKit(_Postgres, TargetKit):
    """A PostgreSQL database."""

    name = "postgres"
    words = WORDS
    types = _types()
    computed = "next_id bigint GENERATED ALWAYS AS (id + 1) STORED"
    refused = (
        "numeric",
        "interval",
        "time with time zone",
        "timestamp(4)",
        "integer[]",
        "numeric(77,0)",
        "money",
    )
    misfits = (
        (Kind.INTEGER, 2**31, "integer"),
        (Kind.INTEGER, 1000, "numeric(4,1)"),
        (Kind.DECIMAL, Decimal("1.005"), "numeric(10,2)"),
        (Kind.DECIMAL, Decimal("9" * 19), "numeric(18,0)"),
        (Kind.TEXT, "ёлка", "character varying(3)"),
        (Kind.TEXT, "abc ", "character varying(3)"),
        (Kind.TEXT, "x ", "character(10)"),
        (Kind.TEXT, "a\x00b", "text"),
        (Kind.TIMESTAMP, datetime(2020, 7, 14, 12, 0, 0, 500_000), "timestamp(0)"),  # noqa: DTZ001
    )

    def word(self, column: Column) -> str:
        return declaration(column)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        return _SERVER.server.connection(_SERVER.database(root, "target"), "dwh")

    def texts(self, connection: Connection, sql: str) -> list[tuple[Any, ...]]:
        assert isinstance(connection, PostgresConnection)
        with closing(_SERVER.server.connect(connection.database)) as db, db.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.execute(f"SELECT * FROM ({sql}) AS answer LIMIT 0")
            names = [str(one[0]).replace('"', '""') for one in cursor.description or ()]
            shown = ", ".join(f'CAST("{name}" AS text)' for name in names)
            cursor.execute(f"SELECT {shown} FROM ({sql}) AS answer")
            return list(cursor.fetchall())

    def busy(self, connection: Connection) -> AbstractContextManager[None]:
        raise NotImplementedError(
            "PostgreSQL locks tables, not itself: tests/integration/test_postgres_target.py"
        )

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, type[AttemptError], str]]:
        here = self.connection(root)
        assert isinstance(here, PostgresConnection)
        yield "no server", _nowhere(here), ConnectError, "127.0.0.1:1"
        yield "no user", here.model_copy(update={"user": "nobody"}), LoginRefusedError, "nobody"
        missing = here.model_copy(update={"database": "no_such_database"})
        yield "no database", missing, TargetRefusedError, "no_such_database"


def _nowhere(here: PostgresConnection) -> PostgresConnection:
    quick = {"connect_timeout": timedelta(seconds=2)}
    return here.model_copy(update={"host": "127.0.0.1", "hosts": None, "port": 1, **quick})
