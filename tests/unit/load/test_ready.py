"""Slices that wait until they are ready: checks, time-outs, failures, limits; made-up sources and real threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from dwhctl.core.errors import AttemptError, ConnectError, ExitCode, QueryError, SourceError
from dwhctl.load import ready
from dwhctl.load.ready import is_true
from dwhctl.load.workers import InlineWorker
from dwhctl.runtime.events import SliceReady, SliceWaits
from dwhctl.sessions.values import State
from tests.unit.dispatch_kit import Bench
from tests.unit.runs_kit import DAY

SECONDS = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in (True, 1, -1, 2**63, 0.5, Decimal("0.1"), date(2020, 1, 1), b"", "T", " Yes ")),
        *((value, True) for value in ("1", "true", "on", "y", datetime(2020, 1, 1, tzinfo=UTC), float("inf"))),
        *((value, False) for value in (None, False, 0, 0.0, -0.0, Decimal("0.00"), float("nan"))),
        *((value, False) for value in ("", "  ", "f", "FALSE", "n", "no", "off", "0")),
    ],
)  # fmt: skip
def test_what_is_true(value: object, expected: bool) -> None:
    assert is_true(value) is expected


def test_a_text_that_is_neither_is_refused() -> None:
    with pytest.raises(
        QueryError, match="gives the text 'pending', which is neither true nor false; write a"
    ):
        is_true("pending")


Answer = Callable[[int], object]


class FakeSystem:
    """Shards whose `ready` is what `answers` says for each check, by its number; counts what is open at once."""

    def __init__(self, answers: dict[str, Answer], default: Answer, seconds: float) -> None:
        self.answers, self.default, self.seconds = answers, default, seconds
        self.checks: Counter[str] = Counter()
        self.open: list[str] = []
        self.most_open = 0
        self.most_of_a_database = 0
        self.interrupted = threading.Event()
        self.lock = threading.Lock()

    def open_source(self, _connection: object, database: str, *_rest: Any, **_keys: Any) -> FakeSource:
        with self.lock:
            self.checks[database] += 1
            self.open.append(database)
            self.most_open = max(self.most_open, len(self.open))
            self.most_of_a_database = max(self.most_of_a_database, self.open.count(database))
        return FakeSource(self, database)


class FakeSource:
    def __init__(self, system: FakeSystem, database: str) -> None:
        self.system, self.database = system, database

    def __enter__(self) -> FakeSource:
        return self

    def __exit__(self, *_exc: object) -> None:
        with self.system.lock:
            self.system.open.remove(self.database)

    def interrupt(self) -> None:
        self.system.interrupted.set()

    def first_value(self, _query: object) -> object:
        system = self.system
        time.sleep(system.seconds)
        answer = system.answers.get(self.database, system.default)(system.checks[self.database])
        if answer == "hangs":
            system.interrupted.wait(20)
            raise SourceError("interrupted")
        if isinstance(answer, Exception):
            raise answer
        return answer


Make = Callable[..., tuple[FakeSystem, Bench]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A run over shards of `server_0` with these answers."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql/ready.sql").write_text("SELECT done\nFROM etl_done\n")

    def made(
        answers: dict[str, Answer], default: Answer = lambda _: 0, seconds: float = 0.0, **keys: Any
    ) -> tuple[FakeSystem, Bench]:
        system = FakeSystem(answers, default, seconds)
        monkeypatch.setattr(ready, "system_of", lambda _: system)
        bench_keys = {
            name: keys.pop(name) for name in ("limits", "stop_after", "days", "jobs") if name in keys
        }
        load_keys = {
            "ready": tmp_path / "sql/ready.sql",
            "ready_interval": 0.1 * SECONDS,
            "ready_timeout": 0.6 * SECONDS,
            **keys,
        }
        todo = {f"server_0/{shard}": ["ok"] for shard in answers}
        return system, Bench(tmp_path, todo, keys=load_keys, make=InlineWorker, **bench_keys)

    return made


def waits(bench: Bench) -> list[str]:
    return [event.shard for event in bench.events if isinstance(event, SliceWaits)]


def test_many_that_wait_cost_no_worker_and_not_more_than_the_limit(make: Make) -> None:
    system, bench = make(
        {f"shard{number}": lambda _: 0 for number in range(150)}, seconds=0.005, limits={"server_0": 3},
        ready_timeout=3 * SECONDS, retries=3,
    )  # fmt: skip
    began = time.monotonic()
    children = psutil.Process().children()
    bench.run()
    assert time.monotonic() - began < 10, "retries do not multiply the time"
    assert 1 < system.most_open <= 3
    assert psutil.Process().children() == children
    assert bench.count(State.FAILED) == len(bench.store.opened) == 150
    assert len(waits(bench)) == 150
    for number, session in enumerate(bench.store.opened, 1):
        closing = bench.store.closed[number]
        assert (closing.error_class, session.worker, session.attempt) == ("NotReady", None, 1)
        assert closing.finished is not None
        assert closing.finished - session.started >= 2.9 * SECONDS, "it begins with the run"
    assert "sql/ready.sql was not true since 20" in str(bench.store.closed[1].comment)
    assert "for the load's ready_timeout of 3s" in str(bench.store.closed[1].comment)


def test_a_shard_is_loaded_as_soon_as_it_is_ready_while_others_wait(make: Make) -> None:
    system, bench = make(
        {"abakan": lambda number: number >= 3, "achinsk": lambda _: True, "chita": lambda _: None}
    )
    bench.run()
    assert bench.states() == {"abakan": ["loaded"], "achinsk": ["loaded"], "chita": ["failed NotReady"]}
    assert [closed.shard for closed in bench.closings()] == ["achinsk", "abakan", "chita"]
    assert (system.checks["abakan"], system.checks["achinsk"]) == (3, 1), "what is ready is not checked again"
    assert sorted(waits(bench)) == ["abakan", "chita"]
    (event,) = [event for event in bench.events if isinstance(event, SliceReady)]
    assert (event.shard, event.seconds >= 0.2) == ("abakan", True)
    assert 4 <= system.checks["chita"] <= 8, "every ready_interval, and at the end"


def test_without_a_time_it_is_checked_once(make: Make) -> None:
    system, bench = make({"abakan": lambda _: 0, "chita": lambda _: 1}, ready_timeout=timedelta(0))
    bench.run()
    assert bench.states() == {"abakan": ["failed NotReady"], "chita": ["loaded"]}
    assert set(system.checks.values()) == {1}


def fails(error: AttemptError, times: int = 1000, then: object = 1) -> Answer:
    return lambda number: error if number <= times else then


def test_a_transient_error_is_retried_and_does_not_prolong_the_wait(make: Make) -> None:
    lost = SourceError("reset by peer")
    system, bench = make(
        {"abakan": fails(lost, 2), "achinsk": fails(lost), "chita": fails(lost, 1, 0)},
        retries=2, retry_delay=0.05 * SECONDS,
    )  # fmt: skip
    bench.run()
    again = "up_for_retry SourceError"
    assert bench.states() == {
        "abakan": [again, again, "loaded"],
        "achinsk": [again, again, "failed SourceError"],
        "chita": [again, "failed NotReady"],
    }
    assert system.checks["achinsk"] == 3


def test_retries_end_with_the_wait(make: Make) -> None:
    _, bench = make(
        {"abakan": fails(SourceError("reset by peer"))},
        retries=1000, retry_delay=0.05 * SECONDS, ready_timeout=0.4 * SECONDS,
    )  # fmt: skip
    began = time.monotonic()
    bench.run()
    assert time.monotonic() - began < 3
    assert bench.states()["abakan"][-1] == "failed SourceError"


def test_an_error_of_the_query_fails_the_slice_at_once_with_its_place(make: Make) -> None:
    wrong = QueryError("Invalid object name 'etl_done'")
    wrong.line = 2
    system, bench = make({"abakan": fails(wrong), "chita": lambda _: "pending"}, retries=3)
    bench.run()
    assert bench.states() == {"abakan": ["failed QueryError"], "chita": ["failed QueryError"]}
    assert set(system.checks.values()) == {1}
    first, second = sorted(bench.report.failures, key=lambda failed: failed.shard)
    assert first.failure.place == "sql/ready.sql (line 2)"
    assert first.failure.message == "sql/ready.sql: Invalid object name 'etl_done'"
    assert second.failure.message.startswith("sql/ready.sql: gives the text 'pending', which is neither")


def test_a_defect_is_a_failure_not_a_slice_that_waits_without_end(make: Make) -> None:
    def broken(_: int) -> object:
        raise ZeroDivisionError("a defect")

    _, bench = make({"abakan": broken})
    bench.run()
    assert bench.states() == {"abakan": ["failed InternalError"]}


def test_a_dead_server_is_tried_once_per_retry_delay_and_given_up(make: Make) -> None:
    down = fails(ConnectError("server_0 is down", "server_0"))
    system, bench = make(
        {f"shard{number}": down for number in range(50)},
        ready_timeout=60 * SECONDS, ready_interval=10 * SECONDS, retries=2, retry_delay=0.2 * SECONDS,
    )  # fmt: skip
    began = time.monotonic()
    bench.run()
    assert time.monotonic() - began < 5
    assert sum(system.checks.values()) <= 3 + 2, "three open the breaker, then one for each retry"
    assert bench.count(State.FAILED) == 50
    assert any("connection server_0 is parked" in notice for notice in bench.notices())


def test_a_check_that_hangs_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "CHECK_SECONDS", 0.3)
    system, bench = make(
        {"abakan": lambda number: "hangs" if number == 1 else True, "chita": lambda _: True},
        limits={"server_0": 1}, retries=1, retry_delay=0.05 * SECONDS, ready_timeout=5 * SECONDS,
    )  # fmt: skip
    bench.run()
    assert bench.states() == {"abakan": ["up_for_retry TimedOutError", "loaded"], "chita": ["loaded"]}
    assert system.interrupted.is_set()
    assert "sql/ready.sql gave no answer within 0.3 s" in str(bench.store.closed[1].comment)


def test_a_signal_ends_the_wait_and_the_check_that_hangs(make: Make) -> None:
    system, bench = make(
        {"abakan": lambda _: "hangs", "chita": lambda _: 0}, ready_timeout=600 * SECONDS,
        ready_interval=600 * SECONDS, stop_after=0.5,
    )  # fmt: skip
    began = time.monotonic()
    bench.run()
    assert time.monotonic() - began < 3
    assert bench.signal is ExitCode.TERMINATED
    assert system.interrupted.is_set()
    assert not system.open
    assert bench.store.opened == [], "what never started has no session"


def test_a_database_has_one_check_at_a_time(make: Make) -> None:
    days = [DAY + timedelta(days=number) for number in range(6)]
    system, bench = make({"abakan": lambda _: 1, "chita": lambda _: 1}, seconds=0.02, days=days)
    bench.run()
    assert bench.count(State.LOADED) == 12
    assert (system.most_of_a_database, system.most_open) == (1, 2)
