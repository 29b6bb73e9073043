"""The crontab's block and the times of schedules: nothing outside the block changes, no clock change goes unseen."""

from __future__ import annotations

import itertools
import shlex
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.errors import CrontabError
from dwhctl.runs.crontab import MAX_COMMAND, block_of, difference, with_block
from dwhctl.runs.schedules import clock_changes, fire_times, jobs_of
from tests.unit.projects import a_load, a_project

BERLIN = ZoneInfo("Europe/Berlin")
PROGRAM = ["/opt/dwhctl/bin/dwhctl"]
ROOT = Path("/srv/dwh")
LINES = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30).filter(
        lambda line: "dwhctl /srv" not in line and line == "".join(line.splitlines())
    ),
    max_size=6,
)


def a_block(*schedules: str) -> list[str]:
    """The block of a project whose loads have these schedules."""
    loads = {
        f"load_{number}": a_load(name=f"load_{number}", schedule=schedule)
        for number, schedule in enumerate(schedules)
    }
    return block_of(a_project(ROOT, loads=loads), PROGRAM)


def text(lines: list[str]) -> str:
    """A crontab of these lines."""
    return "".join(f"{line}\n" for line in lines)


@given(LINES, LINES)
def test_lines_outside_the_block_stay_as_they_are(before: list[str], after: list[str]) -> None:
    old, new = a_block("0 * * * *"), a_block("5 4 * * *", "6 5 * * 1")
    crontab = text([*before, *old, *after])
    assert with_block(crontab, ROOT, new) == text([*before, *new, *after])
    assert with_block(crontab, ROOT, []) == text([*before, *after])
    assert with_block(text([*before, *after]), ROOT, new) == text([*before, *after, *new])


@given(LINES)
def test_to_install_twice_is_to_install_once(lines: list[str]) -> None:
    block = a_block("0 * * * *")
    once = with_block(text(lines), ROOT, block)
    assert with_block(once, ROOT, block) == once
    assert difference(once, with_block(once, ROOT, block)) == []


@pytest.mark.parametrize("order", [[0], [1], [1, 0], [0, 0, 1], [0, 1, 1]])
def test_a_damaged_block_is_refused(order: list[int]) -> None:
    block = a_block("0 * * * *")
    markers = [block[0], block[-1]]
    with pytest.raises(CrontabError, match=r"damaged: keep the lines .*crontab -e"):
        with_block(text([markers[place] for place in order]), ROOT, block)


def test_another_projects_block_is_somebody_elses() -> None:
    other = [line.replace("/srv/dwh", "/srv/dwh2") for line in a_block("1 1 * * *")]
    block = a_block("0 * * * *")
    both = with_block(text(other), ROOT, block)
    assert both == text([*other, *block])
    assert with_block(both, ROOT, []) == text(other)


def test_loads_of_one_schedule_share_a_line_and_catching_up_is_part_of_it() -> None:
    loads = {
        "orders": a_load(name="orders", schedule="0 */6 * * *"),
        "calls": a_load(name="calls", schedule="0 */6 * * *"),
        "rates": a_load(name="rates", schedule="0 */6 * * *", catch_up=14),
        "cities": a_load(name="cities", schedule="@daily", slice_by=None),
        "by_hand": a_load(name="by_hand"),
    }
    lines = block_of(a_project(ROOT, loads=loads), PROGRAM)[2:-1]
    end = "--quiet --project /srv/dwh >> /srv/dwh/state/logs/cron.log 2>&1"
    assert lines == [
        f"0 */6 * * * /opt/dwhctl/bin/dwhctl load orders calls --date today --lookback 1 {end}",
        f"0 */6 * * * /opt/dwhctl/bin/dwhctl load rates --date today --lookback 14 --only-missing {end}",
        f"@daily /opt/dwhctl/bin/dwhctl load cities --date today {end}",
    ]


def test_a_line_is_never_longer_than_cron_takes() -> None:
    loads = {
        f"load_{number:03}": a_load(name=f"load_{number:03}", schedule="@hourly") for number in range(200)
    }
    lines = block_of(a_project(ROOT, loads=loads), PROGRAM)[2:-1]
    commands = [line.removeprefix("@hourly ") for line in lines]
    assert max(map(len, commands)) <= MAX_COMMAND
    named = [word for command in commands for word in shlex.split(command) if word.startswith("load_")]
    assert named == list(loads)


def test_what_means_something_to_cron_or_the_shell_is_escaped() -> None:
    root = Path("/srv/100% of 'it'")
    (line,) = block_of(a_project(root, loads={"a": a_load(name="a", schedule="@daily")}), PROGRAM)[2:-1]
    command = line.removeprefix("@daily ")
    assert "%" not in command.replace(r"\%", "")
    words = shlex.split(command.replace(r"\%", "%"))
    assert words[words.index("--project") + 1] == str(root)
    assert words[words.index(">>") + 1] == f"{root}/state/logs/cron.log"


# Times


def test_a_fixed_hour_that_is_left_out_comes_right_after_and_is_told_of() -> None:
    before = datetime(2027, 3, 27, 12, tzinfo=UTC)
    times = list(itertools.islice(fire_times("30 2 * * *", before, BERLIN), 2))
    assert [f"{at:%d %H:%M}" for at in times] == ["28 03:00", "29 02:30"]
    (change,) = clock_changes("30 2 * * *", before, 30, BERLIN)
    assert (change.what, change.at) == ("skipped", datetime(2027, 3, 28, 2, 30))  # noqa: DTZ001 - a clock's face


def test_a_fixed_hour_that_comes_twice_starts_once_and_is_told_of() -> None:
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)
    times = list(itertools.islice(fire_times("30 2 * * *", before, BERLIN), 2))
    assert [f"{at:%d %H:%M}" for at in times] == ["25 02:30", "26 02:30"]
    (change,) = clock_changes("30 2 * * *", before, 30, BERLIN)
    assert (change.what, change.at) == ("doubled", datetime(2026, 10, 25, 2, 30))  # noqa: DTZ001 - a clock's face


@pytest.mark.parametrize("schedule", ["0 */6 * * *", "*/10 2 * * *", "@hourly"])
def test_what_runs_all_day_misses_nothing(schedule: str) -> None:
    assert list(clock_changes(schedule, datetime(2026, 1, 1, tzinfo=UTC), 366, BERLIN)) == []


ZONES = st.sampled_from(
    [
        ZoneInfo(name)
        for name in ("UTC", "Europe/Berlin", "Asia/Chita", "America/Santiago", "Australia/Lord_Howe")
    ]
)


@given(
    st.integers(0, 59),
    st.integers(0, 23),
    st.dates(date(2001, 1, 1), date(2036, 1, 1)),
    ZONES,
)
def test_a_job_of_every_day_comes_once_each_day_through_every_clock_change(
    minute: int, hour: int, first: date, zone: ZoneInfo
) -> None:
    schedule = f"{minute} {hour} * * *"
    start = datetime(first.year, first.month, first.day, 12, tzinfo=zone) - timedelta(days=1)
    times = list(itertools.islice(fire_times(schedule, start, zone), 10))
    told = {change.at.date() for change in clock_changes(schedule, start, 14, zone)}
    days = [at.date() for at in times]
    assert days == [days[0] + timedelta(days=number) for number in range(10)]
    for at in times:
        assert (at.hour, at.minute) == (hour, minute) or at.date() in told


def test_jobs_keep_the_order_of_the_project() -> None:
    loads = {name: a_load(name=name, schedule="@daily") for name in ("z", "a")}
    assert [job.names for job in jobs_of(a_project(ROOT, loads=loads))] == [("z", "a")]


def test_a_line_too_long_without_names_is_left_to_cron_to_refuse() -> None:
    """The watch has no names by which its line could be parted."""
    root = Path("/srv") / ("d" * MAX_COMMAND)
    loads = {"orders": a_load(deadline=time(7))}
    [line] = [line for line in block_of(a_project(root, loads=loads), PROGRAM) if " watch " in line]
    assert line.startswith("*/5 * * * * ")
