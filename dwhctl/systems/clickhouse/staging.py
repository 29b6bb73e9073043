"""Stage one slice in ClickHouse: one INSERT that reads the Arrow batches as it sends them."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from dwhctl.core.errors import AttemptError, StagingError
from dwhctl.systems.base.server import ServerStage
from dwhctl.systems.base.staging import TOKEN, gone
from dwhctl.systems.clickhouse.catalog import ClickHouseTable
from dwhctl.systems.clickhouse.client import ClickHouseClient, kill_queries
from dwhctl.systems.clickhouse.errors import MISSING, is_code
from dwhctl.systems.clickhouse.types import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.core.columns import Column


class ClickHouseStage(ServerStage[ClickHouseClient]):
    """The rows of one slice in the group's staging table: the partition of their token. There is no transaction."""

    count = "count()"

    def __init__(
        self, client: ClickHouseClient, table: ClickHouseTable, token: str, columns: Sequence[Column]
    ) -> None:
        super().__init__(client, token, columns)
        self._table = table
        self._bytes = self._rows = 0

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
            ((found,),) = self._client.query(f"SELECT count() FROM {self._staged()}")
        except AttemptError as error:
            if is_code(error, MISSING):
                raise gone(self._table) from error
            raise
        if found < self._rows:
            raise StagingError(f"{self._rows} rows were sent to {self._table}, and {found} are staged")

    def _stream(self, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
        """Yield the batches as an Arrow stream with the token as a last column."""
        sink = io.BytesIO()
        writer: pa.RecordBatchStreamWriter | None = None
        for batch in batches:
            tokens = pa.DictionaryArray.from_arrays(
                pa.nulls(batch.num_rows, pa.int8()).fill_null(0), [self._token]
            )
            named = batch.append_column(TOKEN, tokens.cast(pa.string()))
            if writer is None:
                writer = pa.ipc.new_stream(sink, named.schema)
            writer.write_batch(named)
            self._rows += batch.num_rows
            del batch, tokens, named
            piece = _taken(sink)
            self._bytes += len(piece)
            yield piece
        if writer is not None:
            writer.close()
            yield _taken(sink)

    def _staged(self) -> str:
        return f"{self._table.sql} WHERE {TOKEN} = {literal(self._token)}"

    def discard(self) -> None:
        """End the INSERT, and drop the blocks that it has written: this token is never published."""
        label, self._client.label = self._client.label, f"{self._client.label}-discard"
        # A server that is out of reach keeps them in the staging table, which is dropped whole.
        with suppress(AttemptError):
            self._client.open()
            kill_queries(self._client, label)
            self._client.run(f"ALTER TABLE {self._table.sql} DROP PARTITION {literal(self._token)}")

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is not None and self._rows:
                self.discard()
        finally:
            self._client.close()


def _taken(sink: io.BytesIO) -> bytes:
    """Return what was written, and empty the file."""
    taken = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return taken
