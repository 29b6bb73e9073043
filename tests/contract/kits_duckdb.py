"""The kits of DuckDB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, ConnectError, DatabaseMissingError, TargetRefusedError
from dwhctl.project.connections import Connection
from dwhctl.systems.duckdb.system import DuckdbConnection
from tests.contract.kit_base import NASTY_TEXTS, SourceKit, TargetKit, TypeCase
from tests.support.duckdb_files import opened

_LOCKER = """
import sys, duckdb
db = duckdb.connect(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def _decimals(precision: int, scale: int) -> tuple[str, ...]:
    digits = "9" * precision
    whole, part = digits[: precision - scale], digits[precision - scale :]
    largest = f"{whole or '0'}.{part}" if part else whole
    least = f"0.{'0' * (scale - 1)}1" if scale else "1"
    return tuple(
        f"CAST('{value}' AS DECIMAL({precision},{scale}))" for value in (largest, f"-{largest}", least, "0")
    )


def _cast(declared: str, *values: str) -> tuple[str, ...]:
    return tuple(f"CAST('{value}' AS {declared})" for value in values)


def _duckdb_types() -> tuple[TypeCase, ...]:
    integers = {
        "TINYINT": (-(2**7), 2**7 - 1),
        "SMALLINT": (-(2**15), 2**15 - 1),
        "INTEGER": (-(2**31), 2**31 - 1),
        "BIGINT": (-(2**63), 2**63 - 1),
        "UTINYINT": (0, 2**8 - 1),
        "USMALLINT": (0, 2**16 - 1),
        "UINTEGER": (0, 2**32 - 1),
        "UBIGINT": (0, 2**64 - 1),
    }
    cases = [
        TypeCase(name, Kind.INTEGER, _cast(name, *map(str, (*ends, 1)))) for name, ends in integers.items()
    ]
    cases.append(TypeCase("BIGINT", Kind.INTEGER, _cast("BIGINT", "9007199254740993", "-9007199254740993")))
    for precision, scale in ((38, 0), (38, 10), (38, 37), (38, 38), (18, 2), (9, 9), (4, 1), (1, 0)):
        declared = f"DECIMAL({precision},{scale})"
        cases.append(TypeCase(declared, Kind.DECIMAL, _decimals(precision, scale)))
    moments = ("2020-07-14 12:34:56", "0001-01-01 00:00:00", "9999-12-31 23:59:59", "1969-12-31 23:59:59")
    fractions = ("2020-07-14 12:34:56.123456", "9999-12-31 23:59:59.999999", "infinity", "-infinity")
    nanoseconds = ("2020-07-14 12:34:56.123456789", "2262-04-11 23:47:16.854775806", "1677-09-22 00:00:00")
    milliseconds = (*moments, "2020-07-14 12:34:56.123", "infinity")
    return (
        *cases,
        TypeCase("HUGEINT", Kind.DECIMAL, _cast("HUGEINT", "9" * 38, "-" + "9" * 38, "0")),
        TypeCase("BOOLEAN", Kind.BOOLEAN, _cast("BOOLEAN", "true", "false")),
        TypeCase("FLOAT", Kind.FLOAT, _cast("FLOAT", "1.1", "nan", "inf", "-inf", "-0.0", "1e-45", "3.4e38")),
        TypeCase("DOUBLE", Kind.FLOAT, _cast("DOUBLE", "0.1", "nan", "inf", "-inf", "-0.0", "5e-324", "1.7e308")),
        TypeCase("VARCHAR", Kind.TEXT, tuple(map(duckdb_text, NASTY_TEXTS))),
        TypeCase("JSON", Kind.TEXT, _cast("JSON", '{"b": 1,  "a": [null, "\\u0000"]}', "null", '""')),
        TypeCase("UUID", Kind.UUID, _cast("UUID", "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "F" * 32)),
        TypeCase("BLOB", Kind.BINARY, ("''::BLOB", "'\\x00\\xFF\\x0A\\x5C'::BLOB", "encode('ё\\.')")),
        TypeCase("DATE", Kind.DATE, _cast("DATE", "2020-02-29", "0001-01-01", "9999-12-31", "infinity", "-infinity",
                                          "5874897-12-31", "0044-03-15 (BC)")),
        TypeCase("TIME", Kind.TIME, _cast("TIME", "00:00:00", "23:59:59.999999", "24:00:00")),
        TypeCase("TIMESTAMP", Kind.TIMESTAMP, _cast("TIMESTAMP", *moments, *fractions, "294247-01-10 04:00:54.775806")),
        TypeCase("TIMESTAMP_S", Kind.TIMESTAMP, _cast("TIMESTAMP_S", *moments)),
        TypeCase("TIMESTAMP_MS", Kind.TIMESTAMP, _cast("TIMESTAMP_MS", *milliseconds)),
        TypeCase("TIMESTAMP_NS", Kind.TIMESTAMP, _cast("TIMESTAMP_NS", *nanoseconds)),
        TypeCase("TIMESTAMP WITH TIME ZONE", Kind.TIMESTAMPTZ,
                 _cast("TIMESTAMPTZ", *(f"{one}+00" for one in (*moments, *fractions[:2])), "infinity", "-infinity")),
    )  # fmt: skip


def duckdb_text(value: str | None) -> str:
    if value is None:
        return "NULL::VARCHAR"
    return " || chr(0) || ".join("'" + part.replace("'", "''") + "'" for part in value.split("\x00"))


DUCKDB_WORDS = {
    Kind.INTEGER: "BIGINT",
    Kind.DECIMAL: "DECIMAL(38,10)",
    Kind.FLOAT: "DOUBLE",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.TEXT: "VARCHAR",
    Kind.UUID: "UUID",
    Kind.BINARY: "BLOB",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.TIMESTAMPTZ: "TIMESTAMPTZ",
}


def duckdb_literal(kind: Kind, value: object) -> str:
    if value is None:
        return f"NULL::{DUCKDB_WORDS[kind]}"
    if isinstance(value, str):
        return duckdb_text(value)
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
    if isinstance(value, datetime) and value.tzinfo is None and kind is Kind.TIMESTAMPTZ:
        value = f"{value}+00"
    # Without the cast DuckDB would take a decimal of its own precision.
    return f"CAST('{value}' AS {DUCKDB_WORDS[kind]})"


@contextmanager
def locked_by_another(path: Path) -> Iterator[None]:
    """Have another process write to a DuckDB file."""
    command = [sys.executable, "-c", _LOCKER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            assert other.stdin is not None
            other.stdin.close()
            other.wait(10)


def _file(connection: Connection, database: str = "") -> Path:
    assert isinstance(connection, DuckdbConnection)
    return connection.database_file(database)


class DuckdbSourceKit(SourceKit):
    """A folder of DuckDB files."""

    name = "duckdb"
    types = (
        *_duckdb_types(),
        TypeCase("ENUM", Kind.TEXT, ("CAST('ё' AS ENUM ('a', 'ё', ''))", "CAST('' AS ENUM ('a', 'ё', ''))")),
    )
    refused: ClassVar[Mapping[str, str]] = {
        "INTERVAL": "INTERVAL 1 DAY",
        "TIME WITH TIME ZONE": "'12:00:00+03'::TIMETZ",
        "BIT": "'0101'::BIT",
        "UHUGEINT": "1::UHUGEINT",
        "INTEGER[]": "[1, 2]",
        "STRUCT": "{'a': 1}",
        "MAP": "MAP {'a': 1}",
    }
    fails_midway = "CAST(CASE WHEN i = 150000 THEN 'x' ELSE '1' END AS INTEGER)"
    many = (1_500_000, 200)
    waits = True
    words = DUCKDB_WORDS

    def literal(self, kind: Kind, value: object) -> str:
        return duckdb_literal(kind, value)

    def create_as(self, table: str, select: str) -> tuple[str, ...]:
        return (f"CREATE OR REPLACE TABLE {table} AS {select}",)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        folder = root / "server_0"
        folder.mkdir(exist_ok=True)
        return DuckdbConnection(name="server_0", path=folder, lock_wait=timedelta(seconds=wait))

    def run(self, connection: Connection, database: str, *statements: str) -> None:
        with opened(_file(connection, database)) as db:
            for statement in statements:
                db.execute(statement)

    def numbers(self, rows: int) -> str:
        return f"range({rows}) AS numbers(i)"

    @contextmanager
    def busy(self, connection: Connection, database: str) -> Iterator[None]:
        with locked_by_another(_file(connection, database)):
            yield

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        gone = DuckdbConnection(name="gone", path=root / "nowhere")
        yield "no server", gone, "abakan", ConnectError, str(root / "nowhere")
        here = self.connection(root)
        yield "no database", here, "missing", DatabaseMissingError, "missing.duckdb"
        _file(here, "text").write_text("this is no database\n" * 1000)
        yield "not a database", here, "text", DatabaseMissingError, "text.duckdb"
        _file(here, "empty").write_bytes(b"")
        yield "empty file", here, "empty", DatabaseMissingError, "empty.duckdb"
        self.run(here, "whole", "CREATE TABLE t AS SELECT hash(range) AS i FROM range(300000)")
        whole = _file(here, "whole").read_bytes()
        for name, left in (("cut", whole[:6000]), ("half", whole[: len(whole) // 2])):
            _file(here, name).write_bytes(left)
            yield f"cut off: {name}", here, name, DatabaseMissingError, f"{name}.duckdb"
        garbled = bytearray(whole)
        garbled[len(whole) // 2 : len(whole) // 2 + 64] = b"x" * 64
        _file(here, "garbled").write_bytes(garbled)
        yield "garbled", here, "garbled", DatabaseMissingError, "garbled.duckdb"
        _file(here, "folder").mkdir()
        yield "a folder", here, "folder", DatabaseMissingError, "folder.duckdb"


class DuckdbTargetKit(TargetKit):
    """A DuckDB file."""

    name = "duckdb"
    types = _duckdb_types()
    computed = "next_id BIGINT GENERATED ALWAYS AS (id + 1)"
    refused = ("INTERVAL", "INTEGER[]", "TIMETZ")
    words = DUCKDB_WORDS
    misfits = (
        (Kind.INTEGER, 2**31, "INTEGER"),
        (Kind.INTEGER, -1, "UBIGINT"),
        (Kind.INTEGER, 1000, "DECIMAL(4,1)"),
        (Kind.DECIMAL, Decimal("1.005"), "DECIMAL(10,2)"),
        (Kind.DECIMAL, Decimal("9" * 19), "DECIMAL(18,0)"),
        (Kind.TIMESTAMP, datetime(2020, 7, 14, 12, 0, 0, 500_000), "TIMESTAMP_S"),  # noqa: DTZ001
        (Kind.TIMESTAMP, datetime(2020, 7, 14, 12, 0, 0, 1), "TIMESTAMP_MS"),  # noqa: DTZ001
        (Kind.TIMESTAMP, datetime(9999, 12, 31), "TIMESTAMP_NS"),  # noqa: DTZ001
    )

    def literal(self, kind: Kind, value: object) -> str:
        return duckdb_literal(kind, value)

    def word(self, column: Column) -> str:
        if column.kind is Kind.DECIMAL:
            return f"DECIMAL({column.type.precision},{column.type.scale})"
        return DUCKDB_WORDS[column.kind]

    def connection(self, root: Path, wait: float = 5) -> Connection:
        return DuckdbConnection(name="dwh", path=root / "warehouse.duckdb", lock_wait=timedelta(seconds=wait))

    def texts(self, connection: Connection, sql: str) -> list[tuple[Any, ...]]:
        with opened(_file(connection), read_only=True) as db:
            db.execute("SET TimeZone = 'UTC'")
            return db.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({sql})").fetchall()

    @contextmanager
    def busy(self, connection: Connection) -> Iterator[None]:
        with locked_by_another(_file(connection)):
            yield

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, type[AttemptError], str]]:
        gone = DuckdbConnection(name="dwh", path=root / "nowhere" / "warehouse.duckdb")
        yield "no folder", gone, TargetRefusedError, str(root / "nowhere")
        text = DuckdbConnection(name="dwh", path=root / "text.duckdb")
        text.path.write_text("this is no database\n" * 1000)
        yield "not a database", text, TargetRefusedError, "text.duckdb"
