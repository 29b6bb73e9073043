"""The log of a run: whole lines whatever happens, bounded, put away; what libraries say; how it is read."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import os
import threading
import time
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dwhctl.core.errors import ConfigError, ExitCode, Interrupted, LockHeldError, StateDirError, UsageError
from dwhctl.core.secrets import mask, remember
from dwhctl.load import extract as stage_slice
from dwhctl.load import worker_process
from dwhctl.runtime import log as run_log
from dwhctl.runtime.events import Event, Notice, RunEnded, RunResult, SliceClosed, WorkerLogged
from dwhctl.runtime.locks import CRON_LOG, StateDir
from dwhctl.runtime.log import RunLog, log_path, logged_run, rotate, rotate_cron_log
from dwhctl.runtime.log_reader import (
    find_log,
    is_wanted,
    last_lines,
    read_log,
    text_of,
)
from dwhctl.runtime.messages import Failure, LogMessage, StageOrder, StageResult, captured_log
from dwhctl.sessions import State
from tests.support.faulty import tiny_disk
from tests.unit.projects import a_project

RUN = "20200714T060000-0badcafe"
DAY = date(2020, 7, 13)
LOG = logging.getLogger("some.library")


def a_log(folder: Path, complaints: list[str] | None = None, run_id: str = RUN) -> RunLog:
    said = complaints if complaints is not None else []
    return RunLog(log_path(folder, run_id), run_id, "dwhctl load", said.append)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [dict(line.fields) for line in read_log(log_path(folder, RUN))]


def closed(etl_id: int, state: State = State.LOADED, failure: Failure | None = None) -> SliceClosed:
    return SliceClosed("orders", "abakan", "server_0", DAY, 1, state, 10, 0.5, failure, etl_id=etl_id)


def a_defect(text: str) -> Failure:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return Failure.of(error)


# Lines


@settings(max_examples=40)
@given(st.text())
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("logs")
    log = a_log(folder)
    log.take(Notice(text))
    log.close()
    octets = log_path(folder, RUN).read_bytes()
    assert octets.count(b"\n") == 1
    assert json.loads(octets)["message"] == text


def test_a_closed_session_has_its_fields_and_a_defect_its_traceback(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    steps = {"connect": 0.12345, "extract": 1.0}
    event = closed(7, State.FAILED, a_defect("what is this"))
    log.take(replace(event, steps=steps, failed_in="extract"))
    [line] = lines(tmp_path)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line.pop("traceback").startswith("Traceback (most recent call last):")
    assert line == {
        "level": "error",
        "event": "slice_closed",
        "run_id": RUN,
        "load": "orders",
        "shard": "abakan",
        "connection": "server_0",
        "day": "2020-07-13",
        "attempt": 1,
        "etl_id": 7,
        "state": "failed",
        "steps": {"connect": 0.123, "extract": 1.0},
        "failed_in": "extract",
        "rows": 10,
        "seconds": 0.5,
        "error_class": "InternalError",
        "permanent": True,
        "message": "RuntimeError: what is this",
    }
    log.close()


@pytest.mark.parametrize("secret", ["hü/te r€=n!", 'pass"word\\1', "correcthorse"])
def test_no_form_of_a_secret_gets_in(tmp_path: Path, secret: str) -> None:
    remember(secret)
    octets = secret.encode()
    encoded = [base64.b64encode(before + octets + b"\0more").decode() for before in (b"", b"u:", b"\0u\0")]
    forms = [secret, quote(secret), quote(secret, safe=""), repr(secret), *encoded]
    log = a_log(tmp_path)
    log.take(Notice(" | ".join(forms)))
    log.take(closed(1, State.FAILED, a_defect(f"refused {secret}")))
    log.take_message(LogMessage(datetime.now(UTC), "warning", "lib", f"password={secret}"))
    log.close()
    text = log_path(tmp_path, RUN).read_text()
    kernel = base64.b64encode(octets).decode()[:6]
    for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), kernel):
        assert form not in text
    assert text.count("********") >= len(forms) + 3
    assert (
        mask(base64.b64encode(b"nothing to hide").decode()) == base64.b64encode(b"nothing to hide").decode()
    )


def test_a_long_log_keeps_to_its_bounds_and_still_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MOST_BYTES", 20_000)
    log = a_log(tmp_path)
    for number in range(400):
        log.take(closed(number))
    for number in range(400):
        log.take(closed(number, State.FAILED))
    log.take(RunEnded(RunResult(RUN, failed=400)))
    log.close()
    found = lines(tmp_path)
    assert log_path(tmp_path, RUN).stat().st_size < 41_500
    assert [line["event"] for line in found].count("log_full") == 1
    assert {line.get("state") for line in found} == {"loaded", "failed", None}
    assert (found[-1]["event"], found[-1]["failed"]) == ("run_ended", 400)


# When it cannot be written


def test_a_full_disk_costs_lines_and_no_more(tmp_path: Path) -> None:
    complaints: list[str] = []
    with tiny_disk(tmp_path / "logs", "16k"):
        log = a_log(tmp_path / "logs", complaints)
        for number in range(100):
            log.take(Notice(f"{number} {'x' * 300}"))
        assert len(complaints) == 1
        assert "No space left on device; the run goes on without it" in complaints[0]
        before = lines(tmp_path / "logs")
        os.truncate(log_path(tmp_path / "logs", RUN), 6000)  # somebody makes room
        log.take(Notice("after"))
        log.close()
        after = lines(tmp_path / "logs")
        assert 20 < len(before) < 100
        assert after[-1]["message"] == "after"
        assert after[:-1] == before[: len(after) - 1]
        assert len(complaints) == 1


def test_a_folder_that_cannot_be_made_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    complaints: list[str] = []
    log = a_log(tmp_path / "logs", complaints)
    log.take(Notice("one"))
    log.take(Notice("two"))
    assert log.close() is False
    assert len(complaints) == 1
    assert "cannot be written: File exists" in complaints[0]


# A run


def run(project_root: Path, error: BaseException, *events: Event) -> list[Event]:
    passed_on: list[Event] = []
    project = dataclasses.replace(a_project(project_root), state_dir=project_root / "state")

    def work() -> None:
        with logged_run(project, RUN, "dwhctl load", passed_on.append) as listen:
            for event in events:
                listen(event)
            LOG.warning("from a %s", "library")
            raise error

    with pytest.raises(type(error)):
        work()
    return passed_on


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (StateDirError("no locks here"), "no locks here"),
        (ZeroDivisionError("oh"), "oh"),
        (Interrupted(ExitCode.TERMINATED), "interrupted"),
    ],
)
def test_an_error_that_ends_the_run_is_its_last_line(tmp_path: Path, error: BaseException, last: str) -> None:
    assert run(tmp_path, error, Notice("begun")) == [Notice("begun")]
    begun, library, ended = lines(tmp_path / "state" / "logs")
    assert begun["message"] == "begun"
    assert (library["logger"], library["message"]) == ("some.library", "from a library")
    assert (ended["level"], ended["event"], ended["message"]) == ("error", "run_ended", last)
    assert ("traceback" in ended) is isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("error", [LockHeldError("held"), UsageError("no such load"), ConfigError("key")])
def test_what_never_began_leaves_no_log(tmp_path: Path, error: Exception) -> None:
    project = dataclasses.replace(a_project(tmp_path), state_dir=tmp_path / "state")
    notices: list[Event] = []
    with pytest.raises(type(error)), logged_run(project, RUN, "dwhctl load", notices.append):
        raise error
    assert not (tmp_path / "state" / "logs").exists()


# What libraries say


def test_what_a_library_says_in_a_worker_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def noisy(order: StageOrder) -> StageResult:
        for number in range(60):
            LOG.warning("said %d of %s", number, order.token)
        LOG.info("never mind")
        LOG.error("oh")
        return StageResult(order.token)

    monkeypatch.setattr(stage_slice, "stage_slice", noisy)
    order: Any = type("Order", (), {"token": "t"})()
    said = worker_process.stage_in_worker(order).logged
    assert [one.message for one in said[:2]] == ["said 0 of t", "said 1 of t"]
    assert (len(said), said[-1].message) == (51, "and 11 more like these")
    log = a_log(tmp_path)
    log.take(WorkerLogged("orders", "abakan", "server_0", DAY, 1, 7, said[0]))
    log.close()
    [line] = lines(tmp_path)
    assert (line["event"], line["etl_id"], line["message"]) == ("library", 7, "said 0 of t")


def test_a_worker_that_is_the_parent_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(order: StageOrder) -> StageResult:
        LOG.warning("said")
        return StageResult(order.token)

    monkeypatch.setattr(stage_slice, "stage_slice", noisy)
    order: Any = type("Order", (), {"token": "t"})()
    parent: list[LogMessage] = []
    with captured_log(parent.append):
        assert worker_process.stage_in_worker(order).logged == ()
    LOG.warning("nobody listens")
    assert [one.message for one in parent] == ["said"]


def test_a_record_whose_arguments_do_not_fit_is_heard_all_the_same() -> None:
    said: list[LogMessage] = []
    with captured_log(said.append):
        ear = logging.getLogger().handlers[-1]
        ear.handle(LOG.makeRecord("some.library", logging.ERROR, __file__, 1, "bad %d", ("argument",), None))
    assert [(one.level, one.message) for one in said] == [("error", "bad %d")]


# Reading


def test_a_half_line_is_passed_over(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    log.take(Notice("one"))
    log.take(Notice("two"))
    log.close()
    path = log_path(tmp_path, RUN)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert len(list(read_log(path))) == (end >= whole.index(b"\n")) + (end == len(whole) - 1)


def test_the_last_lines_of_failed_sessions(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    log.take(closed(1))
    log.take(closed(2, State.FAILED, Failure("QueryError", "no such table\nLINE 1: SELECT", permanent=True)))
    log.take(closed(3, State.FAILED, a_defect("oh")))
    log.close()
    path = log_path(tmp_path, RUN)
    found = last_lines(path, {2, 3, 4}, 3, UTC)
    assert found[2][0].endswith("permanent=True: QueryError: no such table")
    assert found[2][1] == "    LINE 1: SELECT"
    assert found[3][-1] == "    RuntimeError: oh"
    assert set(found) == {2, 3}
    assert last_lines(tmp_path / "nowhere", {2}, 3, UTC) == {}


def test_lines_are_chosen_by_session_and_level(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    log.take(closed(1))
    log.take(closed(2, State.UP_FOR_RETRY))
    log.take(closed(2, State.FAILED))
    log.close()
    found = list(read_log(log_path(tmp_path, RUN)))
    assert [is_wanted(line, 2) for line in found] == [False, True, True]
    assert [is_wanted(line, None, "error") for line in found] == [False, False, True]
    text = text_of(found[0].fields, UTC)
    assert text[0].endswith(
        "+00:00 info    slice_closed orders abakan 2020-07-13 #1 attempt 1 loaded: connection=server_0 rows=10"
        " seconds=0.5"
    )


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no log in"):
        find_log(tmp_path / "nowhere", "last")
    for name in ("20200714T01-a", "20200714T01-b", "20200715T01-c"):
        log_path(tmp_path, name).write_text("")
    (tmp_path / "cron.log").write_text("")
    assert find_log(tmp_path, "last").stem == "20200715T01-c"
    assert find_log(tmp_path, "20200714T01-b").stem == "20200714T01-b"
    assert find_log(tmp_path, "20200715").stem == "20200715T01-c"
    for text in ("", "2019", "../../etc/passwd"):
        with pytest.raises(UsageError, match="there is no log of a run"):
            find_log(tmp_path, text)
    with pytest.raises(UsageError, match="20200714T01-a, 20200714T01-b; write more"):
        find_log(tmp_path, "20200714")


# Put away


def aged(state: StateDir, name: str, days: float, size: int = 10) -> Path:
    path = state.logs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - days * 86_400,) * 2)
    return path


def test_old_logs_go_and_those_in_use_stay(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.make()
    goes = [aged(state, "old.jsonl", 31), aged(state, "older.jsonl", 40)]
    stays = [aged(state, "young.jsonl", 29), aged(state, "used.jsonl", 50), aged(state, "cron.log", 50)]
    (state.run_locks / "used.lock").touch()
    rotate(state, timedelta(days=30))
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in stays)
    again = aged(state, "old.jsonl", 31)
    rotate(state, timedelta(days=30))
    assert again.exists()  # somebody has looked within the hour
    aged(state, ".looked", 0.05)
    rotate(state, timedelta(days=30))
    assert not again.exists()


def test_too_much_together_goes_oldest_first_and_so_many_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDir(tmp_path / "state")
    state.make()
    for days in range(10):
        aged(state, f"run-{days}.jsonl", days, 4096)
    monkeypatch.setattr(run_log, "MOST_TOGETHER", 5 * 4096)
    monkeypatch.setattr(run_log, "MOST_REMOVED", 3)
    for left in (7, 5, 5):
        rotate(state, timedelta(days=30))
        assert sorted(path.name for path in state.logs.glob("run-*")) == [
            f"run-{n}.jsonl" for n in range(left)
        ]
        (state.logs / ".looked").unlink()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_large_cron_log_gets_another_name_and_goes_as_the_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MOST_CRON_BYTES", 100)
    state = StateDir(tmp_path / "state")
    aged(state, "cron.log", 29, size=99).chmod(0o644)
    rotate(state, timedelta(days=30))
    assert sorted(path.name for path in state.logs.iterdir()) == [".looked", "cron.log"]
    assert mode(state.logs / "cron.log") == 0o600
    aged(state, "cron.log", 29, size=100)
    aged(state, ".looked", 1)
    rotate(state, timedelta(days=30))
    [old] = state.logs.glob("cron.log.*")
    assert (old.read_bytes(), mode(old)) == (b"x" * 100, 0o600)
    assert ((state.logs / "cron.log").read_bytes(), mode(state.logs / "cron.log")) == (b"", 0o600)
    aged(state, old.name, 31)
    aged(state, "cron.log", 31)
    aged(state, ".looked", 1)
    rotate(state, timedelta(days=30))
    assert sorted(path.name for path in state.logs.iterdir()) == [".looked", "cron.log"]


def test_a_rotated_cron_log_loses_no_line_and_is_always_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MOST_CRON_BYTES", 200)
    path = tmp_path / "cron.log"
    path.touch()
    done = threading.Event()
    errors: list[OSError] = []
    wanted: list[str] = []

    def write(name: str) -> None:
        """As a command that cron starts: opened to append, held for some lines; never made."""
        try:
            for number in count():
                # However slow the other thread is: it is to rotate many times.
                if number >= 200 and len(os.listdir(tmp_path)) > 11:
                    break
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
                for part in range(3):
                    os.write(descriptor, f"{name} {number} {part}\n".encode())
                    wanted.append(f"{name} {number} {part}")
                    time.sleep(0)
                os.close(descriptor)
        except OSError as error:
            errors.append(error)

    def rotate() -> None:
        while not done.is_set():
            rotate_cron_log(path)

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    rotator = threading.Thread(target=rotate)
    for thread in (*writers, rotator):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    rotator.join()
    assert errors == []
    files = list(tmp_path.glob("cron.log*"))
    assert len(files) > 10
    found = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(found) == sorted(wanted)


def test_a_cron_log_that_is_shared_stays_so_and_a_link_to_elsewhere_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MOST_CRON_BYTES", 1)
    path = tmp_path / "cron.log"
    path.write_text("a line\n")
    path.chmod(0o664)
    rotate_cron_log(path)
    assert {mode(file) for file in tmp_path.iterdir()} == {0o660}
    link = tmp_path / "elsewhere" / "cron.log"
    link.parent.mkdir()
    link.symlink_to(path)
    path.write_text("a line\n")
    path.chmod(0o664)
    rotate_cron_log(link)
    assert (link.is_symlink(), mode(path), path.read_text()) == (True, 0o664, "a line\n")


def test_a_cron_log_is_made_for_its_user_only(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    before = os.umask(0)
    try:
        state.make_log(state.logs / CRON_LOG)
    finally:
        os.umask(before)
    path = state.logs / "cron.log"
    assert mode(path) == 0o600
    path.write_text("a line\n")
    state.make_log(state.logs / CRON_LOG)
    assert path.read_text() == "a line\n"
    below = StateDir(path)
    with pytest.raises(StateDirError, match="state_dir"):
        below.make_log(below.logs / CRON_LOG)


def test_putting_away_never_fails_a_run(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    rotate(state, timedelta(days=30))  # there is no folder at all
    assert not state.logs.exists()
