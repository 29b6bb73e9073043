"""Many checks at once: slots, dead connections, silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dwhctl.core.errors import ConnectError, LoginRefusedError, QueryError
from dwhctl.runtime.fanout import FanOut, RemoteCheck
from dwhctl.runtime.slots import Slots


class Asked(RemoteCheck[None]):
    """Counts its runs."""

    now = 0
    most = 0
    lock = threading.Lock()

    def __init__(
        self,
        connection: str,
        answer: Callable[[], None] = lambda: None,
        *,
        seconds: float = 5,
        alone: bool = False,
    ) -> None:
        super().__init__(connection, self.work, seconds=seconds, alone=alone)
        self.answering = answer
        self.asked = 0
        self.interrupted = False

    def work(self, heartbeat: Callable[[], None]) -> None:
        self.asked += 1
        with Asked.lock:
            Asked.now += 1
            Asked.most = max(Asked.most, Asked.now)
        try:
            self.answering()
            heartbeat()
        finally:
            with Asked.lock:
                Asked.now -= 1

    def interrupt(self) -> None:
        self.interrupted = True


@pytest.fixture(autouse=True)
def _nobody() -> None:
    Asked.now = Asked.most = 0


def raising(error: Exception) -> Callable[[], None]:
    def answer() -> None:
        raise error

    return answer


def run(checks: list[Asked], tmp_path: Path, jobs: int = 8, **limits: int) -> None:
    FanOut(Slots(tmp_path, limits), jobs).run(checks)


def test_every_check_is_asked_once(tmp_path: Path) -> None:
    checks = [Asked(f"c{number % 3}") for number in range(30)]
    run(checks, tmp_path)
    assert [one.asked for one in checks] == [1] * 30
    assert not any(one.failure for one in checks)


def test_limits_and_jobs_hold(tmp_path: Path) -> None:
    run([Asked("c", lambda: time.sleep(0.02)) for _ in range(12)], tmp_path, c=2)
    assert Asked.most == 2
    run([Asked(f"d{number}", lambda: time.sleep(0.02)) for number in range(12)], tmp_path, jobs=3)
    assert Asked.most == 3


def test_a_connection_that_takes_one_at_a_time(tmp_path: Path) -> None:
    run([Asked("c", lambda: time.sleep(0.01), alone=True) for _ in range(5)], tmp_path)
    assert Asked.most == 1


def test_slots_are_given_back(tmp_path: Path) -> None:
    slots = Slots(tmp_path, {"c": 1})
    FanOut(slots, 4).run([Asked("c"), Asked("c", raising(QueryError("no")))])
    assert slots.try_take("c") is not None


def test_a_failure_is_the_checks_own(tmp_path: Path) -> None:
    checks = [
        Asked("c"),
        Asked("c", raising(QueryError("no"))),
        Asked("c", raising(ValueError("odd"))),
        Asked("c"),
    ]
    run(checks, tmp_path)
    assert [str(one.failure) for one in checks] == [
        "None",
        "no",
        "a defect in dwhctl: ValueError: odd",
        "None",
    ]
    assert [one.asked for one in checks] == [1] * 4


def test_a_refused_login_is_tried_once(tmp_path: Path) -> None:
    refusal = raising(LoginRefusedError("refused", connection="c"))
    checks = [Asked("c", refusal) for _ in range(50)]
    others = [Asked("d") for _ in range(5)]
    run([*checks, *others], tmp_path)
    assert sum(one.asked for one in checks) == 1
    assert {str(one.failure) for one in checks} == {"refused"}
    assert not any(one.failure for one in others)


def test_a_server_that_is_not_there_is_tried_three_times(tmp_path: Path) -> None:
    checks = [Asked("c", raising(ConnectError("gone", connection="c"))) for _ in range(50)]
    run(checks, tmp_path)
    assert sum(one.asked for one in checks) == 3
    assert {str(one.failure) for one in checks} == {"gone"}


def test_slots_that_others_hold_are_not_waited_for_without_end(tmp_path: Path) -> None:
    held = Slots(tmp_path, {"c": 1}).try_take("c")
    checks = [Asked("c", seconds=0.2) for _ in range(3)]
    run([*checks, Asked("d")], tmp_path, c=1)
    assert {str(one.failure) for one in checks} == {
        "connection c: other runs use all that its max_connections allows"
    }
    assert held is not None
    held.release()
    again = Asked("c")
    run([again], tmp_path, c=1)
    assert (again.asked, again.failure) == (1, None)


def _wait(event: threading.Event) -> None:
    event.wait(20)


def test_silence_is_given_up(tmp_path: Path) -> None:
    never = threading.Event()
    silent = Asked("c", lambda: _wait(never), seconds=0.2)
    others = [Asked("d") for _ in range(3)]
    started = time.monotonic()
    run([silent, *others], tmp_path)
    assert time.monotonic() - started < 5
    assert str(silent.failure) == "no answer within 0.2 s"
    assert silent.interrupted
    assert [one.asked for one in others] == [1] * 3
    never.set()


def test_what_ends_the_fan_out_ends_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    fan_out = FanOut(Slots(tmp_path, {}), 4)
    running = Asked("c", lambda: _wait(stop))
    monkeypatch.setattr(running, "interrupt", stop.set)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fan_out, "_abandon_silent", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fan_out.run([running])
    assert stop.is_set()
    assert time.monotonic() - started < 3
