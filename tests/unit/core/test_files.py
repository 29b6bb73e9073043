"""Files that somebody else may have prepared: read with bounds, written through no link."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dwhctl.alerts.state import FailureKey, HeldInARow, LocalState, Notified
from dwhctl.core import files
from dwhctl.runtime.locks import Holder, Lock
from dwhctl.runtime.slots import Slots
from tests.cli_support import EXTRACT, PROJECT, dwh, small_project

SECONDS = 60
READ: dict[str, Callable[[Path], Any]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a huge file": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 10**12),
    "a socket": lambda path: _socket(path),
    "a link to itself": lambda path: path.symlink_to(path),
}


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A test that hangs at a file ends by SIGALRM, and one that reads without end by MemoryError."""

    def stop(*_: object) -> None:
        raise AssertionError("it waits at a file")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", READ)
def test_what_is_no_regular_file_of_a_bounded_size_is_refused(tmp_path: Path, kind: str) -> None:
    READ[kind](tmp_path / "x")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the text differs
        files.read_text(tmp_path / "x", most=1000)
    assert caught.value.strerror


def test_lines_end_as_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\r\nb\rc\n")
    assert files.read_text(tmp_path / "x") == (tmp_path / "x").read_text()


PLACES = {
    "config/dwhctl.toml": ("config", "check"),
    "config/loads/orders.toml": ("config", "check"),
    "config/reports.toml": ("config", "check"),
    "sql/orders.sql": ("render", "orders", "--date", "2020-07-13"),
    "secret": ("connections", "test", "pg"),
    "query.sql": ("query", "dwh", "-f", "query.sql"),
    "export.json": ("connections", "import", "export.json"),
}


@pytest.mark.parametrize("kind", ["a FIFO", "an endless device", "a folder"])
@pytest.mark.parametrize("place", PLACES)
def test_a_command_neither_waits_for_it_nor_calls_it_a_defect(
    tmp_path: Path, kind: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pg = '\n[connections.pg]\ntype = "postgres"\nhost = "127.0.0.1"\nport = 1\ndatabase = "d"\nuser = "u"\n'
    project = small_project(tmp_path, project=f'{PROJECT}{pg}password = {{ file = "secret" }}\n')
    (project / "secret").write_text("correct-horse-battery")
    (project / "query.sql").write_text(EXTRACT)
    monkeypatch.chdir(tmp_path)
    (project / place).unlink(missing_ok=True)
    READ[kind](project / place)
    code = dwh(*PLACES[place], "--project", project)
    captured = capsys.readouterr()
    assert code == (1 if place == "secret" else 2), captured
    text = captured.out + captured.err
    assert "internal error" not in text
    assert place.rpartition("/")[2] in text or "config/dwhctl.toml" in text, text


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 5000 + " = 1", "[a" + ".a" * 5000 + "]\nb = 1", "n = " + "1" * 5000, "x = " + "[" * 5000,
        "x = " + "{a = " * 5000, "[project]\nmax_workers = " + "9" * 4000, "n = 0x" + "f" * 5000,
        "[project]\nmax_workers = 99999999999999999999999", "[variables]\nv" + ".a" * 5000 + " = 1",
    ],
)  # fmt: skip
def test_toml_beyond_all_measure_is_a_problem_of_the_file(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project = small_project(tmp_path)
    for file in ("config/dwhctl.toml", "config/loads/orders.toml", "config/reports.toml"):
        path = project / file
        before = path.read_text() if path.exists() else None
        path.write_text(text + "\n" if text.startswith("[project]") else f"{text}\n{before or ''}")
        assert dwh("config", "check", "--project", project) == 2
        said = capsys.readouterr()
        assert "internal error" not in said.out + said.err
        path.unlink() if before is None else path.write_text(before)


def test_json_beyond_all_measure_is_a_problem_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = small_project(tmp_path / "project")
    file = tmp_path / "export.json"
    number = "1" * 5000
    for text in (
        f'{{"x": {number}}}',
        "[" * 100_000,
        f'AIRFLOW_CONN_X={{"conn_type": "postgres", "port": {number}}}',
        f'{{"x": {{"conn_type": "postgres", "host": "h", "extra": "{{\\"a\\": {number}}}"}}}}',
    ):
        file.write_text(text)
        dwh("connections", "import", file, "--project", project)
        said = capsys.readouterr()
        assert "internal error" not in said.out + said.err


# The state folder


def test_a_lock_neither_reads_nor_writes_through_what_was_put_in_its_place(tmp_path: Path) -> None:
    prey = tmp_path / "prey"
    prey.write_text("precious")
    path = tmp_path / "x.lock"
    lock = Lock(path)
    assert lock.try_take("me")
    path.unlink()
    path.symlink_to(prey)
    assert lock.holder() is None
    lock.release()
    assert prey.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    assert Lock(path).holder() is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert Lock(path).holder() is None
    path.unlink()
    path.write_bytes(b"pid 1 on \xff: me")
    assert Lock(path).holder() == Holder(1, "\ufffd", "me")


def test_marks_and_counts_go_through_no_link(tmp_path: Path) -> None:
    prey = tmp_path / "prey"
    prey.write_text("precious")
    os.utime(prey, (1, 1))
    slots = tmp_path / "slots"
    slots.mkdir()
    (slots / "dwh.wanted").symlink_to(prey)
    assert Slots(slots, {"dwh": 0}).try_take("dwh") is None
    assert prey.stat().st_mtime == 1
    held = HeldInARow(tmp_path, "dwhctl load")
    held.add()
    [file] = (tmp_path / "alerts").iterdir()
    for kind in ("a FIFO", "an endless device"):
        file.unlink()
        READ[kind](file)
        with pytest.raises(OSError):  # noqa: PT011
            held.add()
    assert prey.read_text() == "precious"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "null", "7", '{"a": 1}', '[{"channel": []}]', "1" * 5000, "[null]", "\ufffd",
        '[{"channel": "c", "work": [], "connection": {}, "error_class": 1, "shard": null, "day": 1, "at": 1}]',
        '[{"channel": "c", "work": "w", "connection": "", "error_class": "E", "shard": "", "day": 0, "at": "x"}]',
    ],
)  # fmt: skip
def test_what_was_told_directly_bears_every_file(tmp_path: Path, text: str) -> None:
    local = LocalState(tmp_path)
    fact = FailureKey("orders", "dwh", "ConnectError")
    at = Notified(datetime(2020, 7, 14, tzinfo=UTC))
    local.write("chat", "dwhctl load", {fact: at})
    assert local.read("chat", "dwhctl load") == {fact: at}
    [file] = (tmp_path / "alerts").glob("told-*.json")
    file.write_text(text)
    assert local.read("chat", "dwhctl load") == {}
    prey = tmp_path / "prey"
    prey.write_text("precious")
    file.with_suffix(f".{os.getpid()}").symlink_to(prey)
    local.write("chat", "dwhctl load", {fact: at})
    assert prey.read_text() == "precious"
    file.unlink()
    os.mkfifo(file)
    assert local.read("chat", "dwhctl load") == {}


def test_a_folder_in_place_of_the_logs_is_no_defect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = small_project(tmp_path)
    logs = project / "state" / "logs"
    logs.parent.mkdir()
    logs.write_text("no folder")
    assert dwh("report", "log", "last", "--project", project) == 1
    said = capsys.readouterr()
    assert "internal error" not in said.out + said.err
    assert f"the logs in {logs} cannot be read" in said.err


def test_a_text_that_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    """It may have a secret, and a page is written at the end of every run."""
    path = tmp_path / "page[1].html"
    child = os.fork()
    if child == 0:
        os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        files.write_whole(path, "new")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = [tmp_path / f".page[1].html.{name}.tmp" for name in ("notes", "of a user")]
    long_ago = time.time() - 2 * 3600
    for other in others:
        other.touch()
        os.utime(other, (long_ago, long_ago))
    files.write_whole(path, "new")
    assert left.exists(), "a process may still write it"
    os.utime(left, (long_ago, long_ago))
    files.write_whole(path, "newer")
    assert sorted(tmp_path.iterdir()) == sorted([*others, path])
    assert path.read_text() == "newer"
