"""Slots between real processes, and between the threads of one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dwhctl.runs import slots as module
from dwhctl.runs.locks import Lock
from dwhctl.runs.slots import WORKERS, Slot, Slots
from tests.support.holders import another_process

TAKE = """
import sys
from pathlib import Path
from dwhctl.runs.slots import Slots
slots = Slots(Path(sys.argv[1]), {"server_0": int(sys.argv[2])})
held = [slots.try_take("server_0") for _ in range(int(sys.argv[3]))]
print(sum(one is not None for one in held), flush=True)
sys.stdin.readline()
"""
#: Takes and gives back as fast as it can; writes + and - as it does, each in one write.
HAMMER = """
import os, sys, time
from pathlib import Path
from dwhctl.runs.slots import Slots
slots = Slots(Path(sys.argv[1]), {"server_0": 2})
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
until = time.monotonic() + 1.5
print("go", flush=True)
while time.monotonic() < until:
    if (slot := slots.try_take("server_0")) is not None:
        os.write(log, b"+")
        time.sleep(0.001)
        os.write(log, b"-")
        slot.release()
print("done", flush=True)
sys.stdin.readline()
"""


def take_all(slots: Slots, name: str) -> list[Slot]:
    found: list[Slot] = []
    while len(found) < 50 and (slot := slots.try_take(name)) is not None:
        found.append(slot)
    return found


def most_at_once(log: str) -> int:
    now = most = 0
    for sign in log:
        now += 1 if sign == "+" else -1
        most = max(most, now)
    return most


def test_as_many_as_the_limit_and_no_more(tmp_path: Path) -> None:
    slots = Slots(tmp_path, {"server_0": 3, "server_1": 1, WORKERS: 2})
    held = take_all(slots, "server_0")
    assert [len(held), len(take_all(slots, "server_1")), len(take_all(slots, WORKERS))] == [3, 1, 2]
    held[1].release()
    held[1].release()
    assert len(take_all(slots, "server_0")) == 1


def test_a_connection_may_be_called_what_it_likes(tmp_path: Path) -> None:
    slots = Slots(tmp_path, {"worker_processes": 1, WORKERS: 1})
    assert [len(take_all(slots, "worker_processes")), len(take_all(slots, WORKERS))] == [1, 1]


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    slots = Slots(tmp_path, {"server_0": None})
    for name in ("server_0", "unknown"):
        held = take_all(slots, name)
        assert len(held) == 50
        held[0].release()
    assert list(tmp_path.iterdir()) == []


def test_slots_are_counted_over_all_processes(tmp_path: Path) -> None:
    slots = Slots(tmp_path, {"server_0": 5})
    with another_process(TAKE, tmp_path, 5, 3):
        mine = take_all(slots, "server_0")
        assert len(mine) == 2
        with another_process(TAKE, tmp_path, 5, 1) as third:
            assert third.poll() is None
            assert slots.try_take("server_0") is None
    assert len(take_all(slots, "server_0")) == 3


def test_a_killed_process_lets_go_of_its_slots(tmp_path: Path) -> None:
    slots = Slots(tmp_path, {"server_0": 2})
    with another_process(TAKE, tmp_path, 2, 2) as holder:
        assert slots.try_take("server_0") is None
        holder.kill()
        holder.wait(10)
        assert len(take_all(slots, "server_0")) == 2


def test_a_lower_limit_in_another_process_takes_of_the_same(tmp_path: Path) -> None:
    with another_process(TAKE, tmp_path, 2, 2):
        assert len(take_all(Slots(tmp_path, {"server_0": 3}), "server_0")) == 1


def test_many_processes_in_a_hurry_never_have_more_than_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        another_process(HAMMER, tmp_path, log) as one,
        another_process(HAMMER, tmp_path, log) as two,
        another_process(HAMMER, tmp_path, log) as three,
    ):
        for process in (one, two, three):
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
    text = log.read_text()
    assert len(text) > 100
    assert most_at_once(text) <= 2


class SlowLock(Lock):
    """Another thread comes in just when the lock is taken."""

    def try_take(self, command: str = "") -> bool:
        taken = super().try_take(command)
        time.sleep(0.001)
        return taken


def test_two_threads_of_one_process_never_share_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Lock", SlowLock)
    slots = Slots(tmp_path, {"server_0": 2})
    log: list[str] = []
    until = time.monotonic() + 1.0

    def hammer() -> None:
        while time.monotonic() < until:
            if (slot := slots.try_take("server_0")) is not None:
                log.append("+")
                time.sleep(0.003)
                log.append("-")
                slot.release()

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most_at_once("".join(log)) <= 2
    assert len(take_all(slots, "server_0")) == 2
