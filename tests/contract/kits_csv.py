"""The kits of the CSV files of `tests/csv_system`, a system that is not in dwhctl."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from dwhctl_csv.engine import Engine
from dwhctl_csv.system import CsvConnection
from dwhctl_csv.target import CsvTarget

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    QueryError,
    TargetRefusedError,
)
from dwhctl.project.connections import Connection
from tests.contract.kits_duckdb import DuckdbSourceKit, DuckdbTargetKit

_ERRORS = (TargetRefusedError, TargetRefusedError)
#: DuckDB's types without those that a CSV table does not have.
_TYPES = tuple(case for case in DuckdbTargetKit.types if case.declared not in ("HUGEINT", "JSON"))


@contextmanager
def locked_by_another(folder: Path) -> Iterator[None]:
    """Hold the folder as a writer does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class CsvSourceKit(DuckdbSourceKit):
    """Folders of CSV files. The extracts are DuckDB's SQL."""

    name = "csv"
    types = _TYPES
    refused: ClassVar[Mapping[str, str]] = {**DuckdbSourceKit.refused, "HUGEINT": "1::HUGEINT"}
    many = (1_500_000, 200)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        folder = root / "server_0"
        folder.mkdir(exist_ok=True)
        return CsvConnection(name="server_0", path=folder, lock_wait=timedelta(seconds=wait))

    def run(self, connection: Connection, database: str, *statements: str) -> None:
        assert isinstance(connection, CsvConnection)
        folder = CsvConnection(name="shard", path=connection.path / database)
        CsvTarget(folder, connection.path / "state").run_statements(statements)

    @contextmanager
    def busy(self, connection: Connection, database: str) -> Iterator[None]:
        assert isinstance(connection, CsvConnection)
        with locked_by_another(connection.path / database):
            yield

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        gone = CsvConnection(name="gone", path=root / "nowhere")
        yield "no server", gone, "abakan", ConnectError, str(root / "nowhere")
        here = self.connection(root)
        assert isinstance(here, CsvConnection)
        yield "no database", here, "missing", DatabaseMissingError, "missing"
        (here.path / "file").write_text("i:BIGINT\n")
        yield "a file", here, "file", DatabaseMissingError, "file"
        for name, text, words in (
            ("empty", "", "has no header"),
            ("untyped", "i\n1\n", "column 'i' has no type"),
            ("odd_type", "i:NUMBER\n1\n", "there is no type NUMBER"),
            ("twice", "i:BIGINT,I:DATE\n1,\n", "column I occurs twice"),
            ("value", "i:BIGINT\n1\nx\n", "t.csv: column i: the value x is not of the type BIGINT"),
            ("rounded", "i:BIGINT\n1\n1.5\n", "the value 1.5 is not of the type BIGINT"),
            ("short", "i:BIGINT,j:DATE\n1,\n2\n", "Expected 2 columns, got 1"),
            ("cut_off", 'i:BIGINT,j:VARCHAR\n1,"a\n2,b\n', "a quote is not closed"),
            ("default", "i:BIGINT DEFAULT pi()\n1\n", "a DEFAULT can only be a literal"),
        ):
            (here.path / name).mkdir()
            (here.path / name / "t.csv").write_text(text)
            yield name, here, name, QueryError, words
        (here.path / "latin").mkdir()
        (here.path / "latin" / "t.csv").write_bytes(b"i:VARCHAR\n\xff\n")
        yield "latin", here, "latin", QueryError, "UTF8"


class CsvTargetKit(DuckdbTargetKit):
    """A folder of CSV files."""

    name = "csv"
    types = _TYPES
    words = DuckdbTargetKit.words
    computed = ""

    def word(self, column: Column) -> str:
        return "TIMESTAMP WITH TIME ZONE" if column.kind is Kind.TIMESTAMPTZ else super().word(column)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        return CsvConnection(name="dwh", path=root / "warehouse", lock_wait=timedelta(seconds=wait))

    def texts(self, connection: Connection, sql: str) -> list[tuple[str | None, ...]]:
        assert isinstance(connection, CsvConnection)
        with Engine(connection.path, _ERRORS) as engine:
            return engine.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({sql})").fetchall()

    @contextmanager
    def busy(self, connection: Connection) -> Iterator[None]:
        assert isinstance(connection, CsvConnection)
        with locked_by_another(connection.path):
            yield

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, type[AttemptError], str]]:
        gone = CsvConnection(name="dwh", path=root / "nowhere" / "warehouse")
        yield "no folder", gone, TargetRefusedError, str(root / "nowhere")
        text = CsvConnection(name="dwh", path=root / "text")
        text.path.write_text("a file\n")
        yield "a file", text, TargetRefusedError, "text"
