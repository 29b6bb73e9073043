"""What a system offers, in one record; its folder holds a `System` and everything behind it.

Drivers are imported when a source, target or cursor is opened. The type map has what every type of a source becomes in
Arrow, and in the new column of every target: each system knows its own types, and they meet only here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

from msgspec import Struct

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import InternalError, TargetRefusedError, UsageError
from dwhctl.core.sql import unclosed
from dwhctl.project.connections import SYSTEMS, Connection, SystemUses, types_for

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.project.query import Query
    from dwhctl.systems.base.source import Cursor, Source
    from dwhctl.systems.base.target import Target

AnyClosable = TypeVar("AnyClosable", bound="Closable")
#: How long an answer of the warehouse is waited for by default.
ANSWER_TIMEOUT = timedelta(minutes=30)
#: The most digits of Arrow's decimals, which have 128 or 256 bits.
_MOST_DIGITS_128, _MOST_DIGITS_256 = 38, 76


class SourceOptions(Struct, frozen=True):
    """How a source is opened. Naive bounds of a query are read in `zone`.

    A server that is silent for `timeout` seconds is given up; None leaves that to the deadline of the attempt.
    `login_known` says whether the connection's login was accepted, or refused, a moment ago. An embedded source spills
    into `state_dir`; without one it keeps to its memory. `keep`: its connection is kept (KEPT) after the last row.
    """

    zone: str
    timeout: float | None = None
    login_known: bool | None = None
    state_dir: Path | None = None
    keep: bool = False


class TargetOptions(Struct, frozen=True):
    """How a target is opened. What it stages outside of the warehouse is in the state folder.

    `timeout` bounds every wait for an answer of a server; `label` begins the labels of the sessions there. `keep`: the
    connection of a stage is kept (KEPT) after its commit.
    """

    state_dir: Path
    timeout: timedelta = ANSWER_TIMEOUT
    label: str = "dwhctl"
    keep: bool = False


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Close it. Idempotent."""


class KeptConnections:
    """What a worker keeps open from one slice to the next: at most one connection of a source and one of a target.

    The run holds their slots meanwhile. A system puts one in only as it would be after a new login: without a
    transaction, lock, temporary table or setting of its slice. It takes one out only for the same server, database and
    login, which is the `key`, and connects anew, at no cost to the attempt, where the kept one is lost.
    """

    def __init__(self) -> None:
        self._kept: dict[bool, tuple[object, Closable]] = {}

    def put(self, key: object, connection: Closable, *, target: bool) -> None:
        """Keep a connection, of a source or of a target."""
        self._kept[target] = key, connection

    def take(self, key: object, kind: type[AnyClosable], *, target: bool) -> AnyClosable | None:
        """Take the kept connection out. One with another key is closed: its slot is for the new one."""
        kept_key, connection = self._kept.pop(target, (None, None))
        if kept_key == key and isinstance(connection, kind):
            return connection
        if connection is not None:
            connection.close()
        return None

    @property
    def kept(self) -> tuple[bool, bool]:
        """Whether a connection of a source is kept, and whether one of a target is."""
        return False in self._kept, True in self._kept

    def close(self, keep: tuple[bool, bool] = (False, False)) -> None:
        """Close what is not to be kept."""
        for target in (False, True):
            if target in self._kept and not keep[target]:
                self._kept.pop(target)[1].close()


#: Empty but in the worker processes of a load.
KEPT = KeptConnections()


class CursorOptions(Struct, frozen=True):
    """How a cursor is opened. `timeout` is how long the server may be silent, where the driver supports it.

    DuckDB spills into `state_dir`; without one it keeps to its memory.
    """

    write: bool
    timeout: timedelta | None = None
    state_dir: Path | None = None


class SourceType(Struct, frozen=True):
    """A type of a source, as a query declares it. `column` is None where it is refused: then `note` is the remedy."""

    name: str
    column: Column | None
    note: str


class TypeRow(Struct, frozen=True):
    """One of a source's types, by its name there. `kind` is None for a type that is refused.

    `note` is what the values become, or what to write instead; `arrow` Arrow's name of the type, empty where it depends
    on precision and scale.
    """

    name: str
    kind: Kind | None
    note: str
    arrow: str = ""


def decimal_type(digits: int, places: int) -> pa.DataType | None:
    """Return Arrow's decimal of so many digits, with so many of them after the point; None where it has no such."""
    import pyarrow as pa

    if digits > _MOST_DIGITS_256:
        return None
    return (pa.decimal128 if digits <= _MOST_DIGITS_128 else pa.decimal256)(digits, places)


def time_type(kind: Kind, unit: str) -> pa.DataType:
    """Return Arrow's type of times, of timestamps or of instants."""
    import pyarrow as pa

    if kind is Kind.TIME:
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return pa.timestamp(unit, tz="UTC" if kind is Kind.TIMESTAMPTZ else None)


AnyConnection = TypeVar("AnyConnection", bound=Connection)


class System(SystemUses, Generic[AnyConnection]):
    """A system of one type of connection. It implements what its uses (`is_source`, ...) promise.

    Packages register an instance of theirs under its type as an entry point of the group `dwhctl.systems`, and run the
    suites in `tests/contract` over it.
    """

    #: The module with the functions `source_types` of a source and `declaration` of a target, imported when used.
    types_module: ClassVar[str] = ""

    def open_source(self, connection: AnyConnection, database: str, options: SourceOptions) -> Source:
        """Open a shard's database. Raise AttemptError."""
        raise InternalError(f"connection {connection.name}: {connection.type} is no source")

    def open_target(self, connection: AnyConnection, options: TargetOptions) -> Target:
        """Return the target behind a connection."""
        raise InternalError(f"connection {connection.name}: {connection.type} is no target")

    def open_cursor(self, connection: AnyConnection, database: str | None, options: CursorOptions) -> Cursor:
        """Return the cursor for a connection; it does not connect before `open`.

        `database` is one behind the connection, None for its own. Raise UsageError for one that it cannot have.
        """
        raise UsageError(f"connection {connection.name}: {connection.type} takes no queries")

    def list_databases(self, connection: AnyConnection, timeout: float) -> list[str]:
        """Return the databases behind a connection that could be shards; none where a connection is one database.

        Raise AttemptError.
        """
        return []

    def probe(self, connection: AnyConnection) -> None:
        """Wait for the answer to a probe of a source that `has_probe`. Raise ConnectError."""

    def source_types(self) -> Sequence[SourceType]:
        """Return the types of a source, those with a length or precision by an example, and the refused ones."""
        return self._types().source_types() if self.types_module and self.is_source else ()

    def declaration(self, column: Column) -> str:
        """Return a target's type that holds the values of another system's column.

        Raise TargetRefusedError when there is none.
        """
        if self.types_module and self.is_target:
            return str(self._types().declaration(column))
        raise TargetRefusedError(f"column {column.name}: no type is known that holds {column.declared}")

    def _types(self) -> Any:
        return import_module(self.types_module)

    def extract_problem(self, sql: str) -> str | None:
        """Return why a source would refuse the extract, as far as its text alone shows it."""
        return unclosed(sql)

    def shown_request(self, connection: AnyConnection, query: Query) -> str:
        """Return the first request of a source that `takes_endpoint`, as it would be sent, without its secrets."""
        raise InternalError(f"connection {connection.name}: {connection.type} takes no endpoint")

    def statement_problem(self, statement: str) -> str | None:
        """Return why a target would refuse a statement, as far as its text alone shows it."""
        return unclosed(statement)


def system_of(connection: Connection) -> System[Any]:
    return _system(connection.type)


def _system(kind: str) -> System[Any]:
    return cast("System[Any]", SYSTEMS[kind])


def refuse_other_database(connection: Connection, database: str | None) -> None:
    """Raise UsageError for a database beside the connection's own, where it has one only."""
    if database is not None and database != getattr(connection, "database", None):
        raise UsageError(f"connection {connection.name} has one database; leave --database out")


class TypeMapRow(Struct, frozen=True):
    """A source's type and the type of a new column for it, by target; None where the target has none."""

    source: SourceType
    targets: Mapping[str, str | None]

    @property
    def arrow(self) -> str:
        """The name of the Arrow type; empty for a type that is refused."""
        return str(self.source.column.type) if self.source.column else ""


def type_map(source: str) -> Sequence[TypeMapRow]:
    """Return the rows of a source's types, by the source's type of connection."""
    targets = {name: _system(name) for name in types_for("is_target")}
    return [
        TypeMapRow(row, {name: _declared(target, row.column) for name, target in targets.items()})
        for row in _system(source).source_types()
    ]


def _declared(target: System[Any], column: Column | None) -> str | None:
    if column is None:
        return None
    try:
        return target.declaration(column)
    except TargetRefusedError:
        return None
