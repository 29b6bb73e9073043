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
    from collections.abc import Sequence
    from pathlib import Path

    from dwhctl.columns import Column


#: What the search for doubled keys may take before it spills: the same for one million rows and for many.
_CHECK_MEMORY = "48MiB"


class ParquetStage(Stage):
    """A Parquet file that grows by one row group a batch.

    It never makes the group's folder: where that is gone, the run is dead and its worker must not go on.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._path = path
        schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        try:
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)
        except OSError as error:
            raise self._in_words(error) from error

    def write(self, batch: pa.RecordBatch) -> None:
        try:
            self._writer.write_batch(batch)
        except OSError as error:
            raise self._in_words(error) from error

    def finish(self) -> int:
        try:
            self._writer.close()
            return self._path.stat().st_size
        except OSError as error:
            raise self._in_words(error) from error

    def doubled_key(self, key: Sequence[str]) -> tuple[object, ...] | None:
        """Group by hash_id first: eight bytes a row, which DuckDB spills to the staging folder when they are many."""
        # As text: DuckDB needs pytz to hand out a TIMESTAMPTZ.
        shown = ", ".join(f"{engine.quote_column(name)}::VARCHAR" for name in key)
        names = ", ".join(map(engine.quote_column, key))
        values = {"file": engine.literal_path(self._path)}
        staged = "read_parquet($file, hive_partitioning = false)"
        try:
            with engine.closing(duckdb.connect(config=self._config())) as db:
                suspects = db.execute(
                    f"SELECT hash_id FROM {staged} GROUP BY ALL HAVING count(*) > 1 LIMIT 10",
                    values,
                ).fetchall()
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

    def _config(self) -> dict[str, str | bool | int | float | list[str]]:
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
