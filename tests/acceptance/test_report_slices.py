"""`report grid` and `report gaps` as a person, a pipe and a script see them."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from dwhctl.cli.common.ending import run
from dwhctl.cli.main import dwhctl
from dwhctl.cli.report.slices import GAPS, GRID
from dwhctl.project.read import read_project
from dwhctl.sessions import Closing, NewSession, State, open_store
from tests.cli_support import LOAD, dwh, small_project
from tests.support.terminal import on_a_terminal

NOW = datetime(2020, 7, 14, 12, tzinfo=UTC)
TODAY = date(2020, 7, 14)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def tell(root: Path, shard: str, day: date, state: State, started: datetime | None = None) -> None:
    """Write a session as a run would: by default begun on the next morning."""
    started = started or datetime(day.year, day.month, day.day, 3, tzinfo=UTC) + timedelta(days=1)
    with open_store(read_project(root).sessions) as store:
        store.prepare()
        [one] = store.open([NewSession("run", "orders", shard, day, 1, f"{shard}{day}{state}", started)])
        if state is not State.RUNNING:
            store.close([Closing(one, state, started)])


@pytest.fixture
def lived(tmp_path: Path) -> Path:
    """Three shards from 2020-07-10 on: one whole, one that failed, one with a day that was loaded at noon."""
    root = small_project(tmp_path, load=LOAD.replace("2020-07-01", "2020-07-10"))
    for number in range(10, 14):
        day = date(2020, 7, number)
        tell(root, "abakan", day, State.SKIPPED if number == 12 else State.LOADED)
        if number < 12:
            tell(root, "achinsk", day, State.LOADED)
        noon = datetime(2020, 7, number, 9, tzinfo=UTC)
        tell(root, "chita", day, State.LOADED, noon if number == 13 else None)
    tell(root, "achinsk", date(2020, 7, 12), State.FAILED)
    tell(root, "abakan", TODAY, State.LOADED, datetime(2020, 7, 14, 9, tzinfo=UTC))
    return root


@time_machine.travel(NOW, tick=False)
def test_the_grid_in_a_pipe_is_letters_at_full_width(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("report", "grid", "--project", lived, "--days", 7) == 0
    legend = (
        " L  loaded    S  skipped, no rows    -  before its start    .  day not over, not tried"
        "    o  day not over, loaded so far    E  loaded early, before the day was over"
        "    M  missing, never tried    F  failed"
    )
    assert capsys.readouterr().out.splitlines() == [
        "orders: 3 shards, 9 of 12 slices complete",
        "                    Jul 2020",
        "server    shard     08 09 10 11 12 13 14  gaps",
        "server_0  abakan    -  -  L  L  S  L  o",
        "server_0  achinsk   -  -  L  L  F  M  .      2",
        "server_1  chita     -  -  L  L  L  E  .      1",
        "",
        legend,
    ]


@time_machine.travel(NOW, tick=False)
def test_a_complete_slice_whose_reload_failed_or_runs_has_a_sign(
    lived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is no gap. A day that was loaded early is not complete, and its reload is a plain failure."""
    tell(lived, "abakan", date(2020, 7, 10), State.UP_FOR_RETRY, NOW)
    tell(lived, "abakan", date(2020, 7, 11), State.RUNNING, NOW)
    tell(lived, "abakan", date(2020, 7, 12), State.ABANDONED, NOW)
    tell(lived, "chita", date(2020, 7, 13), State.FAILED, NOW)
    tell(lived, "chita", date(2020, 7, 10), State.FAILED, NOW)
    assert dwh("report", "grid", "--project", lived, "--days", 5) == 0
    out = capsys.readouterr().out
    assert [" ".join(line.split()) for line in out.splitlines()[3:6]] == [
        "server_0 abakan f r f L o",
        "server_0 achinsk L L F M . 2",
        "server_1 chita f L L F . 1",
    ]
    assert "f  complete, its last reload failed" in out
    assert "r  complete, being loaded again" in out
    assert "orders: 3 shards, 9 of 12 slices complete" in out
    assert dwh("report", "grid", "--project", lived, "--days", 5, "--format", "json") == 0
    cells = [(row["state"], row["complete"]) for row in listing(capsys.readouterr().out, "json")]
    assert cells[:3] == [("reload_failed", True), ("reloading", True), ("reload_failed", True)]
    assert dwh("report", "gaps", "--project", lived, "--exit-code", "--shard", "abakan") == 0


@time_machine.travel(NOW, tick=False)
def test_the_grid_folds_to_servers(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("report", "grid", "--project", lived, "--days", 7, "--fold") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 shards, 9 of 12 slices complete"
    assert re.fullmatch(r"orders  server_0 +-  -  L  L +1F 1M o +2", lines[3])
    assert re.fullmatch(r"orders  server_1 +-  -  L  L  L  E  \. +1", lines[4])
    # The shards with gaps stand below, the worst first.
    assert lines[6] == "2 shards with gaps"
    assert [line.split()[2] for line in lines[9:11]] == ["achinsk", "chita"]
    assert "1F: 1 not complete, the worst failed" in lines[-1]


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_grid_for_programs_has_a_row_for_each_slice(
    lived: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    assert (
        dwh("report", "grid", "orders", "--project", lived, "--days", 7, "--format", form, "--shard", "ch*")
        == 0
    )
    rows = listing(capsys.readouterr().out, form)
    assert tuple(rows[0]) == GRID.names
    assert len(rows) == 7
    assert [row["state"] for row in rows] == [*["before_start"] * 2, *["loaded"] * 3, "early", "not_yet"]
    assert [str(row["complete"]).lower() for row in rows] == [*["false"] * 2, *["true"] * 3, "false", "false"]
    assert (rows[5]["connection"], rows[5]["day"], rows[5]["started"]) == (
        "server_1", "2020-07-13", "2020-07-13T09:00:00+00:00"
    )  # fmt: skip


def listing(out: str, form: str) -> list[dict[str, object]]:
    if form == "csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(out))]
    found: list[dict[str, object]] = json.loads(out)
    return found


@time_machine.travel(NOW, tick=False)
def test_gaps_and_the_commands_that_fill_them(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("report", "gaps", "--project", lived) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "3 slices to fill in 2 gaps, 2020-07-01 to 2020-07-13"
    commands = [shlex.split(line) for line in out.splitlines() if line.startswith("  dwhctl")]
    place = ["--project", str(lived)]
    start = ["dwhctl", "backfill", "orders", "-s"]
    assert commands == [
        [*start, "2020-07-12", "-e", "2020-07-13", "--only-missing", "--shard", "achinsk", *place],
        [*start, "2020-07-13", "-e", "2020-07-13", "--only-missing", "--shard", "chita", *place],
        [*start, "2020-07-12", "-e", "2020-07-13", "--only-missing", *place],
    ]


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize("form", ["json", "csv"])
def test_gaps_for_programs(
    lived: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    monkeypatch.chdir(lived)
    assert dwh("report", "gaps", "--format", form, "--exit-code") == 1
    rows = listing(capsys.readouterr().out, form)
    assert tuple(rows[0]) == GAPS.names == ("load", "shard", "start", "end", "slices", "command")
    assert [list(map(str, row.values())) for row in rows] == [
        ["orders", "achinsk", "2020-07-12", "2020-07-13", "2",
         "dwhctl backfill orders -s 2020-07-12 -e 2020-07-13 --only-missing --shard achinsk"],
        ["orders", "chita", "2020-07-13", "2020-07-13", "1",
         "dwhctl backfill orders -s 2020-07-13 -e 2020-07-13 --only-missing --shard chita"],
    ]  # fmt: skip


@time_machine.travel(NOW, tick=False)
def test_a_range_without_gaps_is_said_to_be_whole(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--project", lived, "-s", "2020-07-01", "-e", "2020-07-11", "--exit-code")
    assert dwh("report", "gaps", *options) == 0
    assert capsys.readouterr().out == (
        "no gaps: every slice expected from 2020-07-01 to 2020-07-11 is complete\n"
    )
    assert dwh("report", "gaps", *options, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []


@time_machine.travel(NOW, tick=False)
def test_shards_that_lack_the_same_days_are_one_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing has ever run: every day from the start date on is missing, and its state folder stays unmade.
    root = small_project(tmp_path)
    assert dwh("report", "gaps", "--project", root, "--days", 5) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "12 slices to fill in 1 gap, 2020-07-10 to 2020-07-13"
    assert out[3].split() == ["orders", "all", "3", "2020-07-10", "2020-07-13", "12"]
    assert out[4] == (
        f"  dwhctl backfill orders -s 2020-07-10 -e 2020-07-13 --only-missing --project {shlex.quote(str(root))}"
    )
    assert dwh("report", "grid", "--project", root) == 0
    assert "M" in capsys.readouterr().out
    assert not (root / "state").exists()


@time_machine.travel(NOW, tick=False)
def test_commands_for_some_shards_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_project(tmp_path)
    assert dwh("report", "gaps", "--project", root, "--shard", "a*", "--days", 2) == 0
    assert "--only-missing --shard abakan --shard achinsk --project" in capsys.readouterr().out


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("grid ordres", "did you mean 'orders'?"),
        ("grid --shard abaken", "no shard matches 'abaken'; did you mean 'abakan'?"),
        ("grid --days 0", "--days"),
        ("gird", "did you mean 'grid'?"),
        ("gaps -s 2020-07-13 -e 2020-07-01", "--start 2020-07-13 lies after --end 2020-07-01"),
        ("gaps -e 2020-07-15", "--end 2020-07-15 lies in the future"),
        ("gaps -s 2020-07-15", "--start 2020-07-15 lies after"),
        ("gaps -s yesterdy", "'yesterdy' is not a day"),
        ("gaps -s -3d --days 5", "give one of them"),
        ("timeline", "Missing argument 'RUN'"),
        ("timeline last", "there is no run yet"),
    ],
)
def test_typing_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, says: str) -> None:
    assert run(dwhctl, ["report", *words.split(), "--project", str(small_project(tmp_path))]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


def test_a_project_without_loads_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_project(tmp_path)
    (root / "config/loads/orders.toml").unlink()
    for report in ("grid", "gaps"):
        assert dwh("report", report, "--project", root) == 2
        assert "the project has no load" in capsys.readouterr().err


def test_a_project_without_days_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_project(
        tmp_path, load=LOAD.replace('slice_by = "ordered"\n', ""), extract="SELECT id FROM orders\n"
    )
    for report in ("grid", "gaps"):
        assert dwh("report", report, "--project", root) == 2
        assert "has slice_by" in capsys.readouterr().err


@time_machine.travel(NOW, tick=False)
def test_nothing_is_expected_of_a_load_that_never_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_project(tmp_path, load=LOAD.replace("start_date = 2020-07-01\n", ""))
    assert dwh("report", "gaps", "--project", root, "--exit-code") == 0
    assert capsys.readouterr().out.startswith("no gaps: ")
    assert dwh("report", "grid", "--project", root) == 0
    assert "orders: 3 shards, 0 of 0 slices complete" in capsys.readouterr().out
    tell(root, "chita", date(2020, 7, 11), State.FAILED)
    assert dwh("report", "gaps", "--project", root, "--exit-code") == 1
    assert "9 slices to fill in 1 gap" in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "lines"), [(200, 50), (44, 24)])
def test_on_a_terminal_nothing_is_wider_than_it_is(tmp_path: Path, columns: int, lines: int) -> None:
    code, out = on_a_terminal("report", "grid", columns=columns, lines=lines, folder=small_project(tmp_path))
    assert code == 0
    plain = ANSI.sub("", out)
    assert max(map(len, plain.splitlines())) <= columns
    assert ANSI.search(out)
    assert len(re.findall(r"^server_\d  (?:abakan|achinsk|chita) ", plain, re.MULTILINE)) == 3
    if columns == 200:
        assert f"{datetime.now(UTC):%a}" in plain or f"{datetime.now(UTC) - timedelta(days=1):%a}" in plain


def test_a_small_terminal_folds_and_no_color_is_heeded(tmp_path: Path) -> None:
    root = small_project(tmp_path)
    folded = ("report", "grid", "--days", "7")
    _, out = on_a_terminal(*folded, columns=80, lines=10, folder=root, env={"NO_COLOR": "1"})
    assert re.search(r"^orders  server_0 ", ANSI.sub("", out), re.MULTILINE)
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", out)
    _, whole = on_a_terminal(*folded, "--no-fold", columns=80, lines=10, folder=root)
    assert re.search(r"server_0  .*abakan ", ANSI.sub("", whole))
