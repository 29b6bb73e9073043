"""`dwhctl demo`, from nothing to what it says to try next."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import duckdb
import pytest

from tests.cli_support import dwh, dwh_process


def next_commands(output: str) -> list[str]:
    lines = output.split("What to try next:\n", 1)[1].splitlines()
    return [line.partition("   #")[0].strip() for line in lines]


@pytest.mark.timeout(300)
def test_demo_loads_a_day_and_all_that_it_proposes_works(tmp_path: Path) -> None:
    done = dwh_process("demo", "my demo", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"a project with [\d,]+ orders in 12 city databases, from ", done.stdout)
    assert "12 slices loaded, 0 skipped (no rows), 0 failed" in done.stdout
    assert "orders__" in done.stdout
    held = re.search(r"now has ([\d,]+) rows of (\S+) from 12 shards", done.stdout)
    assert held is not None
    with duckdb.connect(str(tmp_path / "my demo" / "warehouse.duckdb")) as db:
        rows = db.sql(
            "SELECT count(*), count(DISTINCT hash_id), count(customer), count(price) FROM stage.orders"
        )
        count, ids, customers, prices = rows.fetchall()[0]
    assert count == ids == int(held[1].replace(",", ""))
    assert 0 < customers < count
    assert 0 < prices < count
    assert "3 reports refreshed, 0 failed; 25 rows in " in done.stdout
    with duckdb.connect(str(tmp_path / "my demo" / "warehouse.duckdb")) as db:
        (orders,) = db.sql("SELECT sum(orders)::BIGINT, count(*) FROM reports.city_orders").fetchall()
    assert orders == (count, 12)
    commands = next_commands(done.stdout)
    assert commands[0] == "cd 'my demo'"
    assert len(commands) > 4
    settings = tmp_path / "my demo" / "config" / "dwhctl.toml"
    # The demo itself had four; what each command does, it does with one worker and for fewer days as well.
    settings.write_text(settings.read_text().replace("max_workers = 4", "max_workers = 1"))
    assert sum("--lookback 20" in command for command in commands) == 1
    for command in commands[1:]:
        arguments = shlex.split(command.replace("--lookback 20", "--lookback 3"))
        tried = subprocess.run(
            arguments, cwd=tmp_path / "my demo", capture_output=True, text=True, check=False
        )
        assert tried.returncode == 0, (command, tried.stdout, tried.stderr)


def test_demo_leaves_a_used_folder_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("x")
    assert dwh("demo", tmp_path) == 2
    shown = capsys.readouterr()
    assert "is not empty; name another folder" in shown.err
    assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_demo_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert dwh("demo", tmp_path / "file") == 2
    assert "is no folder" in capsys.readouterr().err
