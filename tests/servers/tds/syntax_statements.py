"""What T-SQL's statements say, as a tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, Union

from .syntax import Expr, Parts, Predicate, Query, Source
from .types import SqlType


@dataclass(frozen=True)
class ColumnDef:
    """A column of CREATE TABLE."""

    name: str
    type: SqlType
    nullable: bool | None = None
    identity: bool = False
    primary: bool = False
    default: Expr | None = None


@dataclass(frozen=True)
class Insert:
    """INSERT INTO t (...) VALUES/SELECT; None in a row is DEFAULT, no rows and no query: DEFAULT VALUES."""

    table: Parts
    columns: tuple[str, ...]
    rows: tuple[tuple[Expr | None, ...], ...] = ()
    query: Query | None = None


@dataclass(frozen=True)
class Update:
    """UPDATE t SET ... FROM ... WHERE."""

    table: Parts
    changes: tuple[tuple[str, Expr], ...]
    source: Source | None
    where: Predicate | None


@dataclass(frozen=True)
class Delete:
    """DELETE FROM t WHERE."""

    table: Parts
    where: Predicate | None


@dataclass(frozen=True)
class CreateTable:
    """CREATE TABLE."""

    table: Parts
    columns: tuple[ColumnDef, ...]
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class DropTable:
    """DROP TABLE [IF EXISTS]."""

    tables: tuple[Parts, ...]
    if_exists: bool


@dataclass(frozen=True)
class Truncate:
    """TRUNCATE TABLE."""

    table: Parts


@dataclass(frozen=True)
class CreateDatabase:
    """CREATE DATABASE."""

    name: str


@dataclass(frozen=True)
class DropDatabase:
    """DROP DATABASE [IF EXISTS]."""

    name: str
    if_exists: bool


@dataclass(frozen=True)
class AlterDatabase:
    """ALTER DATABASE x SET option ON|OFF."""

    name: str
    option: str
    on: bool


@dataclass(frozen=True)
class Use:
    """USE."""

    database: str


@dataclass(frozen=True)
class SetOption:
    """SET option value: the words in upper case, a number or a variable as it stands."""

    option: str
    value: str


@dataclass(frozen=True)
class SetVariable:
    """SET @x = ... and DECLARE @x type [= ...]."""

    name: str
    value: Expr | None
    type: SqlType | None = None


@dataclass(frozen=True)
class Transaction:
    """BEGIN, COMMIT, ROLLBACK."""

    word: str


@dataclass(frozen=True)
class WaitFor:
    """WAITFOR DELAY."""

    delay: Expr


@dataclass(frozen=True)
class Print:
    """PRINT."""

    text: Expr


@dataclass(frozen=True)
class Raise:
    """RAISERROR and THROW."""

    arguments: tuple[Expr, ...]
    word: str


@dataclass(frozen=True)
class Execute:
    """EXEC procedure: arguments with the names that were given."""

    procedure: str
    arguments: tuple[tuple[str | None, Expr], ...]
    #: The variable that takes the return code.
    result: str | None = None


@dataclass(frozen=True)
class If:
    """IF ... ELSE."""

    condition: Predicate
    then: tuple[Command, ...]
    otherwise: tuple[Command, ...] = ()


@dataclass(frozen=True)
class Nothing:
    """A statement that changes nothing here: indexes, grants, statistics."""

    word: str = ""


Action: TypeAlias = Union[
    "Query",
    "Insert",
    "Update",
    "Delete",
    "CreateTable",
    "DropTable",
    "Truncate",
    "CreateDatabase",
    "DropDatabase",
    "AlterDatabase",
    "Use",
    "SetOption",
    "SetVariable",
    "Transaction",
    "WaitFor",
    "Print",
    "Raise",
    "Execute",
    "If",
    "Nothing",
]


@dataclass(frozen=True)
class Command:
    """A statement of a batch with its own text."""

    action: Action
    text: str = field(compare=False)
