"""Slots between real processes, and between the threads of one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dwhctl.runtime import slots as module
from dwhctl.runtime.locks import Lock
from dwhctl.runtime.slots import WORKERS, Slot, Slots
from tests.support.holders import another_process

TAKE = """
import sys
from pathlib import Path
from dwhctl.runtime.slots import Slots
slots = Slots(Path(sys.argv[1]), {"server_0": int(sys.argv[2])})
held = [slots.try_take("server_0") for _ in range(int(sys.argv[3]))]
print(sum(one is not None for one in held), flush=True)
sys.stdin.readline()
"""
#: Takes and gives back as fast as it can; writes + and - as it does, each in one write.
HAMMER = """
import os, sys, time
from pathlib import Path
from dwhctl.runtime.slots import Slots
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
    # The third asked in vain: for as long as its mark counts, what is free is left to it.
    assert slots.try_take("server_0") is None
    time.sleep(module._MARK_SECONDS)
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


# Turns

#: A large run: always wants one more, holds each for a moment, and asks anew at once. Says how often it got one.
GREEDY = """
import sys, time
from pathlib import Path
from dwhctl.runtime.slots import Slots
slots = Slots(Path(sys.argv[1]), {"server_0": int(sys.argv[2])})
print("go", flush=True)
held, until = [], time.monotonic() + float(sys.argv[3])
while time.monotonic() < until:
    for at, slot in list(held):
        if time.monotonic() - at > 0.05:
            slot.release()
            held.remove((at, slot))
    while (slot := slots.try_take("server_0")) is not None:
        held.append((time.monotonic(), slot))
    time.sleep(0.001)
for _, slot in held:
    slot.release()
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("limit", [1, 3])
def test_who_has_none_gets_its_turn_beside_one_that_always_wants_more(tmp_path: Path, limit: int) -> None:
    slots = Slots(tmp_path, {"server_0": limit})
    got = 0
    with another_process(GREEDY, tmp_path, limit, 4):
        until = time.monotonic() + 3
        while time.monotonic() < until:
            if (slot := slots.try_take("server_0")) is not None:
                got += 1
                time.sleep(0.05)
                slot.release()
            time.sleep(0.05)
    assert got >= 2


def test_nobody_waits_for_one_that_has_gone(tmp_path: Path) -> None:
    mine, others = Slots(tmp_path, {"server_0": 2}), Slots(tmp_path, {"server_0": 2})
    held = take_all(mine, "server_0")
    assert others.try_take("server_0") is None
    assert mine.is_wanted("server_0")
    assert not others.is_wanted("server_0"), "it is its own mark"
    held[0].release()
    assert mine.try_take("server_0") is None
    time.sleep(module._MARK_SECONDS)
    assert mine.try_take("server_0") is not None


def test_all_or_none_and_both_are_waited_for(tmp_path: Path) -> None:
    limits = {"server_0": 1, "dwh": 1}
    large, small = Slots(tmp_path, limits), Slots(tmp_path, limits)
    held = large.try_take_all("server_0", "dwh", "no_limit")
    assert held is not None
    held[0].release()
    assert small.try_take_all("server_0", "dwh") is None
    assert large.try_take("server_0") is None, "it is left to who waits for the other one too"
    held[1].release()
    taken = small.try_take_all("server_0", "dwh")
    assert taken is not None
    for slot in taken:
        slot.release()
