"""What a target must do: stage slices in many workers at once, publish them in one place.

A new system fulfils this contract and passes `tests/contract/test_targets.py`:

- Workers only ever call `Target.stage`. No reader sees a staged row before the parent publishes its token.
- The parent publishes by `replace_slices`. An SQL system does it in a `Publication`: one transaction. Nothing of it is
  visible before its commit, and all of it is after. Leaving the block by an exception rolls back.
- Staging is per group and dropped whole; `drop_run` drops all that a run ever staged, also when it died.
- A `Refresh` replaces a report: one transaction that deletes all rows of a table and inserts those of a source. Readers
  see the old rows or the new ones: no statement of it commits (TRUNCATE does on some systems), and each is sent alone,
  its answer read to the end.
- `inspection` only reads, and takes no lock that a load would wait for. The engine measures the rows, by the forms of
  `dwhctl/systems/base/fingerprint.py`; only example keys are fetched.
- Every wait has a limit: no answer within the target's `timeout` is an error.
- Several threads open groups and publish at the same time.
- A slice may be staged in parts where the system `stages_parts`: several stages with its token, by several workers at
  once, or one after the other. Each adds its rows, `duplicate_key` looks at all that is there, and the rows of the
  token are published, and counted, together.
- Where it `writes_directly`, a worker may write a slice into the table itself, in a transaction that the parent ends.
- Errors: ConnectError, LoginRefusedError, TargetBusyError (in use by another, after a limited wait), TargetRefusedError
  (the statement or a value, permanent), TargetError (temporary), StagingError. No error text contains a secret.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Self

from msgspec import Struct, field

from dwhctl.core.errors import ValueRefusedError
from dwhctl.core.sql import quote_name, quote_path
from dwhctl.systems.base.staging import (
    Described,
    Publication,
    ReplaceGuard,
    described_each,
    replace_in_transaction,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.project.names import RowSource
    from dwhctl.systems.base.ddl import NewTable
    from dwhctl.systems.base.inspection import Inspection


class StagingGroup(Struct, frozen=True):
    """Where the slices of one publish group are staged: `name` is unique within the run."""

    run_id: str
    name: str
    table: str


@dataclass(frozen=True, slots=True)
class StagedSlice:
    """A slice whose rows are staged under `token`.

    `columns` are those of the source, `filled` those of the target that are NULL because the source lacks them:
    declared types by name in lower case. `direct` is the open transaction in which a worker wrote the rows.
    """

    slice: Slice
    token: str
    etl_id: int
    rows: int
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    filled: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    direct: AbstractContextManager[Publication] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )


class RefreshColumn(Struct, frozen=True):
    """One column of a refresh: `declared` is the system's name of its type.

    `known` is None for a type that no load writes. An `untyped` column is a bare NULL or literal of a query.
    """

    name: str
    declared: str
    known: Column | None
    untyped: bool = False


class RefreshColumns(Struct, frozen=True):
    """The columns of a refresh: the source's and the table's, in their order.

    `filled` are those of the table that have a value without the source: a DEFAULT, an IDENTITY.
    """

    source: tuple[RefreshColumn, ...]
    table: tuple[RefreshColumn, ...]
    filled: frozenset[str] = frozenset()


class Narrowing(Struct, frozen=True):
    """A column of a refresh whose type is narrower in the table than in the source; both are known."""

    source: RefreshColumn
    table: RefreshColumn


class ColumnWarning(Struct, frozen=True):
    """A defect of a table as a target. One that `blocks` makes loads fail; another slows them."""

    text: str
    blocks: bool


class Statement(Struct, frozen=True):
    """A statement as it is sent, with its bound values by name. `about` is its purpose or condition."""

    sql: str
    values: Mapping[str, object] = field(default_factory=dict)
    about: str = ""


#: The purposes of the statements of a publication.
HELD = "the rows that the slice has in the table"
STAGED = "the rows that are staged; another number than was extracted fails the slice"
DELETE = "only where the slice has rows in the table"
INSERT = "another number of rows than was staged is rolled back"


class TableColumns(Struct, frozen=True):
    """The columns of a table. `names` is empty before they are known: then placeholders are shown.

    `slice_by` is the column by which the table is sliced, or only its name; `narrowed` is a refresh's.
    """

    table: str
    slice_by: Column | str | None = None
    names: Sequence[str] = ()
    narrowed: Sequence[Narrowing] = ()

    def listed(self, quote: Callable[[str], str]) -> str:
        """Return the names for a statement, or the placeholder."""
        return ", ".join(map(quote, self.names)) or f"<columns of {self.table}>"


class Stage(ABC):
    """The staging of one slice. Leaving the block by an exception drops what was written."""

    @abstractmethod
    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Stage all the batches, which have the target's columns, and return their size in bytes.

        They are read one by one, so that memory does not grow with their number and extraction continues meanwhile.
        Raise what the batches raise, StagingError or ValueRefusedError.
        """

    @abstractmethod
    def duplicate_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """After `write`: return one key that occurs more than once among the staged rows, if any."""

    @abstractmethod
    def discard(self) -> None:
        """Drop what was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is not None:
            self.discard()


class DirectStage(Stage):
    """The replacement of one slice in the table itself, in one transaction. Its end leaves the transaction open.

    `write` deletes the slice's old rows first; `held` is their number, `written` that of the new rows as the target
    counts them. No reader sees the rows before `commit`.
    """

    held: int = 0
    written: int = 0

    @abstractmethod
    def commit(self) -> None:
        """Commit and disconnect, or keep the connection. After an AttemptError the commit may have happened."""


class Refresh(ABC):
    """One transaction that replaces all rows of a table."""

    @abstractmethod
    def columns(self) -> RefreshColumns:
        """Return the columns of both sides. Raise TargetRefusedError when the source or the table does not exist."""

    @abstractmethod
    def delete(self) -> None:
        """Delete every row of the table."""

    @abstractmethod
    def insert(self, columns: Sequence[str], narrowed: Sequence[Narrowing] = ()) -> int:
        """Insert the source's rows by column name, and return their number.

        Raise ValueRefusedError for a value of a `narrowed` column that would change, TargetRefusedError for one that
        the server refuses.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit. After an AttemptError the table has the old rows or the new ones; refreshing again is right."""


class Target(ABC):
    """One warehouse. It connects when a method needs to."""

    #: Whether it has `write_slice`. Such a transaction lets readers go on, and only a lost one needs `distrust`.
    writes_directly: ClassVar[bool] = False

    def session(self) -> AbstractContextManager[None]:
        """Use one connection for the pieces of work of this thread in the block, where that saves time."""
        return nullcontext()

    @abstractmethod
    def run_statements(self, statements: Sequence[str]) -> None:
        """Run statements one at a time, each in a transaction of its own (a load's `create`)."""

    @abstractmethod
    def columns(self, table: str) -> Sequence[Column]:
        """Return the table's columns in order. Raise TargetRefusedError when there is no such table."""

    def described(self, tables: Sequence[str]) -> Mapping[str, Described]:
        """Return for each table what `columns` returns, or the TargetRefusedError that it raises."""
        return described_each(tables, self.columns)

    def warnings(self, table: str) -> Sequence[ColumnWarning]:  # noqa: ARG002
        """Return what prevents or slows loads into the table: privileges, keys."""
        return ()

    def layout_problem(self, table: str, slice_by: str | None, slices: Sequence[Slice]) -> str | None:  # noqa: ARG002
        """Return why such slices of the table cannot be replaced, with what to do about it; None when they can."""
        return None

    @abstractmethod
    def declaration(self, column: Column) -> str:
        """Return the type that holds the values of another system's column. Raise TargetRefusedError when none does."""

    def create_table(self, table: NewTable) -> Sequence[str]:
        """Return the statements that make a table, and its schema first, unless they exist. Does not connect.

        Sort order, segmentation, partitions or indexes are those that suit the replacement of slices. Raise
        TargetRefusedError for columns without a type here.
        """
        return table.statements(table.columns_sql(self.declaration))

    @abstractmethod
    def add_columns(self, table: str, columns: Sequence[Column]) -> None:
        """Add the nullable columns that the table lacks."""

    @abstractmethod
    def open_group(self, group: StagingGroup) -> None:
        """Create the group's staging object."""

    @abstractmethod
    def drop_group(self, group: StagingGroup) -> None:
        """Drop the group's staging object with its content."""

    @abstractmethod
    def drop_run(self, run_id: str) -> None:
        """Drop everything that the run staged."""

    @abstractmethod
    def stage(self, group: StagingGroup, token: str, columns: Sequence[Column]) -> Stage:
        """Begin to stage a slice (in a worker)."""

    def write_slice(
        self, group: StagingGroup, token: str, columns: Sequence[Column], slice: Slice, slice_by: str | None
    ) -> DirectStage:
        """Begin to replace a slice in the table itself (in a worker). The group has no staging object."""
        raise NotImplementedError("this target is written by its publisher only")

    def distrust(self, group: StagingGroup, token: str) -> None:  # noqa: B027 - only for `write_slice`
        """Record that the transaction of a `write_slice` may still commit: `settle` and `published_rows` end it."""

    def publication(
        self, table: str, slice_by: str | None, timeout: timedelta
    ) -> AbstractContextManager[Publication]:
        """Begin a publishing transaction on the table; no statement of it is waited for longer than `timeout`."""
        raise NotImplementedError("a target without transactions replaces slices in its own way")

    def replace_slices(
        self,
        table: str,
        slice_by: str | None,
        timeout: timedelta,
        group: StagingGroup,
        slices: Sequence[StagedSlice],
        guard: ReplaceGuard,
    ) -> None:
        """Replace the slices' rows in the table by those staged under their tokens, all of them or none.

        Raise AttemptError, with nothing changed, and UncertainCommitError: then `published_rows` shows the outcome.
        """
        replace_in_transaction(self.publication(table, slice_by, timeout), group, slices, guard)

    @abstractmethod
    def refresh(self, table: str, source: RowSource, timeout: timedelta) -> AbstractContextManager[Refresh]:
        """Begin a transaction that replaces the table's rows; `timeout` limits each statement.

        Leaving the block without a commit rolls back.
        """

    @abstractmethod
    def publish_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:
        """Return the statements of a publication of one slice, in order, without a connection.

        Placeholders are shown for what an attempt chooses (`<token>`, its staging object) and, where the column's type
        is not known, for its bounds (`<start>`, `<end>`).
        """

    def direct_statements(self, slice: Slice, columns: TableColumns) -> Sequence[Statement]:  # noqa: ARG002
        """Return the statements of `write_slice`, as `publish_statements` does: none where it cannot write directly."""
        return ()

    @abstractmethod
    def refresh_statements(self, source: RowSource, columns: TableColumns) -> Sequence[Statement]:
        """Return the statements of a refresh, in order, without a connection."""

    def settle(self) -> None:  # noqa: B027 - a file has no server
        """End what the server may still do, with its locks, after failed work or `interrupt`. Raise AttemptError."""

    @abstractmethod
    def inspection(self, table: str, slice_by: str | None) -> AbstractContextManager[Inspection]:
        """Connect to read a table that is sliced by a column."""

    @abstractmethod
    def published_rows(self, table: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        """Count the rows by etl_id; an id without rows is left out. A missing table has none."""

    @abstractmethod
    def highest_etl_id(self, table: str) -> int:
        """Return the highest etl_id in the table; 0 when it has no rows or does not exist."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make the running statement and every later wait fail soon. Called from another thread."""

    @abstractmethod
    def version(self) -> str:
        """Return the system's name and version, asked from the server."""


def refresh_source(source: RowSource) -> str:
    """Return a refresh's source for FROM."""
    # A comment at the query's end must not include the bracket.
    return f"({source.text}\n) AS source" if source.is_query else quote_path(source.text)


def refresh_sql(
    table: str, source: RowSource, columns: TableColumns, checked: Callable[[int, Narrowing], str]
) -> tuple[str, str]:
    """Return DELETE and INSERT of a refresh of the (quoted) table; `checked` writes the value of a narrowed column."""
    checks = {pair.table.name: checked(number, pair) for number, pair in enumerate(columns.narrowed)}
    values = columns.listed(lambda name: checks.get(name, quote_name(name)))
    insert = (
        f"INSERT INTO {table} ({columns.listed(quote_name)}) SELECT {values} FROM {refresh_source(source)}"
    )
    return f"DELETE FROM {table}", insert


#: The most characters of a value in an error.
SHOWN_CHARACTERS = 100
_MARK = "dwhctl-refused"
_CARRIED = re.compile(rf"{_MARK}:(\d+):(.*?):{_MARK}", re.DOTALL)


def carried(number: int, shown: str) -> str:
    """Return the SQL of an error message that contains a value, by an SQL expression for its text."""
    return f"'{_MARK}:{number}:' || LEFT({shown}, {SHOWN_CHARACTERS}) || ':{_MARK}'"


def refused_value(message: str, table: str, narrowed: Sequence[Narrowing]) -> ValueRefusedError | None:
    """Return the error of the value in the engine's message; None when there is none."""
    match = _CARRIED.search(message)
    if match is None:
        return None
    pair = narrowed[int(match[1])]
    return ValueRefusedError(
        f"{table}.{pair.table.name}: the value {match[2]} does not fit {pair.table.declared} (the source gives"
        f" {pair.source.declared}); nothing was changed. Write the CAST or ROUND that is wanted into the source, or"
        " change the table's column"
    )
