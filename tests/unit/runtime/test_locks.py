"""Locks between real processes."""

from __future__ import annotations

import errno
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from dwhctl.core.errors import LockHeldError, StateDirError
from dwhctl.runtime.locks import Holder, Lock, StateDir, held_work, work_name, work_names
from tests.support.holders import another_process
from tests.unit.projects import a_load

DAY = date(2020, 7, 14)
LOAD = a_load()
NOBODY = Holder(0, "", "")
HOLD = """
import sys, time
from pathlib import Path
from dwhctl.runtime.locks import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.try_take("dwhctl load --date 2020-07-14")
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("free", flush=True)
sys.stdin.readline()
"""


def test_a_lock_is_held_by_one_process_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "orders.2020-07-14.lock"
    with another_process(HOLD, path) as holder:
        for _ in range(3):
            lock = Lock(path)
            assert not lock.try_take("dwhctl load orders")
            text = str(lock.holder())
            assert (
                f"pid {holder.pid} on {socket.gethostname()}: dwhctl load --date 2020-07-14 (since " in text
            )
            assert text.endswith(" UTC)")


def test_a_lock_is_free_after_its_release_and_named_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with another_process(HOLD, path) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "free\n"
        lock = Lock(path)
        assert lock.try_take("dwhctl backfill")
        assert lock.holder() == replace(lock.holder() or NOBODY, pid=os.getpid(), command="dwhctl backfill")
        lock.release()


def test_sigkill_of_the_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with another_process(HOLD, path) as holder:
        lock = Lock(path)
        assert not lock.try_take()
        holder.kill()
        holder.wait(10)
        assert lock.try_take("next")
        assert (lock.holder() or NOBODY).command == "next"
        lock.release()


def test_removing_the_file_lets_the_next_one_take_a_new_one(tmp_path: Path) -> None:
    first = Lock(tmp_path / "a.lock")
    assert first.try_take("first")
    first.release(remove=True)
    assert not (tmp_path / "a.lock").exists()
    second = Lock(tmp_path / "a.lock")
    assert second.try_take("second")
    assert not Lock(tmp_path / "a.lock").try_take()
    second.release()


def test_a_lock_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.lock").mkdir()
    with pytest.raises(StateDirError, match="cannot lock"):
        Lock(tmp_path / "a.lock").try_take()


def test_a_holder_that_left_no_words_is_another_dwhctl(tmp_path: Path) -> None:
    assert Lock(tmp_path / "a.lock").holder() is None
    path = tmp_path / f"{work_name(LOAD, DAY)}.lock"
    silent = HOLD.replace("dwhctl load --date 2020-07-14", "")
    with (
        another_process(silent, path),
        pytest.raises(LockHeldError, match=r"is being done by another dwhctl"),
        held_work(tmp_path, work_names([(LOAD, DAY)]), "me", 0),
    ):
        raise AssertionError


SINCE = datetime(2020, 7, 14, 6, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "holder",
    [
        Holder(4600, "etl-1", "dwhctl load --date today", SINCE),
        Holder(1, "a.b", "dwhctl load 'of a (since 2020-01-01 00:00:00 UTC) b: c\nd'", SINCE),
        Holder(7, "h", ""),
    ],
)
def test_a_holder_is_read_back_from_its_text(holder: Holder) -> None:
    assert Holder.of(str(holder)) == holder


def test_the_text_of_an_earlier_version_is_read() -> None:
    text = "pid 4600 on etl-1: dwhctl backfill orders -s 2020-07-01 (since 2020-07-14 06:00:05 UTC)\n"
    assert Holder.of(text) == Holder(4600, "etl-1", "dwhctl backfill orders -s 2020-07-01", SINCE)


@pytest.mark.parametrize(
    "text",
    ["", "x", "pid x on y: z", "pid 12345678901 on h: c", "pid 1 on a b: c", "pid 1 on h", '{"pid": 1}'],
)
def test_what_no_holder_wrote_is_no_holder(text: str) -> None:
    assert Holder.of(text) is None


def test_a_start_that_is_no_time_is_left_out() -> None:
    assert Holder.of("pid 1 on h: c (since long ago)") == Holder(1, "h", "c")


# Work


def test_held_work_names_holder_load_and_day(tmp_path: Path) -> None:
    with another_process(HOLD, tmp_path / f"{work_name(LOAD, DAY)}.lock") as holder:
        with pytest.raises(LockHeldError) as caught, held_work(tmp_path, work_names([(LOAD, DAY)]), "me", 0):
            raise AssertionError
        assert f"load orders of 2020-07-14 is being done by pid {holder.pid} on " in str(caught.value)
        with held_work(tmp_path, work_names([(LOAD, date(2020, 7, 13))]), "me", 0):
            pass


def test_held_work_is_all_or_nothing(tmp_path: Path) -> None:
    earlier = date(2020, 7, 13)
    with another_process(HOLD, tmp_path / f"{work_name(LOAD, DAY)}.lock"):
        with (
            pytest.raises(LockHeldError),
            held_work(tmp_path, work_names([(LOAD, earlier), (LOAD, DAY)]), "me", 0),
        ):
            raise AssertionError
        with held_work(tmp_path, work_names([(LOAD, earlier)]), "me", 0):
            pass


def test_held_work_waits_as_long_as_asked(tmp_path: Path) -> None:
    with another_process(HOLD, tmp_path / f"{work_name(LOAD, DAY)}.lock") as holder:
        started = time.monotonic()
        with pytest.raises(LockHeldError), held_work(tmp_path, work_names([(LOAD, DAY)]), "me", 0.5):
            raise AssertionError
        assert 0.4 < time.monotonic() - started < 3
        threading.Timer(0.3, holder.kill).start()
        with held_work(tmp_path, work_names([(LOAD, DAY)]), "me", 20):
            assert "me" in (tmp_path / f"{work_name(LOAD, DAY)}.lock").read_text()


def test_work_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held_work(tmp_path, work_names([(LOAD, DAY)]), "me", 0):
            raise ZeroDivisionError


def test_more_work_than_open_files_are_usual(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    work = [(LOAD, DAY + timedelta(days=number)) for number in range(300)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with held_work(tmp_path, work_names(work), "me", 0):
            assert len(list(tmp_path.iterdir())) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


ALLOW = """
import resource, sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from dwhctl.core.errors import UsageError
from dwhctl.runtime.locks import held_work
from tests.unit.projects import a_load
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
work = [(a_load(), date(2020, 1, 1) + timedelta(days=number)) for number in range(1000)]
try:
    with held_work(Path(sys.argv[1]), work, "me", 0):
        print("held")
except UsageError as error:
    print(error)
"""


def test_more_work_than_files_may_be_open_is_refused_before_any_is_locked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALLOW, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert re.match(
        r"1,000 days of loads .* allows this process 1,000 open files: ask for fewer", done.stdout
    )
    assert list(tmp_path.iterdir()) == []


def test_a_load_without_slices_has_one_lock_for_all_days() -> None:
    whole = a_load(slice_by=None)
    assert work_name(whole, DAY) == work_name(whole, date(2020, 7, 13))
    assert work_name(LOAD, DAY) != work_name(LOAD, date(2020, 7, 13))


def test_the_state_folder_is_made_or_says_why_not(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.make()
    state.make()
    assert state.run_locks.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match=r"cannot be used: .*set \[project\] state_dir"):
        StateDir(tmp_path / "file").make()


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dwhctl.runtime.locks.write_text", no_room)
    said = f"No space left on device; make room on its disk (df -h {tmp_path})"
    with pytest.raises(StateDirError, match=re.escape(said)):
        Lock(tmp_path / "a.lock").try_take("first")


def test_room_for_a_part_of_the_holder_is_an_error(tmp_path: Path) -> None:
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    lock = Lock(tmp_path / "a.lock")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        with pytest.raises(StateDirError, match="File too large"):
            lock.try_take("first")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert lock.try_take("second")
    lock.release()
