"""Stage in a table of the publish group, and replace slices by the staged rows in one transaction.

The names of staging tables and the labels of sessions, by which a later run finds what a dead run left; the SQL of a
publication; the conditions of slices; the bytes of a COPY; and the transaction that the SQL systems share.

`Target.replace_slices` is the operation. A system without such transactions has one of its own, and keeps the same
promises: a slice appears whole or not at all, exactly the rows of the given tokens are published, what `guard` refuses
keeps its old rows, and nothing is published after `guard.permit` has raised.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from msgspec import Struct

from dwhctl.core.columns import OWN_COLUMNS, Column, Kind
from dwhctl.core.errors import CountsDifferError, StagingError, TargetError, TargetRefusedError
from dwhctl.core.faults import reach
from dwhctl.core.sql import literal, quote_name
from dwhctl.systems.base.inspection import held_values_sql, read_held_values

if TYPE_CHECKING:
    import pyarrow as pa

    from dwhctl.project.days import Slice
    from dwhctl.systems.base.server import ServerClient
    from dwhctl.systems.base.target import StagedSlice, StagingGroup

AnyClient = TypeVar("AnyClient", bound="ServerClient")
#: The columns of a table, or why a load cannot use it.
Described = Sequence[Column] | TargetRefusedError
#: The column of a staging table with the token of the attempt that staged the row.
TOKEN = OWN_COLUMNS[-1]
_DIGEST_OCTETS = 8
#: The most octets of a group's name in a label. Vertica cuts a label after 255 characters, and the token follows.
_LABEL_OCTETS = 128


def described_each(
    tables: Iterable[str], describe: Callable[[str], Sequence[Column]]
) -> dict[str, Described]:
    """Return for each table what `describe` returns, or the TargetRefusedError that it raises."""
    found: dict[str, Described] = {}
    for table in tables:
        try:
            found[table] = describe(table)
        except TargetRefusedError as error:
            found[table] = error
    return found


def is_plain_id(run_id: str) -> bool:
    """Return whether labels and staging tables of this run id cannot be taken for those of another run."""
    return re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", run_id) is not None


def staging_prefix(run_id: str) -> str:
    """Return the prefix of the names of a run's staging tables, which no other run has."""
    return f"dwhctl_{_plain(run_id)}__"


def staging_name(group: StagingGroup, octets: int) -> str:
    """Return the name of a group's staging table: at most `octets` octets long, and the same for no other group."""
    prefix = staging_prefix(group.run_id)
    return prefix + _shortened(group.name, octets - len(prefix))


def run_label(run_id: str) -> str:
    """Return the prefix of the labels of a run's sessions; a colon follows it."""
    return f"dwhctl:{run_id}"


def stage_label(group: StagingGroup) -> str:
    """Return the prefix of the labels of the sessions that stage in a group; a colon follows it."""
    return f"{run_label(group.run_id)}:stage:{_shortened(group.name, _LABEL_OCTETS)}"


def _shortened(name: str, octets: int) -> str:
    plain = _plain(name)
    if len(plain) <= octets:
        return plain
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
    return plain[: max(0, octets - len(digest) - 1)] + "_" + digest


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        return f"DATE {literal(first_date(bound))}"
    type_ = "TIMESTAMPTZ" if kind is Kind.TIMESTAMPTZ else "TIMESTAMP"
    return f"{type_} {literal(bound.isoformat(sep=' '))}"


def first_date(bound: datetime) -> str:
    """Return the first date whose midnight is not before the bound."""
    return (bound + timedelta(days=1) - timedelta(microseconds=1)).date().isoformat()


class Literals(Struct, frozen=True):
    """How a system writes a text, and a bound of a column of some kind."""

    text: Callable[[str], str] = literal
    moment: Callable[[datetime, Kind], str] = _moment


STANDARD = Literals()


def conditions(
    slices: Sequence[Slice], slice_by: Column | str | None, form: Literals = STANDARD
) -> Iterator[tuple[str, str]]:
    """Yield, for each pair of bounds, a condition of the shards, and one of the bounds ("" for none).

    A column that is a name has no known type: its bounds are the placeholders `<start>` and `<end>`.
    """
    by_bounds: dict[str, list[str]] = {}
    for slice in slices:
        by_bounds.setdefault(_bounds(slice, slice_by, form), []).append(slice.shard)
    for bounds, shards in by_bounds.items():
        yield of_shards(shards, form), bounds


def literals(texts: Sequence[str]) -> str:
    """Return texts as a list for IN."""
    return ", ".join(map(literal, texts))


def of_shards(shards: Sequence[str], form: Literals = STANDARD) -> str:
    """Return the condition of the rows of these shards."""
    return f"etl_source IN ({', '.join(map(form.text, shards))})"


def _bounds(slice: Slice, slice_by: Column | str | None, form: Literals) -> str:
    if slice_by is None:
        return ""
    if isinstance(slice_by, str):
        return _between(slice_by, "<start>", "<end>")
    start, end = (form.moment(bound, slice_by.kind) for bound in bounds_of(slice, slice_by))
    return _between(slice_by.name, start, end)


def bounds_of(slice: Slice, column: Column) -> tuple[datetime, datetime]:
    """Return the bounds of a slice as the column holds times. Raise TargetError for a slice without bounds."""
    zoned = column.kind is Kind.TIMESTAMPTZ
    start, end = (slice.start_at, slice.end_at) if zoned else (slice.start, slice.end)
    if start is None or end is None:
        raise TargetError(f"the slice {slice.day} of {slice.shard} has no bounds")
    return start, end


def _between(column: str, start: str, end: str) -> str:
    return f"{quote_name(column)} >= {start} AND {quote_name(column)} < {end}"


def slice_conditions(
    slices: Sequence[Slice], slice_by: Column | str | None, form: Literals = STANDARD
) -> Iterator[str]:
    """Yield the condition of the slices' rows for each pair of bounds."""
    for shards, bounds in conditions(slices, slice_by, form):
        yield f"{shards} AND {bounds}" if bounds else shards


def held_sql(table: str, where: str) -> str:
    """Return the query of the number of rows by shard."""
    return f"SELECT etl_source, COUNT(*) FROM {table} WHERE {where} GROUP BY etl_source"


def staged_sql(staging: str, tokens: str) -> str:
    """Return the query of the number of staged rows by token."""
    return f"SELECT {TOKEN}, COUNT(*) FROM {staging} WHERE {TOKEN} IN ({tokens}) GROUP BY {TOKEN}"


def delete_sql(table: str, where: str) -> str:
    return f"DELETE FROM {table} WHERE {where}"


def insert_sql(table: str, staging: str, names: str, tokens: str, values: str = "") -> str:
    """Return the statement that inserts the staged rows of these tokens; `values` is what is selected for `names`."""
    return (
        f"INSERT INTO {table} ({names}) SELECT {values or names} FROM {staging} WHERE {TOKEN} IN ({tokens})"
    )


def gone(table: object) -> StagingError:
    """Return the error of a staging table that does not exist: its run has ended, or was ended."""
    return StagingError(f"the staging table {table} is gone: the run that made it has ended")


#: How many duplicate hash_ids are checked for a duplicate key.
CANDIDATES = 10


class Encoder(Protocol):
    """Writes the rows of batches for COPY."""

    def pieces(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield a batch's bytes, about a megabyte at a time. Raise ValueError when its columns differ."""


class BatchStream:
    """The bytes of a COPY: it reads a batch when the one before is sent.

    An exception of the batches is kept in `failure`; the driver, which sends its text to the server, gets another. The
    driver reads no answer before the stream ends, so the stream ends early when the server `has_refused`.
    """

    def __init__(
        self, batches: Iterator[pa.RecordBatch], encoder: Encoder, has_refused: Callable[[], bool]
    ) -> None:
        self._pieces = self._encoded(batches, encoder)
        self._has_refused = has_refused
        self.stopped = False
        self.rows = 0
        self.bytes = 0
        self.failure: Exception | None = None

    def read(self, _size: int) -> bytes:
        """Return about as many bytes as one message to the server holds; none at the end."""
        if self._has_refused():
            self.stopped = True
            return b""
        try:
            piece = next(self._pieces, b"")
        except Exception as error:
            self.failure = error
            raise RuntimeError("the rows ended by an error") from None
        self.bytes += len(piece)
        return piece

    def _encoded(self, batches: Iterator[pa.RecordBatch], encoder: Encoder) -> Iterator[bytes]:
        for batch in batches:
            yield from encoder.pieces(batch)
            self.rows += batch.num_rows


#: Finds which of these columns hold a value in any row of these shards, by shard.
HeldValues = Callable[[Sequence[str], Sequence[str]], Mapping[str, frozenset[str]]]


class ReplaceGuard(ABC):
    """Decides which slices may be replaced, and whether they still may."""

    @abstractmethod
    def allowed(
        self, slices: Sequence[StagedSlice], held: Mapping[str, int], held_values: HeldValues
    ) -> Sequence[StagedSlice]:
        """Return the slices that may be replaced. `held` are the rows that the table has of each, by shard."""

    @abstractmethod
    def permit(self, slices: Sequence[StagedSlice]) -> None:
        """Raise when these slices may not be published any more. Called right before they become visible."""


class UncertainCommitError(Exception):
    """The commit of these slices gave an error: it may have happened all the same."""

    def __init__(self, error: Exception, slices: Sequence[StagedSlice]) -> None:
        super().__init__(str(error))
        self.error = error
        self.slices = slices


class Publication(ABC):
    """One publishing transaction."""

    @abstractmethod
    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        """Count the rows that the target holds of each slice, by shard; a shard without rows may be left out."""

    @abstractmethod
    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Find which of these columns hold a value in any row of each shard; a shard with none may be left out."""

    @abstractmethod
    def staged_rows(self, group: StagingGroup, tokens: Sequence[str]) -> Mapping[str, int]:
        """Count the staged rows of each token."""

    @abstractmethod
    def delete(self, slices: Sequence[Slice]) -> None:
        """Delete the target's rows of these slices."""

    @abstractmethod
    def insert(self, group: StagingGroup, tokens: Sequence[str]) -> int:
        """Insert the rows staged under these tokens and return their number."""

    @abstractmethod
    def commit(self) -> None:
        """Commit. Any AttemptError of it leaves the outcome in doubt: `published_rows` shows it.

        A target whose server may still be at the commit then ends it before it counts or publishes again.
        """


class ServerPublication(Publication, Generic[AnyClient]):
    """One transaction in one session, on a (quoted) table that is sliced by the column `slice_by`."""

    def __init__(self, client: AnyClient, table: str, slice_by: Column | None) -> None:
        self._client = client
        self._table = table
        self._slice_by = slice_by

    def held_rows(self, slices: Sequence[Slice]) -> Mapping[str, int]:
        held: dict[str, int] = {}
        for where in slice_conditions(slices, self._slice_by):
            rows = self._client.query(held_sql(self._table, where))
            held.update((str(shard), int(count)) for shard, count in rows)
        return held

    def held_values(self, shards: Sequence[str], columns: Sequence[str]) -> Mapping[str, frozenset[str]]:
        sql = held_values_sql(self._table, of_shards(shards), list(map(quote_name, columns)))
        return read_held_values(self._client.query(sql), columns)

    def delete(self, slices: Sequence[Slice]) -> None:
        for where in slice_conditions(slices, self._slice_by):
            self._client.query(delete_sql(self._table, where))

    def commit(self) -> None:
        self._client.query("COMMIT")


def replace_in_transaction(
    transaction: AbstractContextManager[Publication],
    group: StagingGroup,
    slices: Sequence[StagedSlice],
    guard: ReplaceGuard,
) -> None:
    """Count what the table holds, delete the old rows, insert the staged ones, compare the counts, commit.

    Raise AttemptError, with nothing changed, and UncertainCommitError.
    """
    reach("publish.begin")
    with transaction as publication:
        reach("publish.held")
        held = publication.held_rows([staged.slice for staged in slices])
        allowed = guard.allowed(slices, held, publication.held_values)
        changes = [staged for staged in allowed if staged.rows or held.get(staged.slice.shard)]
        if changes:
            _replace(publication, group, changes, held)
            _commit(publication, changes, guard)


def _replace(
    publication: Publication, group: StagingGroup, slices: Sequence[StagedSlice], held: Mapping[str, int]
) -> None:
    filled = [staged for staged in slices if staged.rows]
    tokens = [staged.token for staged in filled]
    if tokens:
        reach("publish.staged")
        compare_staged(filled, publication.staged_rows(group, tokens))
    old = [staged.slice for staged in slices if held.get(staged.slice.shard)]
    if old:
        reach("publish.delete")
        publication.delete(old)
    if tokens:
        reach("publish.insert")
        inserted, wanted = publication.insert(group, tokens), sum(staged.rows for staged in filled)
        if inserted != wanted:
            raise CountsDifferError(f"{wanted} rows were staged, but {inserted} inserted")


def compare_staged(slices: Sequence[StagedSlice], found: Mapping[str, int]) -> None:
    """Raise CountsDifferError unless as many rows are staged under each token as were extracted."""
    for staged in slices:
        rows = found.get(staged.token, 0)
        if rows != staged.rows:
            raise CountsDifferError(
                f"{staged.slice.shard}: {staged.rows} rows were extracted, but {rows} are staged"
            )


def _commit(publication: Publication, slices: Sequence[StagedSlice], guard: ReplaceGuard) -> None:
    reach("publish.commit")
    guard.permit(slices)
    # Stopped here for long, this run may be reaped: its session on the server is ended before its sessions are closed.
    reach("publish.fenced")
    try:
        publication.commit()
    except Exception as error:  # a defect, too, may have let it happen
        raise UncertainCommitError(error, slices) from error
    reach("publish.committed")
