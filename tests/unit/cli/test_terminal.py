"""Nothing that comes from others acts on a terminal: tables, pictures, progress, errors, log lines."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dwhctl.cli.common import ending
from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.output import paint, say, tell, write_out
from dwhctl.cli.common.rows import open_writer
from dwhctl.cli.common.table import Screen
from dwhctl.core import secrets
from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import make_logging_printable
from dwhctl.core.words import one_line, printable, printable_json
from dwhctl.runtime.messages import LogMessage, captured_log
from tests.cli_support import dwh, small_project

#: Every character that acts: C0 but the end of a line and the tab, DEL, C1, separators, marks of direction.
_MARKS = (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
ACTING = "".join(map(chr, (*range(9), *range(11, 32), *range(127, 160), *_MARKS)))
FOUND = re.compile(f"[{re.escape(ACTING)}]")
#: What rich writes itself: colours.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
OSC = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202etxt.exe\u2066\u2028Error: none\x00\r\u200f"
NASTY = f"a{OSC}b клиент 👩‍🚀"
#: Python's csv does not quote a bare carriage return.
CELL = NASTY.replace("\r", "")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["terminal", "pipe"])
def stdout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    return Terminal() if request.param == "terminal" else io.StringIO()


def seen(stream: io.StringIO) -> str:
    return COLOURS.sub("", stream.getvalue())


def rows_in(stream: io.StringIO) -> list[list[str]]:
    return list(csv.reader(io.StringIO(stream.getvalue(), newline="")))


@given(st.text())
def test_printable_texts(text: str) -> None:
    assert not FOUND.search(printable(text))
    assert not FOUND.search(one_line(text))
    assert "\n" not in one_line(text)
    assert json.loads(printable_json(json.dumps(text, ensure_ascii=False))) == text
    assert not FOUND.search(printable_json(json.dumps(text, ensure_ascii=False)))
    assert printable(printable(text)) == printable(text)


def test_people_can_read_what_people_write() -> None:
    text = "naïve клиент 你好 👩‍🚀 שלום\n\tzwei"
    assert printable(text) == text


def test_lines_and_listings(stdout: io.StringIO) -> None:
    text: ListingColumn[object] = ListingColumn("text", is_text=True, style=lambda _: "red")
    with redirect_stdout(stdout):
        say(NASTY)
        Listing(f"name{OSC}", text).show([(NASTY, NASTY)], "table")
        Listing[object](f"name{OSC}").show([(NASTY,)], "table")
        paint([Text(NASTY, style="bold red"), Text.assemble((NASTY, "on blue"), NASTY)])
    assert not FOUND.search(seen(stdout))
    assert r"\x1b]52;c;" in seen(stdout)
    assert "👩‍🚀" in seen(stdout)


def test_json_is_the_same_data_and_csv_on_a_pipe_is_data(stdout: io.StringIO) -> None:
    with redirect_stdout(stdout):
        Listing[object]("a").show([(NASTY,)], "json")
    assert json.loads(stdout.getvalue()) == [{"a": NASTY}]
    assert not FOUND.search(stdout.getvalue())
    stdout.truncate(stdout.seek(0))
    with redirect_stdout(stdout):
        Listing[object]("a").show([(CELL,)], "csv")
    if stdout.isatty():
        assert not FOUND.search(stdout.getvalue())
    else:
        assert rows_in(stdout) == [["a"], [CELL]]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_answer_of_a_query(stdout: io.StringIO, form: str) -> None:
    writer = open_writer(form)
    with redirect_stdout(stdout):
        writer.begin([CELL])
        writer.rows([(NASTY,)])
        writer.end()
    if stdout.isatty() or form != "csv":
        assert not FOUND.search(seen(stdout))
    if form == "csv" and not stdout.isatty():
        assert rows_in(stdout) == [[CELL], [NASTY]]
    if form == "json":
        assert json.loads(stdout.getvalue()) == [{CELL: NASTY}]
    if form == "table":
        assert ("\x1b[1m" in stdout.getvalue(), r"\x1b[1m" in stdout.getvalue()) == (stdout.isatty(), False)


def test_data_stays_data_on_a_pipe(stdout: io.StringIO) -> None:
    with redirect_stdout(stdout):
        write_out(NASTY)
    assert bool(FOUND.search(stdout.getvalue())) is not stdout.isatty()


def test_progress_is_drawn_on_a_screen_that_nothing_acts_on() -> None:
    stream = io.StringIO()
    screen = Screen(file=stream, force_terminal=True, width=100)
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    screen.print(table, NASTY, Text(NASTY))
    assert not FOUND.search(COLOURS.sub("", stream.getvalue()))
    plain = io.StringIO()
    Console(file=plain, force_terminal=True).print(Text(NASTY))
    assert FOUND.search(COLOURS.sub("", plain.getvalue())), "rich does it itself by now"


def test_what_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    tell(NASTY)
    make_logging_printable()
    logging.getLogger("driver").warning("the server said %s", NASTY)
    with captured_log(lambda _: None, to_stderr=True):
        logging.getLogger("driver").warning("the server said %s", NASTY)
    assert not FOUND.search(capsys.readouterr().err)


def test_what_a_library_logs_is_printable_after_a_secret_was_read_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # without pytest's
    monkeypatch.setattr(secrets, "_secrets", set())
    make_logging_printable()
    secrets.remember("a secret of this test")
    logging.getLogger("driver").warning("the server said %s to a secret of this test", NASTY)
    shown = capsys.readouterr().err
    assert not FOUND.search(shown)
    assert shown.endswith(f"to {secrets.MASKED}\n")


def test_an_error_that_a_library_logs_is_a_line_on_stderr_and_whole_in_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # without pytest's
    make_logging_printable()
    kept: list[LogMessage] = []
    logger = logging.getLogger("driver")
    for context in (nullcontext(), captured_log(kept.append, to_stderr=True)):
        with context:
            try:
                raise ConnectionError("closed by the server")
            except ConnectionError:
                logger.exception("cannot connect")
    assert capsys.readouterr().err == "cannot connect: ConnectionError: closed by the server\n" * 2
    assert "Traceback" in kept[0].message


def test_the_error_of_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's text with a line separator is one problem, and the last line is ours."""
    for error in (ConfigError(f"the server said: {NASTY}"), RuntimeError(NASTY), OSError(13, NASTY, NASTY)):

        def fail(*_: Any, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(ending, "_invoke", fail)
        assert dwh("load") in (1, 2)
        text = capsys.readouterr().err
        assert not FOUND.search(text)
        assert text.startswith("Error: ")
        assert "problems" not in text
        assert text.count("\n") == 1


def test_wrong_usage_with_an_argument_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("load", f"--{NASTY}") == 2
    assert dwh(NASTY) == 2
    text = capsys.readouterr().err
    assert not FOUND.search(text)
    assert "Error: No such option" in text


def test_names_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = NASTY.replace("\0", "")
    project = small_project(tmp_path / name)
    (project / "config" / "loads" / f"{name[:40]}.toml").write_text("x = 1")
    assert dwh("config", "check", "--project", project) == 2
    assert dwh("report", "runs", "--project", tmp_path / f"{name}{name}") == 2
    captured = capsys.readouterr()
    assert not FOUND.search(captured.out + captured.err)
