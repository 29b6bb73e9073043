"""Stage in a table of the publish group: what the systems share that do so.

The names of staging tables and the labels of sessions, by which a later run finds what a dead run left; the SQL of a
publication; the conditions of slices; and the bytes of a COPY.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from dwhctl.core.columns import Kind
from dwhctl.core.errors import StagingError, TargetError
from dwhctl.systems.base.fingerprint import literal, quote_name
from dwhctl.systems.base.target import DELETE, HELD, INSERT, STAGED, Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from dwhctl.core.columns import Column
    from dwhctl.project.days import Slice
    from dwhctl.systems.base.target import StagingGroup, TableColumns

#: The column of a staging table with the token of the attempt that staged the row.
TOKEN = "dwhctl_token"  # noqa: S105
_DIGEST_OCTETS = 8


def is_plain_id(run_id: str) -> bool:
    """Return whether labels and staging tables of this run id cannot be taken for those of another run."""
    return re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", run_id) is not None


def staging_prefix(run_id: str) -> str:
    """Return the prefix of the names of a run's staging tables, which no other run has."""
    return f"dwhctl_{_plain(run_id)}__"


def staging_name(group: StagingGroup, octets: int) -> str:
    """Return the name of a group's staging table: at most `octets` octets long, and the same for no other group."""
    prefix, rest = staging_prefix(group.run_id), _plain(group.name)
    if len(prefix) + len(rest) > octets:
        digest = hashlib.blake2b(group.name.encode(), digest_size=_DIGEST_OCTETS).hexdigest()
        rest = rest[: max(0, octets - len(prefix) - len(digest) - 1)] + "_" + digest
    return prefix + rest


def run_label(run_id: str) -> str:
    """Return the prefix of the labels of a run's sessions; a colon follows it."""
    return f"dwhctl:{run_id}"


def stage_label(group: StagingGroup) -> str:
    """Return the prefix of the labels of the sessions that stage in a group; a colon follows it."""
    return f"{run_label(group.run_id)}:stage:{_plain(group.name)}"


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())


def conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[tuple[str, str]]:
    """Yield, for each pair of bounds, a condition of the shards, and one of the bounds ("" for none).

    A column that is a name has no known type: its bounds are the placeholders `<start>` and `<end>`.
    """
    by_bounds: dict[str, list[str]] = {}
    for slice in slices:
        by_bounds.setdefault(_bounds(slice, slice_by), []).append(slice.shard)
    for bounds, shards in by_bounds.items():
        yield of_shards(shards), bounds


def literals(texts: Sequence[str]) -> str:
    """Return texts as a list for IN."""
    return ", ".join(map(literal, texts))


def of_shards(shards: Sequence[str]) -> str:
    """Return the condition of the rows of these shards."""
    return f"etl_source IN ({literals(shards)})"


def _bounds(slice: Slice, slice_by: Column | str | None) -> str:
    if slice_by is None:
        return ""
    if isinstance(slice_by, str):
        return _between(slice_by, "<start>", "<end>")
    kind = slice_by.kind
    zoned = kind is Kind.TIMESTAMPTZ
    start, end = (slice.start_at, slice.end_at) if zoned else (slice.start, slice.end)
    if start is None or end is None:
        raise TargetError(f"the slice {slice.day} of {slice.shard} has no bounds")
    return _between(slice_by.name, _moment(start, kind), _moment(end, kind))


def _between(column: str, start: str, end: str) -> str:
    return f"{quote_name(column)} >= {start} AND {quote_name(column)} < {end}"


def _moment(bound: datetime, kind: Kind) -> str:
    if kind is Kind.DATE:
        # The first date whose midnight is not before the bound.
        bound += timedelta(days=1) - timedelta(microseconds=1)
        return f"DATE {literal(bound.date().isoformat())}"
    type_ = "TIMESTAMPTZ" if kind is Kind.TIMESTAMPTZ else "TIMESTAMP"
    return f"{type_} {literal(bound.isoformat(sep=' '))}"


def slice_conditions(slices: Sequence[Slice], slice_by: Column | str | None) -> Iterator[str]:
    """Yield the condition of the slices' rows for each pair of bounds."""
    for shards, bounds in conditions(slices, slice_by):
        yield f"{shards} AND {bounds}" if bounds else shards


def held_sql(table: str, where: str) -> str:
    """Return the query of the number of rows by shard."""
    return f"SELECT etl_source, COUNT(*) FROM {table} WHERE {where} GROUP BY etl_source"


def staged_sql(staging: str, tokens: str) -> str:
    """Return the query of the number of staged rows by token."""
    return f"SELECT {TOKEN}, COUNT(*) FROM {staging} WHERE {TOKEN} IN ({tokens}) GROUP BY {TOKEN}"


def delete_sql(table: str, where: str) -> str:
    """Return the statement that deletes rows."""
    return f"DELETE FROM {table} WHERE {where}"


def insert_sql(table: str, staging: str, names: str, tokens: str, values: str = "") -> str:
    """Return the statement that inserts the staged rows of these tokens; `values` is what is selected for `names`."""
    return (
        f"INSERT INTO {table} ({names}) SELECT {values or names} FROM {staging} WHERE {TOKEN} IN ({tokens})"
    )


def publication_sql(
    table: str, staging: str, slice: Slice, columns: TableColumns, token: str
) -> Iterator[Statement]:
    """Yield the statements of a publication of one slice between BEGIN and COMMIT, to be shown."""
    (where,) = slice_conditions([slice], columns.slice_by)
    yield Statement(held_sql(table, where), about=HELD)
    yield Statement(staged_sql(staging, token), about=STAGED)
    yield Statement(delete_sql(table, where), about=DELETE)
    yield Statement(insert_sql(table, staging, columns.listed(quote_name), token), about=INSERT)


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
