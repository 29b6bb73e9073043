"""The commands that a message proposes work where the user is, also outside of the project's folder."""

from __future__ import annotations

import re
import shlex
from datetime import date
from pathlib import Path

import pytest

from dwhctl.cli.common.ending import run
from dwhctl.cli.main import dwhctl
from tests.cli_support import SHARDS, small_project
from tests.support.duckdb_files import opened

DAY = date(2020, 7, 14)
REPORTS = """\
[reports.numbers]
connection = "dwh"
source     = "SELECT count(*) AS n FROM stage.orders"
target     = "stage.numbers"
create     = "numbers.sql"
needs      = [{ load = "orders" }]
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose folder has spaces and quotes, seen from another folder."""
    root = tmp_path / 'city\'s "orders"'
    small_project(root)
    (root / "config" / "reports.toml").write_text(REPORTS)
    (root / "sql" / "numbers.sql").write_text("CREATE TABLE IF NOT EXISTS stage.numbers (n BIGINT)")
    for server, shard in SHARDS:
        (root / server).mkdir(exist_ok=True)
        with opened(root / server / f"{shard}.duckdb") as database:
            rows = "SELECT id, TIMESTAMP '2020-07-14 10:00' AS ordered FROM range(30) AS numbers(id)"
            database.execute(f"CREATE TABLE orders AS {rows}")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return root


def commands(text: str) -> list[list[str]]:
    """Return the arguments of the commands in this text, as a shell reads them."""
    lines = re.findall(r"dwhctl ((?:load|backfill|refresh-reports|report) [^\n;]*)", text)
    return [shlex.split(line) for line in lines]


def test_every_proposed_command_can_be_pasted(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --project the commands of ShrunkSourceError, verify and NotReady lacked it: "no project here"."""
    place = ["--project", str(elsewhere)]
    load = ["load", "--date", str(DAY), "--inline", *place]
    refresh = ["refresh-reports", "--date", str(DAY), *place]

    def proposed(arguments: list[str], code: int) -> list[list[str]]:
        assert run(dwhctl, arguments) == code
        shown = capsys.readouterr()
        return commands(shown.out + shown.err)

    for command in proposed(refresh, 1):
        assert command[-2:] == place, command
    assert not proposed(load, 0)
    with opened(elsewhere / "server_0" / "abakan.duckdb") as database:
        database.execute("DELETE FROM orders WHERE id > 2")
    different = proposed(["verify", "--date", str(DAY), *place], 1)
    assert [command[-2:] for command in different] == [place]
    shrunk = proposed(load, 1)
    assert shrunk
    for command in shrunk:
        assert proposed([*command, "--inline"], 0) == []
    assert not proposed(["verify", "--date", str(DAY), *place], 0)
