"""`dwhctl demo`, from nothing to what it says to try next."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from dwhctl.cli.main import dwhctl
from dwhctl.cli.new_project import demo
from dwhctl.cli.new_project.demo import WIDTH
from dwhctl.core.errors import DwhctlError
from tests.cli_support import dwh, dwh_process


def next_commands(output: str) -> list[str]:
    lines = output.split("What to try next:\n", 1)[1].splitlines()
    commands = (re.split(r"  +# ", line.strip())[0] for line in lines)
    return [command for command in commands if not command.startswith("#")]


def arguments_of(command: str) -> list[str]:
    """Give what stands behind the program's name."""
    words = shlex.split(command)
    return words[[Path(word).name for word in words].index("dwhctl") + 1 :]


@pytest.mark.timeout(300)
def test_demo_shows_a_bad_morning_and_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the environment says of another project is not for the demo.
    elsewhere = tmp_path / "elsewhere.duckdb"
    environment = {"DWHCTL_CONN_WAREHOUSE": f"duckdb:{elsewhere}", "DWHCTL_PROJECT": str(tmp_path)}
    done = dwh_process("demo", "my demo", folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert not elsewhere.exists()
    steps = re.split(r"^\d\. ", done.stdout, flags=re.MULTILINE)
    start, past, morning, digest, grid, gaps, mend, reports, verify = steps
    assert re.search(r"[\d,]+ orders from \S+ on, in 12 city databases", start)
    assert "48 slices loaded, 0 skipped (no rows), 0 failed" in past
    assert "$ dwhctl load --date yesterday\n11 slices loaded, 0 skipped (no rows), 1 failed" in morning
    assert re.search(r"🔴 my demo: orders: 1 slice failed +│", digest)
    assert re.search(r"omsk\s.*  L  L  L  L  M  L  F  \.      2", grid)
    commands = [line.strip() for line in gaps.splitlines() if line.startswith("  dwhctl backfill")]
    assert f"$ {commands[-1]}\n13 slices loaded" in mend
    assert "3 reports refreshed, 0 failed" in reports
    assert "84 slices: 84 equal" in verify
    assert_fits(done.stdout, str(tmp_path / "my demo"))
    with duckdb.connect(str(tmp_path / "my demo" / "warehouse.duckdb")) as db:
        [(count, ids)] = db.sql("SELECT count(*), count(DISTINCT hash_id) FROM stage.orders").fetchall()
        [orders] = db.sql("SELECT sum(orders)::BIGINT, count(*) FROM reports.city_orders").fetchall()
    assert count == ids == orders[0]
    assert orders[1] == 12
    assert list((tmp_path / "my demo" / "servers").rglob("*.down")) == []
    folder, unset, *proposed = next_commands(done.stdout)
    assert (folder, unset, len(proposed)) == ("cd 'my demo'", "unset DWHCTL_PROJECT", 5)
    monkeypatch.chdir(tmp_path / "my demo")
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    for command in proposed:
        arguments = arguments_of(command)
        inline = ("--inline",) if arguments[0] == "load" else ()  # workers are started in the demo's own load
        assert dwh(*arguments, *inline) == 0, (command, capsys.readouterr())
    assert "all in time: orders" in capsys.readouterr().out


def assert_fits(output: str, folder: str) -> None:
    """Only a command to copy, and what holds the folder's or the program's path, may be longer than a line."""
    for line in output.splitlines():
        rate = re.sub(r" \([\d,]+ rows/s\)", "", line)
        is_command = ", then: dwhctl " in line
        assert len(rate) <= WIDTH or folder in line or is_command or re.match(r"  /", line), line


def test_what_to_try_next_is_short_where_dwhctl_is_on_the_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "program_name", lambda: "dwhctl")
    demo._say_next(Path("demo"))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= WIDTH
    commands = next_commands(shown)
    assert commands[0] == "cd demo"
    assert [command.split()[0] for command in commands[1:]] == ["dwhctl"] * 5


def test_a_demo_that_goes_wrong_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        demo.FILES, "sql/orders/create.sql", "city_orders.sql"
    )  # a table without service fields
    done = CliRunner().invoke(dwhctl, ["demo", str(tmp_path / "new"), "--quiet"])
    assert isinstance(done.exception, DwhctlError)
    assert "the demo stops here: dwhctl backfill -s" in str(done.exception)
    assert f"the project is in {tmp_path / 'new'}" in str(done.exception)
    assert done.output == ""


def test_demo_leaves_a_used_folder_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("x")
    assert dwh("demo", tmp_path) == 2
    shown = capsys.readouterr()
    assert "is not empty; give another folder" in shown.err
    assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_demo_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert dwh("demo", tmp_path / "file") == 2
    assert "is not a folder" in capsys.readouterr().err
