"""A command that is cloned from the server of `tests/support/prefork.py` is what Python starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli_support import make_databases, small_project
from tests.support import prefork
from tests.support.faulty import Faults, processes_of_group, wait_for_end
from tests.support.prefork import DwhctlProcess

pytestmark = pytest.mark.skipif(
    not prefork._CLONE or os.environ.get("DWHCTL_TEST_PREFORK") == "0",
    reason="processes are cloned on Linux only, and not with DWHCTL_TEST_PREFORK=0",
)
LOOK = """\
import json, os, resource, signal, sys, threading
def look():
    blocked = [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    handled = [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)]
    streams = [(type(each).__name__, each.encoding, each.errors, each.line_buffering, each.write_through, each.name,
                each.isatty()) for each in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__)]
    descriptors = [each for each in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{each}')]
    umask = os.umask(0)
    os.umask(umask)
    return {
        'folder': os.getcwd(), 'env': dict(os.environ), 'path': sys.path, 'argv': sys.orig_argv, 'umask': umask,
        'parent': os.getppid(), 'leads': os.getsid(0) == os.getpid(), 'blocked': blocked, 'handled': handled,
        'streams': streams, 'descriptors': descriptors, 'threads': threading.active_count(),
        'same number': threading.get_native_id() == os.getpid(),
        'limits': [resource.getrlimit(each) for each in range(16)],
        'safe': sys.flags.safe_path,
    }
with open(os.environ['LOOK'], 'w') as file:
    json.dump(look(), file)
"""


def seen(folder: Path, name: str, *, plain: bool, **options: Any) -> Mapping[str, Any]:
    """What a process finds at its first line, by a module that Python imports at the start."""
    (folder / "sitecustomize.py").write_text(LOOK)
    path, file = os.pathsep.join([str(folder), str(prefork._REPOSITORY)]), folder / name
    env = {**os.environ, "PYTHONPATH": path, "LOOK": str(file), "OF_THE_TEST": "здесь"}
    process = DwhctlProcess(
        "--version", plain=plain, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    assert process.communicate()[0].startswith(b"dwhctl ")
    assert (process.returncode, process.is_clone) == (0, not plain)
    found: dict[str, Any] = json.loads(file.read_text())
    return {**found, "env": {**found["env"], "LOOK": ""}}


@pytest.mark.parametrize("new_session", [True, False])
def test_a_clone_is_what_a_plain_process_is(tmp_path: Path, new_session: bool) -> None:
    options = {"cwd": tmp_path, "start_new_session": new_session, "umask": 0o027, "stdin": subprocess.DEVNULL}
    plain = seen(tmp_path, "plain", plain=True, **options)
    clone = seen(tmp_path, "clone", plain=False, **options)
    assert clone == plain
    assert clone["parent"] == os.getpid()
    assert (clone["leads"], clone["umask"], clone["env"]["OF_THE_TEST"]) == (new_session, 0o027, "здесь")


def test_its_streams_and_code_are_those_of_a_plain_process(tmp_path: Path) -> None:
    project = small_project(tmp_path)
    make_databases(tmp_path)
    for arguments, code in (
        (("config", "check", "--project", str(project)), 0),
        (("report", "slices", "--wrong"), 2),
        (("load", "--date", "2020-07-13", "--project", str(tmp_path / "none")), 2),
    ):
        told = []
        for plain in (True, False):
            process = DwhctlProcess(
                *arguments, plain=plain, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            told.append((*process.communicate(), process.returncode))
        assert told[0] == told[1]
        assert told[1][2] == code, told


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_load_and_its_workers(tmp_path: Path, number: int, code: int) -> None:
    project = small_project(tmp_path / "project")
    make_databases(project)
    faults = Faults(tmp_path / "log").at("stage.extract", "pause", until=3)
    process = DwhctlProcess(
        "load", "--date", "2020-07-13", "--project", str(project), env={**os.environ, **faults.env()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    faults.wait_for("stage.extract")
    (role, worker) = next((role, pid) for point, role, pid in faults.reached() if point == "stage.extract")
    server = psutil.Process(worker).parent()
    assert role == "worker"
    assert server is not None
    assert server.ppid() == process.pid
    assert psutil.Process(process.pid).ppid() == os.getpid()
    process.send_signal(number)
    wait_for_end(process)
    assert (process.is_clone, process.returncode) == (True, code)
    assert processes_of_group(process.pid) == []


def test_what_cannot_be_given_starts_a_plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[dict[str, Any]] = [
        {"env": {**os.environ, "PYTHONHASHSEED": "7"}}, {"env": {**os.environ, "LC_ALL": "POSIX"}},
        {"preexec_fn": lambda: None}, {"process_group": 0}, {"cwd": "/proc/self/fd/none"},
    ]  # fmt: skip
    for options in cases:
        if "cwd" in options:
            with pytest.raises(FileNotFoundError):
                DwhctlProcess("--version", **options)
            continue
        with DwhctlProcess("--version", stdout=subprocess.DEVNULL, **options) as process:
            assert not process.is_clone, options
    monkeypatch.setenv("DWHCTL_TEST_PREFORK", "0")
    with DwhctlProcess("--version", stdout=subprocess.DEVNULL) as process:
        assert not process.is_clone
    assert process.args == [sys.executable, "-m", "dwhctl", "--version"]
