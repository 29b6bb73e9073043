"""Stage one slice as a Parquet file: what a worker writes for a DuckDB warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dwhctl.engines import duckdb as engine
from dwhctl.errors import StagingError
from dwhctl.targets.contract import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dwhctl.columns import Column


#: What the search for doubled keys may take before it spills: the same for one million rows and for many.
_CHECK_MEMORY = "48MiB"
#: How many hash_ids are compared at once: many more do not fit in there, spilled or not.
_IDS_AT_ONCE = 4_000_000


class ParquetStage(Stage):
    """A Parquet file that grows by one row group a batch.

    It never makes the group's folder: where that is gone, the run is dead and its worker must not go on.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._path = path
        self._rows = 0
        schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        try:
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)
        except OSError as error:
            raise self._in_words(error) from error

    def write(self, batches: Iterator[pa.RecordBatch]) -> int:
        for batch in batches:
            self._append(batch)
        try:
            self._writer.close()
            return self._path.stat().st_size
        except OSError as error:
            raise self._in_words(error) from error

    def _append(self, batch: pa.RecordBatch) -> None:
        try:
            self._writer.write_batch(batch)
            self._rows += batch.num_rows
        except OSError as error:
            raise self._in_words(error) from error

    def doubled_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first, in parts when they are many: eight bytes a row, spilled to the staging folder."""
        # As text: DuckDB needs pytz to hand out a TIMESTAMPTZ.
        shown = ", ".join(f"{engine.quote_column(name)}::VARCHAR" for name in key)
        names = ", ".join(map(engine.quote_column, key))
        values = {"file": engine.literal_path(self._path)}
        staged = "read_parquet($file, hive_partitioning = false)"
        try:
            with engine.closing(
                engine.connect(":memory:", self._config(), folders=[self._path.parent])
            ) as db:
                suspects = [
                    found
                    for part in self._parts()
                    for found in db.execute(
                        f"SELECT hash_id FROM {staged} WHERE hash_id & {part[0]} = {part[1]}"
                        " GROUP BY ALL HAVING count(*) > 1 LIMIT 10",
                        values,
                    ).fetchall()
                ]
                if not suspects:
                    return None
                return db.execute(
                    f"SELECT {shown} FROM {staged} WHERE hash_id IN (SELECT unnest($ids))"
                    f" GROUP BY {names} HAVING count(*) > 1 LIMIT 1",
                    values | {"ids": [hash_id for (hash_id,) in suspects]},
                ).fetchone()
        except duckdb.Error as error:
            raise StagingError(
                f"cannot look for doubled keys in {self._path}: {engine.words(error)}"
            ) from error

    def _parts(self) -> list[tuple[int, int]]:
        """Divide the hash_ids into even parts, by their last bits: a mask, and what they are under it."""
        parts = 1 << (self._rows // _IDS_AT_ONCE).bit_length()
        return [(parts - 1, part) for part in range(parts)]

    def _config(self) -> engine.Config:
        return {"memory_limit": _CHECK_MEMORY, "threads": 1, "temp_directory": str(self._path.parent)}

    def discard(self) -> None:
        # The file may be damaged by what went wrong; all that is left to do is to let go of it.
        try:
            self._writer.close()
        except (OSError, pa.ArrowException, ValueError):
            self._writer.is_open = False
        self._path.unlink(missing_ok=True)

    def _in_words(self, error: OSError) -> StagingError:
        return StagingError(f"cannot stage in {self._path.parent}: {error.strerror or error}")
