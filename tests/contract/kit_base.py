"""What the shared contract suites must know of a system to run over it.

Values are written in the system's own SQL and read back as its own text, so that a comparison sees every digit. What
a suite writes itself is SQL that every system speaks (double-quoted names, ISO dates in texts); the rest it asks the
kit for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError
from dwhctl.project.connections import Connection
from dwhctl.project.query import Query
from dwhctl.systems.base.source import Source
from dwhctl.systems.base.system import SourceOptions, TargetOptions, system_of
from dwhctl.systems.base.target import Target

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


@dataclass(frozen=True)
class TypeCase:
    """A type with values of it, as SQL: the plain, the extreme and the odd."""

    declared: str
    kind: Kind
    values: tuple[str, ...]
    #: What the values are in Python, for comparing them across systems; empty where no suite does.
    expected: tuple[object, ...] = ()


class Kit(ABC):
    """A system: how it writes types and values."""

    name: str
    #: The system's own word for the widest type of each kind; DECIMAL is DECIMAL(38,10), TIME has microseconds.
    words: ClassVar[Mapping[Kind, str]]
    #: Whether this is a server that the environment names: it is slow, and others use it.
    real: bool = False

    @abstractmethod
    def literal(self, kind: Kind, value: object) -> str:
        """A Python value (None is NULL; an aware datetime, a UUID and so on) as a typed expression of the kind."""

    def holds(self, kind: Kind, value: object) -> bool:
        """Whether the system can hold the value at all."""
        return True

    def text(self, value: str | None) -> str:
        """A text as a literal."""
        return self.literal(Kind.TEXT, value)

    def integer(self, value: int) -> str:
        """A 64-bit integer as a literal."""
        return self.literal(Kind.INTEGER, value)

    def columns(self, **kinds: Kind) -> str:
        """Columns for a CREATE TABLE, by name."""
        return ", ".join(f"{name} {self.words[kind]}" for name, kind in kinds.items())


class SourceKit(Kit):
    """A system to read from."""

    types: tuple[TypeCase, ...]
    #: Types that have no place in a Column, with a value of each.
    refused: ClassVar[Mapping[str, str]]
    #: An expression over the row number `i` that fails at row 150,000, in mid-way.
    fails_midway: str
    #: Rows and the length of a text in each that make an answer of some 300 MB.
    many: tuple[int, int]
    #: Whether opening waits for a database that another has; None where nothing keeps a database from being read.
    waits: bool | None
    #: Whether the system itself describes and refuses queries, and opening connects. Else the load declares columns.
    describes: bool = True

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
    def create_as(self, table: str, select: str) -> tuple[str, ...]:
        """Statements that make a table of the answer to a query, in the place of one that is there."""

    def query(self, connection: Connection, database: str, query: Query, zone: str = "UTC") -> Query:
        """Give what a load would ask for in place of the suite's SQL."""
        return query

    def repeat(self, text: str, times: int) -> str:
        """An expression for a text so many times over."""
        return f"repeat('{text}', {times})"

    def null(self, case: TypeCase) -> str:
        """A NULL of a type."""
        return f"nullif({case.values[0]}, {case.values[0]})"

    def only_nulls(self, case: TypeCase) -> str:
        """An expression of the type over the row number `i` that is NULL in every row."""
        return f"CASE WHEN i < 0 THEN {case.values[0]} END"

    @abstractmethod
    def busy(self, connection: Connection, database: str) -> AbstractContextManager[None]:
        """Keep the database from being read."""

    @abstractmethod
    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        """What cannot be opened: why, connection, database, error and a part of its message."""

    def database(self, name: str) -> str:
        """How a database of that name is called on the server: on a real one the tests keep to their own."""
        return name

    def open(self, connection: Connection, database: str = "abakan", zone: str = "UTC") -> Source:
        """Open a database."""
        return system_of(connection).open_source(connection, self.database(database), SourceOptions(zone))


class TargetKit(Kit):
    """A system to write to."""

    #: Types of its columns by the kind that they hold.
    types: tuple[TypeCase, ...]
    #: Types that no Column can describe.
    refused: Sequence[str]
    #: Columns that the system computes from `id`, the first of them `next_id`; empty where there are none.
    computed: str = ""
    #: Values that do not fit into a column: of which kind, the value, and the column's type.
    misfits: Sequence[tuple[Kind, object, str]]

    def layout(self, slice_by: str | None, columns: str, zone: str) -> str:
        """What a CREATE TABLE of the table of slices ends with."""
        return ""

    def written(self, kind: Kind, value: object, word: str) -> str:
        """A value as an expression of what a column of a type shows of it."""
        if kind is not Kind.DECIMAL:
            return self.literal(kind, value)
        # No one decimal type holds the decimals of all.
        return f"CAST('{value:f}' AS {word})" if isinstance(value, Decimal) else f"CAST(NULL AS {word})"

    @abstractmethod
    def word(self, column: Column) -> str:
        """The type of a column that holds whatever a source's column holds."""

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
        return system_of(connection).open_target(connection, TargetOptions(root / "state"))
