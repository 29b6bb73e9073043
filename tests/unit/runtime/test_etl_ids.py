"""The state folder remembers the highest etl_id: killed, cut off from power, damaged, hostile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dwhctl.core.errors import SessionsError, StateDirError, TargetError
from dwhctl.runtime import run_context as etl_ids
from dwhctl.runtime.events import Notice
from dwhctl.runtime.run_context import MOST_AHEAD, EtlIds, Remembered, go_on_above


class Ids:
    """A sessions database that has handed out ids up to `last`, beside a warehouse that holds up to `held`."""

    def __init__(self, last: int, held: int | None = 0) -> None:
        self.last = last
        self.held = held
        self.asked = 0
        self.told: list[str] = []

    def last_id(self) -> int:
        return self.last

    def raise_id_floor(self, above: int) -> None:
        assert above > self.last
        self.last = above

    def in_warehouse(self) -> int:
        self.asked += 1
        if self.held is None:
            raise TargetError("the warehouse is down")
        return self.held

    def begin(self, path: Path) -> None:
        def tell(notice: Notice) -> None:
            self.told.append(notice.text)

        go_on_above(self, EtlIds(path), self.in_warehouse, tell)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file is."""
    return tmp_path / "etl_ids"


def test_ids_only_grow_and_are_read_as_written(path: Path) -> None:
    assert EtlIds(path).read() == Remembered()
    for etl_id, highest in ((7, 7), (5, 7), (70_000, 70_000), (70_001, 70_001)):
        EtlIds(path).note(etl_id)
        assert EtlIds(path).read().highest == EtlIds(path).read().floor == highest


def test_the_disk_is_waited_for_once_in_many_ids(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    ids = EtlIds(path)
    ids.note(1)
    assert len(syncs) == 2, "the file and its folder"
    for etl_id in range(2, 5_000):
        ids.note(etl_id)
    assert len(syncs) == 2
    ids.note(20_000)
    assert len(syncs) == 3


def test_as_usual_nothing_is_asked_raised_or_told(path: Path) -> None:
    EtlIds(path).note(100)
    for last in (100, 101, 5_000):
        store = Ids(last)
        store.begin(path)
        assert (store.last, store.asked, store.told) == (last, 0, [])
    store = Ids(3)
    store.begin(path.with_name("none"))
    assert (store.last, store.asked, store.told) == (3, 0, [])


@pytest.mark.parametrize(("held", "raised_to"), [(60, 100), (150, 150), (None, 100)])
def test_a_restored_database_is_raised_and_it_is_said(path: Path, held: int | None, raised_to: int) -> None:
    EtlIds(path).note(100)
    store = Ids(40, held)
    store.begin(path)
    assert store.last == raised_to
    [text] = store.told
    assert "would hand out the etl_id 41 again: this machine has handed out 100. It was restored" in text
    assert f"etl_ids go on above {raised_to}" in text


def test_after_a_power_cut_ids_go_on_above_all_that_may_be_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EtlIds(path).note(100)
    reserved = EtlIds(path).read().reserved
    assert reserved > 1_000
    monkeypatch.setattr(etl_ids, "_boot", lambda: "f" * 36)
    store = Ids(120)
    store.begin(path)
    assert (store.last, store.asked, store.told) == (reserved, 0, []), "no sign of a backup: nothing to tell"
    EtlIds(path).note(reserved + 1)
    assert EtlIds(path).read().floor == reserved + 1


@pytest.mark.parametrize("held", [0, 500])
def test_a_huge_number_is_not_believed(path: Path, held: int) -> None:
    for huge in (max(100, held) + MOST_AHEAD + 1, 2**62, 9_999_999_999_999_999_999):
        EtlIds(path).correct(1)
        path.write_bytes(path.read_bytes().replace(b"0" * 18 + b"1 ", f"{huge:019} ".encode()))
        store = Ids(100, held)
        store.begin(path)
        assert store.last == max(100, held)
        assert "is not believed, and corrected" in store.told[0]
        assert EtlIds(path).read().highest == max(100, held)
        store.told.clear()
        store.begin(path)
        assert store.told == []


def test_a_huge_number_that_nobody_can_judge_ends_the_run(path: Path) -> None:
    EtlIds(path).correct(2**40)
    store = Ids(100, None)
    with pytest.raises(
        SessionsError, match="the sessions database only 100, and the warehouse cannot be asked"
    ):
        store.begin(path)
    assert store.last == 100


@pytest.mark.parametrize(
    "content", [b"7", b"\0" * 76, b"x" * 5_000, b"-000000000000000001 " * 4, "٠".encode() * 40, b"1\n2\n"]
)
def test_a_damaged_file_is_written_anew_above_what_the_warehouse_holds(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    store = Ids(100, 170)
    store.begin(path)
    assert store.last == 170
    assert "its content is not what dwhctl writes" in store.told[0]
    assert EtlIds(path).read().highest == 170
    path.write_bytes(content)
    with pytest.raises(SessionsError, match="the warehouse is down"):
        Ids(100, None).begin(path)


def test_what_is_not_a_file_is_neither_followed_nor_waited_for(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    path.symlink_to(other)
    with pytest.raises(StateDirError, match="cannot be used"):
        Ids(1).begin(path)
    with pytest.raises(StateDirError, match="cannot be used"):
        EtlIds(path).note(1)
    assert other.read_text() == "mine"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StateDirError, match="not a regular file"):
        Ids(1).begin(path)


def test_threads_and_processes_lose_nothing_and_a_kill_leaves_a_whole_line(path: Path) -> None:
    program = (
        "import sys, itertools; from pathlib import Path; from dwhctl.runtime.run_context import EtlIds\n"
        "ids = EtlIds(Path(sys.argv[1]))\n"
        "for etl_id in itertools.count(int(sys.argv[2]), 2):\n"
        "    ids.note(etl_id); print(etl_id, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program, path, "2"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        ids = EtlIds(path)

        def note_all() -> None:
            for etl_id in range(1, 300):
                ids.note(etl_id)

        threads = [threading.Thread(target=note_all) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGKILL)
        printed = [int(line) for line in process.stdout.read().split()]
    assert EtlIds(path).read().highest >= max([299, *printed])
