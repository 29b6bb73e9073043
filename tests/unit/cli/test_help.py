"""Help, start-up, typing mistakes and the way a command ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dwhctl import __version__
from dwhctl.cli.common import ending
from dwhctl.cli.common.options import CommandEntry, LazyGroup, common_options
from dwhctl.cli.main import COMMANDS, dwhctl
from dwhctl.core.errors import ConfigError, ExitCode, Interrupted, LockHeldError
from dwhctl.core.secrets import Secret
from tests.cli_support import dwh, dwh_process

HEAVY = (
    "rich",
    "pydantic",
    "pandas",
    "pyarrow",
    "duckdb",
    "psycopg2",
    "pymssql",
    "vertica_python",
    "jinja2",
    "distributed",
)


def every_command() -> Iterator[list[str]]:
    def below(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from below(child, [*path, name])

    return below(dwhctl, [])


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_command_has_help_with_an_example(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh(*path, "--help") == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"dwhctl {' '.join(path)}".rstrip() in text.split("Example", 1)[1]


@pytest.mark.parametrize("path", [p for p in every_command() if p])
def test_every_command_has_the_shared_options(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    dwh(*path, "--help")
    text = capsys.readouterr().out
    assert all(option in text for option in ("--project", "--verbose", "--quiet", "--debug", "--help"))


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_value_of_an_option_has_a_short_name(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    dwh(*path, "--help")
    text = capsys.readouterr().out
    assert not {"TEXT", "INTEGER", "RANGE", "PATH", "DIRECTORY"} & set(text.split("Options:")[-1].split())


def test_a_missing_day_comes_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("load") == 2
    assert "Error: Missing option '--date'. For example: --date yesterday" in capsys.readouterr().err
    assert dwh("backfill", "-s", "-3d") == 2
    assert "For example: --end yesterday" in capsys.readouterr().err


def test_the_groups_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("--help") == 0
    text = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert name in text
        assert entry.summary in text
    assert all(f" {code.value} " in text for code in ExitCode)


RUN, LOOK = {0, 1, 2, 75, 130, 143}, {0, 1, 2, 130, 143}


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("load", RUN),
        ("backfill", RUN),
        ("refresh-reports", RUN),
        ("watch", RUN),
        ("query", RUN),
        ("adopt", RUN),
        ("verify", LOOK),
        ("sessions prune", LOOK),
        ("alert-test", {0, 1, 2, 130}),
        ("connections test", {0, 1, 2, 130}),
        ("config check", {0, 1, 2, 130}),
        ("crontab install", {0, 1, 2, 75}),
        ("crontab remove", {0, 1, 2, 75}),
    ],
)
def test_commands_that_work_list_their_exit_codes(
    command: str, codes: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh(*command.split(), "--help") == 0
    options, _, listed = capsys.readouterr().out.partition("Exit codes:\n")
    assert (ending.WAIT_HINT in listed) is ("--wait DURATION" in options)
    listed = listed.replace(ending.WAIT_HINT, "")
    assert [line.split(maxsplit=1) for line in listed.splitlines()] == [
        [str(code.value), ending.EXIT_CODES[code]] for code in ExitCode if code in codes
    ]


def test_the_summary_of_a_command_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    for name, entry in COMMANDS.items():
        command = dwhctl.get_command(click.Context(dwhctl), name)
        assert command is not None
        assert command.short_help == entry.summary


def imported_by(*arguments: str) -> set[str]:
    code = (
        "import json, sys\n"
        "from dwhctl.cli.common.ending import run\n"
        "from dwhctl.cli.main import dwhctl\n"
        f"run(dwhctl, {list(arguments)!r})\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} | set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("load", "--help"), ("refresh-reports", "--help"), ("lod",)]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    imported = imported_by(*arguments)
    assert not imported & set(HEAVY)
    assert "dwhctl.cli.new_project.demo" not in imported


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("--version") == 0
    assert capsys.readouterr().out == f"dwhctl {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["laod"], "did you mean 'load'?"),
        (["connections", "lst"], "did you mean 'list'?"),
        (["config", "chek"], "did you mean 'check'?"),
        (["load", "--dat", "today"], "'--date'"),
        (["xyzzy"], "known: adopt, alert-test, backfill, config"),
    ],
)
def test_a_typing_mistake_is_told_what_was_meant(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh(*typed) == ExitCode.USAGE
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["load"],
        ["load", "--date", "today", "--jobs", "0"],
        ["load", "--date", "today", "--lookback", "-1"],
        ["load", "--date", "today", "--retries", "1001"],
        ["load", "--date", "today", "--wait", "soon"],
        ["load", "--date", "today", "-v", "-q"],
        ["connections", "list", "--format", "xml"],
        ["render", "--date", "today"],
    ],
)
def test_arguments_that_do_not_fit_end_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh(*arguments) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Error: " in shown.err
    assert "Traceback" not in shown.err


def ends_with(error: BaseException, *arguments: str) -> int:
    @click.command()
    @common_options
    def command() -> None:
        raise error

    return ending.run(command, arguments)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("a: b"), 2, "Error: a: b\n"),
        (ConfigError("a: b\nc: d"), 2, "Error: 2 problems:\n  a: b\n  c: d\n"),
        (LockHeldError("pid 7 holds it"), 75, "Error: pid 7 holds it\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted\n"),
        (Interrupted(ExitCode.TERMINATED), 143, "Error: interrupted\n"),
        (
            ValueError("odd\nmore"),
            1,
            "Error: internal error, a defect in dwhctl: ValueError: odd (--debug shows where)\n",
        ),
    ],
)
def test_every_error_becomes_words_and_an_exit_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(error) == code
    assert capsys.readouterr().err == words


def test_debug_shows_the_traceback_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    Secret("hunter2-swordfish")
    assert ends_with(ConfigError("the password hunter2-swordfish"), "--debug") == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "ConfigError" in text
    assert "hunter2-swordfish" not in text


def test_a_reader_who_leaves_is_no_error() -> None:
    code = f"{sys.executable} -m dwhctl --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["--help", "init ."])
def test_output_that_cannot_be_written_is_an_error(arguments: str, tmp_path: Path) -> None:
    code = f"cd {tmp_path} && {sys.executable} -m dwhctl {arguments} > /dev/full"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"


def test_a_process_ends_with_the_commands_code() -> None:
    done = dwh_process("lod")
    assert done.returncode == 2
    assert "did you mean 'load'?" in done.stderr


_MODULE = """
import os, signal, time
import click


class Ignoring:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


Ignoring()
command = click.Command("slow")
"""
_SLOW = {"slow": CommandEntry("slow", "Slow.")}


def test_ctrl_c_while_a_command_is_imported_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Group(LazyGroup):
        package = "imported_slowly"
        table = _SLOW

    (tmp_path / "imported_slowly").mkdir()
    (tmp_path / "imported_slowly" / "slow.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    # A shell starts what it puts into the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Group("group").get_command(click.Context(click.Command("x")), "slow")
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


_LATE_SIGNAL = """
import signal
from dwhctl.cli import main

keep, main.run = main._keep, lambda command: 0


def keep_late(code):
    main._keep = keep
    signal.raise_signal(signal.SIGTERM)
    keep(code)


main._keep = keep_late
main.main()
"""


def test_a_signal_in_the_instant_in_which_a_command_ends_shows_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", _LATE_SIGNAL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")


_THREAD_THAT_WAITS = """
import threading, time
from dwhctl.cli import main


def run(command):
    threading.Thread(target=time.sleep, args=(30,)).start()
    return 143


main.run = run
main.main()
"""


def test_an_interrupted_command_does_not_wait_for_a_thread_that_waits_for_a_server() -> None:
    command = [sys.executable, "-c", _THREAD_THAT_WAITS]
    assert subprocess.run(command, timeout=10, check=False).returncode == 143
