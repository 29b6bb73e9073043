"""A DuckDB file that is absent is created whole; a full disk is reported with the remedy."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import StagingError
from dwhctl.systems.duckdb import client
from dwhctl.systems.duckdb.staging import ParquetStage, described

_KILL_BEFORE_LINK = "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
_OPEN_EACH = """
import os, signal, sys
from pathlib import Path
from dwhctl.systems.duckdb import client
{}
for path in sys.argv[1:]:
    client.open_file(Path(path), read_only=False, wait=20, config={{}}).close()
"""


def _start(*paths: Path, first: str = "") -> subprocess.Popen[bytes]:
    """Open files in another process, which executes a line first."""
    return subprocess.Popen([sys.executable, "-c", _OPEN_EACH.format(first), *map(str, paths)])


def _open(path: Path) -> None:
    with client.open_file(path, read_only=False, wait=20, config={}) as db:
        assert db.execute("SELECT 1").fetchall() == [(1,)]


def _first_size(path: Path) -> int:
    """Wait for the file as other processes see it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(FileNotFoundError):
            return path.stat().st_size
    pytest.fail(f"{path} is not created")


def test_another_process_never_sees_an_empty_file(tmp_path: Path) -> None:
    """One of several loads that start at once failed so: DuckDB calls an empty file damaged."""
    paths = [tmp_path / f"{number}.duckdb" for number in range(20)]
    with _start(*paths) as process:
        sizes = [_first_size(path) for path in paths]
    assert process.returncode == 0
    assert min(sizes) > 0
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_kill_while_a_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / "warehouse[1].duckdb"
    with _start(path, first=_KILL_BEFORE_LINK) as process:
        assert process.wait(60) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left != path
    _open(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_removed_though_its_pid_is_another_process_now(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    old, new = (tmp_path / f".{path.name}.{os.getpid()}-{number}.new" for number in (1, 2))
    for left in (old, new):
        left.touch()
    long_ago = time.time() - 3600
    os.utime(old, (long_ago, long_ago))
    _open(path)
    assert sorted(tmp_path.iterdir()) == sorted([new, path]), "a process may be creating the file"


def test_a_file_that_was_deleted_without_its_write_ahead_log(tmp_path: Path) -> None:
    """A kill leaves the log beside the file, and who starts anew deletes the file alone."""
    path = tmp_path / "warehouse.duckdb"
    first = "import duckdb; db = duckdb.connect(sys.argv.pop()); db.execute('CREATE TABLE orders (id INT)')"
    with _start(path, first=f"{first}; os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert process.wait(60) == -signal.SIGKILL
    path.unlink()
    (log,) = tmp_path.iterdir()
    assert log.stat().st_size
    _open(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "warehouse.duckdb"
    _open(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt alone does not help."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    refused = duckdb.IOException(f'IO Error: Could not write file "w.duckdb": {full.strerror}')
    assert client.words(refused).endswith("No space left on device; make room on that disk")
    stage = ParquetStage(tmp_path / "token.parquet", [Column("id", Kind.INTEGER, pa.int64(), "BIGINT")])

    def fail(*_args: object) -> None:
        raise full

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", fail)
    with pytest.raises(StagingError, match="No space left on device; make room on that disk"):
        stage.write(iter([pa.RecordBatch.from_pydict({"id": [1]})]))
    monkeypatch.undo()
    stage.discard()


def test_generated_columns_are_those_of_the_table_itself(tmp_path: Path) -> None:
    """A column was left out for a table of its name elsewhere, and written where the database was named."""
    with closing(duckdb.connect(tmp_path / "warehouse.duckdb")) as db:
        db.execute("ATTACH ':memory:' AS other")
        for database, plain in (("warehouse", "v"), ("other", "id")):
            computed = {"id": "v", "v": "id"}[plain]
            db.execute(f"CREATE TABLE {database}.orders ({plain} INT, {computed} INT AS ({plain} + 1))")
        db.execute('CREATE TABLE "a""b" (v INT)')
        for name in ("orders", "main.orders", "warehouse.Orders", "Warehouse.main.orders", 'a"b'):
            assert [one.name for one in described(db, name)] == ["v"], name
