"""What a process does first: the current folder is forgotten, files are private, a crash leaves no core file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dwhctl
from dwhctl.core import start
from dwhctl.core.start import forget_current_folder

OWN = str(Path(dwhctl.__file__).parents[1])


@pytest.fixture(autouse=True)
def _a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_is_forgotten", False)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.mark.parametrize("first", ["/srv/shared", "", "/opt/dwhctl/bin"])
def test_what_python_puts_first_goes_once(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    monkeypatch.setattr(sys, "path", [first, "/usr/lib/python", "/site-packages"])
    forget_current_folder()
    forget_current_folder()
    assert sys.path == ["/usr/lib/python", "/site-packages"]
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_a_folder_that_is_also_given_by_name_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/srv/tools", "/srv/tools", "/usr/lib/python"])
    monkeypatch.setenv("PYTHONPATH", "/srv/tools")
    forget_current_folder()
    assert (sys.path, os.environ["PYTHONPATH"]) == (["/srv/tools", "/usr/lib/python"], "/srv/tools")


@pytest.mark.parametrize("given", [":/faults", "/faults:", ".:/faults", "/faults:.:"])
def test_relative_entries_of_pythonpath_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    monkeypatch.setattr(sys, "path", [here, here, "/faults", "/usr/lib/python"])
    monkeypatch.setenv("PYTHONPATH", given)
    forget_current_folder()
    assert (sys.path, os.environ["PYTHONPATH"]) == (["/faults", "/usr/lib/python"], "/faults")


def test_a_checkout_that_is_not_installed_is_still_found_but_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [OWN, "/usr/lib/python"])
    forget_current_folder()
    assert sys.path == ["/usr/lib/python", OWN]


def test_this_process_and_what_it_starts_are_private_and_leave_no_core_file() -> None:
    ask = "import os, resource; print(oct(os.umask(0)), *resource.getrlimit(resource.RLIMIT_CORE))"
    code = (
        "import subprocess, sys; from dwhctl.core.start import begin; begin();"
        f" subprocess.run([sys.executable, '-c', {ask!r}]); {ask}"
    )
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'umask 022; ulimit -c unlimited 2>/dev/null; exec "$0" -c "$1"',
            sys.executable,
            code,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.splitlines(), done.stderr) == (["0o77 0 0"] * 2, "")
