"""When `load` and `backfill` start the process that the workers are forked from, and that it ends with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dwhctl.cli.common import options
from dwhctl.load.run import run_load
from dwhctl.load.worker_server import WorkerServer
from dwhctl.runtime.plan import LoadRequest
from tests.cli_support import dwh
from tests.support.faulty import flocked
from tests.support.projects import DAY, Sandbox

LOAD = ("load", "--date", str(DAY))
BACKFILL = ("backfill", "-s", str(DAY), "-e", str(DAY))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "project", {"server_0": ["abakan"]}, max_workers=1).write().fill()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of commands in this process, as they come: "start" and "read"."""
    found: list[str] = []

    def noted(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found.append(step)
            return function(*arguments)

        return call

    # The package of the commands imports it when it reads the project.
    monkeypatch.setattr(WorkerServer, "_start_process", noted("start", WorkerServer._start_process))
    monkeypatch.setattr(options, "use_project", noted("read", options.use_project))
    return found


@pytest.fixture
def servers() -> Callable[[], list[int]]:
    """Return the pids of the servers that the test started: other tests of this process share one."""

    def found() -> set[int]:
        children = psutil.Process().children()
        return {child.pid for child in children if "worker_process" in " ".join(child.cmdline())}

    before = found()
    return lambda: sorted(found() - before)


@pytest.mark.parametrize("command", [LOAD, BACKFILL], ids=lambda command: command[0])
def test_it_starts_before_the_project_is_read(
    command: tuple[str, ...], sandbox: Sandbox, steps: list[str], servers: Callable[[], list[int]]
) -> None:
    assert dwh(*command, "--project", sandbox.root) == 0
    assert steps == ["start", "read"]
    assert sandbox.target_rows() == sandbox.source_rows()
    assert servers() == []


def test_where_there_may_be_nothing_to_do_it_starts_when_there_is(
    sandbox: Sandbox, steps: list[str], servers: Callable[[], list[int]]
) -> None:
    project = ("--project", sandbox.root)
    assert dwh(*LOAD, "--dry-run", *project) == 0
    assert dwh(*LOAD, "--only-failed", *project) == 0
    assert dwh("load", "--help") == 0
    assert dwh(*LOAD, "--jobs", "0", *project) == 2
    assert dwh(*LOAD, "--executor", "dask", *project) == 2
    assert dwh("watch", *project) == 0
    assert "start" not in steps
    assert dwh(*LOAD, "--only-missing", *project) == 0
    assert steps[-2:] == ["read", "start"]
    steps.clear()
    assert dwh(*LOAD, "--only-missing", *project) == 0
    assert dwh(*LOAD, "--inline", *project) == 0
    assert steps == ["read", "read"]
    assert servers() == []


def test_a_command_that_ends_early_leaves_none(
    sandbox: Sandbox, steps: list[str], servers: Callable[[], list[int]]
) -> None:
    project = ("--project", sandbox.root)
    assert dwh("load", "no_such_load", "--date", str(DAY), *project) == 2
    assert (steps, servers()) == (["start", "read"], [])
    with flocked(sandbox.root / "state" / "locks" / "work" / f"orders.{DAY}.lock"):
        assert dwh(*LOAD, *project) == 75
    assert servers() == []
    load = sandbox.root / "config" / "loads" / "orders.toml"
    load.write_text(f"{load.read_text()}start_date = {DAY}\n")
    assert dwh("load", "--date", "1999-01-01", *project) == 0  # nothing to do
    assert (steps, servers()) == (["start", "read"] * 3, [])
    (sandbox.root / "config" / "dwhctl.toml").write_text("[project\n")
    assert dwh(*LOAD, *project) == 2
    assert servers() == []


def test_a_run_without_processes_of_its_own_ends_it_before_the_work(
    sandbox: Sandbox, servers: Callable[[], list[int]]
) -> None:
    workers, seen = WorkerServer(), []
    workers.start_early()
    assert len(servers()) == 1
    request = LoadRequest(days=(DAY,), inline=True)
    assert run_load(sandbox.project(), request, lambda _: seen.append(servers()), workers=workers).loaded == 1
    assert seen
    assert not any(seen)
