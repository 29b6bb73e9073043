"""Progress and summary, from events made up here."""

from __future__ import annotations

import io
import re
import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from dwhctl.cli.common.live import LiveProgress
from dwhctl.cli.common.options import Settings
from dwhctl.cli.common.progress import PlainProgress, Tally
from dwhctl.cli.common.summary import show_summary
from dwhctl.cli.load import open_progress
from dwhctl.core.errors import ExitCode
from dwhctl.core.waiting import Waiting
from dwhctl.project.find import find_project
from dwhctl.project.model import Project
from dwhctl.project.read import read_project
from dwhctl.runtime.events import (
    Event,
    FailedSlice,
    Notice,
    RunResult,
    RunStarted,
    SliceClosed,
    SliceReady,
    SliceStaged,
    SliceStarted,
    SliceWaits,
)
from dwhctl.runtime.failures import group_failures
from dwhctl.runtime.messages import Failure
from dwhctl.runtime.plan import LoadRequest, Plan, candidates
from dwhctl.sessions.values import State
from tests.cli_support import small_project
from tests.support.faulty import wait_until

DAY = date(2020, 7, 13)
REFUSED = Failure("ConnectError", "the server\ndoes not answer", permanent=False)
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d\d:\d\d ")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return candidates(read_project(find_project(small_project(tmp_path))), LoadRequest(days=(DAY,)))


def started(shard: str, connection: str = "server_0", attempt: int = 1) -> SliceStarted:
    return SliceStarted("orders", shard, connection, DAY, attempt)


def closed(shard: str, state: State, rows: int = 0, connection: str = "server_0") -> SliceClosed:
    failure = REFUSED if state in (State.FAILED, State.UP_FOR_RETRY) else None
    again = datetime(2020, 7, 14, tzinfo=UTC) if state is State.UP_FOR_RETRY else None
    return SliceClosed("orders", shard, connection, DAY, 1, state, rows, 0.5, failure, again)


def events(plan: Plan) -> list[Event]:
    return [
        Notice("run 1 died and was reaped"),
        RunStarted("2", plan),
        started("abakan"),
        started("achinsk"),
        closed("achinsk", State.UP_FOR_RETRY),
        closed("abakan", State.LOADED, 1500),
        started("achinsk", attempt=2),
        closed("achinsk", State.FAILED, 99),  # staged, never published
        started("chita", "server_1"),
        closed("chita", State.SKIPPED, connection="server_1"),
    ]


def test_the_tally_counts_each_slice_once(plan: Plan) -> None:
    now = [0.0]
    tally = Tally(lambda: now[0])
    steps = []
    for event in events(plan):
        now[0] = 10.0 if isinstance(event, SliceClosed) else 0.0
        tally.take(event)
        every = tally.all()
        states = Counter(every.states.values())
        steps.append((every.done, every.failed, states["running"], states["waiting for a retry"]))
    every = tally.all()
    assert steps[4:] == [(0, 0, 1, 1), (1, 0, 0, 1), (1, 0, 1, 0), (2, 1, 0, 0), (2, 1, 1, 0), (3, 1, 0, 0)]
    assert (every.total, every.rows, tally.rate(every.rows)) == (3, 1500, 150)
    assert [(s.connection, s.total, s.done) for s in tally.servers.values()] == [
        ("server_0", 2, 2),
        ("server_1", 1, 1),
    ]


def test_the_time_of_a_run_ends_with_its_last_slice(plan: Plan) -> None:
    """The alerts and pings after it are no work: the last line and the summary give the same time."""
    now = [100.0]
    tally = Tally(lambda: now[0])
    for event in events(plan):
        now[0] += 1
        tally.take(event)
    took = tally.seconds()
    now[0] += 60
    assert tally.all().done == tally.all().total
    assert tally.seconds() == took


def test_slices_that_wait_until_they_are_ready_are_counted(plan: Plan) -> None:
    written: list[str] = []
    waits = ("server_0", DAY, 0, "sql/orders/ready.sql", datetime(2020, 7, 14, 7, tzinfo=UTC))
    with PlainProgress(write=written.append, every=0.05) as progress:
        progress(RunStarted("2", plan))
        progress(closed("abakan", State.UP_FOR_RETRY))
        progress(SliceWaits("orders", "abakan", *waits))
        progress(SliceWaits("orders", "achinsk", *waits))
        wait_until(lambda: "2 waiting until ready" in written[-1], "both are shown")
        progress(SliceReady("orders", "abakan", "server_0", DAY, 0, 61.5))
        wait_until(lambda: "1 waiting until ready" in written[-1], "one is shown")
        progress(closed("achinsk", State.FAILED))
    assert "waiting" not in written[-1]


def test_running_staged_and_done_are_different_numbers(plan: Plan) -> None:
    console, _ = terminal()
    progress = LiveProgress(console=console)
    progress(RunStarted("2", plan))
    progress(started("abakan"))
    assert "1 running: abakan" in picture(progress), "the name of the shard is there from its start"
    progress(SliceStaged("orders", "abakan", "server_0", DAY, 1, 10))
    progress(started("achinsk"))
    text = picture(progress)
    assert "1 running, 1 staged: achinsk" in text
    assert "0/2" in text
    progress(closed("abakan", State.LOADED, 10))
    text = picture(progress)
    assert "1/2" in text
    assert "staged" not in text


@pytest.mark.parametrize("width", [80, 200])
def test_the_bar_uses_the_width_of_the_terminal(plan: Plan, width: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=24, color_system=None)
    progress = LiveProgress(console=console)
    progress(RunStarted("2", plan))
    for shard in ("abakan", "achinsk"):
        progress(closed(shard, State.LOADED, 123_456_789_012))
    console.print(progress.picture())
    line = next(line for line in screen.getvalue().splitlines() if line.startswith("server_0"))
    assert len(line.rstrip()) <= width
    assert line.count("━") >= width // 9
    assert "246,913,578,024" in line


def test_a_wait_is_in_the_picture_until_it_is_over(plan: Plan) -> None:
    console, _ = terminal()
    progress = LiveProgress(console=console)
    progress(Waiting(1, "waiting for pid 4600 on host"))
    assert "waiting for pid 4600 on host" in picture(progress)
    progress(
        Waiting(
            2,
            f"waiting for pid 4600 on host (dwhctl {'x' * 40}, since 2026-11-30 23:28:01 +03:00): it is done",
        )
    )
    assert "since 2026-11-30 23:28:01 +03:00" in picture(progress), "a time is not broken over two lines"
    progress(Waiting(2))
    progress(RunStarted("2", plan))
    progress(Waiting(1))
    assert "waiting" not in picture(progress)
    lines: list[str] = []
    with PlainProgress(write=lines.append) as plainly:
        plainly(Waiting(1, "waiting for pid 4600 on host"))
        plainly(Waiting(1))
    assert [STAMP.sub("", line) for line in lines] == ["waiting for pid 4600 on host"]


def plain(plan: Plan, *, verbose: bool = False) -> list[str]:
    lines: list[str] = []
    with PlainProgress(verbose=verbose, write=lines.append) as progress:
        for event in events(plan):
            progress(event)
    assert all(STAMP.match(line) for line in lines)
    return [STAMP.sub("", line) for line in lines]


def test_plain_progress_says_what_cron_should_know(plan: Plan) -> None:
    lines = plain(plan)
    assert lines[0] == "run 1 died and was reaped"
    assert lines[1] == "started: 3 slices of 1 load from 2 servers, 2020-07-13; run 2"
    assert re.match(
        r"will retry at 2020-07-14 00:00:00 \+00:00: orders achinsk 2020-07-13 \(from server_0\): attempt 1",
        lines[2],
    )
    assert lines[3] == (
        "failed: orders achinsk 2020-07-13 (from server_0): attempt 1 failed after 0.5 s:"
        " ConnectError: the server does not answer"
    )
    assert re.fullmatch(r"finished: 3 of 3 slices, 1 failed, 1,500 rows, 0\.\d s", lines[4]), "no rate"
    assert len(lines) == 5


def test_verbose_plain_progress_says_each_slice(plan: Plan) -> None:
    lines = plain(plan, verbose=True)
    assert "loaded: orders abakan 2020-07-13 (from server_0): 1,500 rows in 0.5 s" in lines
    assert "skipped: orders chita 2020-07-13 (from server_1): 0 rows in 0.5 s" in lines


def test_a_long_run_gives_a_sign_of_life(plan: Plan) -> None:
    beaten = threading.Event()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        if "working: " in line:
            beaten.set()

    with PlainProgress(write=write, every=0.01) as progress:
        progress(RunStarted("2", plan))
        progress(started("abakan"))
        assert beaten.wait(5)
    count = len(lines)
    assert "working: 0 of 3 slices, 0 failed, 1 running, 0 rows, " in "\n".join(lines)
    assert any(line.endswith(" s: abakan") for line in lines), "the shards that run have names"
    assert "rows/s" not in "\n".join(lines)
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
    assert len(lines) == count


def test_an_error_leaves_no_finished_line(plan: Plan) -> None:
    lines: list[str] = []
    progress = PlainProgress(write=lines.append)
    progress.__enter__()
    progress(RunStarted("2", plan))
    progress.__exit__(KeyError, KeyError(), None)
    assert len(lines) == 1


def test_quiet_shows_no_progress(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(Settings(quiet=True)) as progress:
        for event in events(plan):
            progress(event)
    assert capsys.readouterr() == ("", "")


def terminal(height: int = 24) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=100, height=height, color_system=None), screen


def picture(progress: LiveProgress) -> str:
    console, screen = terminal()
    console.print(progress.picture())
    return screen.getvalue()


def test_live_progress_has_a_line_for_each_server(plan: Plan) -> None:
    console, screen = terminal()
    with LiveProgress(console=console) as progress:
        for event in events(plan):
            progress(event)
        lines = picture(progress).splitlines()
    assert lines[0].split() == ["server", "slices", "rows", "failed"]
    found = {line.split()[0]: line for line in lines[1:4]}
    assert "2/2" in found["server_0"]
    assert "1,500" in found["server_0"]
    assert "1/1" in found["server_1"]
    assert "3/3" in found["all"]
    assert lines[4] == "failed: orders achinsk 2020-07-13: ConnectError: the server does not answer"
    assert "run 1 died and was reaped" in screen.getvalue()
    assert "loaded: orders abakan" not in screen.getvalue()


def test_verbose_live_progress_leaves_a_line_for_each_slice(plan: Plan) -> None:
    console, screen = terminal()
    with LiveProgress(verbose=True, console=console) as progress:
        for event in events(plan):
            progress(event)
    assert "loaded: orders abakan" in screen.getvalue()


def test_live_progress_fits_a_low_terminal(plan: Plan) -> None:
    console, _ = terminal(height=11)
    progress = LiveProgress(console=console)
    progress(RunStarted("2", plan))
    for number in range(50):
        progress(started("s", f"more_{number}"))
    text = picture(progress)
    assert "and 50 more" in text
    assert len(text.splitlines()) <= 11


def test_live_progress_names_the_first_failures_only(plan: Plan) -> None:
    console, _ = terminal()
    progress = LiveProgress(console=console)
    progress(RunStarted("2", plan))
    for number in range(10):
        progress(closed(f"s{number}", State.FAILED))
    for server in range(1, 6):
        progress(closed("other", State.FAILED, connection=f"server_{server}"))
    text = picture(progress)
    assert text.count("10 failed, first: orders s0") == 1
    assert text.count("failed: orders other") == 2
    assert "and 3 more failures" in text


def test_plain_progress_has_a_line_for_each_reason(plan: Plan) -> None:
    events: list[Event] = [RunStarted("2", plan)]
    for state in (State.UP_FOR_RETRY, State.FAILED):
        events += [closed(f"s{number}", state, connection=f"server_{number // 50}") for number in range(150)]
    lines: list[str] = []
    with PlainProgress(write=lines.append) as progress:
        for event in events:
            progress(event)
    assert [STAMP.sub("", line).split(" ")[0] for line in lines] == [
        "started:",
        *["will"] * 3,
        *["failed:"] * 3,
        "finished:",
    ]
    assert "150 failed (147 more like those above; -v shows each)" in lines[-1]
    each: list[str] = []
    with PlainProgress(verbose=True, write=each.append) as progress:
        for event in events:
            progress(event)
    assert len(each) == 302


def failed(shard: str, failure: Failure = REFUSED, load: str = "orders") -> FailedSlice:
    return FailedSlice(load, shard, "server_0", DAY, failure)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return read_project(find_project(small_project(tmp_path)))


def summary(
    report: RunResult, settings: Settings, capsys: pytest.CaptureFixture[str], project: Project | None = None
) -> list[str]:
    if project is not None:
        report.groups = group_failures(project, report.failures)
    show_summary(report, settings)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_the_summary_of_a_good_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = RunResult("2", loaded=10, skipped=2, rows=5000, seconds=2.5)
    assert summary(report, Settings(), capsys) == [
        "10 slices loaded, 2 skipped (no rows), 0 failed; 5,000 rows in 2.5 s"
    ]
    assert summary(report, Settings(quiet=True), capsys) == []


def test_the_summary_groups_failures_by_reason(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    other = Failure("QueryError", "no such column", permanent=True)
    report = RunResult("2", failed=4, failures=[failed("perm", other), failed("a"), failed("b"), failed("c")])
    assert summary(report, Settings(quiet=True), capsys, project) == [
        "",
        "3 slices failed on server_0: ConnectError: the server does not answer",
        "  orders 2020-07-13: a, b, c",
        "  try again: dwhctl load orders --date 2020-07-13 --shard a --shard b --shard c",
        "",
        "1 slice failed: QueryError: no such column",
        "  orders 2020-07-13: perm",
        "  correct sql/orders.sql, then: dwhctl load orders --date 2020-07-13 --shard perm",
    ]


def test_one_mistake_in_150_shards_is_one_block(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    failures = []
    for number in range(150):
        shard = f"s{number}"
        syntax = Failure("QueryError", f"{shard}: syntax error at or near FORM", permanent=True, line=2)
        failures.append(replace(failed(shard, syntax), connection=f"server_{number // 50}"))
    report = RunResult("2", failed=150, failures=failures)
    lines = summary(report, Settings(quiet=True), capsys, project)
    assert lines == [
        "",
        "150 slices failed: QueryError: s0: syntax error at or near FORM",
        "  orders 2020-07-13: s0, s1, s2, s3, s4 and 145 more",
        "  correct sql/orders.sql, then: dwhctl load orders --date 2020-07-13 --only-failed",
    ]
    assert max(map(len, lines[:3])) <= 80
    shown = summary(report, Settings(verbose=True), capsys, project)
    assert "  orders s149 2020-07-13: QueryError: s149: syntax error at or near FORM" in shown


def test_the_summary_stays_short_and_names_the_project(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [failed(f"s{number}") for number in range(50)]
    classes = ("ValueRefusedError", "OutsideSliceError", "DoubledKeyError", "TimedOutError", "SourceError")
    reasons = [failed("x", Failure(name, "reason", permanent=True)) for name in classes]
    report = RunResult("2", failed=55, failures=many + reasons)
    lines = summary(report, Settings(project=Path("/srv/my dwh")), capsys, project)
    assert lines[3] == "  orders 2020-07-13: s0, s1, s2, s3, s4 and 45 more"
    assert lines[4] == (
        "  try again: dwhctl load orders --date 2020-07-13 --only-failed --project '/srv/my dwh'"
    )
    assert lines[-1] == "and 1 slice more failed for 1 other reason (-v shows them)"


def test_one_command_tries_several_days_again(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [replace(failed("a"), day=DAY - timedelta(days=back)) for back in (0, 3)]
    lines = summary(RunResult("2", failed=2, failures=failures), Settings(quiet=True), capsys, project)
    assert lines[3:] == [
        "  try again: dwhctl backfill orders -s 2020-07-10 -e 2020-07-13 --shard a --only-failed"
    ]


def test_a_shrunk_source_is_not_simply_tried_again(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    shrunk = Failure("ShrunkSourceError", "accept it with --allow-shrink", permanent=True)
    report = RunResult("2", failed=1, failures=[failed("a", shrunk)])
    lines = summary(report, Settings(quiet=True), capsys, project)
    assert lines == [
        "",
        "1 slice failed: ShrunkSourceError: accept it with --allow-shrink",
        "  orders 2020-07-13: a",
    ]


def test_the_summary_says_what_stopped_the_run_and_where_time_went(
    project: Project,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = RunResult("2", step_seconds={"extract": 1.0, "publish": 70.0}, stopped="the disk\nis full")
    lines = summary(report, Settings(verbose=True), capsys)
    assert "stopped before its end: the disk is full" in lines
    assert "time: publish 1 m 10 s, extract 1.0 s" in lines
    cut = failed("a", Failure("InterruptedAttemptError", "interrupted", permanent=True))
    interrupted = RunResult("2", failed=1, failures=[cut], signal=ExitCode.INTERRUPTED)
    assert summary(interrupted, Settings(quiet=True), capsys, project) == [
        "interrupted before its end; the same command with --only-missing loads what is not complete"
    ]


def test_a_run_that_did_not_do_all_does_not_say_finished(plan: Plan) -> None:
    lines: list[str] = []
    with PlainProgress(write=lines.append) as progress:
        progress(RunStarted("2", plan))
        progress(closed("abakan", State.LOADED, 5))
    assert "ended early: 1 of 3 slices" in lines[-1]
