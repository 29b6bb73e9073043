"""How many files one must open to follow a row from `dwhctl load` to COMMIT, from SQL Server to Vertica."""

from __future__ import annotations

from pathlib import Path

import dwhctl
from tests.support import trace
from tests.support.projects import DAY
from tests.support.wire import a_wire

PACKAGE = Path(dwhctl.__file__).parent
#: The command line, the configuration and the alerts are not on the way of a row.
ASIDE = ("cli", "project", "alerts", "notify.py", "__main__.py", "core/start.py")
#: As many as there are now: this number only goes down, to 25.
MOST_FILES = 52


def test_the_way_of_a_row_opens_few_files(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    env = {"PYTHONPATH": str(Path(trace.__file__).parent), "DWHCTL_TEST_TRACE": str(log)}
    with a_wire(tmp_path / "project", {"mssql_0": ["abakan"]}) as wire:
        wire.fill(10)
        done = wire.run("load", "--date", str(DAY), "--jobs", "1", env=env)
        assert done.returncode == 0, done.stderr
        assert wire.target_rows() == wire.source_rows()
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    assert {role for role, _, _ in lines} == {"parent", "worker"}
    # The checkout may be a folder of that name as well, with its packages in it.
    ours = {Path(path) for _, _, path in lines if Path(path).is_relative_to(PACKAGE)}
    files = sorted(str(path.relative_to(PACKAGE)) for path in ours)
    found = [name for name in files if not name.startswith(ASIDE)]
    print(f"{len(found)} of {len(files)} files:", *found, sep="\n")
    assert len(found) <= MOST_FILES, found
