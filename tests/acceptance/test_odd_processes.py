"""dwhctl started as few people start it: streams closed, an ASCII locale, in another user's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dwhctl.cli.common.ending import run
from dwhctl.cli.main import dwhctl
from tests.cli_support import small_project
from tests.support.projects import DAY, Sandbox

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def in_shell(
    redirection: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m dwhctl "$@" {redirection}', sys.executable, *arguments],
        capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        (">&-", 1, "Error: the output cannot be written: Bad file descriptor\n"),
        ("2>&-", 2, ""),
        ("<&-", 0, ""),
    ],
)
def test_a_closed_stream_is_no_defect(tmp_path: Path, closed: str, code: int, said: str) -> None:
    project = small_project(tmp_path)
    form = ("--format", "json") if closed == ">&-" else ()
    arguments = ("report", "runs" if code != 2 else "nothing", *form, "--project", str(project))
    done = in_shell(closed, *arguments)
    assert done.returncode == code, done
    if closed == "<&-":
        assert done.stderr == "no sessions yet: nothing was loaded in this project\n"
    else:
        assert said in done.stderr
        assert "internal error" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr + done.stdout


def test_what_a_load_says_goes_into_no_file_of_its_own(tmp_path: Path) -> None:
    """The attack: with stdout and stderr closed the first files opened get their numbers, and the run's words."""
    sandbox = Sandbox(tmp_path, servers={"server_0": ["abakan"]}).write().fill(3)
    done = in_shell("<&- >&- 2>&-", "load", "--date", str(DAY), "-v", "--project", str(sandbox.root))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert sandbox.target_rows() == sandbox.source_rows()
    assert [one.state.value for one in sandbox.sessions_newest_first()] == ["loaded"]
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file():
            assert b"slice loaded" not in path.read_bytes(), path


def test_an_ascii_locale_and_a_cyrillic_project(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "Проект №1", servers={"server_0": ["abakan"]}).write().fill(3)
    done = sandbox.run("load", "--date", str(DAY), "-v", env=ASCII)
    assert done.returncode == 0, done
    assert sandbox.target_rows() == sandbox.source_rows()
    done = sandbox.run("query", "warehouse", "SELECT 'клиент' AS имя, 1/0 FROM нет", env=ASCII)
    assert (done.returncode, "internal error" in done.stderr) == (1, False), done
    assert done.stderr.isascii()
    assert "\\u043d\\u0435\\u0442" in done.stderr


def as_nobody(*arguments: str) -> int:
    """Run a command in a child as a second user of the machine; give its exit code. What it imports is imported."""
    child = os.fork()
    if child == 0:  # pragma: no cover - not measured there
        code = 99
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            code = run(dwhctl, arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")
@pytest.mark.parametrize("closed", ["state", "state/logs", "state/sessions.sqlite", "config", "."])
def test_what_belongs_to_another_user_is_said_by_its_name(
    tmp_path: Path, closed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sandbox = Sandbox(tmp_path / "project", servers={"server_0": ["abakan"]}).write().fill(3)
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest-" in str(folder):  # pytest's own: closed to others
            folder.chmod(0o711)
    assert sandbox.load().failed == 0
    commands = [
        ["report", "log", "last"], ["report", "runs"], ["report", "grid"], ["config", "check"],
        ["load", "--date", str(DAY), "--dry-run"],
    ]  # fmt: skip
    for command in commands:  # everything is imported as root
        run(dwhctl, [*command, "--project", str(sandbox.root)])
    path = sandbox.root / closed
    path.chmod(0o600 if path.is_file() else 0o700)
    capfd.readouterr()
    codes = [as_nobody(*command, "--project", str(sandbox.root)) for command in commands]
    said = capfd.readouterr()
    assert "internal error" not in said.err + said.out, said.err
    assert set(codes) <= {0, 1, 2}, (codes, said)
    assert "Error" in said.err
