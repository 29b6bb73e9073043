"""Commands for days on which no slice is expected say so; the exit code is that of work that is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_support import dwh
from tests.support.projects import DAY, Sandbox

BEFORE = "nothing to load; left out: 3 before their start date; the first day is 2020-07-15\n"


@pytest.fixture
def late(tmp_path: Path) -> Sandbox:
    """A load that begins the day after DAY: by its start_date, and one shard by its `from`."""
    sandbox = Sandbox(tmp_path, load_keys="start_date = 2020-07-15").write().fill()
    main = tmp_path / "config" / "dwhctl.toml"
    main.write_text(
        main.read_text().replace("['chita']", '[{ name = "chita", database = "chita", from = "2020-07-20" }]')
    )
    return sandbox


@pytest.mark.parametrize(
    "command",
    [("load", "--date", DAY), ("load", "--date", DAY, "--dry-run"), ("backfill", "-s", DAY, "-e", DAY)],
    ids=["load", "dry run", "backfill"],
)
def test_days_before_the_start_are_named(
    late: Sandbox, command: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh(*command, "--project", late.root) == 0
    shown = capsys.readouterr()
    assert shown.out == BEFORE
    assert "0 slices" not in shown.err
    assert late.warehouse("SELECT * FROM stage.orders") == []


def test_what_is_complete_is_named(late: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("load", "--date", "2020-07-15", "--inline", "--project", late.root)
    assert dwh(*command) == 0
    assert capsys.readouterr().out.startswith("0 slices loaded, 2 skipped (no rows)")
    assert dwh(*command, "--only-missing") == 0
    assert capsys.readouterr().out == (
        "nothing to load; left out: 2 complete, 1 before their start date; the first day is 2020-07-20\n"
    )


def test_a_quiet_run_says_nothing(late: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("load", "--date", DAY, "--quiet", "--project", late.root) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


_SHOWING_MODULES = """\
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from dwhctl.cli.main import main
main()
"""


def test_a_load_with_nothing_to_do_imports_no_driver(late: Sandbox) -> None:
    command = ("load", "--date", "2020-07-15", "--only-missing", "--project", str(late.root))
    assert dwh(*command, "--inline") == 0
    done = subprocess.run(
        [sys.executable, "-c", _SHOWING_MODULES, *command], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("nothing to load")
    imported = set(done.stderr.split())
    assert {"duckdb", "pyarrow", "numpy", "pandas", "dwhctl.systems.duckdb.target"} & imported == set()
