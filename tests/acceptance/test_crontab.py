"""`dwhctl crontab` with the machine's own crontab and a real cron daemon.

They change the crontab of whoever runs them, and put it back: they run only where DWHCTL_TEST_CRON is set, as the
gate does on its machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from dwhctl.sessions import State, open_if_there
from tests.support.faulty import wait_until
from tests.support.projects import Sandbox

#: Somebody's lines. What the comment holds ends a line for Python, not for cron.
OURS = (
    "MAILTO=boss@example.com\n# off:\x0c* * * * * /bin/false\u2028* * * * * /bin/false\n5 4 * * * /bin/true\n"
)


def crontab(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real program."""
    return subprocess.run(["crontab", *arguments], input=text, capture_output=True, text=True, check=False)


@pytest.fixture
def own_crontab() -> Iterator[None]:
    """The crontab holds somebody's lines, and afterwards what it held before; one test has it at a time."""
    if not os.environ.get("DWHCTL_TEST_CRON"):
        pytest.skip("DWHCTL_TEST_CRON is not set: crontabs are left alone")
    if shutil.which("crontab") is None:
        pytest.skip("no cron on this machine")
    with FileLock(Path(tempfile.gettempdir()) / "dwhctl-test-crontab.lock"):
        before = crontab("-l")
        crontab("-", text=OURS)
        yield
        if before.returncode == 0:
            crontab("-", text=before.stdout)
        else:
            crontab("-r")


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A load that cron starts every minute, of today's rows; a place that cron and the shell have ideas about."""
    sandbox = Sandbox(tmp_path / "100% 'dwh'", {"server_0": ["abakan"]}, timezone="UTC")
    sandbox.load_keys += '\nschedule = "* * * * *"'
    return sandbox.write().fill()


@pytest.mark.usefixtures("own_crontab")
def test_install_shows_changes_only_what_is_ours_and_is_idempotent(sandbox: Sandbox) -> None:
    shown = sandbox.run("crontab", "show").stdout
    dry = sandbox.run("crontab", "install", "--dry-run")
    assert crontab("-l").stdout == OURS
    first = sandbox.run("crontab", "install")
    assert first.returncode == 0, first.stderr
    assert first.stdout == dry.stdout
    assert "+* * * * *" in first.stdout
    assert (sandbox.root / "state" / "logs" / "cron.log").stat().st_mode & 0o777 == 0o600
    installed = crontab("-l").stdout
    assert installed == OURS + shown
    again = sandbox.run("crontab", "install")
    assert (again.returncode, again.stdout) == (0, "")
    assert crontab("-l").stdout == installed
    removed = sandbox.run("crontab", "remove")
    assert removed.returncode == 0
    assert f"-{shown.splitlines()[0]}" in removed.stdout
    assert crontab("-l").stdout == OURS


@pytest.mark.usefixtures("own_crontab")
def test_a_broken_expression_is_refused_by_file_and_key(sandbox: Sandbox) -> None:
    path = sandbox.root / "config" / "loads" / "orders.toml"
    path.write_text(path.read_text().replace("* * * * *", "61 * * * *"))
    refused = sandbox.run("crontab", "install")
    assert refused.returncode == 2
    assert "config/loads/orders.toml: schedule: '61 * * * *': '61' is not a valid minute" in refused.stderr
    assert crontab("-l").stdout == OURS


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("own_crontab")
def test_a_real_cron_runs_the_installed_line(sandbox: Sandbox) -> None:
    assert sandbox.run("crontab", "install").returncode == 0
    daemon = None
    if subprocess.run(["pgrep", "-x", "cron"], capture_output=True, check=False).returncode:
        daemon = subprocess.Popen(["cron", "-f"], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: ended(sandbox), "cron has loaded today", seconds=150)
    finally:
        if daemon is not None:
            daemon.terminate()
            daemon.wait()
    crontab("-", text=OURS)
    states = {one.day: one.state for one in sandbox.sessions_newest_first()}
    today = datetime.now(sandbox.project().zone).date()
    assert states.keys() <= {today, *(today - timedelta(days=back) for back in (1, 2))}
    assert set(states.values()) == {State.SKIPPED}
    assert (sandbox.root / "state" / "logs" / "cron.log").read_text() == ""


def ended(sandbox: Sandbox) -> bool:
    """Tell whether a run has closed its sessions."""
    store = open_if_there(sandbox.project().sessions)
    if store is None:
        return False
    with store:
        found = store.recent(10)
    return bool(found) and all(one.finished is not None for one in found)


def test_next_speaks_the_projects_zone_and_the_machines(sandbox: Sandbox) -> None:
    sandbox.timezone = "Asia/Chita"
    sandbox.write()
    done = sandbox.run("crontab", "next", "--limit", "3", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"load orders --date today --lookback 1"') == 3
    assert '+00:00"' in done.stdout, "data is in UTC"
    shown = sandbox.run("crontab", "next", "--limit", "3")
    assert len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:00 \+09:00  ", shown.stdout)) == 3
    assert "cron goes by this machine's clock" in done.stderr


def test_a_machine_without_cron_is_told_what_to_do(sandbox: Sandbox) -> None:
    done = sandbox.run("crontab", "install", env={"PATH": str(Path(sys.executable).parent)})
    assert done.returncode == 1
    assert "install cron" in done.stderr
