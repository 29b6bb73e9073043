"""Stage one slice in ClickHouse: one INSERT that reads the Arrow batches as it sends them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from dwhctl.core.errors import AttemptError, StagingError
from dwhctl.core.sql import quote_name
from dwhctl.systems.base.staging import CANDIDATES, TOKEN, gone
from dwhctl.systems.base.target import Stage
from dwhctl.systems.clickhouse.catalog import ClickHouseTable
from dwhctl.systems.clickhouse.client import ClickHouseClient, kill_queries
from dwhctl.systems.clickhouse.errors import MISSING, is_code
from dwhctl.systems.clickhouse.types import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.core.columns import Column


class _Sink:
    """A file that keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


@dataclass
class ClickHouseStage(Stage):
    """The rows of one slice in the group's staging table: the partition of their token.

    It never creates the table: where that is missing, the run has ended.
    """

    _client: ClickHouseClient
    _table: ClickHouseTable
    _token: str
    _columns: Sequence[Column]
    _bytes: int = 0
    _rows: int = 0

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        self._client.open()
        names = [*(column.name for column in self._columns), TOKEN]
        try:
            self._client.insert(self._table.sql, names, self._stream(batches))
        except AttemptError as error:
            if is_code(error, MISSING):
                raise gone(self._table) from error
            raise
        self._check_count()
        return self._bytes

    def _check_count(self) -> None:
        """Count what is staged: an INSERT into a table that was dropped meanwhile ends without an error.

        Other parts of the slice may be there as well: the publication counts all of them.
        """
        try:
            ((found,),) = self._client.query(
                f"SELECT count() FROM {self._table.sql} WHERE {TOKEN} = {literal(self._token)}"
            )
        except AttemptError as error:
            if is_code(error, MISSING):
                raise gone(self._table) from error
            raise
        if found < self._rows:
            raise StagingError(f"{self._rows} rows were sent to {self._table}, and {found} are staged")

    def _stream(self, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
        """Yield the batches as an Arrow stream with the token as a last column."""
        sink = _Sink()
        writer: pa.RecordBatchStreamWriter | None = None
        for batch in batches:
            tokens = pa.DictionaryArray.from_arrays(
                pa.nulls(batch.num_rows, pa.int8()).fill_null(0), [self._token]
            )
            named = batch.append_column(TOKEN, tokens.cast(pa.string()))
            if writer is None:
                writer = pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), named.schema)
            writer.write_batch(named)
            self._rows += batch.num_rows
            del batch, tokens, named
            piece = sink.take()
            self._bytes += len(piece)
            yield piece
        if writer is not None:
            writer.close()
            yield sink.take()

    def duplicate_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first: the warehouse compares eight bytes a row."""
        staged = f"FROM {self._table.sql} WHERE {TOKEN} = {literal(self._token)}"
        candidates = self._client.query(
            f"SELECT hash_id {staged} GROUP BY hash_id HAVING count() > 1 LIMIT {CANDIDATES}"
        )
        if not candidates:
            return None
        names = ", ".join(map(quote_name, key))
        ids = ", ".join(str(int(hash_id)) for (hash_id,) in candidates)
        found = self._client.query(
            f"SELECT {names} {staged} AND hash_id IN ({ids}) GROUP BY {names} HAVING count() > 1 LIMIT 1"
        )
        return tuple(found[0]) if found else None

    def discard(self) -> None:
        """End the INSERT, and drop the blocks that it has written: this token is never published."""
        label, self._client.label = self._client.label, f"{self._client.label}-discard"
        # A server that is out of reach keeps them in the staging table, which is dropped whole.
        with suppress(AttemptError):
            self._client.open()
            kill_queries(self._client, label)
            self._client.run(f"ALTER TABLE {self._table.sql} DROP PARTITION {literal(self._token)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is not None and self._rows:
                self.discard()
        finally:
            self._client.close()
