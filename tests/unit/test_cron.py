"""The crontab's block and the times of schedules: nothing outside the block changes, no clock change goes unseen."""

from __future__ import annotations

import itertools
import os
import pwd
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from io import BytesIO
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl import cron as crontab
from dwhctl.cli import crontab as cli
from dwhctl.core.errors import CrontabError, DwhctlError, ExitCode, Interrupted, UsageError
from dwhctl.cron import (
    MAX_COMMAND,
    block_of,
    clock_changes,
    difference,
    fire_times,
    jobs_of,
    locked_crontab,
    with_block,
)
from dwhctl.project.fields import _schedule
from tests.unit.projects import a_load, a_project

BERLIN = ZoneInfo("Europe/Berlin")
PROGRAM = ["/opt/dwhctl/bin/dwhctl"]
ROOT = Path("/srv/dwh")
#: What some program or other takes for the end of a line.
BREAKS = ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
#: Other people's bytes: any, and often those that end a line or nearly do. Our own marker is not among them.
PIECES = st.one_of(
    st.binary(max_size=6), st.sampled_from([b"\n", b"* * * * * true", b"# ", *map(str.encode, BREAKS)])
)
OTHERS = st.lists(PIECES, max_size=12).map(b"".join).filter(lambda text: b"dwhctl" not in text)


def a_block(*schedules: str) -> list[str]:
    """The block of a project whose loads have these schedules."""
    loads = {
        f"load_{number}": a_load(name=f"load_{number}", schedule=schedule)
        for number, schedule in enumerate(schedules)
    }
    return block_of(a_project(ROOT, loads=loads), PROGRAM)


def octets(lines: list[str]) -> bytes:
    """A crontab of these lines."""
    return "".join(f"{line}\n" for line in lines).encode()


def ended(text: bytes) -> bytes:
    """The text with a newline at its end, so that lines can follow."""
    return text if text.endswith(b"\n") or not text else text + b"\n"


@given(OTHERS, OTHERS)
def test_bytes_outside_the_block_stay_as_they_are(before: bytes, after: bytes) -> None:
    old, new = a_block("0 * * * *"), a_block("5 4 * * *", "6 5 * * 1")
    before = ended(before)
    installed = before + octets(old) + after
    assert with_block(installed, ROOT, new) == before + octets(new) + after
    assert with_block(installed, ROOT, []) == before + after


@given(OTHERS)
def test_remove_gives_back_what_was_there_before_install(others: bytes) -> None:
    block = a_block("0 * * * *")
    once = with_block(others, ROOT, block)
    assert octets(block) in once
    assert with_block(once, ROOT, block) == once
    assert difference(once, with_block(once, ROOT, block)) == []
    assert with_block(once, ROOT, []) == others


@given(OTHERS)
def test_every_line_of_others_is_a_line_as_before(others: bytes) -> None:
    """Cron's lines: what a newline ends. One that nothing ends is the last one still."""
    block = a_block("0 * * * *")
    lines = BytesIO(with_block(others, ROOT, block)).readlines()
    ours = [os.fsencode(f"{line}\n") for line in block]
    assert [line for line in lines if line not in ours] == BytesIO(others).readlines()


@pytest.mark.parametrize("character", BREAKS)
def test_a_comment_stays_a_comment_whatever_character_is_in_it(character: str) -> None:
    comment = f"# off:{character}* * * * * rm -rf /srv/old\n".encode()
    assert with_block(comment, ROOT, a_block("0 * * * *")).startswith(comment)


@given(OTHERS, OTHERS)
def test_the_difference_shows_every_changed_line_and_nothing_that_a_terminal_obeys(
    before: bytes, after: bytes
) -> None:
    shown = difference(before, after)
    assert bool(shown) == (before != after)
    assert all(line.isprintable() for line in shown)
    gone = sum(line.startswith("-") for line in shown[2:])
    come = sum(line.startswith("+") for line in shown[2:])
    assert come - gone == len(BytesIO(after).readlines()) - len(BytesIO(before).readlines())


def test_the_difference_shows_control_characters_lone_bytes_and_a_missing_newline() -> None:
    shown = difference(b"a\r\n# \xff\xc2\x85\x1b[2J\nlast", b"a\n")
    assert shown[3:] == [
        r"-a\x0d",
        r"-# \xff\u0085\x1b[2J",
        "-last",
        "\\ No newline at end of crontab",
        "+a",
    ]


@pytest.mark.parametrize("order", [[0], [1], [1, 0], [0, 0, 1], [0, 1, 1]])
def test_a_damaged_block_is_refused(order: list[int]) -> None:
    block = a_block("0 * * * *")
    markers = [block[0], block[-1]]
    with pytest.raises(CrontabError, match=r"damaged: keep the lines .*crontab -e"):
        with_block(octets([markers[place] for place in order]), ROOT, block)


@pytest.mark.parametrize("root", ["/srv/dwh2", "/srv/dwh ", "/srv"])
def test_another_projects_block_is_somebody_elses(root: str) -> None:
    other = [line.replace("/srv/dwh", root) for line in a_block("1 1 * * *")]
    block = a_block("0 * * * *")
    both = with_block(octets(other), ROOT, block)
    assert both == octets([*other, *block])
    assert with_block(both, ROOT, []) == octets(other)


def test_a_block_that_an_editor_saved_with_carriage_returns_is_still_ours() -> None:
    block = a_block("0 * * * *")
    assert with_block(b"a\r\n" + octets(block).replace(b"\n", b"\r\n"), ROOT, block) == b"a\r\n" + octets(
        block
    )


@pytest.mark.parametrize("character", ["\n", "\x00", "\x7f", "\x9b", *BREAKS])
def test_a_control_character_in_a_path_is_refused(character: str) -> None:
    loads = {"a": a_load(name="a", schedule="@daily")}
    path = f"/srv/a{character}* * * * * true"
    for root, program in ((Path(path), PROGRAM), (ROOT, [path])):
        with pytest.raises(UsageError, match="control character") as refused:
            block_of(a_project(root, loads=loads), program)
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("character", ["\n", "\x00", *BREAKS, "\xa0", "%"])
def test_a_schedule_is_of_one_line(character: str) -> None:
    for schedule in (f"0{character}0 * * *", f"0 0 * * *{character}", f"@daily{character}"):
        with pytest.raises(ValueError, match=r"fields|is no"):
            _schedule(schedule)
    assert _schedule(" 0\t0  * * * ") == "0 0 * * *"


def cron_reads(command: str, doubles: str) -> str:
    """What cron hands to the shell: up to the first % that no backslash escapes. Debian's also escapes backslashes."""
    text, at = "", 0
    while at < len(command) and command[at] != "%":
        if command[at] == "\\" and command[at + 1 : at + 2] in tuple(doubles):
            at += 1
        elif command[at] == "\\":
            text += command[at]
            at += 1
        text += command[at]
        at += 1
    return text


@given(st.text(st.sampled_from("\\%'\" $a"), max_size=8))
def test_any_path_reaches_dwhctl_through_cron_and_shell(name: str) -> None:
    root = Path(f"/srv/{name}x")
    (line,) = block_of(a_project(root, loads={"a": a_load(name="a", schedule="@daily")}), PROGRAM)[2:-1]
    for doubles in ("%", "%\\"):
        words = shlex.split(cron_reads(line.removeprefix("@daily "), doubles))
        assert words[words.index("--project") + 1] == str(root)
        assert words[words.index(">>") + 1 :] == [f"{root}/state/logs/cron.log", "2>&1"]


# The program crontab


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program `crontab` into PATH that keeps its file in a folder, and a home without a lock yet."""

    def put(extra: str = "") -> Path:
        path = tmp_path / "bin" / "crontab"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"#!/bin/sh\nfile={tmp_path}/table\n{extra}\n"
            'case "$1" in\n'
            '-l) if [ -f "$file" ]; then cat "$file"; else echo "no crontab for me" >&2; exit 1; fi ;;\n'
            '-) cat > "$file.new" && mv "$file.new" "$file" ;;\n'
            '-r) rm "$file" ;;\nesac\n'
        )
        path.chmod(0o755)
        return tmp_path / "table"

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: type("User", (), {"pw_dir": str(tmp_path)}))
    return put


def change(root: Path, block: list[str]) -> None:
    """Do what `dwhctl crontab install` does with a block."""
    cli._change(a_project(root), block, dry_run=False)


def test_the_lines_of_an_earlier_version_are_told_of_and_brought_up_to_date(
    program: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table, block = program(""), a_block("0 * * * *")
    old = octets([line.replace(" --scheduled", "") for line in block])
    assert old != octets(block)
    hint = "the installed lines differ from these: dwhctl crontab install\n"
    for before, said in [(None, ""), (b"# mine\n", ""), (b"# mine\n" + old, hint)]:
        if before is not None:
            table.write_bytes(before)
        cli._tell_installed_differs(a_project(ROOT), block)
        assert capsys.readouterr().err == said
    change(ROOT, block)
    assert table.read_bytes() == b"# mine\n" + octets(block)
    assert " --scheduled --quiet " in capsys.readouterr().out
    cli._tell_installed_differs(a_project(ROOT), block)
    assert capsys.readouterr().err == ""
    program("exit 1")
    cli._tell_installed_differs(a_project(ROOT), block)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("before", [None, b"", b"# mine\x0c* * * * * true\r\n\xff\n", b"no newline"])
def test_install_and_remove_give_back_the_crontab(
    program: Callable[[str], Path], before: bytes | None
) -> None:
    table = program("")
    if before is not None:
        table.write_bytes(before)
    block = a_block("0 * * * *")
    change(ROOT, block)
    assert octets(block) in table.read_bytes()
    change(ROOT, [])
    assert table.read_bytes() == before if before else not table.exists()


@pytest.mark.parametrize(
    "fault",
    [
        "cat $file; exit 1",
        'echo "you (me) are not allowed to use this program (crontab)" >&2; exit 1',
        'echo "kein crontab für me" >&2; exit 1',
        'echo "no crontab for me: Permission denied" >&2; exit 1',
        'echo "spool: Input/output error" >&2; exit 0',
        'printf "half a li"; echo "no crontab for me" >&2; exit 1',
        "kill -9 $$",
        "sleep 60",
    ],
)
def test_a_crontab_that_cannot_be_read_is_not_overwritten(
    program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    table = program(f'[ "$1" != -l ] || {{ {fault}; }}')
    table.write_bytes(b"5 4 * * * true\n")
    monkeypatch.setattr(crontab, "_SECONDS", 1)
    with pytest.raises(CrontabError):
        change(ROOT, a_block("0 * * * *"))
    assert table.read_bytes() == b"5 4 * * * true\n"


def test_a_signal_while_crontab_is_written_leaves_the_old_lines_or_all_new_ones(
    program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = b"5 4 * * * true\n"
    table, started, fork = program(""), list[int](), subprocess._fork_exec  # type: ignore[attr-defined]
    table.write_bytes(before)

    def fork_and_get_signal(arguments: list[str], *others: object) -> int:
        pid: int = fork(arguments, *others)
        if "-" in arguments:
            started.append(pid)
            raise Interrupted(ExitCode.TERMINATED)
        return pid

    monkeypatch.setattr(subprocess, "_fork_exec", fork_and_get_signal)
    with pytest.raises(Interrupted):
        change(ROOT, a_block("0 * * * *"))
    # Popen does not know the process yet: it goes on.
    os.waitpid(started[0], 0)
    assert table.read_bytes() in (before, before + octets(a_block("0 * * * *")))


def test_no_crontab_yet_is_understood_in_any_locale(
    program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = program('[ "$LC_ALL" = C ] || { echo "kein crontab" >&2; exit 1; }')
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    change(ROOT, a_block("0 * * * *"))
    assert table.read_bytes() == octets(a_block("0 * * * *"))


def test_a_refused_crontab_says_why_without_what_a_terminal_obeys(program: Callable[[str], Path]) -> None:
    table = program('[ "$1" != - ] || { printf "bad \\033[2J minute\\n" >&2; exit 1; }')
    table.write_bytes(b"# no newline")
    with pytest.raises(CrontabError, match=r"refused .*bad \\x1b\[2J minute; end its last line"):
        change(ROOT, a_block("0 * * * *"))


def test_what_another_program_wrote_between_reading_and_writing_stays(program: Callable[[str], Path]) -> None:
    table = program('[ "$1" != -l ] || echo "# another $$" >> "$file"')
    with pytest.raises(CrontabError, match="another program changed"):
        change(ROOT, a_block("0 * * * *"))
    assert table.read_bytes().count(b"# another") == 2
    assert b"dwhctl" not in table.read_bytes()


def test_what_is_there_after_writing_is_compared(program: Callable[[str], Path]) -> None:
    program('[ "$1" != - ] || { head -n 1 > "$file"; exit 0; }')
    with pytest.raises(CrontabError, match="not what was written"):
        change(ROOT, a_block("0 * * * *"))


def test_two_installs_at_once_lose_nothing(
    program: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = program('[ "$1" != -l ] || { cat "$file"; sleep 0.1; exit 0; }')
    table.write_bytes(b"# mine\n")
    blocks = [[f"# BEGIN dwhctl /p{n}", "@daily true", f"# END dwhctl /p{n}"] for n in range(4)]
    errors: list[BaseException] = []

    def install(number: int) -> None:
        try:
            change(Path(f"/p{number}"), blocks[number])
        except DwhctlError as error:
            errors.append(error)

    threads = [threading.Thread(target=install, args=(number,)) for number in range(len(blocks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(table.read_bytes().splitlines()) == sorted(
        octets([*itertools.chain(*blocks), "# mine"]).splitlines()
    )


def test_the_lock_is_for_its_user_only_and_its_wait_has_an_end(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("")
    monkeypatch.setattr(crontab, "_SECONDS", 0.2)
    with locked_crontab(), pytest.raises(DwhctlError, match="is changing the crontab") as held:
        change(ROOT, a_block("0 * * * *"))
    assert held.value.exit_code == 75
    (lock,) = tmp_path.rglob("crontab.lock")
    assert (lock.stat().st_mode & 0o777, lock.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_user_without_a_home_can_install_too(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = program("")
    nowhere = type("User", (), {"pw_dir": str(table / "nowhere")})
    table.write_bytes(b"# mine\n")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: nowhere)
    change(ROOT, a_block("0 * * * *"))
    assert table.read_bytes() == b"# mine\n" + octets(a_block("0 * * * *"))


def test_python_that_cron_starts_imports_nothing_from_the_home_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert cli.program() == [sys.executable, "-P", "-m", "dwhctl"]


# The block


def test_loads_of_one_schedule_share_a_line_and_catching_up_is_part_of_it() -> None:
    loads = {
        "orders": a_load(name="orders", schedule="0 */6 * * *"),
        "calls": a_load(name="calls", schedule="0 */6 * * *"),
        "rates": a_load(name="rates", schedule="0 */6 * * *", catch_up=14),
        "cities": a_load(name="cities", schedule="@daily", slice_by=None),
        "by_hand": a_load(name="by_hand"),
    }
    lines = block_of(a_project(ROOT, loads=loads), PROGRAM)[2:-1]
    end = "--scheduled --quiet --project /srv/dwh >> /srv/dwh/state/logs/cron.log 2>&1"
    assert lines == [
        f"0 */6 * * * /opt/dwhctl/bin/dwhctl load orders calls --date today --lookback 1 {end}",
        f"0 */6 * * * /opt/dwhctl/bin/dwhctl load rates --date today --lookback 14 --only-missing {end}",
        f"@daily /opt/dwhctl/bin/dwhctl load cities --date today {end}",
    ]


@pytest.mark.parametrize("root", [ROOT, Path("/srv/хранилище данных") / ("д" * 100)])
def test_a_line_is_never_longer_than_cron_takes(root: Path) -> None:
    loads = {
        f"load_{number:03}": a_load(name=f"load_{number:03}", schedule="@hourly") for number in range(200)
    }
    lines = block_of(a_project(root, loads=loads), PROGRAM)[2:-1]
    commands = [line.removeprefix("@hourly ") for line in lines]
    assert max(len(command.encode()) for command in commands) <= MAX_COMMAND
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
