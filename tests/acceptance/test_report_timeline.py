"""`report timeline`: what a run did when, on which worker."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import time_machine

from dwhctl.cli.report.monitoring import TIMELINE
from dwhctl.project.read import read_project
from dwhctl.sessions import Closing, NewSession, State, open_store
from tests.cli_support import dwh, small_project
from tests.support.projects import DAY, Sandbox

START = datetime(2020, 7, 14, 3, tzinfo=UTC)


def tell(
    root: Path,
    run_id: str,
    shard: str,
    begin: float,
    busy: float | None,
    state: State = State.LOADED,
    *,
    worker: int | None = 1,
    end: float | None = None,
    attempt: int = 1,
) -> None:
    """Write a session: begun, busy and ended so many seconds after the start."""
    started = START + timedelta(seconds=begin)
    with open_store(read_project(root).sessions, host="etl-1") as store:
        store.prepare()
        token = f"{run_id}{shard}{begin}"
        new = NewSession(run_id, "orders", shard, DAY, attempt, token, started, worker)
        [one] = store.open([new])
        if state is not State.RUNNING:
            finished = START + timedelta(seconds=begin + (busy or 0.0) if end is None else end)
            store.close([Closing(one, state, finished, loaded_rows=5, busy_seconds=busy)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return small_project(tmp_path)


def test_bars_attempts_and_waits(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(root, "20200714T030000-aa", "abakan", 0, 40, end=100)
    tell(root, "20200714T030000-aa", "achinsk", 0, 20, State.UP_FOR_RETRY, worker=2)
    tell(root, "20200714T030000-aa", "achinsk", 60, 30, end=100, worker=1, attempt=2)
    tell(root, "20200714T030000-aa", "chita", 20, 60, State.FAILED, worker=2)
    assert dwh("report", "timeline", "last", "--project", root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run 20200714T030000-aa on etl-1, 2020-07-14 06:00:00 +03:00, 1 m 40 s"
    assert lines[1] == "3 slices, 4 attempts: 2 loaded, 1 up for retry, 1 failed; workers 75% busy"
    axis, first, second, publish, retry = lines[3:8]
    left = len("to publish") + 2
    width = 160 - left
    assert axis[left:].startswith("|0s")
    assert re.fullmatch(r"worker 1 +L abakan ─+ +L achinsk #2 ─+", first)
    assert re.fullmatch(r"worker 2 +U achinsk ─+ F chita ─+", second)
    assert abs(first.index("achinsk") - 2 - left - 60 * width // 100) <= 1
    assert abs(second.index("F") - left - 20 * width // 100) <= 1
    # abakan waits for its publishing from 40 to 100, achinsk for its retry from 20 to 60.
    assert abs(len(publish) - len(publish[left:].lstrip()) - left - 40 * width // 100) <= 1
    assert abs(len(retry[left:].strip()) - 40 * width // 100) <= 2
    assert "to publish: at most 2 slices" in lines[-1]


def test_a_refresh_has_a_lane_for_each_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(read_project(root).sessions, host="etl-1") as store:
        store.prepare()
        attempts = (("sums", 0, 30), ("tops", 0, 50), ("sums", 40, 100))
        for number, (report, begin, end) in enumerate(attempts):
            began = START + timedelta(seconds=begin)
            [one] = store.open([NewSession("run", report, None, DAY, 1 + number // 2, str(number), began)])
            state = State.LOADED if number else State.UP_FOR_RETRY
            store.close([Closing(one, state, START + timedelta(seconds=end))])
    assert dwh("report", "timeline", "last", "--project", root) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[1] == "2 reports, 3 attempts: 2 loaded, 1 up for retry"
    assert re.fullmatch(r"sums +U sums ─+ +L sums #2 ─+", lines[4])
    assert re.fullmatch(r"tops +L tops ─+", lines[5])
    assert "for retry: at most 1 report" in lines[-1]
    assert "worker" not in out
    assert "None" not in out


@pytest.mark.parametrize("form", ["json", "csv"])
def test_for_programs_a_row_for_each_session(
    root: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    tell(root, "20200714T030000-aa", "abakan", 0, 40, end=100)
    tell(root, "20200714T030000-aa", "chita", 0, None, worker=None, end=10)
    assert dwh("report", "timeline", "20200714", "--project", root, "--format", form) == 0
    out = capsys.readouterr().out
    rows = json.loads(out) if form == "json" else list(csv.DictReader(io.StringIO(out)))
    assert tuple(rows[0]) == TIMELINE.names
    assert [str(row["worker"] or "") for row in rows] == ["1", ""]
    assert rows[0]["busy_until"] == "2020-07-14T03:00:40+00:00"
    assert [float(row["waited_seconds"] or -1) for row in rows] == [60, -1]
    assert [float(row["busy_seconds"] or -1) for row in rows] == [40, -1]


def test_a_run_is_named_by_its_beginning_or_last(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run_id in ("20200713T030000-aa", "20200714T030000-aa", "20200714T040000-bb"):
        tell(root, run_id, "abakan", 0, 1)
    for text, found in [
        ("20200713", "20200713T030000-aa"),
        ("20200714T04", "20200714T040000-bb"),
        ("20200714T030000-aa", "20200714T030000-aa"),
        ("last", "20200714T040000-bb"),
    ]:
        assert dwh("report", "timeline", text, "--project", root) == 0
        assert capsys.readouterr().out.startswith(f"run {found} on etl-1")
    assert dwh("report", "timeline", "20200714", "--project", root) == 2
    err = capsys.readouterr().err
    assert "'20200714' is the beginning of several runs: 20200714T030000-aa, 20200714T040000-bb" in err
    assert dwh("report", "timeline", "2021", "--project", root) == 2
    assert "there is no run '2021': the last one is 20200714T040000-bb" in capsys.readouterr().err
    assert dwh("report", "timeline", "", "--project", root) == 2


def test_sessions_of_an_earlier_version_are_drawn_side_by_side(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard, begin, end in (("abakan", 0, 50), ("achinsk", 10, 40), ("chita", 60, 90)):
        tell(root, "run", shard, begin, None, worker=None, end=end)
    assert dwh("report", "timeline", "run", "--project", root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"worker \? +L abakan ─+ +L chita ─+", lines[4])
    assert re.fullmatch(r"worker \? +L achinsk ─+", lines[5])
    assert "worker ?: no worker had it, or it is not known which" in lines[-1]


def test_what_runs_is_drawn_until_now_but_no_longer_than_it_can_live(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(root, "run", "abakan", 0, None, State.RUNNING)
    for later, took in ((60, "1 m 0 s"), (86400, "30 m 0 s")):
        with time_machine.travel(START + timedelta(seconds=later), tick=False):
            assert dwh("report", "timeline", "run", "--project", root) == 0
        out = capsys.readouterr().out
        assert f"+03:00, {took}\n1 slice, 1 attempt: 1 running" in out
        assert re.search(r"worker 1 +R abakan ─+", out)


def test_many_short_sessions_in_a_column_show_the_worst(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(root, "run", "abakan", 0, 0.01)
    tell(root, "run", "achinsk", 0.02, 0.01, State.FAILED)
    tell(root, "run", "chita", 1000, 1000)
    assert dwh("report", "timeline", "run", "--project", root) == 0
    assert re.search(r"worker 1 +F +L chita", capsys.readouterr().out)


def test_a_real_run_keeps_its_workers_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox(tmp_path).write().fill(shards=["abakan", "achinsk"])
    assert sandbox.run("load", "--date", str(DAY), "--jobs", "2").returncode == 1
    assert dwh("report", "timeline", "last", "--project", tmp_path, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} >= {"loaded", "failed"}
    assert {row["worker"] for row in rows} <= {1, 2}
    for worker in (1, 2):
        mine = sorted((row for row in rows if row["worker"] == worker), key=lambda row: row["started"])
        assert all(first["busy_until"] <= second["started"] for first, second in pairwise(mine))
    assert all(row["busy_until"] <= row["finished"] for row in rows)
