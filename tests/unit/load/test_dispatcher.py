"""The dispatch loop with real worker processes: retries, deaths, deadlines, breaker, limits."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future
from datetime import timedelta
from math import inf
from pathlib import Path

import psutil
import pytest

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    ExitCode,
    StagingError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
)
from dwhctl.load import parts
from dwhctl.load.attempts import InWorker, SliceAttempt, SliceJob
from dwhctl.runtime.circuit_breaker import CircuitBreaker
from dwhctl.runtime.slots import Slots
from dwhctl.sessions.values import State
from dwhctl.systems.base.target import StagingGroup
from tests.support.faulty import wait_until
from tests.support.projects import days_from
from tests.unit.dispatch_kit import AcceptingTarget, Bench, SlowToRefuse, read_log
from tests.unit.runs_kit import DAY, anything, planned

SECONDS = timedelta(seconds=1)


def many(
    count: int, what: str = "ok", connection: str = "server_0", prefix: str = ""
) -> dict[str, list[str]]:
    return {f"{connection}/{prefix}shard{number}": [what] for number in range(count)}


def test_every_slice_is_loaded_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(6) | {"server_1/empty": ["empty"]}).run()
    assert set(map(tuple, bench.states().values())) == {("loaded",), ("skipped",)}
    assert (bench.report.loaded, bench.report.skipped, bench.report.rows) == (6, 1, 6)
    assert bench.target.held == {f"shard{number}": 1 for number in range(6)}
    assert len({one.staged for one in bench.store.opened}) == 7
    assert {one.worker for one in bench.store.opened} <= {1, 2}
    assert all((one.busy_seconds or 0) > 0 for one in bench.store.closed.values())


def test_a_transient_failure_is_tried_again_with_growing_delays(tmp_path: Path) -> None:
    todo = {"server_0/abakan": ["transient", "transient", "transient", "ok"]}
    bench = Bench(tmp_path, todo, keys={"retries": 3, "retry_delay": 0.2 * SECONDS}).run()
    assert bench.states() == {"abakan": ["up_for_retry SourceError"] * 3 + ["loaded"]}
    starts = bench.starts()
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    for gap, base in zip(gaps, (0.2, 0.4, 0.8), strict=True):
        assert 0.8 * base <= gap < 1.2 * base + 0.5
    assert [one.attempt for one in bench.store.opened] == [1, 2, 3, 4]
    assert len({one.staged for one in bench.store.opened}) == 4
    assert bench.report.retried == 3


def test_retries_end(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, {"server_0/abakan": ["transient"], "server_0/chita": ["ok"]}, keys={"retries": 2}
    ).run()
    assert bench.states()["abakan"] == ["up_for_retry SourceError"] * 2 + ["failed SourceError"]
    assert bench.states()["chita"] == ["loaded"]
    assert [one.shard for one in bench.report.failures] == ["abakan"]


def test_a_permanent_failure_is_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"server_0/abakan": ["permanent"]}, keys={"retries": 3}).run()
    assert bench.states() == {"abakan": ["failed QueryError"]}


@pytest.mark.long
def test_a_slice_that_waits_for_its_retry_holds_no_worker(tmp_path: Path) -> None:
    todo = {"server_0/abakan": ["transient", "ok"]} | many(4, "ok 0.05")
    bench = Bench(tmp_path, todo, jobs=1, keys={"retry_delay": 1 * SECONDS}).run()
    order = [line["shard"] for line in read_log(bench.state, "start")]
    assert order == ["abakan", "shard0", "shard1", "shard2", "shard3", "abakan"]


# Workers that die


def test_a_slice_whose_worker_was_killed_once_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, {"server_0/abakan": ["kill", "ok"], **many(4, "ok 0.1")}, keys={"retries": 3}
    ).run()
    states = bench.states()
    assert states.pop("abakan") == ["up_for_retry WorkerDiedError", "loaded"]
    assert list(states.values()) == [["loaded"]] * 4


def test_a_slice_that_killed_two_workers_is_quarantined_and_the_others_unharmed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"server_0/abakan": ["kill"], **many(6, "ok 0.1")}, keys={"retries": 5}).run()
    states = bench.states()
    assert states.pop("abakan") == ["up_for_retry WorkerDiedError", "failed QuarantinedError"]
    assert list(states.values()) == [["loaded"]] * 6


@pytest.mark.long
def test_a_worker_that_dies_while_it_has_nothing_to_do_is_replaced(tmp_path: Path) -> None:
    # While the second waits for its retry, the only worker is idle; it dies then.
    todo = {"server_0/first": ["kill_later"], "server_0/second": ["transient", "ok"]}
    bench = Bench(tmp_path, todo, jobs=1, keys={"retry_delay": 1 * SECONDS}).run()
    assert bench.states() == {"first": ["loaded"], "second": ["up_for_retry SourceError", "loaded"]}
    assert len({line["pid"] for line in read_log(bench.state, "start")}) == 2


def test_a_worker_function_that_raises_is_a_death_not_the_end_of_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"server_0/abakan": ["raise", "ok"], **many(2)}).run()
    assert bench.states()["abakan"][-1] == "loaded"
    assert bench.count(State.FAILED) == 0


def test_a_hang_meets_its_deadline_and_costs_itself_only(tmp_path: Path) -> None:
    todo = {"server_0/abakan": ["ok 60"], **many(4, "ok 0.2")}
    bench = Bench(tmp_path, todo, keys={"retries": 0, "timeout": 3 * SECONDS}).run()
    states = bench.states()
    assert states.pop("abakan") == ["failed TimedOutError"]
    assert list(states.values()) == [["loaded"]] * 4
    (pid,) = {line["pid"] for line in read_log(bench.state, "start") if line["shard"] == "abakan"}
    wait_until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        "it is killed",
    )
    (closing,) = [one for one in bench.store.closed.values() if one.error_class]
    assert closing.comment is not None
    assert "the load's timeout of 3s" in closing.comment


# CircuitBreaker


def test_a_refused_login_parks_at_once_with_few_attempts(tmp_path: Path) -> None:
    todo = many(30, "login") | many(4, "ok", "server_1", "other_")
    bench = Bench(
        tmp_path, todo, limits={"server_0": 2}, keys={"retries": 2, "retry_delay": 0.2 * SECONDS}
    ).run()
    logins = [line for line in read_log(bench.state, "start") if line["connection"] == "server_0"]
    assert len(logins) <= 2 + 2  # those under way when the first was refused, and the probes
    assert len(bench.notices()) == 1
    assert "connection server_0 is parked: Login failed" in bench.notices()[0]
    errors = [states[-1] for shard, states in bench.states().items() if not shard.startswith("other_")]
    assert len(errors) == 30
    assert set(errors) == {"failed LoginRefusedError", "failed ParkedError"}
    assert all(states == ["loaded"] for shard, states in bench.states().items() if shard.startswith("other_"))
    parked = {number: one for number, one in bench.store.closed.items() if one.error_class == "ParkedError"}
    # No worker saw them.
    assert {bench.store.opened[number - 1].worker for number in parked} == {None}
    assert {one.busy_seconds for one in parked.values()} == {None}
    comments = {one.comment for one in parked.values()}
    assert comments == {"connection server_0 is parked: Login failed for user 'sa'"}


def test_three_connect_failures_in_a_row_park_and_probes_end_it(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, many(12, "connect"), jobs=1, keys={"retries": 2, "retry_delay": 0.3 * SECONDS}
    ).run()
    starts = bench.starts()
    assert len(starts) == 3 + 2
    for earlier, later in itertools.pairwise(starts[2:]):
        assert later - earlier >= 0.29
    assert all(states[-1].startswith("failed") for states in bench.states().values())


def test_a_parked_connection_that_recovers_loads_everything(tmp_path: Path) -> None:
    todo = {f"server_0/shard{number}": ["connect", "ok"] for number in range(8)}
    bench = Bench(tmp_path, todo, jobs=1, keys={"retries": 3, "retry_delay": 0.3 * SECONDS}).run()
    assert {states[-1] for states in bench.states().values()} == {"loaded"}
    assert any("is parked" in text for text in bench.notices())
    assert "connection server_0 works again" in bench.notices()


@pytest.mark.long
def test_a_quarantined_slice_does_not_say_that_its_connection_works(tmp_path: Path) -> None:
    todo = {"server_0/refused": ["login"], "server_0/killer": ["kill"]}
    bench = Bench(tmp_path, todo, jobs=1, keys={"retries": 5}).run()
    assert bench.states()["killer"] == ["up_for_retry WorkerDiedError", "failed QuarantinedError"]
    assert [text for text in bench.notices() if "works again" in text] == []


def test_the_other_connections_do_not_wait_for_a_parked_one(tmp_path: Path) -> None:
    todo = many(6, "connect") | many(6, "ok", "server_1", "other_")
    bench = Bench(tmp_path, todo, keys={"retries": 1, "retry_delay": 1.5 * SECONDS}).run()
    others = [line["at"] for line in read_log(bench.state, "end") if line["connection"] == "server_1"]
    assert max(others) - min(bench.starts()) < 1.4


# Limits


def test_never_more_than_max_connections_nor_workers(tmp_path: Path) -> None:
    todo = many(8, "ok 0.05") | many(8, "ok 0.05", "server_1", "other_")
    bench = Bench(tmp_path, todo, jobs=3, limits={"server_0": 1, "server_1": 3}).run()
    assert bench.most_at_once("server_0") == 1
    assert bench.most_at_once() <= 3
    assert bench.count(State.LOADED) == 16


@pytest.mark.long
def test_the_targets_limit_holds_too_and_leaves_room_to_publish(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(6, "ok 0.05"), jobs=3, limits={"dwh": 1}).run()
    assert bench.most_at_once() == 1
    assert bench.count(State.LOADED) == 6


def test_slots_that_another_run_holds_are_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(3), limits={"server_0": 1})
    other = Slots(bench.state, {"server_0": 1}).try_take("server_0")
    assert other is not None
    threading.Timer(0.7, other.release).start()
    began = time.monotonic()
    bench.run()
    assert min(bench.starts()) - began >= 0.6
    assert bench.count(State.LOADED) == 3


def test_all_slots_are_free_afterwards(tmp_path: Path) -> None:
    todo = {"server_0/a": ["kill"], "server_0/b": ["ok 60"], "server_0/c": ["login"], **many(2)}
    bench = Bench(
        tmp_path, todo, limits={"server_0": 2, "dwh": 3}, keys={"retries": 0, "timeout": 1 * SECONDS}
    )
    bench.run()
    slots = Slots(bench.state, {"server_0": 2, "dwh": 3, "worker processes": 2})
    for name, limit in (("server_0", 2), ("dwh", 3), ("worker processes", 2)):
        assert all(slots.try_take(name) is not None for _ in range(limit)), name


# Publishing, staging, signals


def test_a_publication_that_is_refused_fails_the_slice(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(2) | {"server_0/abakan": ["ok"]})
    bench.target.refused["abakan"] = TargetRefusedError("duplicate key")
    states = bench.run().states()
    assert states.pop("abakan") == ["failed TargetRefusedError"]
    assert list(states.values()) == [["loaded"]] * 2


@pytest.mark.long
def test_staging_that_cannot_be_dropped_costs_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(3))
    bench.target.faults["drop"] = TargetError("gone for a moment")
    assert list(bench.run().states().values()) == [["loaded"]] * 3


def test_a_new_column_is_added_and_the_slice_tried_again(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, {"server_0/abakan": ["new_column", "ok"]}, keys={"retries": 0, "on_new_column": "add"}
    )
    assert bench.run().states() == {"abakan": ["up_for_retry SchemaDriftError", "loaded"]}
    assert {one.comment for one in bench.store.closed.values() if one.comment} == {
        "note is new; on_new_column adds it to stage.orders, then the slice is tried again"
    }


@pytest.mark.long
def test_a_busy_target_is_asked_again_to_add_a_column(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"server_0/abakan": ["new_column"]}, keys={"retries": 1, "on_new_column": "add"})
    bench.target.faults["add"] = TargetBusyError()
    assert bench.run().states() == {
        "abakan": ["up_for_retry SchemaDriftError"] * 2 + ["failed TargetBusyError"]
    }


def test_staging_that_cannot_be_opened_fails_the_slices_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(3), keys={"retries": 1})
    bench.target.faults["open"] = StagingError("disk full")
    states = bench.run().states()
    assert list(states.values()) == [["up_for_retry StagingError", "failed StagingError"]] * 3


def test_a_signal_stops_within_seconds_and_closes_what_is_open(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(2, "ok 60") | many(5, "ok", "server_0", "later_"), stop_after=1.5).run()
    assert bench.signal is ExitCode.TERMINATED
    assert bench.count(State.FAILED) == 2
    assert {one.comment for one in bench.store.closed.values()} == {"interrupted"}
    assert bench.target.held == {}


# Several days


class SlowlyOpened(AcceptingTarget):
    """Takes its time to make a group's staging, as a warehouse does over a CREATE TABLE."""

    def open_group(self, group: StagingGroup) -> None:
        time.sleep(0.25)


def test_no_worker_idles_at_the_end_of_a_day(tmp_path: Path) -> None:
    """The staging of what starts next is made while the workers are still busy with what came before."""
    bench = Bench(tmp_path, many(6, "ok 0.4"), days=days_from(DAY, 5))
    bench.target = bench.store.target = SlowlyOpened()
    bench.run()
    assert bench.report.loaded == 30
    # Two workers wait for four new days: 4 x 0.25 s each if nothing were made ahead.
    assert bench.idle_seconds() < 1.0


# Commits in doubt


class FewTimes(dict[str, AttemptError]):
    """Faults that strike so many times each."""

    def __init__(self, times: int, **faults: AttemptError) -> None:
        super().__init__(faults)
        self.left = dict.fromkeys(faults, times)

    def __getitem__(self, step: str) -> AttemptError:
        self.left[step] -= 1
        return super().pop(step) if not self.left[step] else super().__getitem__(step)


def lost(times: int) -> FewTimes:
    """A warehouse that is lost in mid-COMMIT, and is gone for so many looks."""
    faults = FewTimes(1, commit=TargetError("lost"), look=ConnectError("down"))
    faults.left["look"] = times
    return faults


@pytest.mark.parametrize("happened", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_commit_in_doubt_is_looked_up_before_its_slices_are_tried_again(
    tmp_path: Path, happened: bool
) -> None:
    bench = Bench(tmp_path, many(2), keys={"retries": 3})
    bench.target.faults = lost(2)
    bench.target.commits_in_spite = happened
    bench.run()
    expected = ["loaded"] if happened else ["up_for_retry TargetError", "loaded"]
    assert bench.states() == {"shard0": expected, "shard1": expected}
    assert (bench.report.loaded, bench.report.in_doubt, bench.report.failed) == (2, 0, 0)


@pytest.mark.long
def test_a_commit_that_stays_in_doubt_stays_open_and_costs_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(1), jobs=1, keys={"retries": 1}, days=days_from(DAY, 2))
    bench.target.faults = lost(2)
    bench.run()
    assert bench.states() == {"shard0": ["running CommitInDoubtError", "loaded"]}
    assert (bench.report.loaded, bench.report.in_doubt, bench.report.failed) == (1, 1, 0)
    [one] = bench.report.failures
    assert (one.shard, one.failure.error_class) == ("shard0", "CommitInDoubtError")
    assert bench.store.closed[1].finished is None


@pytest.mark.long
def test_a_signal_leaves_a_commit_in_doubt_open(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(1), keys={"retries": 3, "retry_delay": 60 * SECONDS}, stop_after=8)
    bench.target.faults = lost(99)
    bench.run()
    assert bench.states() == {"shard0": ["running CommitInDoubtError"]}
    assert bench.report.in_doubt == 1


class FirstOpenedLast(AcceptingTarget):
    """A warehouse that makes the first staging object when a slice of another one has ended."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self._state = state
        self._calls = itertools.count()

    def open_group(self, group: StagingGroup) -> None:
        if next(self._calls) == 0:
            wait_until(lambda: bool(read_log(self._state, "end")), "another slice to end")


def test_a_slice_that_waits_for_its_staging_holds_up_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"server_0/abakan": ["ok"]}, jobs=2, days=days_from(DAY, 2))
    bench.target = bench.store.target = FirstOpenedLast(bench.state)
    bench.run()
    assert bench.count(State.LOADED) == 2


def test_slices_that_wait_get_the_other_workers_when_the_first_shows_no_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path, many(4, "ok 3"), jobs=4).run()
    assert bench.most_at_once() == 4


def test_a_source_that_does_not_answer_leaves_its_worker_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(parts, "_ANSWER_ORDERS", 3)
    others = {f"good/{number}": ["ok 0.05"] for number in range(30)}
    bench = Bench(tmp_path, {"dead/a": ["connect 1"], **others}, keys={"retries": 0}).run()
    assert bench.count(State.LOADED) == 30
    *put_off, last = [one for one in bench.closings() if one.shard == "a"]
    # No failure: it has its retries, here none, when nobody needs the worker.
    assert bench.states()["a"] == ["up_for_retry ConnectError"] * len(put_off) + ["failed ConnectError"]
    assert put_off
    assert all(one.failure and "has not answered after" in one.failure.message for one in put_off)
    assert last.failure is not None
    assert last.failure.message == "server_0 is down"
    assert bench.report.failed == 1


def test_a_source_without_others_has_all_the_time_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_ANSWER_SECONDS", 0.1)
    bench = Bench(
        tmp_path, {"slow/a": ["connect 0.5", "ok"], "other/b": ["ok"], "other/c": ["ok"]}, jobs=3
    ).run()
    assert bench.states()["a"] == ["up_for_retry ConnectError", "loaded"]
    assert "server_0 is down" in [one.failure.message for one in bench.closings() if one.failure]


def test_the_other_slices_of_a_source_start_when_the_first_has_its_answer(tmp_path: Path) -> None:
    others = {f"one/{number}": ["ok"] for number in range(4)}
    bench = Bench(tmp_path, {"one/a": ["ok 1"], **others}, jobs=3, connection=SlowToRefuse).run()
    assert bench.count(State.LOADED) == 5
    ended = next(line["at"] for line in read_log(bench.state, "end") if line["shard"] == "a")
    assert all(bench.starts(str(number))[0] < ended for number in range(4))


def test_a_database_that_does_not_answer_leaves_its_server_to_the_other_databases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(parts, "_ANSWER_ORDERS", 3)
    others = {f"good/{number}": ["ok 0.05"] for number in range(40)}
    todo = {"one/locked": ["connect 9", "connect 0.3", "ok"], "one/b": ["ok"], **others}
    bench = Bench(tmp_path, todo, connection=SlowToRefuse).run()
    assert bench.states()["b"] == ["loaded"]
    assert bench.starts("b")[0] < bench.starts("locked")[1], "it was put off behind them"
    assert bench.states()["locked"][-1] == "loaded"


def test_a_worker_that_knows_the_login_need_not_say_that_its_source_has_answered() -> None:
    worker = anything(submit=lambda *_: Future())
    pool = anything(use_kept=lambda *_: None, replace_dead=lambda _, one: one)
    # Meanwhile another slice of the source has failed: its login is not known any more.
    base = anything(pool=pool, breaker=CircuitBreaker(), publisher=None, stage=None)
    workers = parts.PartWorkers(base, anything(), lambda *_: None)
    ordered = parts.Parts([anything(login_known=True)])
    attempt = SliceAttempt(SliceJob(planned("a")), InWorker(worker, ordered), (), 0.0, inf)
    workers.start(attempt)
    assert attempt.runner.answered
