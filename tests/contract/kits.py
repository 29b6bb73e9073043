"""System kits: all that the shared contract suites must know of a system to run over it.

A new source or target joins the suites by a kit in SOURCES or TARGETS. Values are written in the system's own SQL
and read back as its own text, so that a comparison sees every digit.
"""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from dwhctl.columns import Kind
from dwhctl.errors import AttemptError, ConnectError, DatabaseMissingError, TargetRefusedError
from dwhctl.project.model import Connection, DuckdbConnection
from dwhctl.sources import open_source
from dwhctl.sources.contract import Source
from dwhctl.targets import open_target
from dwhctl.targets.contract import Target

#: Texts that some system somewhere mistakes for something else.
NASTY_TEXTS: tuple[str | None, ...] = (
    "",
    None,
    "\\",
    "\\.",
    "\\N",
    "\\\\n",
    '"',
    "'",
    "''; DROP TABLE t; --",
    "a|b",
    "line\nline",
    "line\r\nline",
    "\t",
    " leading",
    "trailing ",
    "NULL",
    "null",
    "None",
    "NaN",
    "\U0001f600\U0001f468‍\U0001f469‍\U0001f467",
    "Абакан, ёлка",
    "a\x00b",
    "\x00",
    "\u2028 ",
    "\ufeffbom",
    "\x01\x02\x1f\x7f",
    ":start $start %s {{ ds }} ${x}",
    "0",
    "x" * 70_000,
)

_LOCKER = """
import sys, duckdb
db = duckdb.connect(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class TypeCase:
    """A type with values of it, as SQL: the plain, the extreme and the odd."""

    declared: str
    kind: Kind
    values: tuple[str, ...]


class SourceKit(ABC):
    """A system to read from."""

    name: str
    types: tuple[TypeCase, ...]
    #: Types that have no place in a Column, with a value of each.
    refused: ClassVar[Mapping[str, str]]
    #: An expression over the row number `i` that fails at row 150,000, in mid-way.
    fails_midway: str

    @abstractmethod
    def connection(self, root: Path, wait: float = 5) -> Connection:
        """A connection to a server of this test."""

    @abstractmethod
    def run(self, connection: Connection, database: str, *statements: str) -> None:
        """Run statements in a database, made when it is not there."""

    @abstractmethod
    def numbers(self, rows: int) -> str:
        """A FROM clause with the column `i` from 0 to rows - 1."""

    @abstractmethod
    def text(self, value: str | None) -> str:
        """A text as a literal."""

    @abstractmethod
    def busy(self, connection: Connection, database: str) -> AbstractContextManager[None]:
        """Keep the database from being read."""

    @abstractmethod
    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        """What cannot be opened: why, connection, database, error and a part of its message."""

    def open(self, connection: Connection, database: str = "abakan", zone: str = "UTC") -> Source:
        """Open a database."""
        return open_source(connection, database, zone)


class TargetKit(ABC):
    """A system to write to."""

    name: str
    #: Types of its columns by the kind that they hold.
    types: tuple[TypeCase, ...]
    #: Types that no Column can describe.
    refused: Sequence[str]

    @abstractmethod
    def connection(self, root: Path, wait: float = 5) -> Connection:
        """A connection to an empty warehouse of this test."""

    @abstractmethod
    def texts(self, connection: Connection, sql: str) -> list[tuple[str | None, ...]]:
        """Query the warehouse on a connection of its own; every value as the system's text."""

    @abstractmethod
    def busy(self, connection: Connection) -> AbstractContextManager[None]:
        """Keep the warehouse from being written."""

    @abstractmethod
    def broken(self, root: Path) -> Iterator[tuple[str, Connection, type[AttemptError], str]]:
        """Warehouses that cannot be used: why, connection, error and a part of its message."""

    def open(self, connection: Connection, root: Path) -> Target:
        """Open the warehouse with the state folder of this test."""
        return open_target(connection, root / "state")


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
        TypeCase("VARCHAR", Kind.TEXT, tuple(map(_duckdb_text, NASTY_TEXTS))),
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


def _duckdb_text(value: str | None) -> str:
    if value is None:
        return "NULL::VARCHAR"
    return " || chr(0) || ".join("'" + part.replace("'", "''") + "'" for part in value.split("\x00"))


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

    def connection(self, root: Path, wait: float = 5) -> Connection:
        folder = root / "server_0"
        folder.mkdir(exist_ok=True)
        return DuckdbConnection(name="server_0", path=folder, lock_wait=timedelta(seconds=wait))

    def run(self, connection: Connection, database: str, *statements: str) -> None:
        with closing(duckdb.connect(str(_file(connection, database)))) as db:
            for statement in statements:
                db.execute(statement)

    def numbers(self, rows: int) -> str:
        return f"range({rows}) AS numbers(i)"

    def text(self, value: str | None) -> str:
        return _duckdb_text(value)

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
    refused = ("INTERVAL", "INTEGER[]", "TIMETZ")

    def connection(self, root: Path, wait: float = 5) -> Connection:
        return DuckdbConnection(name="dwh", path=root / "warehouse.duckdb", lock_wait=timedelta(seconds=wait))

    def texts(self, connection: Connection, sql: str) -> list[tuple[Any, ...]]:
        with closing(duckdb.connect(str(_file(connection)), read_only=True)) as db:
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


SOURCES: tuple[SourceKit, ...] = (DuckdbSourceKit(),)
TARGETS: tuple[TargetKit, ...] = (DuckdbTargetKit(),)
