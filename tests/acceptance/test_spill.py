"""What DuckDB spills to disk are rows of customers: others cannot read them, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.core.files import SpillFolder, remove_left_behind
from dwhctl.project.names import RowSource
from dwhctl.project.query import Query
from dwhctl.query import QueryRequest, running_query
from dwhctl.systems.base.system import SourceOptions, TargetOptions, system_of
from tests.support.projects import DAY, ORDERS, Sandbox

ROWS = 600_000
SORTED = "SELECT id, repeat(md5(id::VARCHAR), 3) AS text FROM orders ORDER BY md5(id::VARCHAR)"
#: A process that is killed while its source has spilled rows.
KILLED = """
import os, signal, sys
from pathlib import Path
from dwhctl.project.read import read_project
from dwhctl.project.query import Query
from dwhctl.systems.base.system import SourceOptions, system_of

project = read_project(Path(sys.argv[1]))
server = project.connections["server_0"]
source = system_of(server).open_source(server, "abakan", SourceOptions("UTC", state_dir=project.state_dir))
next(source.batches(Query(sys.argv[2], {}), 1000))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A shard of which a sort does not fit into the memory limit; nothing may be written to the temporary folder."""
    made = Sandbox(
        tmp_path / "project",
        {"server_0": ["abakan"]},
        load_keys="retries = 0",
        connection_keys='memory_limit = "80MiB"',
    ).write()
    made.in_shard(
        "abakan",
        ORDERS,
        f"INSERT INTO orders SELECT range, 'x', 1, TIMESTAMP '{DAY}' - INTERVAL 9 DAY FROM range({ROWS})",
    )
    (made.root / "state").mkdir()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield made
    assert list(temporary.iterdir()) == []


def spilled(sandbox: Sandbox) -> list[Path]:
    """The files that are spilled now; nobody but their owner gets at them."""
    files = [path for path in (sandbox.root / "state").rglob("duckdb_temp*") if path.is_file()]
    for file in files:
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    return files


def left(sandbox: Sandbox) -> list[Path]:
    return list((sandbox.root / "state" / "spill").iterdir())


@contextmanager
def nothing_after(sandbox: Sandbox) -> Iterator[None]:
    yield
    assert left(sandbox) == []


def test_a_source_spills_into_a_private_folder_that_goes_with_it(sandbox: Sandbox) -> None:
    project = sandbox.project()
    with nothing_after(sandbox):
        source = system_of(project.connections["server_0"]).open_source(
            project.connections["server_0"], "abakan", SourceOptions("UTC", state_dir=project.state_dir)
        )
        with source:
            batches = source.batches(Query(SORTED, {}), 1000)
            next(batches)
            assert spilled(sandbox)
    assert {path.name for path in sandbox.shard_file("abakan").parent.iterdir()} == {"abakan.duckdb"}


def test_a_query_spills_into_a_private_folder_that_goes_with_it(sandbox: Sandbox) -> None:
    with (
        nothing_after(sandbox),
        running_query(sandbox.project(), QueryRequest("server_0", SORTED, "abakan")) as parts,
    ):
        next(parts)
        assert spilled(sandbox)


def test_a_refresh_spills_into_a_private_folder_that_goes_with_it(sandbox: Sandbox) -> None:
    project = sandbox.project()
    connection = project.connections["warehouse"].model_copy(update={"memory_limit": "80MiB"})
    target = system_of(connection).open_target(connection, TargetOptions(project.state_dir))
    target.run_statements(
        [
            f"CREATE TABLE wide AS SELECT range AS id, repeat(md5(range::VARCHAR), 3) AS text FROM range({ROWS})",
            "CREATE TABLE report AS SELECT text FROM wide LIMIT 0",
        ]
    )
    source = RowSource("SELECT text FROM wide ORDER BY md5(text)", is_query=True)
    with nothing_after(sandbox), target.refresh("report", source, timedelta(minutes=1)) as refresh:
        refresh.insert(["text"])
        assert [stat.S_IMODE(path.stat().st_mode) for path in left(sandbox)] == [0o700]
        refresh.commit()


def test_what_a_killed_process_spilled_goes_with_the_next_run(sandbox: Sandbox) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(sandbox.root), SORTED], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert spilled(sandbox)
    assert sandbox.load().failures == []
    assert left(sandbox) == []


def test_a_folder_in_use_is_left_alone_and_one_left_behind_goes(tmp_path: Path) -> None:
    used, dead = SpillFolder(tmp_path), SpillFolder(tmp_path)
    aside = tmp_path / "spill" / "link"
    aside.symlink_to(tmp_path)
    remove_left_behind(tmp_path)
    assert Path(used.path).is_dir()
    assert Path(dead.path).is_dir()
    dead_path, dead.path = dead.path, ""
    os.close(dead._lock)
    SpillFolder(tmp_path).close()
    assert not Path(dead_path).exists()
    assert Path(used.path).is_dir()
    assert aside.is_symlink()
    used.close()
    used.close()
    assert list((tmp_path / "spill").iterdir()) == [aside]


def test_where_the_state_folder_cannot_be_written_nothing_spills(tmp_path: Path) -> None:
    assert SpillFolder(None).path == ""
    assert SpillFolder(tmp_path / "none").path == ""
    assert not (tmp_path / "none").exists()
